/*
 * Checkpoints of every layout give the same weights; what is missing, misshapen, doubled or not ours is refused with
 * its name. Broken checkpoints are made from the tiny synthetic one.
 */
#define _GNU_SOURCE /* nftw */
#include "files.h"

#include <math.h>

#include "base/bf16.h"
#include "base/half.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/synthetic.h"
#include "model/weights.h"

#define VISION       "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
#define LANGUAGE     "paligemma_with_expert.paligemma.model.language_model."
#define EMBED_TOKENS LANGUAGE "embed_tokens.weight"
#define EXPERT_HEAD  "paligemma_with_expert.gemma_expert.lm_head.weight"

enum { MAX_TENSORS = 120 };

/* ---- making checkpoints ------------------------------------------------------------------------------------------ */

/* The tensors of a tiny synthetic checkpoint, to be changed and written. */
typedef struct maker {
    checkpoint *source;
    tensor tensors[MAX_TENSORS];
    char names[MAX_TENSORS][200];
    void *data[MAX_TENSORS];
    size_t count;
} maker;

static void maker_open(maker *m, pi0_model model, uint64_t seed) {
    char path[40];
    pi0_error error;
    snprintf(path, sizeof path, "synthetic:%llu", (unsigned long long)seed);
    *m = (maker){0};
    assert_int_equal(checkpoint_open(&m->source, path, model, NULL, &error), PI0_OK);
    for (size_t i = 0; i < checkpoint_count(m->source); i++) {
        m->tensors[i] = *checkpoint_at(m->source, i);
        snprintf(m->names[i], sizeof m->names[i], "%s", m->tensors[i].name);
        m->tensors[i].name = m->names[i];
    }
    m->count = checkpoint_count(m->source);
}

static void maker_close(maker *m) {
    for (size_t i = 0; i < MAX_TENSORS; i++) free(m->data[i]);
    checkpoint_close(&m->source);
}

static size_t find(const maker *m, const char *name) {
    for (size_t i = 0; i < m->count; i++)
        if (!strcmp(m->names[i], name)) return i;
    fail_msg("no tensor %s", name);
    return 0;
}

static void rename_tensor(maker *m, const char *from, const char *to) {
    snprintf(m->names[find(m, from)], sizeof m->names[0], "%s", to);
}

static void drop(maker *m, const char *name) {
    size_t at = find(m, name);
    m->count--;
    free(m->data[at]);
    for (size_t i = at; i < m->count; i++) {
        m->tensors[i] = m->tensors[i + 1];
        memcpy(m->names[i], m->names[i + 1], sizeof m->names[i]);
        m->tensors[i].name = m->names[i];
        m->data[i] = m->data[i + 1];
    }
    m->data[m->count] = NULL;
}

static tensor *add(maker *m, const char *name, const char *like) {
    size_t from = find(m, like);
    assert_true(m->count < MAX_TENSORS);
    m->tensors[m->count] = m->tensors[from];
    snprintf(m->names[m->count], sizeof m->names[0], "%s", name);
    m->tensors[m->count].name = m->names[m->count];
    return &m->tensors[m->count++];
}

static void prefix_all(maker *m) {
    for (size_t i = 0; i < m->count; i++) {
        char name[200];
        snprintf(name, sizeof name, "%s", m->names[i]);
        snprintf(m->names[i], sizeof m->names[i], "model.%.190s", name);
    }
}

/* Rounds toward zero: good enough for any value, what matters is which half it is. */
static uint16_t to_half(float value) {
    int exponent;
    double fraction = frexp(fabs((double)value), &exponent);
    if (fraction == 0 || exponent < -23) return 0;
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    if (exponent < -13) return sign | (uint16_t)ldexp(fraction, exponent + 24);
    return (uint16_t)(sign | (uint16_t)((exponent + 14) << 10) | ((uint16_t)ldexp(fraction, 11) & 1023));
}

/* Stores a tensor's synthetic values as `dtype`, `offset` added to each. */
static void store_as(maker *m, size_t index, tensor_dtype dtype, float offset) {
    tensor *t = &m->tensors[index];
    size_t count = (size_t)tensor_elements(t);
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    synthetic_float(t->key, t->amplitude, t->base, 0, (int64_t)count, values);
    for (size_t i = 0; i < count; i++) values[i] += offset;
    if (dtype == DTYPE_F16)
        for (size_t i = 0; i < count; i++) ((uint16_t *)values)[i] = to_half(values[i]);
    m->data[index] = values;
    t->data = values;
    t->dtype = dtype;
    t->bytes = count * tensor_dtype_size(dtype);
}

static void write_file(const maker *m, const char *directory, const char *name, size_t begin, size_t end) {
    char path[1024];
    pi0_error error;
    files_path(path, directory, name);
    assert_int_equal(safetensors_write(path, m->tensors + begin, end - begin, NULL, 0, NULL, NULL, &error), PI0_OK);
}

static void write_model(const maker *m, const char *directory) {
    write_file(m, directory, "model.safetensors", 0, m->count);
}

static void write_text(const char *directory, const char *name, const char *text) {
    files_write(directory, name, text, strlen(text));
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */

typedef struct warnings {
    int count;
    char last[1000];
} warnings;

static void note(void *user, pi0_log_level level, const char *message) {
    warnings *w = user;
    if (level != PI0_LOG_WARNING) return;
    w->count++;
    snprintf(w->last, sizeof w->last, "%s", message);
}

typedef struct loaded {
    checkpoint *checkpoint;
    model_weights weights;
    warnings warnings;
} loaded;

static void load(loaded *l, const char *path, pi0_model model, bool keep_f32) {
    pi0_error error = {0};
    memset(l, 0, sizeof *l);
    log_sink log = {note, &l->warnings};
    if (checkpoint_open(&l->checkpoint, path, model, &log, &error) != PI0_OK) fail_msg("%s", error.message);
    weights_options options = {.keep_f32 = keep_f32, .threads = 2, .log = &log};
    if (weights_load(&l->weights, l->checkpoint, &options, &error) != PI0_OK) fail_msg("%s", error.message);
}

static void unload(loaded *l) {
    weights_release(&l->weights);
    checkpoint_close(&l->checkpoint);
}

typedef struct field {
    const weight *matrix;
    const float *vector;
    size_t count;
} field;

typedef struct fields {
    field fields[MAX_TENSORS];
    int count;
} fields;

static pi0_status collect(void *user, const weight_slot *slot, pi0_error *error) {
    (void)error;
    fields *all = user;
    size_t count = 1;
    for (int i = 0; i < slot->rank; i++) count *= (size_t)slot->shape[i];
    assert_true(!slot->matrix != !slot->vector);
    if (slot->matrix) {
        assert_int_equal(slot->matrix->rows, slot->shape[0]);
        assert_int_equal((size_t)slot->matrix->rows * (size_t)slot->matrix->cols, count);
    }
    all->fields[all->count++] = (field){slot->matrix, slot->vector ? *slot->vector : NULL, count};
    return PI0_OK;
}

static float value_at(const field *f, size_t i) {
    if (f->vector) return f->vector[i];
    return f->matrix->dtype == DTYPE_F32 ? ((const float *)f->matrix->data)[i]
                                         : bf16_to_float(((const bf16 *)f->matrix->data)[i]);
}

/* Every weight has the same value in both, whatever its type. */
static void assert_same(model_weights *a, model_weights *b) {
    static fields left, right;
    left.count = right.count = 0;
    assert_memory_equal(&a->config, &b->config, sizeof a->config);
    weights_visit(&a->config, a, collect, &left, NULL);
    weights_visit(&b->config, b, collect, &right, NULL);
    assert_int_equal(left.count, right.count);
    for (int i = 0; i < left.count; i++)
        for (size_t j = 0; j < left.fields[i].count; j++)
            if (value_at(&left.fields[i], j) != value_at(&right.fields[i], j)) fail_msg("tensor %d, value %zu", i, j);
}

static void assert_directory_is(const char *directory, pi0_model model, uint64_t seed, bool keep_f32,
                                int expected_warnings) {
    loaded stored, made;
    char path[40];
    snprintf(path, sizeof path, "synthetic:%llu", (unsigned long long)seed);
    load(&stored, directory, PI0_MODEL_AUTO, keep_f32);
    load(&made, path, model, false);
    assert_same(&stored.weights, &made.weights);
    assert_int_equal(stored.warnings.count, expected_warnings);
    unload(&stored);
    unload(&made);
}

static void assert_refused(const char *directory, pi0_status status, const char *message) {
    checkpoint *opened;
    pi0_error error = {0};
    assert_int_equal(checkpoint_open(&opened, directory, PI0_MODEL_AUTO, NULL, &error), status);
    assert_null(opened);
    if (!strstr(error.message, message)) fail_msg("expected '%s' in '%s'", message, error.message);
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void golden_directories(void **state) {
    (void)state;
    static const struct {
        const char *name;
        pi0_model model;
        uint64_t seed;
        size_t tensors, unused;
        int64_t parameters;
        checkpoint_layout layout;
    } cases[] = {
        {"tiny_pi0_checkpoint", PI0_MODEL_TINY_PI0, 1, 106, 0, 281936, LAYOUT_OPENPI},
        {"tiny_pi05_checkpoint", PI0_MODEL_TINY_PI05, 1, 111, 0, 301808, LAYOUT_OPENPI},
        {"lerobot_tiny_pi0", PI0_MODEL_TINY_PI0, 5, 108, 2, 281936, LAYOUT_LEROBOT},
        {"lerobot_tiny_pi05", PI0_MODEL_TINY_PI05, 6, 113, 2, 301808, LAYOUT_LEROBOT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[1024];
        data_path(path, sizeof path, "golden", cases[i].name);
        assert_directory_is(path, cases[i].model, cases[i].seed, false, 0);
        assert_directory_is(path, cases[i].model, cases[i].seed, true, 0);
        checkpoint *opened;
        pi0_error error;
        assert_int_equal(checkpoint_open_lenient(&opened, path, PI0_MODEL_AUTO, NULL, &error), PI0_OK);
        assert_int_equal(checkpoint_get_layout(opened), cases[i].layout);
        assert_int_equal(checkpoint_count(opened), cases[i].tensors);
        assert_int_equal(checkpoint_unused_count(opened), cases[i].unused);
        assert_int_equal(checkpoint_missing_count(opened), 0);
        assert_int_equal(checkpoint_parameters(opened), cases[i].parameters);
        checkpoint_close(&opened);
    }
}

static void full_size_counts(void **state) {
    (void)state;
    static const int64_t parameters[] = {3238048528, 3353433872}, tensors[] = {777, 812};
    for (int i = 0; i < 2; i++) {
        checkpoint *opened;
        pi0_error error;
        assert_int_equal(checkpoint_open(&opened, "synthetic", i ? PI0_MODEL_PI05 : PI0_MODEL_PI0, NULL, &error),
                         PI0_OK);
        model_config full = model_config_full(i ? PI0_FAMILY_PI05 : PI0_FAMILY_PI0);
        assert_memory_equal(checkpoint_config(opened), &full, sizeof full);
        assert_int_equal(checkpoint_parameters(opened), parameters[i]);
        assert_int_equal(checkpoint_count(opened), tensors[i]);
        assert_int_equal(checkpoint_seed(opened), 1);
        assert_string_equal(checkpoint_unused(opened, 0), EXPERT_HEAD);
        checkpoint_close(&opened);
    }
}

static void bf16_is_used_in_place(void **state) {
    maker m;
    maker_open(&m, PI0_MODEL_TINY_PI05, 9);
    write_model(&m, *state);
    loaded l;
    load(&l, *state, PI0_MODEL_AUTO, false);
    assert_ptr_equal(l.weights.embed_tokens.data, checkpoint_find(l.checkpoint, CHECKPOINT_EMBEDDING)->data);
    assert_int_equal(l.weights.embed_tokens.dtype, DTYPE_BF16);
    assert_true(l.weights.owned_bytes < 60000); /* vectors and the position table */
    unload(&l);
    assert_directory_is(*state, PI0_MODEL_TINY_PI05, 9, false, 0);
    maker_close(&m);
}

/* One blank more in the header moves all data to odd addresses. */
static void misaligned_data_is_copied(void **state) {
    maker m;
    size_t size;
    maker_open(&m, PI0_MODEL_TINY_PI0, 9);
    for (size_t i = 0; i < m.count; i++)
        if (i % 3) store_as(&m, i, i % 3 == 1 ? DTYPE_F32 : DTYPE_BF16, 0);
    for (size_t i = 0; i < m.count; i++)
        if (i % 3 == 2) m.tensors[i].data = NULL;
    write_model(&m, *state);
    unsigned char *bytes = files_read(*state, "model.safetensors", &size), *moved = malloc(size + 1);
    assert_non_null(moved);
    uint64_t length;
    memcpy(&length, bytes, sizeof length);
    memcpy(moved, bytes, 8 + length);
    moved[8 + length] = ' ';
    memcpy(moved + 9 + length, bytes + 8 + length, size - 8 - length);
    length++;
    memcpy(moved, &length, sizeof length);
    files_write(*state, "model.safetensors", moved, size + 1);
    assert_directory_is(*state, PI0_MODEL_TINY_PI0, 9, false, 0);
    assert_directory_is(*state, PI0_MODEL_TINY_PI0, 9, true, 0);
    free(moved);
    free(bytes);
    maker_close(&m);
}

static void every_half_widens_exactly(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        int exponent = (int)(bits >> 10 & 31), mantissa = (int)(bits & 1023);
        double value = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        if (exponent == 31) value = mantissa ? NAN : INFINITY;
        if (bits & 0x8000) value = -value;
        float got = half_to_float((uint16_t)bits);
        if (isnan(value))
            assert_true(isnan(got));
        else
            assert_true((double)got == value && signbit(got) == signbit((float)value));
    }
}

static void half_precision_files(void **state) {
    maker m;
    maker_open(&m, PI0_MODEL_TINY_PI0, 2);
    for (size_t i = 0; i < m.count; i++) store_as(&m, i, DTYPE_F16, 0);
    write_model(&m, *state);
    loaded l;
    load(&l, *state, PI0_MODEL_AUTO, false);
    const tensor *stored = checkpoint_find(l.checkpoint, LANGUAGE "layers.1.mlp.up_proj.weight");
    const weight *loaded_weight = &l.weights.language_layers[1].up_proj;
    assert_int_equal(loaded_weight->dtype, DTYPE_BF16);
    for (int i = 0; i < 128 * 64; i++)
        assert_int_equal(((const bf16 *)loaded_weight->data)[i],
                         bf16_from_float(half_to_float(((const uint16_t *)stored->data)[i])));
    assert_int_equal(l.weights.heads.state_proj.dtype, DTYPE_F32); /* the reference computes these in float32 */
    unload(&l);
    load(&l, *state, PI0_MODEL_AUTO, true);
    assert_int_equal(l.weights.language_layers[1].up_proj.dtype, DTYPE_F32);
    assert_int_equal(l.warnings.count, 0);
    unload(&l);
    maker_close(&m);
}

static void rounding_is_told_once(void **state) {
    maker m;
    maker_open(&m, PI0_MODEL_TINY_PI0, 2);
    store_as(&m, find(&m, LANGUAGE "layers.1.mlp.up_proj.weight"), DTYPE_F32, 1e-6f);
    store_as(&m, find(&m, LANGUAGE "layers.2.mlp.up_proj.weight"), DTYPE_F32, 1e-6f);
    store_as(&m, find(&m, "state_proj.weight"), DTYPE_F32, 1e-6f);
    write_model(&m, *state);
    loaded l;
    load(&l, *state, PI0_MODEL_AUTO, false);
    assert_int_equal(l.warnings.count, 1);
    assert_non_null(strstr(l.warnings.last, "rounded to bf16"));
    assert_non_null(strstr(l.warnings.last, "up_proj"));
    assert_int_equal(l.weights.heads.state_proj.dtype, DTYPE_F32);
    unload(&l);
    load(&l, *state, PI0_MODEL_AUTO, true);
    assert_int_equal(l.warnings.count, 0);
    assert_ptr_equal(l.weights.language_layers[1].up_proj.data,
                     checkpoint_find(l.checkpoint, LANGUAGE "layers.1.mlp.up_proj.weight")->data);
    unload(&l);
    maker_close(&m);
}

static void the_embedding_has_two_names(void **state) {
    maker m;
    maker_open(&m, PI0_MODEL_TINY_PI0, 4);
    rename_tensor(&m, CHECKPOINT_EMBEDDING, EMBED_TOKENS);
    write_model(&m, *state);
    assert_directory_is(*state, PI0_MODEL_TINY_PI0, 4, false, 0);
    /* both: embed_tokens wins, lm_head is unused */
    tensor *other = add(&m, CHECKPOINT_EMBEDDING, EMBED_TOKENS);
    other->key++;
    write_model(&m, *state);
    assert_directory_is(*state, PI0_MODEL_TINY_PI0, 4, false, 0);
    checkpoint *opened;
    pi0_error error;
    assert_int_equal(checkpoint_open(&opened, *state, PI0_MODEL_AUTO, NULL, &error), PI0_OK);
    assert_int_equal(checkpoint_unused_count(opened), 2);
    checkpoint_close(&opened);
    /* neither */
    drop(&m, CHECKPOINT_EMBEDDING);
    drop(&m, EMBED_TOKENS);
    write_model(&m, *state);
    assert_refused(*state, PI0_ERROR_FORMAT,
                   "1 of the tensors that inference needs are missing: '" CHECKPOINT_EMBEDDING);
    maker_close(&m);
}

static void prefixed_names(void **state) {
    maker m;
    maker_open(&m, PI0_MODEL_TINY_PI05, 4);
    prefix_all(&m);
    write_model(&m, *state);
    assert_directory_is(*state, PI0_MODEL_TINY_PI05, 4, false, 0);
    add(&m, "time_mlp_in.bias", "model.time_mlp_in.bias");
    write_model(&m, *state);
    assert_refused(*state, PI0_ERROR_FORMAT, "stand for the same tensor");
    maker_close(&m);
}

/* lerobot renames the time MLP by the policy's type, but only where the prefix is missing. */
static void lerobot_renames(void **state) {
    static const char *const members[] = {"in.weight", "in.bias", "out.weight", "out.bias"};
    for (int pi05 = 0; pi05 < 2; pi05++) {
        maker m;
        pi0_model model = pi05 ? PI0_MODEL_TINY_PI05 : PI0_MODEL_TINY_PI0;
        maker_open(&m, model, 3);
        /* the values under the other family's names; streams keep their keys */
        for (int i = 0; i < 4; i++) {
            char pi0_name[60], pi05_name[60];
            snprintf(pi0_name, sizeof pi0_name, "action_time_mlp_%s", members[i]);
            snprintf(pi05_name, sizeof pi05_name, "time_mlp_%s", members[i]);
            rename_tensor(&m, pi05 ? pi05_name : pi0_name, pi05 ? pi0_name : pi05_name);
        }
        write_text(*state, "config.json", pi05 ? "{\"type\": \"pi05\"}" : "{\"type\": \"pi0\"}");
        write_model(&m, *state);
        assert_directory_is(*state, model, 3, false, 0);
        prefix_all(&m);
        write_model(&m, *state);
        assert_refused(*state, PI0_ERROR_FORMAT, pi05 ? "'time_mlp_in.weight'" : "'action_time_mlp_in.weight'");
        maker_close(&m);
    }
}

static void lerobot_configurations(void **state) {
    maker m;
    maker_open(&m, PI0_MODEL_TINY_PI0, 3);
    write_model(&m, *state);
    write_text(*state, "config.json", "{\"type\": \"act\"}");
    assert_refused(*state, PI0_ERROR_UNSUPPORTED, "found 'act'");
    write_text(*state, "config.json", "{\"type\": \"pi0\", \"type\": \"pi0\"}");
    assert_refused(*state, PI0_ERROR_FORMAT, "config.json");
    write_text(*state, "config.json", "{\"type\": \"pi05\", \"use_proprioceptive_memory\": true}");
    assert_refused(*state, PI0_ERROR_UNSUPPORTED, "use_proprioceptive_memory");
    write_text(*state, "config.json", "{\"type\": \"pi05\"}"); /* renames the time MLP, which then has no such shape */
    assert_refused(*state, PI0_ERROR_FORMAT, "'action_time_mlp_in.weight': expected shape [32, 32], found [32, 64]");
    write_text(*state, "config.json", "{\"action_dim\": 32, \"precision\": \"bfloat16\"}");
    assert_directory_is(*state, PI0_MODEL_TINY_PI0, 3, false, 0);
    maker_close(&m);
}

static void missing_and_wrong_tensors(void **state) {
    static const struct {
        const char *drop, *rename, *to, *message;
    } cases[] = {
        {VISION "encoder.layers.0.mlp.fc2.bias", NULL, NULL, "encoder.layers.0.mlp.fc2.bias'"},
        {LANGUAGE "layers.2.self_attn.o_proj.weight", NULL, NULL, "layers.2.self_attn.o_proj.weight'"},
        {"action_out_proj.bias", NULL, NULL, "'action_out_proj.bias'"},
        {NULL, "state_proj.bias", "stat_proj.bias", "'state_proj.bias'; not known: 'stat_proj.bias', '" EXPERT_HEAD},
        {VISION "embeddings.position_embedding.weight", NULL, NULL, "position_embedding.weight'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        maker m;
        maker_open(&m, PI0_MODEL_TINY_PI0, 3);
        if (cases[i].drop) drop(&m, cases[i].drop);
        if (cases[i].rename) rename_tensor(&m, cases[i].rename, cases[i].to);
        write_model(&m, *state);
        assert_refused(*state, PI0_ERROR_FORMAT, cases[i].message);
        checkpoint *opened;
        pi0_error error;
        assert_int_equal(checkpoint_open_lenient(&opened, *state, PI0_MODEL_AUTO, NULL, &error), PI0_OK);
        assert_int_equal(checkpoint_missing_count(opened), 1);
        checkpoint_close(&opened);
        maker_close(&m);
    }
}

static void the_prefix_norm_is_not_needed(void **state) {
    maker m;
    maker_open(&m, PI0_MODEL_TINY_PI0, 3);
    drop(&m, WEIGHTS_PREFIX_NORM);
    drop(&m, EXPERT_HEAD);
    write_model(&m, *state);
    assert_directory_is(*state, PI0_MODEL_TINY_PI0, 3, false, 0);
    maker_close(&m);
}

static void wrong_shapes_and_types(void **state) {
    maker m;
    maker_open(&m, PI0_MODEL_TINY_PI0, 3);
    tensor *t = &m.tensors[find(&m, LANGUAGE "layers.1.self_attn.k_proj.weight")];
    t->shape[0] = 8;
    t->shape[1] = 128;
    write_model(&m, *state);
    assert_refused(*state, PI0_ERROR_FORMAT,
                   "layers.1.self_attn.k_proj.weight': expected shape [16, 64], found [8, 128]");
    maker_close(&m);

    maker_open(&m, PI0_MODEL_TINY_PI0, 3);
    t = &m.tensors[find(&m, "state_proj.bias")];
    static const int16_t integers[32];
    t->dtype = DTYPE_I16;
    t->data = integers;
    write_model(&m, *state);
    assert_refused(*state, PI0_ERROR_FORMAT, "'state_proj.bias': expected dtype BF16, F16 or F32, found I16");
    maker_close(&m);
}

static void sizes_that_cannot_be(void **state) {
    maker m;
    maker_open(&m, PI0_MODEL_TINY_PI0, 3);
    tensor *t = &m.tensors[find(&m, VISION "embeddings.position_embedding.weight")];
    t->shape[0] = 12;
    t->shape[1] = 64;
    write_model(&m, *state);
    assert_refused(*state, PI0_ERROR_FORMAT, "square");
    maker_close(&m);

    maker_open(&m, PI0_MODEL_TINY_PI0, 3);
    t = &m.tensors[find(&m, VISION "embeddings.patch_embedding.weight")];
    t->shape[0] = 24;
    t->bytes /= 2;
    write_model(&m, *state);
    assert_refused(*state, PI0_ERROR_UNSUPPORTED, "vision width of 1152 (16 heads) or 48 (4 heads), found 24");
    maker_close(&m);

    maker_open(&m, PI0_MODEL_TINY_PI0, 3);
    rename_tensor(&m, "action_time_mlp_in.weight", "a");
    rename_tensor(&m, "state_proj.weight", "b");
    write_model(&m, *state);
    assert_refused(*state, PI0_ERROR_FORMAT, "'action_time_mlp_in.weight' (pi0) or 'time_mlp_in.weight' (pi0.5)");
    maker_close(&m);
}

static void lora_is_not_ignored(void **state) {
    maker m;
    maker_open(&m, PI0_MODEL_TINY_PI0, 3);
    add(&m, LANGUAGE "layers.0.self_attn.q_proj.lora_A.weight", "state_proj.weight");
    write_model(&m, *state);
    assert_refused(*state, PI0_ERROR_UNSUPPORTED, "1 LoRA tensors");
    maker_close(&m);
}

/* The index of a checkpoint in two shards, the first with `split` tensors. */
static void write_index(const maker *m, const char *directory, size_t split) {
    json_t *map = json_object();
    for (size_t i = 0; i < m->count; i++)
        json_object_set_new(map, m->names[i], json_string(i < split ? "a.safetensors" : "b.safetensors"));
    json_t *index = json_pack("{s:{}, s:o}", "metadata", "weight_map", map);
    char path[1024];
    assert_int_equal(json_dump_file(index, files_path(path, directory, "model.safetensors.index.json"), 0), 0);
    json_decref(index);
}

static void shards(void **state) {
    maker m;
    maker_open(&m, PI0_MODEL_TINY_PI05, 8);
    write_file(&m, *state, "a.safetensors", 0, 40);
    write_file(&m, *state, "b.safetensors", 40, m.count);
    write_index(&m, *state, 40);
    assert_directory_is(*state, PI0_MODEL_TINY_PI05, 8, false, 0);
    write_index(&m, *state, 41);
    assert_refused(*state, PI0_ERROR_FORMAT, "is not in a.safetensors");
    write_index(&m, *state, 40);
    size_t size;
    unsigned char *bytes = files_read(*state, "b.safetensors", &size);
    files_write(*state, "b.safetensors", bytes, size - 100);
    free(bytes);
    assert_refused(*state, PI0_ERROR_FORMAT, "b.safetensors");
    char path[1024];
    unlink(files_path(path, *state, "b.safetensors"));
    assert_refused(*state, PI0_ERROR_IO, "b.safetensors");

    static const char *const indices[][2] = {
        {"{\"weight_map\":{\"x\":\"../a.safetensors\"}}", "expected the names of files beside the index"},
        {"{\"weight_map\":{\"x\":\"\"}}", "expected the names of files beside the index"},
        {"{\"weight_map\":{\"x\":3}}", "expected a file name for 'x', found a number"},
        {"{\"weight_map\":[]}", "'weight_map'"},
        {"{}", "'weight_map'"},
        {"{\"weight_map\":{\"x\":\"a\",\"x\":\"b\"}}", "duplicate"},
        {"{\"weight_map\":", "JSON"},
    };
    for (size_t i = 0; i < sizeof indices / sizeof *indices; i++) {
        write_text(*state, "model.safetensors.index.json", indices[i][0]);
        assert_refused(*state, PI0_ERROR_FORMAT, indices[i][1]);
    }
    maker_close(&m);
}

static void what_is_no_checkpoint(void **state) {
    char path[1024];
    assert_refused(*state, PI0_ERROR_IO, "expected model.safetensors or model.safetensors.index.json, found neither");
    write_text(*state, "file", "x");
    assert_refused(files_path(path, *state, "file"), PI0_ERROR_IO, "expected a checkpoint directory, found a file");
    assert_refused(files_path(path, *state, "absent"), PI0_ERROR_IO, "absent");
    assert_int_equal(mkdir(files_path(path, *state, "params"), 0700), 0);
    write_text(path, "_METADATA", "{}");
    assert_refused(*state, PI0_ERROR_UNSUPPORTED, "JAX");
    assert_refused("synthetic:", PI0_ERROR_ARGUMENT, "synthetic:SEED");
    assert_refused("synthetic:-1", PI0_ERROR_ARGUMENT, "synthetic:SEED");
    assert_refused("synthetic:1x", PI0_ERROR_ARGUMENT, "synthetic:SEED");
    assert_refused("synthetic:18446744073709551616", PI0_ERROR_ARGUMENT, "synthetic:SEED");
    assert_refused("synthetics", PI0_ERROR_IO, "synthetics");
    assert_refused("", PI0_ERROR_IO, "checkpoint");
}

static int stop(void *user, const char *what, double fraction) {
    (void)what;
    *(double *)user = fraction;
    return 1;
}

static void loading_can_be_cancelled(void **state) {
    (void)state;
    checkpoint *opened;
    pi0_error error;
    double fraction = 0;
    model_weights weights;
    assert_int_equal(checkpoint_open(&opened, "synthetic", PI0_MODEL_TINY_PI0, NULL, &error), PI0_OK);
    weights_options options = {.progress = stop, .progress_user = &fraction};
    assert_int_equal(weights_load(&weights, opened, &options, &error), PI0_ERROR_CANCELLED);
    assert_true(fraction > 0 && fraction < 1);
    assert_null(weights.memory);
    checkpoint_close(&opened);
}

/* ---- every allocation may fail ----------------------------------------------------------------------------------- */

typedef struct counting {
    int left, live;
} counting;

static void *allocate(void *user, size_t bytes, size_t alignment) {
    counting *c = user;
    if (c->left-- == 0) return NULL;
    c->live++;
    return aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

static void release(void *user, void *memory) {
    ((counting *)user)->live--;
    free(memory);
}

static pi0_status open_and_load(const char *path, pi0_error *error) {
    checkpoint *opened;
    model_weights weights;
    TRY(checkpoint_open(&opened, path, PI0_MODEL_TINY_PI0, NULL, error));
    weights_options options = {.threads = 1};
    pi0_status status = weights_load(&weights, opened, &options, error);
    if (status == PI0_OK) weights_release(&weights);
    checkpoint_close(&opened);
    return status;
}

static void failing_allocations(void **state) {
    maker m;
    maker_open(&m, PI0_MODEL_TINY_PI0, 3);
    drop(&m, "state_proj.bias"); /* the directory exercises the list of missing names as well */
    write_file(&m, *state, "a.safetensors", 0, 40);
    write_file(&m, *state, "b.safetensors", 40, m.count);
    write_index(&m, *state, 40);
    maker_close(&m);
    char lerobot[1024];
    data_path(lerobot, sizeof lerobot, "golden", "lerobot_tiny_pi0");
    const struct {
        const char *path;
        pi0_status status; /* when no allocation fails */
    } cases[] = {{"synthetic:2", PI0_OK}, {lerobot, PI0_OK}, {*state, PI0_ERROR_FORMAT}};
    counting counts;
    pi0_allocator hook = {allocate, release, &counts};
    pi0_set_allocator(&hook);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pi0_status status = PI0_ERROR_MEMORY;
        int failing = 0;
        for (; status == PI0_ERROR_MEMORY; failing++) {
            pi0_error error;
            counts = (counting){.left = failing};
            status = open_and_load(cases[i].path, &error);
            assert_int_equal(counts.live, 0);
        }
        assert_int_equal(status, cases[i].status);
        assert_true(failing > 8);
    }
    pi0_set_allocator(NULL);
}

#define WITH_FILES(test) cmocka_unit_test_setup_teardown(test, files_setup, files_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_directories),
        cmocka_unit_test(full_size_counts),
        WITH_FILES(bf16_is_used_in_place),
        WITH_FILES(misaligned_data_is_copied),
        cmocka_unit_test(every_half_widens_exactly),
        WITH_FILES(half_precision_files),
        WITH_FILES(rounding_is_told_once),
        WITH_FILES(the_embedding_has_two_names),
        WITH_FILES(prefixed_names),
        WITH_FILES(lerobot_renames),
        WITH_FILES(lerobot_configurations),
        WITH_FILES(missing_and_wrong_tensors),
        WITH_FILES(the_prefix_norm_is_not_needed),
        WITH_FILES(wrong_shapes_and_types),
        WITH_FILES(sizes_that_cannot_be),
        WITH_FILES(lora_is_not_ignored),
        WITH_FILES(shards),
        WITH_FILES(what_is_no_checkpoint),
        cmocka_unit_test(loading_can_be_cancelled),
        WITH_FILES(failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
