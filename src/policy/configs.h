/*
 * openpi's named inference configurations (openpi training/config.py and training/misc) and two for the UR5, whose
 * values come from openpi examples/ur5/README.md. LoRA variants have the base model's shapes once merged, so
 * pi0_libero_low_mem_finetune is pi0_libero here.
 */
#ifndef PI0_POLICY_CONFIGS_H
#define PI0_POLICY_CONFIGS_H

#include "base/status.h"
#include "policy/normalise.h"

typedef struct robot robot;

typedef struct policy_config {
    const char *name;
    pi0_family family;
    int action_dim;       /* of the model: 32 */
    int horizon;          /* action rows */
    int max_token_len;    /* prompts are padded or cut to it */
    bool state_in_prompt; /* pi0.5's discretised state */
    norm_kind norm;
    const robot *robot;
    bool adapt_to_pi;           /* ALOHA: flip joints, map grippers */
    const char *absolute_mask;  /* "1110": columns to which the state is added, or NULL for none */
    const char *asset_id;       /* folder of norm_stats.json under assets/ */
    const char *default_prompt; /* or NULL */
    const char *metadata;       /* JSON object that openpi's server sends on connect */
} policy_config;

/* The configuration of that name. PI0_ERROR_ARGUMENT with the nearest name and the list for one that is unknown;
 * PI0_ERROR_UNSUPPORTED with the reason for one that openpi knows but cannot be served. */
pi0_status config_find(const policy_config **config, const char *name, pi0_error *error);

/* All that config_find finds. */
size_t config_count(void);
const policy_config *config_at(size_t index);

#endif
