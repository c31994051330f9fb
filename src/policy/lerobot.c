/*
 * Running a lerobot directory's pipelines over one request, step by step in the order its JSON gives.
 *
 * Everything is float32. The policy itself (policies/pi0/modeling_pi0.py) then resizes the images, moves missing
 * cameras to the end and pads the state.
 */
#include "policy/lerobot.h"

#include <string.h>

#include "base/memory.h"

static const char state_feature[] = "observation.state";

/* The value that is called `feature` once the observations are renamed. *key: what the request calls it. */
static const value *find_feature(const lerobot *lerobot, const pi0_request *request, const char *feature,
                                 const char **key) {
    bool renamed_away = false;
    for (int i = 0; i < lerobot->rename_count; i++) {
        const lerobot_rename *rename = &lerobot->renames[i];
        if (strcmp(rename->from, feature) == 0 && strcmp(rename->to, feature) != 0) renamed_away = true;
        if (strcmp(rename->to, feature) != 0) continue;
        const value *found = request_find(request, rename->from);
        *key = rename->from;
        if (found) return found;
    }
    *key = feature;
    return renamed_away ? NULL : request_find(request, feature);
}

/* ---- before the model -------------------------------------------------------------------------------------------- */

static bool is_camera(const lerobot *lerobot, const char *key) {
    for (int i = 0; i < lerobot->rename_count; i++)
        if (strcmp(lerobot->renames[i].from, key) == 0) key = lerobot->renames[i].to;
    for (int i = 0; i < lerobot->camera_count; i++)
        if (strcmp(lerobot->cameras[i], key) == 0) return true;
    return false;
}

/* Images set from code must be the model's. */
static pi0_status check_entries(const lerobot *lerobot, const pi0_request *request, pi0_error *error) {
    for (size_t i = 0; i < request->count; i++) {
        const request_entry *entry = &request->entries[i];
        if (entry->role == REQUEST_IS_IMAGE && !is_camera(lerobot, entry->key))
            return error_set(error, PI0_ERROR_ARGUMENT,
                             "unknown camera '%.200s': the first of the %d expected is '%.200s'", entry->key,
                             lerobot->camera_count, lerobot->cameras[0]);
    }
    return PI0_OK;
}

/* Cameras of the request in the order of the features, then those it lacks, masked out. */
static pi0_status prepare_images(const lerobot *lerobot, const pi0_request *request, pi0_input *input,
                                 pi0_error *error) {
    int slot = 0;
    for (int i = 0; i < lerobot->camera_count; i++) {
        const char *key;
        const value *image = find_feature(lerobot, request, lerobot->cameras[i], &key);
        if (!image) continue;
        if (image->kind == VALUE_ARRAY && image->array.kind != 'u')
            return robot_refuse(image, key, "a uint8 image", error);
        input->camera_names[slot] = lerobot->cameras[i];
        TRY(input_set_image(input, slot++, image, key, CAMERA_ROWS_LAST, error));
    }
    if (slot == 0)
        return error_set(error, PI0_ERROR_ARGUMENT, "expected an image of at least one camera ('%.200s'), found none",
                         lerobot->cameras[0]);
    for (int i = 0; i < lerobot->camera_count; i++) {
        const char *key;
        if (!find_feature(lerobot, request, lerobot->cameras[i], &key))
            input->camera_names[slot++] = lerobot->cameras[i];
    }
    return PI0_OK;
}

/* The raw state in float32: the robot's, set from code, or zeros where a request built from code has none. */
static pi0_status read_state(const lerobot *lerobot, const pi0_request *request, robot_state *state, pi0_error *error) {
    const char *key;
    const value *set = request_find_set(request, REQUEST_STATE);
    const value *named = find_feature(lerobot, request, state_feature, &key);
    if (set) key = REQUEST_STATE;
    *state = (robot_state){0};
    if (set || named || !request_is_built(request)) {
        TRY(robot_append_numbers(state, NULL, request, key, error));
    } else {
        state->count = lerobot->state_count;
    }
    for (int i = 0; i < state->count; i++) state->values[i] = (double)(float)state->values[i];
    int expected = lerobot->state_norm.count > 1 ? lerobot->state_norm.count : state->count;
    if (state->count != expected || state->count > lerobot->model_width)
        return error_set(error, PI0_ERROR_ARGUMENT, "'%s': expected %d numbers, found %d", state_feature,
                         lerobot->state_norm.count > 1 ? expected : lerobot->state_count, state->count);
    if (lerobot->relative && state->count < lerobot->action_count)
        return error_set(error, PI0_ERROR_ARGUMENT,
                         "'%s': expected at least %d numbers, since actions are relative to it, found %d",
                         state_feature, lerobot->action_count, state->count);
    return PI0_OK;
}

static pi0_status find_task(const pi0_policy *policy, const pi0_request *request, task_text *task, pi0_error *error) {
    const value *found = request_find(request, "task");
    const char *key = found ? "task" : REQUEST_PROMPT;
    if (!found) found = request_find(request, REQUEST_PROMPT);
    if (found) return task_read(task, found, key, false, error);
    if (policy->default_prompt) return task_from_string(task, policy->default_prompt, error);
    return error_set(error, PI0_ERROR_ARGUMENT, "'task' is missing, and there is no default prompt");
}

static void normalise_state(const lerobot *lerobot, pi0_input *input) {
    float state[ROBOT_MAX_STATE];
    for (int i = 0; i < input->state_count; i++) state[i] = (float)input->state[i];
    feature_forward(&lerobot->state_norm, state, input->state_count);
    for (int i = 0; i < input->state_count; i++) input->state[i] = (double)state[i];
}

/* What the steps before the tokenizer made of the text. */
static bool has_step_before(const lerobot_pipeline *pipeline, lerobot_step_kind kind, lerobot_step_kind end) {
    for (int i = 0; i < pipeline->count && pipeline->steps[i] != end; i++)
        if (pipeline->steps[i] == kind) return true;
    return false;
}

static pi0_status prepare_prompt(const pi0_policy *policy, const pi0_request *request, const double *state,
                                 pi0_input *input, pi0_error *error) {
    const value *tokens = request_find_set(request, REQUEST_TOKENS);
    if (tokens) return input_set_tokens(input, policy, tokens, NULL, error);
    const lerobot_pipeline *before = &policy->lerobot->before;
    bool with_state = has_step_before(before, STEP_STATE_PROMPT, STEP_TOKENIZE);
    if (!with_state && !has_step_before(before, STEP_NEW_LINE, STEP_TOKENIZE))
        return error_set(error, PI0_ERROR_UNSUPPORTED,
                         "the preprocessor neither ends the task in a newline nor writes the state into it: no pi0");
    task_text task = {0};
    TRY(find_task(policy, request, &task, error));
    pi0_status status = input_tokenize(input, policy, with_state ? PROMPT_STATE : PROMPT_LEROBOT_PLAIN,
                                       policy->prompt_tokens, &task, state, input->state_count, error);
    memory_release(task.text);
    return status;
}

pi0_status lerobot_prepare(const pi0_policy *policy, const pi0_request *request, pi0_input *input, pi0_error *error) {
    const lerobot *lerobot = policy->lerobot;
    TRY(check_entries(lerobot, request, error));
    TRY(read_state(lerobot, request, &input->robot_state, error));
    input->state_count = input->robot_state.count;
    memcpy(input->state, input->robot_state.values, sizeof input->state);
    /* the state as the step that writes it into the prompt sees it */
    double prompt_state[ROBOT_MAX_STATE] = {0};
    for (int i = 0; i < lerobot->before.count; i++) {
        if (lerobot->before.steps[i] == STEP_NORMALISE) normalise_state(lerobot, input);
        if (lerobot->before.steps[i] == STEP_STATE_PROMPT) memcpy(prompt_state, input->state, sizeof prompt_state);
    }
    TRY(prepare_images(lerobot, request, input, error));
    TRY(prepare_prompt(policy, request, prompt_state, input, error));
    input_finish_state(input);
    return PI0_OK;
}

/* ---- after the model --------------------------------------------------------------------------------------------- */

static void make_absolute(const lerobot *lerobot, const robot_state *state, float *rows, int count) {
    int width = lerobot->action_count;
    for (int row = 0; row < count; row++)
        for (int i = 0; i < width; i++)
            rows[(size_t)row * (size_t)width + (size_t)i] +=
                (float)state->values[i] * (lerobot->absolute_mask[i] ? 1.0f : 0.0f);
}

pi0_status lerobot_finish(const pi0_policy *policy, const pi0_input *input, const float *model_actions, double *actions,
                          pi0_error *error) {
    const lerobot *lerobot = policy->lerobot;
    size_t width = (size_t)lerobot->action_count, count = (size_t)policy->horizon * width;
    float *rows = memory_zeroed(count, sizeof *rows);
    if (!rows) return error_memory(error, count * sizeof *rows, "actions");
    for (size_t i = 0; i < (size_t)policy->horizon; i++)
        memcpy(rows + i * width, model_actions + i * (size_t)lerobot->model_width, width * sizeof *rows);
    for (int i = 0; i < lerobot->after.count; i++) {
        if (lerobot->after.steps[i] == STEP_UNNORMALISE)
            feature_inverse(&lerobot->action_norm, rows, policy->horizon, (int)width);
        if (lerobot->after.steps[i] == STEP_ABSOLUTE)
            make_absolute(lerobot, &input->robot_state, rows, policy->horizon);
    }
    for (size_t i = 0; i < count; i++) actions[i] = (double)rows[i];
    memory_release(rows);
    return PI0_OK;
}
