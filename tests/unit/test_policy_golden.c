/*
 * Every recorded request of openpi's own policy code (tests/data/golden/policy): rebuilt, sent through the encoder and
 * decoder, prepared, and finished with the recorded actions of its stub model.
 */
#include "data.h"

#include <math.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "checkpoint/safetensors.h"
#include "policy/policy.h"

static const char folder[] = "golden/policy";

/* What one case holds while it runs. */
typedef struct golden {
    const char *name;
    safetensors *file;
    void *pieces[4096]; /* memory of the request's tree */
    size_t piece_count;
    char stats_path[64];
    int warnings;
} golden;

static void *take(golden *g, size_t count, size_t size) {
    assert_true(g->piece_count < sizeof g->pieces / sizeof *g->pieces);
    void *memory = calloc(count ? count : 1, size);
    assert_non_null(memory);
    return g->pieces[g->piece_count++] = memory;
}

static const char *metadata(const golden *g, const char *key) {
    const char *text = safetensors_metadata(g->file, key);
    if (!text) fail_msg("%s: no metadata '%s'", g->name, key);
    return text;
}

static json_t *metadata_json(const golden *g, const char *key) {
    const char *text = metadata(g, key);
    json_t *json = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (!json) fail_msg("%s: '%s' is no JSON", g->name, key);
    return json;
}

/* ---- the request ---- */

static value from_json(golden *g, const json_t *json) {
    if (json_is_real(json)) return (value){.kind = VALUE_FLOAT, .number = json_real_value(json)};
    if (json_is_integer(json)) return (value){.kind = VALUE_INT, .integer = json_integer_value(json)};
    if (json_is_boolean(json)) return (value){.kind = VALUE_BOOL, .boolean = json_is_true(json)};
    if (json_is_string(json))
        return (value){.kind = VALUE_TEXT, .text = {json_string_value(json), json_string_length(json)}};
    if (!json_is_array(json)) return (value){.kind = VALUE_NULL};
    size_t count = json_array_size(json);
    value *items = take(g, count, sizeof *items);
    for (size_t i = 0; i < count; i++) items[i] = from_json(g, json_array_get(json, i));
    return (value){.kind = VALUE_LIST, .list = {.count = count, .items = items}};
}

static value from_array(golden *g, const json_t *node) {
    const char *dtype = json_string_value(json_object_get(node, "dtype"));
    const tensor *tensor = safetensors_find(g->file, json_string_value(json_object_get(node, "tensor")));
    assert_non_null(tensor);
    value_array array = {.kind = dtype[1],
                         .item_bytes = atoi(dtype + 2),
                         .rank = tensor->rank,
                         .bytes = tensor->bytes,
                         .data = tensor->data};
    memcpy(array.shape, tensor->shape, sizeof array.shape);
    return (value){.kind = VALUE_ARRAY, .array = array};
}

static value from_text_array(golden *g, const json_t *node) {
    const json_t *text = json_object_get(node, "value");
    int length = atoi(json_string_value(json_object_get(node, "dtype")) + 2);
    uint32_t *items = take(g, (size_t)length, sizeof *items);
    const char *bytes = json_string_value(text);
    size_t left = json_string_length(text);
    for (size_t i = 0, used; left; i++, bytes += used, left -= used) {
        used = utf8_read(bytes, left, &items[i]);
        assert_true(used);
    }
    value_array array = {.kind = 'U', .item_bytes = 4 * length, .bytes = 4 * (size_t)length, .data = items};
    return (value){.kind = VALUE_ARRAY, .array = array};
}

static value from_bytes(golden *g, const json_t *node) {
    const char *hex = json_string_value(json_object_get(node, "hex"));
    size_t count = strlen(hex) / 2;
    char *bytes = take(g, count + 1, 1);
    for (size_t i = 0; i < count; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        bytes[i] = (char)byte;
    }
    return (value){.kind = VALUE_BYTES, .text = {bytes, count}};
}

static value from_map(golden *g, const json_t *items);

static value from_node(golden *g, const json_t *node) {
    const char *kind = json_string_value(json_object_get(node, "kind"));
    if (strcmp(kind, "array") == 0) return from_array(g, node);
    if (strcmp(kind, "map") == 0) return from_map(g, json_object_get(node, "items"));
    if (strcmp(kind, "text_array") == 0) return from_text_array(g, node);
    if (strcmp(kind, "bytes") == 0) return from_bytes(g, node);
    if (strcmp(kind, "null") == 0) return (value){.kind = VALUE_NULL};
    if (strcmp(kind, "float") == 0)
        return (value){.kind = VALUE_FLOAT, .number = json_number_value(json_object_get(node, "value"))};
    return from_json(g, json_object_get(node, "value"));
}

static value from_map(golden *g, const json_t *items) {
    size_t count = json_object_size(items), i = 0;
    value *keys = take(g, count, sizeof *keys), *values = take(g, count, sizeof *values);
    const char *key;
    json_t *node;
    json_object_foreach((json_t *)items, key, node) {
        keys[i] = (value){.kind = VALUE_TEXT, .text = {key, strlen(key)}};
        values[i++] = from_node(g, node);
    }
    return (value){.kind = VALUE_MAP, .list = {.count = count, .items = values, .keys = keys}};
}

static pi0_request *read_request(golden *g) {
    json_t *nodes = metadata_json(g, "request");
    value root = from_map(g, nodes);
    wire_buffer buffer = {0};
    wire_put_value(&buffer, &root);
    assert_false(buffer.failed);
    pi0_request *request;
    pi0_error error;
    if (pi0_request_decode(&request, buffer.bytes, buffer.size, &error) != PI0_OK)
        fail_msg("%s: %s", g->name, error.message);
    memory_release(buffer.bytes);
    json_decref(nodes);
    return request;
}

/* ---- the policy ---- */

static void count_warning(void *user, pi0_log_level level, const char *message) {
    (void)message;
    if (level == PI0_LOG_WARNING) ((golden *)user)->warnings++;
}

static pi0_status open_policy(golden *g, pi0_policy **policy, pi0_error *error) {
    const char *stats = metadata(g, "norm_stats");
    snprintf(g->stats_path, sizeof g->stats_path, "/tmp/pi0_norm_stats_XXXXXX");
    int descriptor = mkstemp(g->stats_path);
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, stats, strlen(stats)), strlen(stats));
    close(descriptor);
    json_t *default_prompt = metadata_json(g, "default_prompt");
    char tokenizer[1024];
    pi0_policy_options options;
    pi0_policy_options_default(&options);
    options.config = metadata(g, "config");
    options.norm_stats = g->stats_path;
    options.tokenizer = data_path(tokenizer, sizeof tokenizer, "golden/tokenizer", "tiny.model");
    options.default_prompt = json_string_value(default_prompt);
    options.log = count_warning;
    options.log_user = g;
    pi0_status status = pi0_policy_open(policy, &options, error);
    json_decref(default_prompt);
    unlink(g->stats_path);
    return status;
}

/* ---- comparing ---- */

static double element(const tensor *tensor, size_t i) {
    float f;
    double d;
    int64_t n;
    if (tensor->dtype == DTYPE_F32) return memcpy(&f, (const char *)tensor->data + 4 * i, 4), (double)f;
    if (tensor->dtype == DTYPE_F64) return memcpy(&d, (const char *)tensor->data + 8 * i, 8), d;
    if (tensor->dtype == DTYPE_I64) return memcpy(&n, (const char *)tensor->data + 8 * i, 8), (double)n;
    return ((const unsigned char *)tensor->data)[i]; /* BOOL, U8 */
}

/* Relative to 1e-12, where NaN equals NaN and infinities equal themselves. */
static void assert_numbers(const golden *g, const char *name, const double *values, size_t count) {
    const tensor *expected = safetensors_find(g->file, name);
    if (!expected) fail_msg("%s: no '%s'", g->name, name);
    if ((size_t)tensor_elements(expected) != count)
        fail_msg("%s: %s has %d values, not %zu", g->name, name, (int)tensor_elements(expected), count);
    for (size_t i = 0; i < count; i++) {
        double want = element(expected, i), got = values[i];
        bool same = got == want || (isnan(want) && isnan(got)) || fabs(got - want) <= 1e-12 * fabs(want);
        if (!same) fail_msg("%s: %s[%zu] is %.17g, expected %.17g", g->name, name, i, got, want);
    }
}

static uint64_t fnv1a64(const uint8_t *bytes, size_t size) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

static void assert_images(const golden *g, const input_view *view) {
    static const uint8_t zeros[224 * 224 * 3];
    json_t *images = metadata_json(g, "images");
    assert_int_equal(json_object_size(images), view->cameras);
    assert_int_equal(view->image_size, 224);
    for (int slot = 0; slot < view->cameras; slot++) {
        const json_t *expected = json_object_get(images, view->camera_names[slot]);
        const uint8_t *pixels = view->images[slot] ? view->images[slot] : zeros;
        char hash[17];
        snprintf(hash, sizeof hash, "%016llx", (unsigned long long)fnv1a64(pixels, sizeof zeros));
        if (strcmp(hash, json_string_value(json_object_get(expected, "fnv1a64"))) != 0)
            fail_msg("%s: image %s differs", g->name, view->camera_names[slot]);
        assert_int_equal(view->image_mask[slot], json_is_true(json_object_get(expected, "mask")));
        assert_int_equal(view->image_mask[slot], element(safetensors_find(g->file, "model/image_mask"), (size_t)slot));
    }
    json_decref(images);
}

static void assert_tokens(const golden *g, const input_view *view) {
    const tensor *tokens = safetensors_find(g->file, "model/tokens"),
                 *mask = safetensors_find(g->file, "model/token_mask");
    assert_int_equal(view->token_count, tensor_elements(tokens));
    for (int i = 0; i < view->token_count; i++)
        if (view->tokens[i] != element(tokens, (size_t)i) || view->token_mask[i] != element(mask, (size_t)i))
            fail_msg("%s: token %d is %d, expected %g", g->name, i, view->tokens[i], element(tokens, (size_t)i));
}

/* The model's view says the same as the dump's. */
static void assert_observation(const pi0_input *input, const input_view *view) {
    pi0_observation observation;
    pi0_input_observation(input, &observation);
    int valid = 0;
    for (int i = 0; i < view->token_count; i++) valid += view->token_mask[i];
    assert_int_equal(observation.token_count, valid);
    assert_memory_equal(observation.tokens, view->tokens, (size_t)valid * sizeof *view->tokens);
    assert_null(observation.noise);
    for (int i = 0; i < 32; i++) assert_true(observation.state[i] == (float)view->state[i] || isnan(view->state[i]));
    for (int i = 0; i < view->cameras; i++) assert_int_equal(observation.images[i] != NULL, view->image_mask[i]);
}

static void assert_answer(golden *g, const pi0_policy *policy, const pi0_input *input) {
    const tensor *stub = safetensors_find(g->file, "stub/actions"),
                 *response = safetensors_find(g->file, "response/actions");
    size_t rows = (size_t)stub->shape[0], width = (size_t)stub->shape[1];
    pi0_policy_info info = {.struct_size = sizeof info};
    assert_int_equal(pi0_policy_describe(policy, &info, NULL), PI0_OK);
    assert_int_equal(info.horizon, rows);
    assert_int_equal(info.action_dim, width);
    assert_int_equal(info.robot_action_dim, response->shape[1]);
    assert_int_equal(info.float32_actions, response->dtype == DTYPE_F32);
    assert_string_equal(info.config, metadata(g, "config"));
    json_t *sent = json_loads(info.metadata_json, 0, NULL), *expected = metadata_json(g, "policy_metadata");
    assert_true(json_equal(sent, expected));
    json_decref(sent);
    json_decref(expected);

    float *model = take(g, rows * width, sizeof *model);
    memcpy(model, stub->data, stub->bytes);
    double *actions = take(g, rows * width, sizeof *actions), round_trip[ROBOT_MAX_STATE];
    assert_int_equal(openpi_unnormalise(policy, input, model, actions, round_trip, NULL), PI0_OK);
    assert_numbers(g, "stage/unnormalised_actions", actions, rows * width);
    assert_numbers(g, "stage/unnormalised_state", round_trip, width);
    assert_int_equal(pi0_policy_finish(policy, input, model, actions, NULL), PI0_OK);
    assert_numbers(g, "response/actions", actions, rows * (size_t)info.robot_action_dim);
}

static void run_case(const char *unused, const char *name) {
    (void)unused;
    golden *g = calloc(1, sizeof *g);
    assert_non_null(g);
    g->name = name;
    char path[1024], file_name[300];
    snprintf(file_name, sizeof file_name, "%s.safetensors", name);
    pi0_error error = {0};
    if (safetensors_open(&g->file, data_path(path, sizeof path, folder, file_name), &error) != PI0_OK)
        fail_msg("%s", error.message);
    bool refused = strncmp(name, "error_", 6) == 0;
    pi0_policy *policy;
    pi0_request *request = read_request(g);
    pi0_input *input = NULL;
    pi0_status status = open_policy(g, &policy, &error);
    if (refused) {
        json_t *expected = metadata_json(g, "error");
        const char *stage = json_string_value(json_object_get(expected, "stage"));
        if ((status != PI0_OK) != (strcmp(stage, "create") == 0))
            fail_msg("%s: not at stage %s: %s", name, stage, error.message);
        json_decref(expected);
    } else if (status != PI0_OK) {
        fail_msg("%s: %s", name, error.message);
    }
    if (status == PI0_OK) status = pi0_policy_prepare(policy, request, &input, &error);
    if (refused) {
        assert_int_not_equal(status, PI0_OK);
        assert_true(strlen(error.message) > 10);
        assert_null(input);
        print_message("%s: %s\n", name, error.message);
    } else {
        if (status != PI0_OK) fail_msg("%s: %s", name, error.message);
        input_view view;
        input_look(input, &view);
        assert_numbers(g, "stage/robot_state", input->robot_state.values, (size_t)input->robot_state.count);
        assert_numbers(g, "stage/normalised_state", input->state, (size_t)input->state_count);
        assert_numbers(g, "model/state", view.state, 32);
        assert_images(g, &view);
        assert_tokens(g, &view);
        assert_observation(input, &view);
        assert_answer(g, policy, input);
        assert_int_equal(g->warnings, strncmp(name, "overlong_", 9) == 0);
    }
    pi0_input_free(&input);
    pi0_request_free(&request);
    pi0_policy_close(&policy);
    safetensors_close(&g->file);
    for (size_t i = 0; i < g->piece_count; i++) free(g->pieces[i]);
    free(g);
}

static void test_cases(void **state) {
    (void)state;
    assert_int_equal(data_each(folder, ".safetensors", run_case), 78);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
