/*
 * Policies over requests built from code: UR5 and the model without robot, which no recorded case covers; defaults,
 * tokens, wrong usage; and every allocation failing once.
 */
#include "data.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "policy/policy.h"

static pi0_policy_options defaults(const char *config) {
    pi0_policy_options options;
    pi0_policy_options_default(&options);
    options.config = config;
    return options;
}

static pi0_policy *open_policy(const pi0_policy_options *options) {
    pi0_policy *policy;
    pi0_error error;
    if (pi0_policy_open(&policy, options, &error) != PI0_OK) fail_msg("%s", error.message);
    return policy;
}

static pi0_policy *open_with_tokenizer(const char *config, pi0_model model) {
    char path[1024];
    pi0_policy_options options = defaults(config);
    options.tokenizer = data_path(path, sizeof path, "golden/tokenizer", "tiny.model");
    options.model = model;
    return open_policy(&options);
}

static void assert_open_refused(const pi0_policy_options *options, pi0_status expected, const char *word) {
    pi0_policy *policy;
    pi0_error error = {0};
    assert_int_equal(pi0_policy_open(&policy, options, &error), expected);
    assert_null(policy);
    if (!strstr(error.message, word)) fail_msg("expected '%s' in: %s", word, error.message);
}

static pi0_request *new_request(void) {
    pi0_request *request;
    assert_int_equal(pi0_request_new(&request, NULL), PI0_OK);
    return request;
}

/* Every pixel has the value of the camera's number. */
static void set_image(pi0_request *request, const char *key, uint8_t shade, int height, int width) {
    size_t size = (size_t)height * (size_t)width * 3;
    uint8_t *pixels = malloc(size);
    assert_non_null(pixels);
    memset(pixels, shade, size);
    assert_int_equal(pi0_request_set_image(request, key, pixels, height, width, NULL), PI0_OK);
    free(pixels); /* it was copied */
}

static void set_tokens(pi0_request *request, int count) {
    int32_t tokens[300] = {2, 17, 18};
    assert_int_equal(pi0_request_set_tokens(request, tokens, count, NULL), PI0_OK);
}

static pi0_input *prepare(const pi0_policy *policy, const pi0_request *request) {
    pi0_input *input;
    pi0_error error;
    if (pi0_policy_prepare(policy, request, &input, &error) != PI0_OK) fail_msg("%s", error.message);
    return input;
}

static void assert_refused(const pi0_policy *policy, const pi0_request *request, const char *word) {
    pi0_input *input;
    pi0_error error = {0};
    assert_int_equal(pi0_policy_prepare(policy, request, &input, &error), PI0_ERROR_ARGUMENT);
    assert_null(input);
    if (!strstr(error.message, word)) fail_msg("expected '%s' in: %s", word, error.message);
}

/* ---- robots ---- */

static void test_ur5(void **state) {
    (void)state;
    pi0_policy_options options = defaults("pi0_ur5");
    pi0_policy *policy = open_policy(&options); /* synthetic statistics: mean 0, std 1 */
    pi0_policy_info info = {.struct_size = sizeof info};
    assert_int_equal(pi0_policy_describe(policy, &info, NULL), PI0_OK);
    assert_int_equal(info.horizon, 50);
    assert_int_equal(info.robot_action_dim, 7);
    assert_false(info.float32_actions);
    assert_string_equal(info.config, "pi0_ur5");

    pi0_request *request = new_request();
    double joints[] = {1, 2, 3, 4, 5, 6}, gripper[] = {0.5};
    assert_int_equal(pi0_request_set_state(request, "joints", joints, 6, NULL), PI0_OK);
    assert_int_equal(pi0_request_set_state(request, "gripper", gripper, 1, NULL), PI0_OK);
    set_image(request, "base_rgb", 10, 224, 224);
    set_image(request, "wrist_rgb", 20, 3, 224); /* height 3: rows all the same, since it was set from code */
    set_tokens(request, 3);
    pi0_input *input = prepare(policy, request);
    input_view view;
    input_look(input, &view);
    for (int i = 0; i < 7; i++) assert_true(view.state[i] == (i < 6 ? joints[i] : 0.5) / (1.0 + 1e-6));
    assert_true(view.state[7] == 0);
    assert_int_equal(view.images[0][0], 10);
    assert_int_equal(view.images[1][3 * (112 * 224 + 5)], 20);
    assert_int_equal(view.images[1][0], 0); /* padding */
    assert_null(view.images[2]);
    assert_int_equal(view.token_count, 48);
    assert_true(view.token_mask[2] && !view.token_mask[3]);

    static float model[50 * 32];
    static double actions[50 * 7];
    for (int i = 0; i < 50 * 32; i++) model[i] = (float)i / 64;
    assert_int_equal(pi0_policy_finish(policy, input, model, actions, NULL), PI0_OK);
    for (int row = 0; row < 50; row++)
        for (int i = 0; i < 7; i++) {
            double round_trip = view.state[i] * (1.0 + 1e-6); /* joints are relative to the state, the gripper is not */
            double want = (double)model[row * 32 + i] * (1.0 + 1e-6) + (i < 6 ? round_trip : 0);
            assert_true(actions[row * 7 + i] == want);
        }
    pi0_input_free(&input);
    pi0_request_free(&request);
    pi0_policy_close(&policy);
}

/* A message's UR5 gripper must be a list or array: two vectors are joined. */
static void test_ur5_messages(void **state) {
    (void)state;
    pi0_policy_options options = defaults("pi05_ur5");
    pi0_policy *policy = open_policy(&options);
    wire_buffer buffer = {0};
    double joints[6] = {0};
    wire_put_map(&buffer, 2);
    wire_put_text(&buffer, "joints");
    wire_put_array(&buffer, 'f', 8, 1, (int64_t[]){6}, joints);
    wire_put_text(&buffer, "gripper");
    wire_put_float(&buffer, 0.5);
    pi0_request *request;
    assert_int_equal(pi0_request_decode(&request, buffer.bytes, buffer.size, NULL), PI0_OK);
    assert_refused(policy, request, "'gripper': expected a list of numbers, found number");
    assert_int_equal(pi0_request_set_state(request, "gripper", joints, 1, NULL),
                     PI0_OK); /* set from code: comes first */
    assert_refused(policy, request, "image 'base_rgb' is missing");
    pi0_request_free(&request);
    memory_release(buffer.bytes);
    pi0_policy_close(&policy);
}

static void test_generic(void **state) {
    (void)state;
    pi0_policy *policy = open_with_tokenizer(NULL, PI0_MODEL_TINY_PI05);
    pi0_policy_info info = {.struct_size = sizeof info};
    assert_int_equal(pi0_policy_describe(policy, &info, NULL), PI0_OK);
    assert_int_equal(info.family, PI0_FAMILY_PI05);
    assert_int_equal(info.image_size, 56);
    assert_int_equal(info.horizon, 10);
    assert_int_equal(info.robot_action_dim, 32);
    assert_true(info.float32_actions);
    assert_null(info.config);
    assert_string_equal(info.metadata_json, "{}");

    pi0_request *request = new_request();
    assert_refused(policy, request, "nothing to infer from");
    set_image(request, "left_wrist_0_rgb", 7, 56, 56);
    pi0_input *input = prepare(policy, request); /* an image alone is enough */
    pi0_observation observation;
    pi0_input_observation(input, &observation);
    assert_int_equal(observation.token_count, 0);
    assert_null(observation.images[0]);
    assert_int_equal(observation.images[1][56 * 56 * 3 - 1], 7);
    pi0_input_free(&input);

    /* the prompt holds as many state numbers as the request */
    double two[] = {-1, 0.5};
    assert_int_equal(pi0_request_set_state(request, NULL, two, 2, NULL), PI0_OK);
    assert_int_equal(pi0_request_set_prompt(request, "go", NULL), PI0_OK);
    input = prepare(policy, request);
    int with_two = input->valid_tokens;
    assert_int_equal(input->token_count, 200);
    assert_true(input->model_state[1] == 0.5f && input->model_state[2] == 0);
    pi0_input_free(&input);
    double many[33] = {0};
    assert_int_equal(pi0_request_set_state(request, NULL, many, 32, NULL), PI0_OK);
    input = prepare(policy, request);
    assert_true(input->valid_tokens > with_two);
    float model[320];
    double actions[320];
    for (int i = 0; i < 320; i++) model[i] = (float)i / 3;
    assert_int_equal(pi0_policy_finish(policy, input, model, actions, NULL), PI0_OK);
    for (int i = 0; i < 320; i++) assert_true(actions[i] == (double)model[i]);
    pi0_input_free(&input);
    assert_int_equal(pi0_request_set_state(request, NULL, many, 33, NULL), PI0_OK);
    assert_refused(policy, request, "at most 32");
    pi0_request_free(&request);
    pi0_policy_close(&policy);
}

/* The model's own observation as a message: map of images, masks, tokens. */
static void test_generic_message(void **state) {
    (void)state;
    pi0_policy_options options = defaults(NULL);
    options.image_size = 8;
    options.horizon = 3;
    pi0_policy *policy = open_policy(&options);
    wire_buffer buffer = {0};
    uint8_t pixels[8 * 8 * 3] = {1};
    float numbers[2] = {1, 2};
    int64_t ids[3] = {2, 9, 8};
    uint8_t mask[3] = {1, 0, 1};
    wire_put_map(&buffer, 5);
    wire_put_text(&buffer, "image");
    wire_put_map(&buffer, 2);
    wire_put_text(&buffer, "base_0_rgb");
    wire_put_array(&buffer, 'u', 1, 3, (int64_t[]){8, 8, 3}, pixels);
    wire_put_text(&buffer, "right_wrist_0_rgb");
    wire_put_array(&buffer, 'u', 1, 3, (int64_t[]){8, 8, 3}, pixels);
    wire_put_text(&buffer, "image_mask");
    wire_put_map(&buffer, 1);
    wire_put_text(&buffer, "right_wrist_0_rgb");
    wire_put_array(&buffer, 'b', 1, 0, NULL, mask + 1);
    wire_put_text(&buffer, "state");
    wire_put_array(&buffer, 'f', 4, 1, (int64_t[]){2}, numbers);
    wire_put_text(&buffer, "tokenized_prompt");
    wire_put_array(&buffer, 'i', 8, 1, (int64_t[]){3}, ids);
    wire_put_text(&buffer, "tokenized_prompt_mask");
    wire_put_array(&buffer, 'b', 1, 1, (int64_t[]){3}, mask);
    pi0_request *request;
    assert_int_equal(pi0_request_decode(&request, buffer.bytes, buffer.size, NULL), PI0_OK);
    pi0_input *input = prepare(policy, request);
    pi0_observation observation;
    pi0_input_observation(input, &observation);
    assert_non_null(observation.images[0]);
    assert_null(observation.images[2]);
    assert_int_equal(observation.token_count, 2);
    assert_int_equal(observation.tokens[1], 8);
    assert_true(observation.state[1] == 2);
    pi0_input_free(&input);
    pi0_request_free(&request);
    memory_release(buffer.bytes);
    pi0_policy_close(&policy);
}

/* ---- requests built from code ---- */

static void test_built_defaults(void **state) {
    (void)state;
    pi0_policy *policy = open_with_tokenizer("pi0_aloha_sim", PI0_MODEL_AUTO);
    pi0_request *request = new_request();
    assert_refused(policy, request, "nothing to infer from"); /* the configuration's own prompt is no input */
    set_image(request, "cam_right_wrist", 9, 10, 10);
    pi0_input *input = prepare(policy, request); /* "Transfer cube", a state of zeros, two cameras masked out */
    input_view view;
    input_look(input, &view);
    assert_false(view.image_mask[0] || view.image_mask[1]);
    assert_true(view.image_mask[2]);
    assert_true(input->valid_tokens > 2);
    assert_int_equal(input->state_count, 14);
    assert_true(fabs(view.state[6] - -1.0798655475 / (1 + 1e-6)) < 1e-9); /* a closed gripper's angle */
    pi0_input_free(&input);
    set_image(request, "cam_low", 9, 10, 10); /* accepted, not used */
    input = prepare(policy, request);
    pi0_input_free(&input);
    set_image(request, "base_0_rgb", 9, 10, 10);
    assert_refused(policy, request, "unknown camera 'base_0_rgb': expected cam_high");
    pi0_request_free(&request);

    request = new_request();
    double joints[13] = {0};
    set_image(request, "cam_high", 1, 10, 10);
    assert_int_equal(pi0_request_set_state(request, NULL, joints, 13, NULL), PI0_OK);
    assert_refused(policy, request, "expected 14 numbers, found float64 array [13]");
    assert_int_equal(pi0_request_set_state(request, NULL, joints, 0, NULL), PI0_OK);
    assert_refused(policy, request, "expected 14 numbers");
    assert_int_equal(pi0_request_set_state(request, NULL, joints, 1, NULL), PI0_OK); /* one stands for all */
    input = prepare(policy, request);
    assert_int_equal(input->state_count, 14);
    pi0_input_free(&input);
    assert_int_equal(pi0_request_set_state(request, "joint", joints, 1, NULL), PI0_OK);
    assert_refused(policy, request, "unknown state 'joint'");
    pi0_request_free(&request);
    pi0_policy_close(&policy);
}

static void test_tokens(void **state) {
    (void)state;
    pi0_policy_options options = defaults("pi0_droid");
    pi0_policy *policy = open_policy(&options);
    pi0_request *request = new_request();
    set_image(request, "observation/exterior_image_1_left", 1, 20, 30);
    assert_refused(policy, request, "'prompt' is missing");
    assert_int_equal(pi0_request_set_prompt(request, "go", NULL), PI0_OK);
    assert_refused(policy, request, "tokenizer");
    set_tokens(request, 49);
    assert_refused(policy, request, "at most 48");
    set_tokens(request, 48); /* tokens count, the prompt does not */
    pi0_input *input = prepare(policy, request);
    assert_int_equal(input->valid_tokens, 48);
    pi0_input_free(&input);
    int32_t negative = -1;
    assert_int_equal(pi0_request_set_tokens(request, &negative, 1, NULL), PI0_OK);
    assert_refused(policy, request, "token 0");
    pi0_policy_close(&policy);

    options.config = NULL; /* without a robot more tokens than the prompt's length are allowed */
    policy = open_policy(&options);
    pi0_request_free(&request);
    request = new_request();
    set_tokens(request, 100);
    input = prepare(policy, request);
    assert_int_equal(input->token_count, 100);
    pi0_input_free(&input);
    pi0_request_free(&request);
    pi0_policy_close(&policy);
}

static void test_request_arguments(void **state) {
    (void)state;
    pi0_request *request = new_request();
    uint8_t pixel[3] = {0};
    pi0_error error;
    assert_int_equal(pi0_request_set_image(request, "x", pixel, 0, 1, &error), PI0_ERROR_ARGUMENT);
    assert_int_equal(pi0_request_set_image(request, "x", pixel, 1 << 30, 1 << 30, &error), PI0_ERROR_ARGUMENT);
    assert_int_equal(pi0_request_set_image(request, NULL, pixel, 1, 1, &error), PI0_ERROR_ARGUMENT);
    assert_int_equal(pi0_request_set_image_file(request, "x", "/nowhere.png", &error), PI0_ERROR_IO);
    assert_int_equal(pi0_request_set_prompt(request, "\xff", &error), PI0_ERROR_ARGUMENT);
    assert_int_equal(pi0_request_set_state(request, NULL, NULL, 3, &error), PI0_ERROR_ARGUMENT);
    assert_int_equal(pi0_request_set_tokens(NULL, NULL, 0, &error), PI0_ERROR_ARGUMENT);
    pi0_request_free(&request);
    assert_null(request);
    pi0_request_free(&request);
    assert_int_equal(pi0_request_decode(&request, "\x93\x01\x02\x03", 4, &error), PI0_ERROR_FORMAT);
    assert_null(request);
}

/* ---- opening ---- */

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* Statistics lie under assets/<asset_id>, which may hold a slash. No weights are needed to prepare. */
static void test_assets(void **state) {
    (void)state;
    char directory[64] = "/tmp/pi0_assets_XXXXXX", path[300];
    static const char *const folders[] = {"assets", "assets/physical-intelligence",
                                          "assets/physical-intelligence/libero"};
    assert_non_null(mkdtemp(directory));
    pi0_policy_options options = defaults("pi0_libero");
    options.checkpoint = directory;
    assert_open_refused(&options, PI0_ERROR_IO, "assets/physical-intelligence/libero/norm_stats.json");
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, folders[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    snprintf(path, sizeof path, "%s/%s/norm_stats.json", directory, folders[2]);
    write_text(path, "{\"norm_stats\": {\"state\": {\"mean\": [1], \"std\": [NaN]}}}");
    assert_open_refused(&options, PI0_ERROR_FORMAT, path);
    write_text(path, "{\"norm_stats\": {\"state\": {\"mean\": [1], \"std\": [2]}}}");
    pi0_policy *policy = open_policy(&options);
    assert_true(norm_stats_find(&policy->stats, "state")->std.values[0] == 2);
    pi0_policy_info info = {.struct_size = sizeof info};
    assert_int_equal(pi0_policy_describe(policy, &info, NULL), PI0_OK);
    assert_true(info.float32_actions); /* no statistics of actions */
    pi0_policy_close(&policy);
    options.config = "pi05_libero";
    assert_open_refused(&options, PI0_ERROR_FORMAT, "quantiles");
    unlink(path);
    for (int i = 3; i-- > 0;) {
        snprintf(path, sizeof path, "%s/%s", directory, folders[i]);
        rmdir(path);
    }
    assert_int_equal(rmdir(directory), 0);
}

static void test_checkpoint_sizes(void **state) {
    (void)state;
    char path[1024];
    pi0_policy_options options = defaults(NULL);
    options.checkpoint = data_path(path, sizeof path, "golden", "tiny_pi05_checkpoint");
    pi0_policy *policy = open_policy(&options);
    pi0_policy_info info = {.struct_size = sizeof info};
    assert_int_equal(pi0_policy_describe(policy, &info, NULL), PI0_OK);
    assert_int_equal(info.family, PI0_FAMILY_PI05);
    assert_int_equal(info.image_size, 56);
    pi0_policy_close(&policy);
    options.config = "pi0_droid";
    assert_open_refused(&options, PI0_ERROR_ARGUMENT, "is for pi0");
}

static void test_options_refused(void **state) {
    (void)state;
    pi0_policy_options options = defaults("debug");
    assert_open_refused(&options, PI0_ERROR_UNSUPPORTED, "debug");
    options = defaults("pi0_droid");
    options.model = PI0_MODEL_PI05;
    assert_open_refused(&options, PI0_ERROR_ARGUMENT, "is for pi0");
    options = defaults(NULL);
    options.norm_stats = "stats.json";
    assert_open_refused(&options, PI0_ERROR_ARGUMENT, "config");
    options = defaults("pi0_droid");
    options.tokenizer = "/nowhere.model";
    assert_open_refused(&options, PI0_ERROR_IO, "/nowhere.model");
    options = defaults("pi0_droid");
    options.checkpoint = "/nowhere";
    assert_open_refused(&options, PI0_ERROR_IO, "/nowhere");
    options = defaults("pi0_droid");
    options.horizon = -1;
    assert_open_refused(&options, PI0_ERROR_ARGUMENT, "horizon");
    options = defaults("pi0_droid");
    options.struct_size = 3;
    assert_open_refused(&options, PI0_ERROR_ARGUMENT, "struct_size");
    options = defaults("pi0_droid");
    options.horizon = 7;
    pi0_policy *policy = open_policy(&options);
    pi0_policy_info info = {.struct_size = sizeof info};
    assert_int_equal(pi0_policy_describe(policy, &info, NULL), PI0_OK);
    assert_int_equal(info.horizon, 7);
    pi0_policy_close(&policy);
}

/* ---- memory ---- */

typedef struct ration {
    long left;  /* allocations until one fails; below 0: none does */
    long taken; /* not yet released */
} ration;

static void *ration_allocate(void *user, size_t bytes, size_t alignment) {
    ration *r = user;
    if (r->left == 0) return NULL;
    if (r->left > 0) r->left--;
    void *memory = aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    r->taken += memory != NULL;
    return memory;
}

static void ration_release(void *user, void *memory) {
    ((ration *)user)->taken -= memory != NULL;
    free(memory);
}

static pi0_status fill_request(pi0_request *request, const char *camera, int state_count, pi0_error *error) {
    static const uint8_t pixels[5 * 7 * 3];
    static const double numbers[14] = {0.5};
    TRY(pi0_request_set_image(request, camera, pixels, 5, 7, error));
    TRY(pi0_request_set_state(request, NULL, numbers, state_count, error));
    return pi0_request_set_prompt(request, "pick_up the cube", error);
}

/* Everything a program does with a policy, once. */
static pi0_status use_policy(const pi0_policy_options *options, const char *camera, int state_count, pi0_error *error) {
    static float model_actions[50 * 32];
    static double actions[50 * 32];
    pi0_policy *policy;
    pi0_request *request = NULL;
    pi0_input *input = NULL;
    TRY(pi0_policy_open(&policy, options, error));
    pi0_status status = pi0_request_new(&request, error);
    if (status == PI0_OK) status = fill_request(request, camera, state_count, error);
    if (status == PI0_OK) status = pi0_policy_prepare(policy, request, &input, error);
    if (status == PI0_OK) status = pi0_policy_finish(policy, input, model_actions, actions, error);
    pi0_input_free(&input);
    pi0_request_free(&request);
    pi0_policy_close(&policy);
    return status;
}

static void assert_survives(const pi0_policy_options *options, const char *camera, int state_count) {
    ration r = {0};
    pi0_allocator allocator = {ration_allocate, ration_release, &r};
    pi0_set_allocator(&allocator);
    pi0_status status = PI0_ERROR_MEMORY;
    long k = 0;
    for (; status != PI0_OK && k < 10000; k++) {
        pi0_error error = {0};
        r.left = k;
        status = use_policy(options, camera, state_count, &error);
        bool had_enough = r.left > 0;
        if (status != PI0_OK && status != PI0_ERROR_MEMORY) fail_msg("allocation %ld: %s", k, error.message);
        if (had_enough) assert_int_equal(status, PI0_OK);
        assert_int_equal(r.taken, 0);
    }
    pi0_set_allocator(NULL);
    assert_true(k > 20);
}

static void test_failing_allocations(void **state) {
    (void)state;
    char tokenizer[1024], directory[1024];
    data_path(tokenizer, sizeof tokenizer, "golden/tokenizer", "tiny.model");
    pi0_policy_options options = defaults("pi05_aloha");
    options.tokenizer = tokenizer;
    options.default_prompt = "wait";
    assert_survives(&options, "cam_high", 14);
    options = defaults(NULL);
    options.tokenizer = tokenizer;
    options.checkpoint = data_path(directory, sizeof directory, "golden", "lerobot_tiny_pi05");
    assert_survives(&options, "observation.images.cam_high", 14);
    options.checkpoint = data_path(directory, sizeof directory, "golden", "tiny_pi0_checkpoint");
    assert_survives(&options, "base_0_rgb", 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ur5),
        cmocka_unit_test(test_ur5_messages),
        cmocka_unit_test(test_generic),
        cmocka_unit_test(test_generic_message),
        cmocka_unit_test(test_built_defaults),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_request_arguments),
        cmocka_unit_test(test_assets),
        cmocka_unit_test(test_checkpoint_sizes),
        cmocka_unit_test(test_options_refused),
        cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
