#include "policy/configs.h"

#include <stdio.h>
#include <string.h>

#include "policy/robot.h"

/* make_bool_mask(6, -1, 6, -1) and so on: 1 where the model's action is relative to the state. */
#define MASK_TWO_ARMS "11111101111110"
#define MASK_SEVEN    "11111110"
#define MASK_SIX      "1111110"

#define RESET_POSE "{\"reset_pose\": [0, -1.5, 1.5, 0, 0, 0]}"

/* name, horizon, max_token_len and robot vary; the rest follows from the family. */
#define PI0(config_name, rows, tokens, ...)                                                                            \
    {.name = config_name,                                                                                              \
     .family = PI0_FAMILY_PI0,                                                                                         \
     .action_dim = 32,                                                                                                 \
     .horizon = rows,                                                                                                  \
     .max_token_len = tokens,                                                                                          \
     .norm = NORM_ZSCORE,                                                                                              \
     .metadata = "{}",                                                                                                 \
     __VA_ARGS__}
#define PI05(config_name, rows, in_prompt, ...)                                                                        \
    {.name = config_name,                                                                                              \
     .family = PI0_FAMILY_PI05,                                                                                        \
     .action_dim = 32,                                                                                                 \
     .horizon = rows,                                                                                                  \
     .max_token_len = 200,                                                                                             \
     .state_in_prompt = in_prompt,                                                                                     \
     .norm = NORM_QUANTILE,                                                                                            \
     .metadata = "{}",                                                                                                 \
     __VA_ARGS__}
#define ALOHA  .robot = &robot_aloha, .adapt_to_pi = true
#define DROID  .robot = &robot_droid, .asset_id = "droid"
#define LIBERO .robot = &robot_libero, .asset_id = "physical-intelligence/libero"
#define UR5    .robot = &robot_ur5, .asset_id = "ur5e", .absolute_mask = MASK_SIX

#define TROSSEN .asset_id = "trossen", .absolute_mask = MASK_TWO_ARMS

/* Later initialisers override the macros' defaults on purpose. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"
#ifdef __clang__
#pragma clang diagnostic ignored "-Winitializer-overrides"
#endif
static const policy_config configs[] = {
    PI0("pi0_aloha", 50, 48, ALOHA, TROSSEN, .metadata = RESET_POSE),
    PI05("pi05_aloha", 50, true, ALOHA, TROSSEN, .metadata = RESET_POSE),
    PI0("pi0_aloha_towel", 50, 48, ALOHA, TROSSEN, .metadata = RESET_POSE, .default_prompt = "fold the towel"),
    PI0("pi0_aloha_tupperware", 50, 48, ALOHA, TROSSEN, .metadata = RESET_POSE,
        .default_prompt = "open the tupperware and put the food on the plate"),
    PI0("pi0_aloha_pen_uncap", 50, 48, ALOHA, TROSSEN, .default_prompt = "uncap the pen"),
    PI05("pi05_aloha_pen_uncap", 50, true, ALOHA, TROSSEN, .default_prompt = "uncap the pen"),
    PI0("pi0_aloha_sim", 50, 48, ALOHA, .asset_id = "lerobot/aloha_sim_transfer_cube_human",
        .default_prompt = "Transfer cube"),
    PI0("pi0_droid", 10, 48, DROID),
    PI05("pi05_droid", 15, true, DROID),
    PI05("pi05_droid_finetune", 16, true, DROID),
    PI05("pi05_full_droid_finetune", 16, true, DROID, .absolute_mask = MASK_SEVEN),
    PI0("pi0_droid_jointpos_polaris", 10, 100, DROID, .absolute_mask = MASK_SEVEN),
    PI0("pi0_droid_jointpos_100k_polaris", 10, 100, DROID, .absolute_mask = MASK_SEVEN),
    PI05("pi05_droid_jointpos_polaris", 15, true, DROID, .absolute_mask = MASK_SEVEN),
    PI0("pi0_libero", 50, 48, LIBERO, .absolute_mask = MASK_SIX),
    PI0("pi0_libero_low_mem_finetune", 50, 48, LIBERO, .absolute_mask = MASK_SIX),
    PI05("pi05_libero", 10, false, LIBERO),
    PI0("pi0_ur5", 50, 48, UR5),
    PI05("pi05_ur5", 50, true, UR5),
};
#pragma GCC diagnostic pop

static const char no_statistics[] =
    "it is a training test without robot and statistics, from which openpi itself makes no policy";

/* Names openpi knows that cannot be served. pi0-FAST writes its actions as text tokens: another network. */
static const struct refusal {
    const char *name, *reason;
} refusals[] = {
    {"debug", no_statistics},
    {"debug_restore", no_statistics},
    {"debug_pi05", no_statistics},
    {"paligemma_diffusion_droid", "openpi itself fails to make a policy from it (its DROID transform does not accept "
                                  "the argument its configuration passes)"},
};

static const char *const autoregressive[] = {"fast", "binning", "_vq"};

/* Edits (insert, delete, replace) between two names; names longer than the table are as far as their length. */
static size_t edit_distance(const char *a, const char *b) {
    enum { LONGEST = 64 };
    size_t row[LONGEST + 1], columns = strlen(b), rows = strlen(a);
    if (columns > LONGEST) return columns;
    for (size_t j = 0; j <= columns; j++) row[j] = j;
    for (size_t i = 1; i <= rows; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= columns; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[columns];
}

pi0_status config_find(const policy_config **config, const char *name, pi0_error *error) {
    *config = NULL;
    const policy_config *nearest = &configs[0];
    for (size_t i = 0; i < config_count(); i++) {
        if (strcmp(configs[i].name, name) == 0) {
            *config = &configs[i];
            return PI0_OK;
        }
        if (edit_distance(name, configs[i].name) < edit_distance(name, nearest->name)) nearest = &configs[i];
    }
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++)
        if (strcmp(refusals[i].name, name) == 0)
            return error_set(error, PI0_ERROR_UNSUPPORTED, "config '%s' cannot be served: %s", name,
                             refusals[i].reason);
    if (strncmp(name, "pi0_fast", 8) == 0 || strncmp(name, "paligemma_", 10) == 0)
        for (size_t i = 0; i < sizeof autoregressive / sizeof *autoregressive; i++)
            if (strstr(name, autoregressive[i]))
                return error_set(
                    error, PI0_ERROR_UNSUPPORTED,
                    "config '%.100s' cannot be served: it is of the pi0-FAST kind, which writes actions as "
                    "tokens one after the other; this engine runs the flow-matching pi0 and pi0.5",
                    name);
    char list[700] = "";
    for (size_t i = 0, used = 0; i < config_count(); i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", configs[i].name);
    return error_set(error, PI0_ERROR_ARGUMENT, "unknown config '%.100s'; the nearest is '%s'; there are %s", name,
                     nearest->name, list);
}

size_t config_count(void) { return sizeof configs / sizeof *configs; }

const policy_config *config_at(size_t index) { return &configs[index]; }
