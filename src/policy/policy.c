/* The policy's API: what a robot's request becomes before the model, and what the model's actions become after it. */
#include "policy/policy.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/path.h"
#include "base/struct.h"
#include "checkpoint/checkpoint.h"
#include "policy/lerobot.h"

void pi0_policy_options_default(pi0_policy_options *options) {
    *options = (pi0_policy_options){.struct_size = sizeof *options, .checkpoint = "synthetic:1"};
}

/* ---- open -------------------------------------------------------------------------------------------------------- */

/* What the weights of an openpi directory say; *found is false where there are none (inputs can be prepared without).
 */
static pi0_status read_model(model_config *model, bool *found, const char *directory, const log_sink *log,
                             pi0_error *error) {
    bool single, sharded;
    TRY(path_exists(&single, directory, "model.safetensors", error));
    TRY(path_exists(&sharded, directory, "model.safetensors.index.json", error));
    *found = single || sharded;
    if (!*found) return PI0_OK;
    checkpoint *checkpoint;
    TRY(checkpoint_open_lenient(&checkpoint, directory, PI0_MODEL_AUTO, log, error));
    *model = *checkpoint_config(checkpoint);
    checkpoint_close(&checkpoint);
    return PI0_OK;
}

static const char *family_name(pi0_family family) { return family == PI0_FAMILY_PI05 ? "pi05" : "pi0"; }

/* The model a policy is for: what the checkpoint, else the options, else the configuration says. */
static pi0_status find_model(model_config *model, const policy_config *named, const pi0_policy_options *o,
                             bool synthetic, const log_sink *log, pi0_error *error) {
    bool found = false;
    if (!synthetic) TRY(read_model(model, &found, o->checkpoint, log, error));
    bool tiny = o->model == PI0_MODEL_TINY_PI0 || o->model == PI0_MODEL_TINY_PI05;
    if (!found) {
        pi0_family family = named ? named->family : PI0_FAMILY_PI0;
        if (o->model != PI0_MODEL_AUTO)
            family = o->model == PI0_MODEL_PI05 || o->model == PI0_MODEL_TINY_PI05 ? PI0_FAMILY_PI05 : PI0_FAMILY_PI0;
        *model = tiny ? model_config_tiny(family) : model_config_full(family);
    }
    if (named && named->family != model->family)
        return error_set(error, PI0_ERROR_ARGUMENT, "config '%s' is for %s, and %s is %s", named->name,
                         family_name(named->family), o->checkpoint, family_name(model->family));
    int columns = named ? named->robot->action_count : 1;
    if (model->action_dim < columns || model->action_dim > ROBOT_MAX_STATE)
        return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: expected a model of %d to %d actions, found %d",
                         o->checkpoint, columns, ROBOT_MAX_STATE, model->action_dim);
    return PI0_OK;
}

/* Quantile configurations need quantiles of every key, which the reference checks when it makes the policy. */
static pi0_status check_quantiles(const pi0_policy *policy, const char *file, pi0_error *error) {
    if (policy->config.norm != NORM_QUANTILE) return PI0_OK;
    for (size_t i = 0; i < policy->stats.count; i++) {
        const norm_entry *entry = &policy->stats.entries[i];
        if (!entry->q01.values || !entry->q99.values)
            return error_set(error, PI0_ERROR_FORMAT,
                             "%s: config '%s' normalises by quantiles: expected q01 and q99 in "
                             "norm_stats, \"%.100s\", found none",
                             file, policy->config.name, entry->key);
    }
    return PI0_OK;
}

static pi0_status open_asset(pi0_policy *policy, const char *directory, pi0_error *error) {
    char name[200], *path;
    snprintf(name, sizeof name, "assets/%s/norm_stats.json", policy->config.asset_id);
    TRY(path_join(&path, directory, name, error));
    pi0_status status = norm_stats_open(&policy->stats, path, error);
    if (status == PI0_ERROR_IO)
        error_prefix(error, status, "config '%s' needs the checkpoint's statistics, or a norm_stats file",
                     policy->config.name);
    if (status == PI0_OK) status = check_quantiles(policy, path, error);
    memory_release(path);
    return status;
}

static pi0_status open_statistics(pi0_policy *policy, const pi0_policy_options *o, bool synthetic, pi0_error *error) {
    const robot *robot = policy->config.robot;
    if (o->norm_stats) {
        TRY(norm_stats_open(&policy->stats, o->norm_stats, error));
        return check_quantiles(policy, o->norm_stats, error);
    }
    if (synthetic) return norm_stats_synthetic(&policy->stats, robot->state_count, robot->action_count, error);
    return open_asset(policy, o->checkpoint, error);
}

static pi0_status open_openpi(pi0_policy *policy, const pi0_policy_options *o, bool synthetic, pi0_error *error) {
    const policy_config *named = NULL;
    model_config model;
    if (o->config) TRY(config_find(&named, o->config, error));
    if (!named && o->norm_stats)
        return error_set(error, PI0_ERROR_ARGUMENT,
                         "norm_stats without a config: which robot and which normalisation are they for?");
    TRY(find_model(&model, named, o, synthetic, &policy->log, error));
    policy->image_size = model.vit.image_size;
    policy->horizon = 10;
    policy->num_steps = 10;
    if (named) {
        policy->config = *named;
        policy->horizon = named->horizon;
        policy->prompt_tokens = policy->max_tokens = named->max_token_len;
    } else {
        bool pi05 = model.family == PI0_FAMILY_PI05;
        policy->config =
            (policy_config){.family = model.family, .robot = &robot_generic, .state_in_prompt = pi05, .metadata = "{}"};
        policy->prompt_tokens = pi05 ? 200 : 48;
        policy->max_tokens = 200;
    }
    policy->config.action_dim = model.action_dim;
    return named ? open_statistics(policy, o, synthetic, error) : PI0_OK;
}

static pi0_status open_lerobot(pi0_policy *policy, const pi0_policy_options *o, pi0_error *error) {
    if (o->config || o->norm_stats)
        return error_set(error, PI0_ERROR_ARGUMENT,
                         "%s is a lerobot checkpoint, which brings its own pipelines and statistics: %s is not for it",
                         o->checkpoint, o->config ? "a config" : "norm_stats");
    TRY(lerobot_open(&policy->lerobot, o->checkpoint, error));
    const lerobot *lerobot = policy->lerobot;
    policy->config = (policy_config){.family = lerobot->family, .action_dim = lerobot->model_width, .metadata = "{}"};
    policy->prompt_tokens = policy->max_tokens = lerobot->max_length;
    policy->image_size = lerobot->image_size;
    policy->horizon = lerobot->chunk_size;
    policy->num_steps = lerobot->num_steps;
    return PI0_OK;
}

static pi0_status check_options(const pi0_policy_options *o, pi0_error *error) {
    if (!o->checkpoint)
        return error_set(error, PI0_ERROR_ARGUMENT, "checkpoint is NULL: expected a directory or \"synthetic:SEED\"");
    if ((unsigned)o->model > PI0_MODEL_TINY_PI05)
        return error_set(error, PI0_ERROR_ARGUMENT, "model has a value outside its enumeration");
    if (o->horizon < 0 || o->horizon > POLICY_MAX_HORIZON)
        return error_set(error, PI0_ERROR_ARGUMENT, "horizon is %d, expected 1 to %d", o->horizon, POLICY_MAX_HORIZON);
    if (o->image_size < 0 || o->image_size > POLICY_MAX_IMAGE_SIZE)
        return error_set(error, PI0_ERROR_ARGUMENT, "image_size is %d, expected 1 to %d", o->image_size,
                         POLICY_MAX_IMAGE_SIZE);
    return PI0_OK;
}

static pi0_status open_policy(pi0_policy *policy, const pi0_policy_options *o, pi0_error *error) {
    checkpoint_layout layout;
    pi0_family family;
    uint64_t seed;
    TRY(checkpoint_detect(o->checkpoint, &layout, &family, &seed, error));
    if (layout == LAYOUT_LEROBOT)
        TRY(open_lerobot(policy, o, error));
    else
        TRY(open_openpi(policy, o, layout == LAYOUT_SYNTHETIC, error));
    if (o->horizon) policy->horizon = o->horizon;
    if (o->image_size) policy->image_size = o->image_size;
    if (o->default_prompt) {
        policy->default_prompt = memory_string(o->default_prompt);
        if (!policy->default_prompt) return error_memory(error, strlen(o->default_prompt), "the default prompt");
    }
    return o->tokenizer ? tokenizer_open(&policy->tokenizer, o->tokenizer, error) : PI0_OK;
}

pi0_status pi0_policy_open(pi0_policy **policy, const pi0_policy_options *options, pi0_error *error) {
    if (!policy) return error_set(error, PI0_ERROR_ARGUMENT, "pi0_policy_open: policy is NULL");
    *policy = NULL;
    pi0_policy_options o;
    pi0_policy_options_default(&o);
    if (options) TRY(struct_merge(&o, sizeof o, options, "pi0_policy_options", error));
    TRY(check_options(&o, error));
    pi0_policy *made = memory_zeroed(1, sizeof *made);
    if (!made) return error_memory(error, sizeof *made, "a policy");
    made->log = (log_sink){o.log, o.log_user};
    pi0_status status = open_policy(made, &o, error);
    if (status == PI0_OK)
        *policy = made;
    else
        pi0_policy_close(&made);
    return status;
}

void pi0_policy_close(pi0_policy **policy) {
    if (!policy || !*policy) return;
    norm_stats_release(&(*policy)->stats);
    lerobot_close(&(*policy)->lerobot);
    tokenizer_close(&(*policy)->tokenizer);
    memory_release((*policy)->default_prompt);
    memory_release(*policy);
    *policy = NULL;
}

pi0_status pi0_policy_describe(const pi0_policy *policy, pi0_policy_info *info, pi0_error *error) {
    if (!policy || !info) return error_set(error, PI0_ERROR_ARGUMENT, "pi0_policy_describe: an argument is NULL");
    const lerobot *lerobot = policy->lerobot;
    pi0_policy_info filled = {
        .family = policy->config.family,
        .cameras = lerobot ? lerobot->camera_count : ROBOT_SLOTS,
        .horizon = policy->horizon,
        .max_prompt_tokens = policy->max_tokens,
        .image_size = policy->image_size,
        .action_dim = policy->config.action_dim,
        .robot_action_dim = lerobot ? lerobot->action_count : openpi_columns(policy),
        .float32_actions = lerobot || openpi_answers_float32(policy),
        .config = policy->config.name,
        .metadata_json = policy->config.metadata,
        .num_steps = policy->num_steps,
    };
    return struct_hand_out(info, &filled, sizeof filled, "pi0_policy_info", error);
}

/* ---- use --------------------------------------------------------------------------------------------------------- */

pi0_status pi0_policy_prepare(const pi0_policy *policy, const pi0_request *request, pi0_input **input,
                              pi0_error *error) {
    if (!policy || !request || !input)
        return error_set(error, PI0_ERROR_ARGUMENT, "pi0_policy_prepare: an argument is NULL");
    *input = NULL;
    pi0_input *made;
    int cameras = policy->lerobot ? policy->lerobot->camera_count : ROBOT_SLOTS;
    TRY(input_new(&made, policy, cameras, policy->lerobot != NULL, error));
    pi0_status status =
        policy->lerobot ? lerobot_prepare(policy, request, made, error) : openpi_prepare(policy, request, made, error);
    if (status == PI0_OK)
        *input = made;
    else
        pi0_input_free(&made);
    return status;
}

pi0_status pi0_policy_finish(const pi0_policy *policy, const pi0_input *input, const float *model_actions,
                             double *actions, pi0_error *error) {
    if (!policy || !input || !model_actions || !actions)
        return error_set(error, PI0_ERROR_ARGUMENT, "pi0_policy_finish: an argument is NULL");
    return policy->lerobot ? lerobot_finish(policy, input, model_actions, actions, error)
                           : openpi_finish(policy, input, model_actions, actions, error);
}
