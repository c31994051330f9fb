/*
 * pi0 verify: runs the synthetic problem that a golden file names and compares every recorded tensor.
 *
 * A golden file (safetensors) holds what openpi's own model computed; its metadata says for which problem, and the
 * integer arithmetic of checkpoint/synthetic.h rebuilds weights and observation from that. The reference keeps a row
 * for every camera slot and padding token, this engine only those that matter: rows are matched before they are
 * compared, and rows of masked cameras or padding have no counterpart.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/synthetic.h"
#include "cli/commands.h"
#include "cli/json.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "model/config.h"

enum { CAMERAS = 3, MAX_PROMPT = 4096, MAX_HORIZON = 4096, MAX_STEPS = 1000, MAX_SAMPLES = 4096 };

/* The problem that the metadata names. */
typedef struct problem {
    bool tiny;
    pi0_family family;
    uint64_t seed;
    int prompt, pad, horizon, steps;
    bool masked[CAMERAS];
    model_config config;
    int prefix; /* rows of the reference: 3 * tokens + prompt + pad */
} problem;

/* What each recorded tensor is compared with. */
typedef enum recorded {
    WHOLE_PREFIX, /* all rows of the reference's prefix */
    SOME_ROWS,    /* those that prefix_rows and kv_layers name */
    NO_PREFIX,    /* x, v, actions: every row counts */
} recorded;

typedef struct comparison {
    const char *name;   /* in the golden file */
    const char *result; /* of pi0_session_read; NULL: the actions */
    recorded recorded;
    bool per_layer;
    double bound_bf16, bound_fp8;
} comparison;

static const double BOUND_F32 = 2e-5;
static const comparison comparisons[] = {
    {"prefix_embeddings", "prefix_embeddings", WHOLE_PREFIX, false, 1.2e-2, 6e-2},
    {"prefix_embeddings_at_rows", "prefix_embeddings", SOME_ROWS, false, 1.2e-2, 6e-2},
    {"prefix_keys", "prefix_keys", WHOLE_PREFIX, true, 1.2e-2, 6e-2},
    {"prefix_keys_at_rows", "prefix_keys", SOME_ROWS, true, 1.2e-2, 6e-2},
    {"prefix_values", "prefix_values", WHOLE_PREFIX, true, 1.2e-2, 6e-2},
    {"prefix_values_at_rows", "prefix_values", SOME_ROWS, true, 1.2e-2, 6e-2},
    {"x", "x", NO_PREFIX, false, 6.5e-3, 3e-2},
    {"v", "v", NO_PREFIX, false, 1.2e-2, 6e-2},
    {"actions", NULL, NO_PREFIX, false, 6.5e-3, 3e-2},
};
enum { COMPARISON_COUNT = sizeof comparisons / sizeof *comparisons };

typedef struct verdict {
    const char *name;
    double relative_error, bound;
    bool ok;
} verdict;

/* Everything of one run. */
typedef struct verification {
    const char *path;
    safetensors *golden;
    problem problem;
    int rows[MAX_SAMPLES], row_count;     /* prefix_rows, where the file has them */
    int layers[MAX_SAMPLES], layer_count; /* kv_layers */
    uint8_t *images[CAMERAS];
    int32_t *tokens;
    bool *token_mask;
    float *state, *noise, *actions;
    pi0_engine *engine;
    pi0_session *session;
    pi0_engine_info info;
    verdict verdicts[COMPARISON_COUNT];
    int verdict_count;
} verification;

/* ---- the problem ---- */

static pi0_status read_text(const verification *v, const char *key, const char **text, pi0_error *error) {
    *text = safetensors_metadata(v->golden, key);
    if (*text) return PI0_OK;
    return error_set(error, PI0_ERROR_FORMAT, "%s: the metadata lacks \"%s\": expected a golden file", v->path, key);
}

static pi0_status read_number(const verification *v, const char *key, uint64_t low, uint64_t high, uint64_t *number,
                              pi0_error *error) {
    const char *text;
    TRY(read_text(v, key, &text, error));
    char *end = NULL;
    errno = 0;
    *number = text[0] >= '0' && text[0] <= '9' ? strtoull(text, &end, 10) : 0;
    if (end && !*end && !errno && *number >= low && *number <= high) return PI0_OK;
    return error_set(error, PI0_ERROR_FORMAT, "%s: metadata \"%s\" is \"%.60s\", expected a whole number %llu to %llu",
                     v->path, key, text, (unsigned long long)low, (unsigned long long)high);
}

static pi0_status read_int(const verification *v, const char *key, int low, int high, int *number, pi0_error *error) {
    uint64_t wide;
    TRY(read_number(v, key, (uint64_t)low, (uint64_t)high, &wide, error));
    *number = (int)wide;
    return PI0_OK;
}

/* One of two words; *second tells which. */
static pi0_status read_word(const verification *v, const char *key, const char *a, const char *b, bool *second,
                            pi0_error *error) {
    const char *text;
    TRY(read_text(v, key, &text, error));
    *second = strcmp(text, b) == 0;
    if (*second || strcmp(text, a) == 0) return PI0_OK;
    return error_set(error, PI0_ERROR_FORMAT, "%s: metadata \"%s\" is \"%.60s\", expected \"%s\" or \"%s\"", v->path,
                     key, text, a, b);
}

/* "left_wrist_0_rgb+right_wrist_0_rgb" */
static pi0_status read_mask(const verification *v, bool masked[CAMERAS], pi0_error *error) {
    const char *text;
    TRY(read_text(v, "mask", &text, error));
    for (const char *at = text; *text;) {
        size_t length = strcspn(at, "+");
        int camera = 0;
        while (camera < CAMERAS &&
               (strlen(synthetic_cameras[camera]) != length || strncmp(synthetic_cameras[camera], at, length) != 0))
            camera++;
        if (camera == CAMERAS || masked[camera])
            return error_set(error, PI0_ERROR_FORMAT,
                             "%s: metadata \"mask\" is \"%.100s\", expected camera names joined by +, each once",
                             v->path, text);
        masked[camera] = true;
        if (!at[length]) break;
        at += length + 1;
    }
    return PI0_OK;
}

static pi0_status read_problem(verification *v, pi0_error *error) {
    problem *p = &v->problem;
    bool pi05;
    TRY(read_word(v, "size", "full", "tiny", &p->tiny, error));
    TRY(read_word(v, "family", "pi0", "pi05", &pi05, error));
    p->family = pi05 ? PI0_FAMILY_PI05 : PI0_FAMILY_PI0;
    TRY(read_number(v, "seed", 0, UINT64_MAX, &p->seed, error));
    TRY(read_int(v, "prompt", 0, MAX_PROMPT, &p->prompt, error));
    TRY(read_int(v, "pad", 0, MAX_PROMPT, &p->pad, error));
    TRY(read_int(v, "horizon", 1, MAX_HORIZON, &p->horizon, error));
    TRY(read_int(v, "steps", 1, MAX_STEPS, &p->steps, error));
    TRY(read_mask(v, p->masked, error));
    p->config = p->tiny ? model_config_tiny(p->family) : model_config_full(p->family);
    p->prefix = CAMERAS * p->config.vit.tokens + p->prompt + p->pad;
    if (p->prompt == 0 && p->masked[0] && p->masked[1] && p->masked[2])
        return error_set(error, PI0_ERROR_FORMAT, "%s: the problem has neither a camera nor a prompt", v->path);
    return PI0_OK;
}

/* The row that this engine computes for a row of the reference, or -1 for a masked camera's or padding's. */
static int computed_row(const problem *p, int row) {
    int tokens = p->config.vit.tokens, before = 0;
    for (int camera = 0; camera < CAMERAS; camera++) {
        if (row < (camera + 1) * tokens) return p->masked[camera] ? -1 : before + row - camera * tokens;
        if (!p->masked[camera]) before += tokens;
    }
    int token = row - CAMERAS * tokens;
    return token < p->prompt ? before + token : -1;
}

static int computed_rows(const problem *p) {
    int cameras = CAMERAS - p->masked[0] - p->masked[1] - p->masked[2];
    return cameras * p->config.vit.tokens + p->prompt;
}

/* ---- the golden file's tensors ---- */

static pi0_status check_shape(const verification *v, const tensor *t, int rank, const int64_t *shape,
                              pi0_error *error) {
    bool same = t->rank == rank && t->dtype == DTYPE_F32;
    for (int i = 0; same && i < rank; i++) same = t->shape[i] == shape[i];
    if (same) return PI0_OK;
    char found[128], expected[128];
    tensor wanted = {.rank = rank};
    for (int i = 0; i < rank; i++) wanted.shape[i] = shape[i];
    return error_set(error, PI0_ERROR_FORMAT, "%s: tensor \"%s\" is %s %s, expected F32 %s", v->path, t->name,
                     tensor_dtype_name(t->dtype), tensor_shape_text(t, found, sizeof found),
                     tensor_shape_text(&wanted, expected, sizeof expected));
}

/* prefix_rows, kv_layers: int64 [n], each in 0 .. limit-1; absent: *count is 0. */
static pi0_status read_indices(const verification *v, const char *name, int limit, int *indices, int *count,
                               pi0_error *error) {
    const tensor *t = safetensors_find(v->golden, name);
    *count = 0;
    if (!t) return PI0_OK;
    if (t->dtype != DTYPE_I64 || t->rank != 1 || t->shape[0] < 1 || t->shape[0] > MAX_SAMPLES) {
        char found[128];
        return error_set(error, PI0_ERROR_FORMAT, "%s: tensor \"%s\" is %s %s, expected I64 [1 to %d]", v->path, name,
                         tensor_dtype_name(t->dtype), tensor_shape_text(t, found, sizeof found), MAX_SAMPLES);
    }
    for (int i = 0; i < (int)t->shape[0]; i++) {
        int64_t index;
        memcpy(&index, (const char *)t->data + (size_t)i * sizeof index, sizeof index);
        if (index < 0 || index >= limit)
            return error_set(error, PI0_ERROR_FORMAT, "%s: tensor \"%s\" holds %lld, expected 0 to %d", v->path, name,
                             (long long)index, limit - 1);
        indices[i] = (int)index;
    }
    *count = (int)t->shape[0];
    return PI0_OK;
}

/* Rows and width of a tensor to compare, and of the result it is compared with. */
typedef struct layout {
    int layers, rows, width; /* of the golden tensor */
    int result_layers, result_rows;
} layout;

static layout layout_of(const verification *v, const comparison *c) {
    const problem *p = &v->problem;
    const gemma_config *language = &p->config.language;
    if (c->recorded == NO_PREFIX) {
        int rows = c->result ? p->steps * p->horizon : p->horizon;
        return (layout){1, rows, p->config.action_dim, 1, rows};
    }
    bool all = c->recorded == WHOLE_PREFIX;
    layout l = {.rows = all ? p->prefix : v->row_count, .result_rows = computed_rows(p)};
    l.layers = !c->per_layer ? 1 : all ? language->layers : v->layer_count;
    l.result_layers = c->per_layer ? language->layers : 1;
    l.width = c->per_layer ? language->head_dim : language->width;
    return l;
}

static pi0_status check_tensor(const verification *v, const comparison *c, pi0_error *error) {
    const tensor *t = safetensors_find(v->golden, c->name);
    if (!t) return PI0_OK;
    const problem *p = &v->problem;
    if (c->recorded == SOME_ROWS && (v->row_count == 0 || (c->per_layer && v->layer_count == 0)))
        return error_set(error, PI0_ERROR_FORMAT, "%s: tensor \"%s\" needs prefix_rows%s beside it", v->path, c->name,
                         c->per_layer ? " and kv_layers" : "");
    layout l = layout_of(v, c);
    if (c->recorded != NO_PREFIX) {
        int64_t layered[] = {l.layers, l.rows, l.width};
        return c->per_layer ? check_shape(v, t, 3, layered, error) : check_shape(v, t, 2, layered + 1, error);
    }
    int64_t stepped[] = {p->steps, p->horizon, l.width};
    return c->result ? check_shape(v, t, 3, stepped, error) : check_shape(v, t, 2, stepped + 1, error);
}

/* Everything that can be wrong with the file is found before the weights are made. */
static pi0_status check_golden(verification *v, pi0_error *error) {
    TRY(read_indices(v, "prefix_rows", v->problem.prefix, v->rows, &v->row_count, error));
    TRY(read_indices(v, "kv_layers", v->problem.config.language.layers, v->layers, &v->layer_count, error));
    int found = 0;
    for (int i = 0; i < COMPARISON_COUNT; i++) {
        TRY(check_tensor(v, &comparisons[i], error));
        found += safetensors_find(v->golden, comparisons[i].name) != NULL;
    }
    if (!found) return error_set(error, PI0_ERROR_FORMAT, "%s: no tensor to compare: expected a golden file", v->path);
    return PI0_OK;
}

/* ---- running it ---- */

static pi0_status make_observation(verification *v, pi0_observation *observation, pi0_error *error) {
    const problem *p = &v->problem;
    int size = p->config.vit.image_size, actions = p->horizon * p->config.action_dim, length = p->prompt + p->pad;
    *observation = (pi0_observation){0};
    for (int camera = 0; camera < CAMERAS; camera++) {
        if (p->masked[camera]) continue;
        size_t bytes = (size_t)size * (size_t)size * 3;
        v->images[camera] = memory_allocate(bytes);
        if (!v->images[camera]) return error_memory(error, bytes, "an image");
        synthetic_image(camera, p->seed, size, v->images[camera]);
        observation->images[camera] = v->images[camera];
    }
    v->tokens = memory_zeroed((size_t)length, sizeof *v->tokens);
    v->token_mask = memory_zeroed((size_t)length, sizeof *v->token_mask);
    v->state = memory_zeroed((size_t)p->config.action_dim, sizeof *v->state);
    v->noise = memory_zeroed((size_t)actions, sizeof *v->noise);
    v->actions = memory_zeroed((size_t)actions, sizeof *v->actions);
    if (!v->tokens || !v->token_mask || !v->state || !v->noise || !v->actions)
        return error_memory(error, (size_t)actions * 2 * sizeof(float), "the problem");
    synthetic_tokens(p->seed, p->config.vocabulary, v->tokens, p->prompt);
    for (int i = 0; i < p->prompt; i++) v->token_mask[i] = true;
    synthetic_state(p->seed, v->state, p->config.action_dim);
    pi0_noise(p->seed, v->noise, (size_t)actions);
    observation->tokens = v->tokens;
    observation->token_mask = v->token_mask;
    observation->token_count = length;
    observation->state = v->state;
    observation->noise = v->noise;
    return PI0_OK;
}

static pi0_model problem_model(const problem *p) {
    bool pi05 = p->family == PI0_FAMILY_PI05;
    if (p->tiny) return pi05 ? PI0_MODEL_TINY_PI05 : PI0_MODEL_TINY_PI0;
    return pi05 ? PI0_MODEL_PI05 : PI0_MODEL_PI0;
}

static pi0_status open_engine(verification *v, const common_options *common, model_options model, pi0_error *error) {
    const problem *p = &v->problem;
    char synthetic[64];
    snprintf(synthetic, sizeof synthetic, "synthetic:%llu", (unsigned long long)p->seed);
    if (!model.checkpoint) model.checkpoint = synthetic;
    model.model = (int)problem_model(p);
    pi0_engine_options options = options_engine(common, &model);
    TRY(pi0_engine_open(&v->engine, &options, error));
    v->info = (pi0_engine_info){.struct_size = sizeof v->info};
    TRY(pi0_engine_describe(v->engine, &v->info, error));
    if (v->info.family == p->family && v->info.image_size == p->config.vit.image_size &&
        v->info.vocabulary == p->config.vocabulary && v->info.action_dim == p->config.action_dim)
        return PI0_OK;
    return error_set(error, PI0_ERROR_FORMAT,
                     "%s: expected the %s %s model that %s was made with, found %s with images of %d pixels and %d "
                     "token ids",
                     model.checkpoint, p->tiny ? "tiny" : "full", p->family == PI0_FAMILY_PI0 ? "pi0" : "pi0.5",
                     v->path, v->info.family == PI0_FAMILY_PI0 ? "pi0" : "pi0.5", v->info.image_size,
                     v->info.vocabulary);
}

static pi0_status run(verification *v, pi0_error *error) {
    const problem *p = &v->problem;
    pi0_observation observation;
    TRY(make_observation(v, &observation, error));
    pi0_session_options options;
    pi0_session_options_default(&options, v->engine);
    options.cameras = CAMERAS;
    options.max_prompt_tokens = p->prompt;
    options.horizon = p->horizon;
    options.num_steps = p->steps;
    options.lerobot_time = false; /* golden files hold openpi's step times, whoever saved the weights */
    options.record = true;
    TRY(pi0_session_open(&v->session, v->engine, &options, error));
    terminal_busy_begin("inference");
    pi0_status status = pi0_session_infer(v->session, &observation, 1, v->actions, error);
    terminal_busy_end();
    return status;
}

/* ---- comparing ---- */

/* Adds |a - b|^2 and |b|^2 of one row. golden may be unaligned. */
static void add_row(const float *result, const char *golden, int width, double *difference, double *reference) {
    for (int i = 0; i < width; i++) {
        float b;
        memcpy(&b, golden + (size_t)i * sizeof b, sizeof b);
        double d = (double)result[i] - (double)b;
        *difference += d * d;
        *reference += (double)b * (double)b;
    }
}

/* *rows counts what was compared: 0 when every row is masked or padding. */
static double relative_error(const verification *v, const comparison *c, const tensor *t, const float *result,
                             int *rows) {
    layout l = layout_of(v, c);
    double difference = 0, reference = 0;
    *rows = 0;
    for (int layer = 0; layer < l.layers; layer++)
        for (int row = 0; row < l.rows; row++) {
            int to_layer = layer, to_row = row;
            if (c->recorded == SOME_ROWS) {
                if (c->per_layer) to_layer = v->layers[layer];
                to_row = v->rows[row];
            }
            if (c->recorded != NO_PREFIX) to_row = computed_row(&v->problem, to_row);
            if (to_row < 0) continue;
            const float *a = result + ((size_t)to_layer * (size_t)l.result_rows + (size_t)to_row) * (size_t)l.width;
            const char *b =
                (const char *)t->data + ((size_t)layer * (size_t)l.rows + (size_t)row) * (size_t)l.width * 4;
            add_row(a, b, l.width, &difference, &reference);
            ++*rows;
        }
    if (difference == 0) return 0;
    return sqrt(difference) / sqrt(reference);
}

/* The whole of a stage result; *values is the caller's to release. */
static pi0_status read_result(const verification *v, const char *name, size_t expected, float **values,
                              pi0_error *error) {
    size_t count = 0;
    *values = NULL;
    TRY(pi0_session_read(v->session, name, 0, NULL, 0, &count, error));
    if (count != expected)
        return error_set(error, PI0_ERROR_DEVICE, "the backend recorded %zu values of \"%s\", expected %zu", count,
                         name, expected);
    *values = memory_allocate(count * sizeof(float));
    if (!*values) return error_memory(error, count * sizeof(float), name);
    pi0_status status = pi0_session_read(v->session, name, 0, *values, count, &count, error);
    if (status == PI0_OK) return PI0_OK;
    memory_release(*values);
    *values = NULL;
    return status;
}

static double bound_of(const verification *v, const comparison *c) {
    if (v->info.precision == PI0_PRECISION_FP8) return c->bound_fp8;
    return v->info.precision == PI0_PRECISION_BF16 ? c->bound_bf16 : BOUND_F32;
}

static pi0_status compare(verification *v, const comparison *c, double tolerance, pi0_error *error) {
    const tensor *t = safetensors_find(v->golden, c->name);
    if (!t) return PI0_OK;
    layout l = layout_of(v, c);
    float *values = NULL;
    if (c->result) {
        size_t expected = (size_t)l.result_layers * (size_t)l.result_rows * (size_t)l.width;
        TRY(read_result(v, c->result, expected, &values, error));
    }
    int rows;
    double relative = relative_error(v, c, t, values ? values : v->actions, &rows);
    memory_release(values);
    if (rows == 0) return PI0_OK;
    double bound = tolerance > 0 ? tolerance : bound_of(v, c);
    /* written so that NaN, which compares false with everything, fails */
    v->verdicts[v->verdict_count++] = (verdict){c->name, relative, bound, relative <= bound};
    return PI0_OK;
}

static pi0_status verify(verification *v, const common_options *common, const model_options *model, double tolerance,
                         pi0_error *error) {
    TRY(safetensors_open(&v->golden, v->path, error));
    TRY(read_problem(v, error));
    TRY(check_golden(v, error));
    TRY(open_engine(v, common, *model, error));
    TRY(run(v, error));
    for (int i = 0; i < COMPARISON_COUNT; i++) TRY(compare(v, &comparisons[i], tolerance, error));
    if (v->verdict_count == 0)
        return error_set(error, PI0_ERROR_FORMAT, "%s: every row it holds is masked or padding", v->path);
    return PI0_OK;
}

static void verification_release(verification *v) {
    pi0_session_close(&v->session);
    pi0_engine_close(&v->engine);
    safetensors_close(&v->golden);
    for (int camera = 0; camera < CAMERAS; camera++) memory_release(v->images[camera]);
    memory_release(v->tokens);
    memory_release(v->token_mask);
    memory_release(v->state);
    memory_release(v->noise);
    memory_release(v->actions);
}

/* ---- telling ---- */

static bool all_ok(const verification *v) {
    for (int i = 0; i < v->verdict_count; i++)
        if (!v->verdicts[i].ok) return false;
    return true;
}

static int print_json(const verification *v) {
    json_t *tensors = json_array();
    for (int i = 0; i < v->verdict_count; i++) {
        const verdict *d = &v->verdicts[i];
        json_array_append_new(tensors, json_pack("{s:s, s:o, s:f, s:b}", "name", d->name, "relative_error",
                                                 json_number(d->relative_error), "bound", d->bound, "ok", d->ok));
    }
    return json_print(json_pack("{s:s, s:s, s:s, s:o, s:b}", "golden", v->path, "backend",
                                options_backend_name(v->info.backend), "precision",
                                options_precision_name(v->info.precision), "tensors", tensors, "ok", all_ok(v)));
}

static void print_text(const verification *v) {
    for (int i = 0; i < v->verdict_count; i++) {
        const verdict *d = &v->verdicts[i];
        printf("%-26s  %14.3e  %8.1e  %s\n", d->name, d->relative_error, d->bound, d->ok ? "ok" : "FAIL");
    }
}

int command_verify(int argc, char **argv) {
    common_options common = common_options_default();
    model_options model = {0};
    double tolerance = 0;
    const char *path = NULL;
    option rows[MODEL_OPTION_COUNT + 1];
    model_options_table(rows, &model);
    const option options[] = {
        {.name = "--checkpoint",
         .kind = OPTION_TEXT,
         .target = &model.checkpoint,
         .value = "DIR",
         .help = "take the weights from there (default: the synthetic weights that the file names)"},
        rows[2],
        {.name = "--tolerance",
         .kind = OPTION_FLOAT,
         .target = &tolerance,
         .value = "X",
         .help = "one bound for every tensor (default: each tensor's own for the precision)",
         .minimum = 1e-12,
         .maximum = 1e3},
        {0},
    };
    const command_line line = {
        .name = "verify",
        .summary = "run a golden problem and compare",
        .description =
            "Rebuilds the synthetic problem that a golden file names, runs it, and prints one line per recorded "
            "tensor:\ntensor, relative_error (|ours - golden| / |golden|, L2 over all rows that are neither "
            "masked nor padding), bound,\nok or FAIL. The exit code is 0 only if every bound holds.",
        .examples = "  pi0 verify tiny_pi0.safetensors --precision f32          the tiny model, in a moment\n"
                    "  pi0 verify full_pi0.safetensors --precision bf16         the real size: minutes on a CPU\n"
                    "  pi0 verify tiny_pi0.safetensors --checkpoint DIR --json  weights from a checkpoint\n",
        .operand = "GOLDEN.safetensors",
        .operand_value = &path,
        .groups = (const option_group[]){{"verify", options}, {NULL, NULL}},
        .common = &common,
    };
    int exit_code;
    if (!options_parse(&line, argc, argv, &exit_code)) return exit_code;

    verification *v = memory_zeroed(1, sizeof *v);
    if (!v) {
        terminal_error("out of memory");
        return EXIT_FAILED;
    }
    v->path = path;
    pi0_error error;
    if (verify(v, &common, &model, tolerance, &error) != PI0_OK) {
        terminal_fail(&error);
        exit_code = EXIT_FAILED;
    } else {
        exit_code = EXIT_DONE;
        if (common.json)
            exit_code = print_json(v);
        else
            print_text(v);
        if (exit_code == EXIT_DONE && !all_ok(v)) exit_code = EXIT_FAILED;
    }
    verification_release(v);
    memory_release(v);
    return exit_code;
}
