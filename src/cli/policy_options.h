/* The options of commands that answer requests through a policy, `infer` and `serve`, and how both open one with its
 * engine. */
#ifndef PI0_CLI_POLICY_OPTIONS_H
#define PI0_CLI_POLICY_OPTIONS_H

#include "cli/options.h"

typedef struct policy_options {
    const char *config, *norm_stats, *tokenizer, *default_prompt; /* NULL: not given */
    int horizon, steps;                                           /* 0: the policy's */
} policy_options;

enum { POLICY_OPTION_COUNT = 6 };

/* Fills the rows (and the end mark) of a group for these options. */
void policy_options_table(option rows[POLICY_OPTION_COUNT + 1], policy_options *policy);

/* Everything before the weights; `log` NULL: to the terminal. *info's strings belong to the policy. */
pi0_status policy_options_open(pi0_policy **policy, pi0_policy_info *info, const policy_options *options,
                               const model_options *model, pi0_log_function log, void *log_user, pi0_error *error);
/* The weights, which have to be for the model that the policy is for; a synthetic one that --model does not name is
 * of its family. `log` as above. */
pi0_status policy_options_open_engine(pi0_engine **engine, const pi0_policy_info *policy, const common_options *common,
                                      const model_options *model, pi0_log_function log, void *log_user,
                                      pi0_error *error);

#endif
