#include "cli/policy_options.h"

#include <string.h>

#include "cli/terminal.h"

void policy_options_table(option rows[POLICY_OPTION_COUNT + 1], policy_options *policy) {
    const option table[POLICY_OPTION_COUNT + 1] = {
        {.name = "--config",
         .kind = OPTION_TEXT,
         .target = &policy->config,
         .value = "NAME",
         .help = "one of openpi's named configs: robot, horizon, prompt length, normalisation (pi0_aloha_sim, "
                 "pi05_droid, pi0_libero, pi05_ur5, ...); without one an openpi checkpoint has no robot, and a lerobot "
                 "checkpoint brings its own"},
        {.name = "--norm-stats",
         .kind = OPTION_TEXT,
         .target = &policy->norm_stats,
         .value = "FILE",
         .help = "a norm_stats.json in place of the checkpoint's"},
        {.name = "--tokenizer",
         .kind = OPTION_TEXT,
         .target = &policy->tokenizer,
         .value = "FILE",
         .help = "PaliGemma's SentencePiece model, for prompts"},
        {.name = "--default-prompt",
         .kind = OPTION_TEXT,
         .target = &policy->default_prompt,
         .value = "TEXT",
         .help = "for a request without a prompt"},
        {.name = "--horizon",
         .kind = OPTION_INT,
         .target = &policy->horizon,
         .value = "N",
         .help = "rows of the answer (default: the config's, else 10)",
         .minimum = 1,
         .maximum = 4096},
        {.name = "--num-steps|--steps",
         .kind = OPTION_INT,
         .target = &policy->steps,
         .value = "N",
         .help = "Euler steps (default: what a lerobot checkpoint's config.json says, else 10)",
         .minimum = 1,
         .maximum = 1000},
        {0},
    };
    memcpy(rows, table, sizeof table);
}

pi0_status policy_options_open(pi0_policy **policy, pi0_policy_info *info, const policy_options *options,
                               const model_options *model, pi0_log_function log, void *log_user, pi0_error *error) {
    pi0_policy_options o;
    pi0_policy_options_default(&o);
    o.config = options->config;
    o.checkpoint = model->checkpoint;
    o.norm_stats = options->norm_stats;
    o.tokenizer = options->tokenizer;
    o.default_prompt = options->default_prompt;
    o.model = (pi0_model)model->model;
    o.horizon = options->horizon;
    o.log = log ? log : terminal_log;
    o.log_user = log_user;
    TRY(pi0_policy_open(policy, &o, error));
    *info = (pi0_policy_info){.struct_size = sizeof *info};
    return pi0_policy_describe(*policy, info, error);
}

static pi0_status check_engine(const pi0_policy_info *policy, const pi0_engine *engine, const char *checkpoint,
                               pi0_error *error) {
    static const char *const names[] = {"pi0", "pi0.5"};
    pi0_engine_info info = {.struct_size = sizeof info};
    TRY(pi0_engine_describe(engine, &info, error));
    if (info.family != policy->family)
        return error_set(error, PI0_ERROR_ARGUMENT, "%s is for %s, but %s holds %s",
                         policy->config ? policy->config : "the policy", names[policy->family], checkpoint,
                         names[info.family]);
    if (info.image_size != policy->image_size || info.action_dim != policy->action_dim)
        return error_set(error, PI0_ERROR_ARGUMENT,
                         "%s takes images of %d pixels and %d action columns, the policy was prepared for %d and %d",
                         checkpoint, info.image_size, info.action_dim, policy->image_size, policy->action_dim);
    return PI0_OK;
}

pi0_status policy_options_open_engine(pi0_engine **engine, const pi0_policy_info *policy, const common_options *common,
                                      const model_options *model, pi0_log_function log, void *log_user,
                                      pi0_error *error) {
    pi0_engine_options o = options_engine(common, model);
    if (o.model == PI0_MODEL_AUTO) o.model = policy->family == PI0_FAMILY_PI05 ? PI0_MODEL_PI05 : PI0_MODEL_PI0;
    if (log) {
        o.log = log;
        o.log_user = log_user;
    }
    TRY(pi0_engine_open(engine, &o, error));
    return check_engine(policy, *engine, model->checkpoint, error);
}
