/*
 * lerobot directories: the two recorded problems of lerobot's own code, bit for bit where it is arithmetic; variations
 * of their JSON (renames, empty cameras, relative actions, older and broken pipelines) against the rules by hand.
 */
#include "data.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/safetensors.h"
#include "policy/lerobot.h"

static const char *const cameras[] = {"observation.images.cam_high", "observation.images.cam_left_wrist",
                                      "observation.images.cam_right_wrist"};

typedef struct problem {
    safetensors *expected;
    char directory[1024], tokenizer[1024];
    pi0_policy *policy;
    pi0_request *request;
} problem;

static const tensor *find(const problem *p, const char *name) {
    const tensor *tensor = safetensors_find(p->expected, name);
    if (!tensor) fail_msg("no tensor '%s'", name);
    return tensor;
}

static float float_at(const tensor *tensor, size_t i) {
    float value;
    memcpy(&value, (const char *)tensor->data + 4 * i, sizeof value);
    return value;
}

static void open_policy(problem *p) {
    pi0_policy_options options;
    pi0_policy_options_default(&options);
    options.checkpoint = p->directory;
    options.tokenizer = data_path(p->tokenizer, sizeof p->tokenizer, "golden/tokenizer", "tiny.model");
    pi0_error error;
    if (pi0_policy_open(&p->policy, &options, &error) != PI0_OK) fail_msg("%s", error.message);
}

static void set_image(problem *p, const char *key, const char *camera) {
    char name[120];
    snprintf(name, sizeof name, "raw/%s", camera);
    const tensor *pixels = find(p, name);
    assert_int_equal(
        pi0_request_set_image(p->request, key, pixels->data, (int)pixels->shape[0], (int)pixels->shape[1], NULL),
        PI0_OK);
}

static void set_state(problem *p) {
    double state[14];
    for (size_t i = 0; i < 14; i++) state[i] = (double)float_at(find(p, "raw/observation.state"), i);
    assert_int_equal(pi0_request_set_state(p->request, NULL, state, 14, NULL), PI0_OK);
}

static void open_problem(problem *p, const char *name) {
    char path[1100];
    *p = (problem){0};
    data_path(p->directory, sizeof p->directory, "golden", name);
    snprintf(path, sizeof path, "%s/expected.safetensors", p->directory);
    assert_int_equal(safetensors_open(&p->expected, path, NULL), PI0_OK);
    assert_int_equal(pi0_request_new(&p->request, NULL), PI0_OK);
    set_state(p);
    assert_int_equal(pi0_request_set_prompt(p->request, safetensors_metadata(p->expected, "task"), NULL), PI0_OK);
}

static void close_problem(problem *p) {
    pi0_policy_close(&p->policy);
    pi0_request_free(&p->request);
    safetensors_close(&p->expected);
}

/* ---- the recorded problems ---- */

static void assert_tokens(const problem *p, const input_view *view) {
    const tensor *tokens = find(p, "tokens"), *mask = find(p, "token_mask");
    assert_int_equal(view->token_count, tensor_elements(tokens));
    for (int i = 0; i < view->token_count; i++) {
        int64_t id;
        memcpy(&id, (const char *)tokens->data + 8 * i, sizeof id);
        assert_int_equal(view->tokens[i], id);
        assert_int_equal(view->token_mask[i], ((const unsigned char *)mask->data)[i]);
    }
}

static void assert_images(const problem *p, const input_view *view) {
    const tensor *images = find(p, "model_images");
    assert_int_equal(view->cameras, 3);
    assert_int_equal(view->image_size, 56);
    size_t size = 3 * 56 * 56;
    for (int slot = 0; slot < 3; slot++) {
        assert_string_equal(view->camera_names[slot], cameras[slot]);
        assert_true(view->image_mask[slot]);
        for (size_t i = 0; i < size; i++) {
            float want = float_at(images, (size_t)slot * size + i), got = view->float_images[slot][i];
            if (!(fabsf(got - want) <= 6e-7f)) fail_msg("image %d[%zu]: %.9g, expected %.9g", slot, i, got, want);
        }
    }
}

static void assert_problem(const char *name) {
    problem p;
    open_problem(&p, name);
    open_policy(&p);
    for (int i = 0; i < 3; i++) set_image(&p, cameras[i], cameras[i]);
    pi0_policy_info info = {.struct_size = sizeof info};
    assert_int_equal(pi0_policy_describe(p.policy, &info, NULL), PI0_OK);
    assert_int_equal(info.horizon, 10);
    assert_int_equal(info.robot_action_dim, 14);
    assert_int_equal(info.num_steps, 10);
    assert_true(info.float32_actions);
    assert_null(info.config);

    pi0_input *input;
    pi0_error error;
    if (pi0_policy_prepare(p.policy, p.request, &input, &error) != PI0_OK) fail_msg("%s", error.message);
    input_view view;
    input_look(input, &view);
    assert_true(view.float32);
    for (size_t i = 0; i < 32; i++) {
        float want = i < 14 ? float_at(find(&p, "normalised_state"), i) : 0;
        if (view.state[i] != (double)want) fail_msg("state[%zu]: %.9g, expected %.9g", i, view.state[i], want);
    }
    assert_tokens(&p, &view);
    assert_images(&p, &view);

    float model_actions[10 * 32];
    double actions[10 * 14];
    memcpy(model_actions, find(&p, "model_actions")->data, sizeof model_actions);
    assert_int_equal(pi0_policy_finish(p.policy, input, model_actions, actions, NULL), PI0_OK);
    for (size_t i = 0; i < 10 * 14; i++)
        if (actions[i] != (double)float_at(find(&p, "actions"), i)) fail_msg("action %zu: %.9g", i, actions[i]);
    pi0_input_free(&input);
    close_problem(&p);
}

static void test_pi0(void **state) {
    (void)state;
    assert_problem("lerobot_tiny_pi0");
}

static void test_pi05(void **state) {
    (void)state;
    assert_problem("lerobot_tiny_pi05");
}

/* ---- variations ---- */

static void copy_file(const char *from, const char *name, const char *directory) {
    char path[1200];
    size_t size;
    void *bytes = data_read(from, name, &size);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    fclose(file);
    free(bytes);
}

static const char *const copied[] = {"config.json", "policy_preprocessor.json", "policy_postprocessor.json",
                                     "policy_preprocessor_step_6_normalizer_processor.safetensors",
                                     "policy_postprocessor_step_0_unnormalizer_processor.safetensors"};
enum { COPIED = sizeof copied / sizeof *copied };

/* A copy of the pi0 directory, without weights, in a folder of its own. */
static void open_copy(problem *p) {
    open_problem(p, "lerobot_tiny_pi0");
    snprintf(p->directory, sizeof p->directory, "/tmp/pi0_lerobot_XXXXXX");
    assert_non_null(mkdtemp(p->directory));
    for (int i = 0; i < COPIED; i++) copy_file("golden/lerobot_tiny_pi0", copied[i], p->directory);
}

static void close_copy(problem *p) {
    char path[1200];
    for (int i = 0; i < COPIED; i++) {
        snprintf(path, sizeof path, "%s/%s", p->directory, copied[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(p->directory), 0);
    close_problem(p);
}

static json_t *load(const problem *p, const char *name) {
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", p->directory, name);
    json_t *json = json_load_file(path, 0, NULL);
    assert_non_null(json);
    return json;
}

static void save(const problem *p, const char *name, json_t *json) {
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", p->directory, name);
    assert_int_equal(json_dump_file(json, path, 0), 0);
    json_decref(json);
}

static json_t *step_of(json_t *pipeline, size_t index) {
    return json_array_get(json_object_get(pipeline, "steps"), index);
}

static json_t *step_config(json_t *pipeline, size_t index) {
    return json_object_get(step_of(pipeline, index), "config");
}

static void test_renames_and_empty_cameras(void **state) {
    (void)state;
    problem p;
    open_copy(&p);
    json_t *config = load(&p, "config.json");
    json_object_set_new(config, "empty_cameras", json_integer(1));
    save(&p, "config.json", config);
    json_t *before = load(&p, "policy_preprocessor.json");
    json_object_set_new(step_config(before, 0), "rename_map",
                        json_pack("{s:s, s:s}", "front", cameras[1], "wrist", cameras[2]));
    save(&p, "policy_preprocessor.json", before);
    open_policy(&p);
    set_image(&p, "front", cameras[1]);
    set_image(&p, "wrist", cameras[2]);

    pi0_input *input;
    pi0_error error;
    if (pi0_policy_prepare(p.policy, p.request, &input, &error) != PI0_OK) fail_msg("%s", error.message);
    input_view view;
    input_look(input, &view);
    assert_int_equal(view.cameras, 4);
    /* cam_high and the empty camera are missing: at the end, masked out */
    static const char *const order[] = {"observation.images.cam_left_wrist", "observation.images.cam_right_wrist",
                                        "observation.images.cam_high", "observation.images.empty_camera_0"};
    for (int i = 0; i < 4; i++) {
        assert_string_equal(view.camera_names[i], order[i]);
        assert_int_equal(view.image_mask[i], i < 2);
    }
    size_t size = 3 * 56 * 56;
    for (size_t i = 0; i < size; i++)
        assert_true(fabsf(view.float_images[0][i] - float_at(find(&p, "model_images"), size + i)) <= 6e-7f);
    pi0_observation observation;
    pi0_input_observation(input, &observation);
    assert_non_null(observation.float_images[1]);
    assert_null(observation.float_images[2]);
    assert_null(observation.images[0]);
    pi0_input_free(&input);

    set_image(&p, "side", cameras[0]);
    assert_int_equal(pi0_policy_prepare(p.policy, p.request, &input, &error), PI0_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "unknown camera 'side'"));
    close_copy(&p);
}

static void test_relative_actions(void **state) {
    (void)state;
    problem p;
    open_copy(&p);
    json_t *before = load(&p, "policy_preprocessor.json"), *after = load(&p, "policy_postprocessor.json");
    json_t *names = json_array();
    for (int i = 0; i < 14; i++)
        json_array_append_new(names, json_string(i == 6 || i == 13 ? "Left_GRIPPER.pos" : "joint"));
    json_object_set_new(step_config(before, 5), "enabled", json_true());
    json_object_set_new(step_config(before, 5), "action_names", names);
    json_object_set_new(step_config(after, 1), "enabled", json_true());
    save(&p, "policy_preprocessor.json", before);
    save(&p, "policy_postprocessor.json", after);
    open_policy(&p);
    set_image(&p, cameras[0], cameras[0]);
    pi0_input *input;
    assert_int_equal(pi0_policy_prepare(p.policy, p.request, &input, NULL), PI0_OK);
    float model_actions[10 * 32];
    double actions[10 * 14];
    memcpy(model_actions, find(&p, "model_actions")->data, sizeof model_actions);
    assert_int_equal(pi0_policy_finish(p.policy, input, model_actions, actions, NULL), PI0_OK);
    for (size_t i = 0; i < 10 * 14; i++) {
        float want = float_at(find(&p, "actions"), i);
        if (i % 14 != 6 && i % 14 != 13) want += float_at(find(&p, "raw/observation.state"), i % 14);
        assert_true(actions[i] == (double)want);
    }
    pi0_input_free(&input);
    close_copy(&p);
}

/* Files of before there were relative actions: no such steps. */
static void test_older_pipeline(void **state) {
    (void)state;
    problem p;
    open_copy(&p);
    json_t *before = load(&p, "policy_preprocessor.json"), *after = load(&p, "policy_postprocessor.json");
    json_array_remove(json_object_get(before, "steps"), 5);
    json_array_remove(json_object_get(after, "steps"), 1);
    save(&p, "policy_preprocessor.json", before);
    save(&p, "policy_postprocessor.json", after);
    json_t *config = load(&p, "config.json"); /* only what has no default */
    json_t *short_config =
        json_pack("{s:s, s:O, s:O, s:[ii]}", "type", "pi0", "input_features", json_object_get(config, "input_features"),
                  "output_features", json_object_get(config, "output_features"), "image_resolution", 56, 56);
    json_decref(config);
    save(&p, "config.json", short_config);
    open_policy(&p);
    pi0_policy_info info = {.struct_size = sizeof info};
    assert_int_equal(pi0_policy_describe(p.policy, &info, NULL), PI0_OK);
    assert_int_equal(info.horizon, 50);
    set_image(&p, cameras[0], cameras[0]);
    pi0_input *input;
    assert_int_equal(pi0_policy_prepare(p.policy, p.request, &input, NULL), PI0_OK);
    assert_true(input->state[0] == (double)float_at(find(&p, "normalised_state"), 0));
    pi0_input_free(&input);
    close_copy(&p);
}

static void assert_open_refused(problem *p, const char *word) {
    pi0_policy_options options;
    pi0_policy_options_default(&options);
    options.checkpoint = p->directory;
    pi0_error error = {0};
    pi0_policy *policy;
    pi0_status status = pi0_policy_open(&policy, &options, &error);
    if (status == PI0_OK) fail_msg("opened; expected a refusal with '%s'", word);
    assert_null(policy);
    if (!strstr(error.message, word)) fail_msg("expected '%s' in: %s", word, error.message);
}

static void test_refusals(void **state) {
    (void)state;
    problem p;
    open_copy(&p);
    json_t *before = load(&p, "policy_preprocessor.json"), *good = json_deep_copy(before);
#define TRY_BEFORE(word)                                                                                               \
    save(&p, "policy_preprocessor.json", before);                                                                      \
    assert_open_refused(&p, word);                                                                                     \
    before = json_deep_copy(good)
    json_object_set_new(step_of(before, 0), "registry_name", json_string("my_processor"));
    TRY_BEFORE("my_processor");
    json_object_set_new(step_of(before, 6), "state_file", json_string("../secret.safetensors"));
    TRY_BEFORE("state_file");
    json_object_set_new(step_of(before, 6), "state_file", json_string("absent.safetensors"));
    TRY_BEFORE("absent.safetensors");
    json_object_set_new(json_object_get(step_config(before, 6), "norm_map"), "STATE", json_string("LOG"));
    TRY_BEFORE("LOG");
    json_object_set_new(json_object_get(step_config(before, 6), "norm_map"), "VISUAL", json_string("MEAN_STD"));
    TRY_BEFORE("images");
    json_object_set_new(step_config(before, 3), "max_length", json_integer(0));
    TRY_BEFORE("max_length");
    json_array_remove(json_object_get(before, "steps"), 3);
    TRY_BEFORE("tokenizer_processor");
    json_array_append(json_object_get(before, "steps"), step_of(before, 3));
    TRY_BEFORE("found two");
    json_object_set_new(before, "steps", json_null());
    TRY_BEFORE("steps");
    save(&p, "policy_preprocessor.json", before);
    json_decref(good);

    json_t *config = load(&p, "config.json");
    json_object_set_new(config, "type", json_string("pi0_fast"));
    save(&p, "config.json", config);
    assert_open_refused(&p, "pi0_fast");
    config = json_pack("{s:s, s:{}}", "type", "pi0", "input_features");
    save(&p, "config.json", config);
    assert_open_refused(&p, "VISUAL");
    config =
        json_pack("{s:s, s:{s:{s:s}}, s:i}", "type", "pi0", "input_features", "a", "type", "VISUAL", "chunk_size", 0);
    save(&p, "config.json", config);
    assert_open_refused(&p, "chunk_size");
    close_copy(&p);
}

static void test_requests_refused(void **state) {
    (void)state;
    problem p;
    open_problem(&p, "lerobot_tiny_pi0");
    open_policy(&p);
    pi0_input *input;
    pi0_error error;
    assert_int_equal(pi0_policy_prepare(p.policy, p.request, &input, &error), PI0_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "at least one camera"));
    set_image(&p, cameras[0], cameras[0]);
    double short_state[13] = {0};
    assert_int_equal(pi0_request_set_state(p.request, NULL, short_state, 13, NULL), PI0_OK);
    assert_int_equal(pi0_policy_prepare(p.policy, p.request, &input, &error), PI0_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "expected 14 numbers, found 13"));

    pi0_policy_options options;
    pi0_policy_options_default(&options);
    options.checkpoint = p.directory;
    options.config = "pi0_aloha";
    pi0_policy *policy;
    assert_int_equal(pi0_policy_open(&policy, &options, &error), PI0_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "lerobot"));
    close_problem(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pi0),
        cmocka_unit_test(test_pi05),
        cmocka_unit_test(test_renames_and_empty_cameras),
        cmocka_unit_test(test_relative_actions),
        cmocka_unit_test(test_older_pipeline),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_requests_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
