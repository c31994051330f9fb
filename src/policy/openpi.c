/*
 * openpi's pipeline (policies/policy.py, policy_config.py).
 *
 *     request -> robot's input map -> normalise -> resize images -> tokenize -> pad to the model's width
 *     model's actions -> unnormalise -> relative to absolute -> robot's output map
 */
#include <string.h>

#include "base/memory.h"
#include "policy/policy.h"

static const char state_key[] = "state", actions_key[] = "actions";

bool openpi_answers_float32(const pi0_policy *policy) {
    bool widens = policy->config.robot->write_actions && policy->config.adapt_to_pi;
    return !norm_stats_find(&policy->stats, actions_key) && !widens;
}

int openpi_columns(const pi0_policy *policy) {
    int columns = policy->config.robot->action_count;
    return columns ? columns : policy->config.action_dim;
}

/* The reference finds these out after the model ran; here nothing runs in vain. */
static pi0_status check_statistics(const pi0_policy *policy, pi0_error *error) {
    for (size_t i = 0; i < policy->stats.count; i++) {
        const norm_entry *entry = &policy->stats.entries[i];
        if (strcmp(entry->key, state_key) != 0 && strcmp(entry->key, actions_key) != 0)
            return error_set(error, PI0_ERROR_FORMAT,
                             "norm_stats name '%.100s': expected statistics of 'state' and 'actions' only", entry->key);
        TRY(norm_inverse(policy->config.norm, entry, NULL, 0, policy->config.action_dim, false, error));
    }
    return PI0_OK;
}

static pi0_status prepare_images(const pi0_policy *policy, const pi0_request *request, pi0_input *input,
                                 bool *any_image, pi0_error *error) {
    const value *images[ROBOT_SLOTS];
    const char *keys[ROBOT_SLOTS];
    camera_layout layouts[ROBOT_SLOTS];
    TRY(robot_find_images(policy->config.robot, request, images, keys, layouts, error));
    /* without a robot a message may say itself which images count */
    const value *masks = policy->config.robot == &robot_generic && request->message.root
                             ? value_find(request->message.root, "image_mask")
                             : NULL;
    *any_image = false;
    for (int slot = 0; slot < ROBOT_SLOTS; slot++) {
        input->camera_names[slot] = robot_slot_names[slot];
        if (!images[slot]) continue;
        TRY(input_set_image(input, slot, images[slot], keys[slot], layouts[slot], error));
        *any_image = true;
        const value *mask = masks ? value_find(masks, robot_slot_names[slot]) : NULL;
        if (!mask) continue;
        bool scalar = (mask->kind == VALUE_ARRAY || mask->kind == VALUE_SCALAR) && mask->array.kind == 'b' &&
                      value_array_count(&mask->array) == 1;
        if (!scalar && mask->kind != VALUE_BOOL) return robot_refuse(mask, "image_mask", "booleans", error);
        input->image_mask[slot] = scalar ? value_array_number(&mask->array, 0) != 0 : mask->boolean;
    }
    return PI0_OK;
}

static pi0_status prepare_state(const pi0_policy *policy, const pi0_request *request, pi0_input *input,
                                pi0_error *error) {
    const policy_config *config = &policy->config;
    robot_state *state = &input->robot_state;
    TRY(config->robot->read_state(state, request, config->adapt_to_pi, error));
    if (state->count > config->action_dim)
        return error_set(error, PI0_ERROR_ARGUMENT, "state: expected at most the model's %d numbers, found %d",
                         config->action_dim, state->count);
    memcpy(input->state, state->values, sizeof input->state);
    input->state_count = state->count;
    const norm_entry *entry = norm_stats_find(&policy->stats, state_key);
    return entry ? norm_forward(config->norm, entry, input->state, state->count, error) : PI0_OK;
}

/* The request's own text, else the command line's default, else the configuration's. */
static pi0_status find_task(const pi0_policy *policy, const pi0_request *request, task_text *task, pi0_error *error) {
    const value *prompt = request_find(request, REQUEST_PROMPT);
    const char *fallback = policy->default_prompt ? policy->default_prompt : policy->config.default_prompt;
    if (prompt) return task_read(task, prompt, REQUEST_PROMPT, policy->config.robot->bytes_prompt, error);
    if (fallback) return task_from_string(task, fallback, error);
    if (policy->config.robot == &robot_generic) return PI0_OK;
    return error_set(error, PI0_ERROR_ARGUMENT, "'%s' is missing, and there is no default prompt", REQUEST_PROMPT);
}

static pi0_status prepare_prompt(const pi0_policy *policy, const pi0_request *request, pi0_input *input,
                                 pi0_error *error) {
    const policy_config *config = &policy->config;
    bool generic = config->robot == &robot_generic;
    const value *tokens = generic ? request_find(request, REQUEST_TOKENS) : request_find_set(request, REQUEST_TOKENS);
    if (tokens) {
        const value *mask =
            generic && request->message.root ? value_find(request->message.root, REQUEST_TOKENS "_mask") : NULL;
        return input_set_tokens(input, policy, tokens, mask, error);
    }
    task_text task = {0};
    TRY(find_task(policy, request, &task, error));
    pi0_status status = input_tokenize(input, policy, config->state_in_prompt ? PROMPT_STATE : PROMPT_PLAIN,
                                       policy->prompt_tokens, &task, input->state, input->state_count, error);
    memory_release(task.text);
    return status;
}

/* A request from code may leave out everything but one thing. */
static pi0_status check_not_empty(const pi0_policy *policy, const pi0_request *request, bool any_image,
                                  pi0_error *error) {
    bool any_text =
        policy->default_prompt || request_find(request, REQUEST_PROMPT) || request_find(request, REQUEST_TOKENS);
    if (any_image || any_text || !request_is_built(request)) return PI0_OK;
    return error_set(error, PI0_ERROR_ARGUMENT, "nothing to infer from: expected an image or a prompt");
}

pi0_status openpi_prepare(const pi0_policy *policy, const pi0_request *request, pi0_input *input, pi0_error *error) {
    bool any_image;
    TRY(check_statistics(policy, error));
    TRY(prepare_state(policy, request, input, error));
    TRY(prepare_images(policy, request, input, &any_image, error));
    TRY(check_not_empty(policy, request, any_image, error));
    TRY(prepare_prompt(policy, request, input, error));
    input_finish_state(input);
    return PI0_OK;
}

pi0_status openpi_unnormalise(const pi0_policy *policy, const pi0_input *input, const float *model_actions,
                              double *actions, double *state, pi0_error *error) {
    const policy_config *config = &policy->config;
    int width = config->action_dim;
    for (size_t i = 0; i < (size_t)policy->horizon * (size_t)width; i++) actions[i] = (double)model_actions[i];
    memcpy(state, input->state, (size_t)width * sizeof *state);
    const norm_entry *entry = norm_stats_find(&policy->stats, actions_key);
    if (entry) TRY(norm_inverse(config->norm, entry, actions, policy->horizon, width, true, error));
    entry = norm_stats_find(&policy->stats, state_key);
    return entry ? norm_inverse(config->norm, entry, state, 1, width, false, error) : PI0_OK;
}

/* Adds the state to the columns of the mask, in place. narrow: the actions are float32, and stay so. */
static void make_absolute(const char *mask, double *row, const double *state, bool narrow) {
    for (size_t i = 0; mask[i]; i++) {
        row[i] += mask[i] == '1' ? state[i] : 0.0;
        if (narrow) row[i] = (double)(float)row[i];
    }
}

pi0_status openpi_finish(const pi0_policy *policy, const pi0_input *input, const float *model_actions, double *actions,
                         pi0_error *error) {
    const policy_config *config = &policy->config;
    size_t width = (size_t)config->action_dim, columns = (size_t)openpi_columns(policy), rows = (size_t)policy->horizon;
    double state[ROBOT_MAX_STATE];
    double *wide = memory_zeroed(rows * width, sizeof *wide);
    if (!wide) return error_memory(error, rows * width * sizeof *wide, "actions");
    pi0_status status = openpi_unnormalise(policy, input, model_actions, wide, state, error);
    bool narrow = !norm_stats_find(&policy->stats, actions_key);
    for (size_t i = 0; status == PI0_OK && i < rows; i++) {
        double *row = wide + i * width;
        if (config->absolute_mask) make_absolute(config->absolute_mask, row, state, narrow);
        if (config->robot->write_actions && config->adapt_to_pi) config->robot->write_actions(row);
        memcpy(actions + i * columns, row, columns * sizeof *row);
    }
    memory_release(wide);
    return status;
}
