/*
 * The inside of a policy and of a prepared request.
 *
 *     policy.c    the API: open, describe, close; hands requests to one of
 *     openpi.c    openpi's pipeline, with a robot or without
 *     lerobot.c   the pipelines a lerobot directory brings along
 *     input.c     memory of a prepared request, its images and its prompt
 */
#ifndef PI0_POLICY_POLICY_H
#define PI0_POLICY_POLICY_H

#include "policy/configs.h"
#include "policy/input.h"
#include "policy/norm_stats.h"
#include "policy/prompt.h"
#include "policy/robot.h"

/* Rows of an answer, prompt tokens and pixels a side at most: bounds on what one request can take. */
enum { POLICY_MAX_HORIZON = 4096, POLICY_MAX_TOKENS = 4096, POLICY_MAX_IMAGE_SIZE = 1024 };

typedef struct lerobot lerobot;

struct pi0_policy {
    policy_config config; /* openpi: the named one, or what stands for the model without robot (name NULL) */
    norm_stats stats;     /* openpi */
    lerobot *lerobot;     /* NULL: openpi */
    tokenizer *tokenizer; /* NULL: requests must bring tokens */
    char *default_prompt; /* NULL: the configuration's */
    int prompt_tokens;    /* prompts are padded or cut to it */
    int max_tokens;       /* a request's own tokens may be as many */
    int image_size;       /* R */
    int horizon, num_steps;
    log_sink log;
};

struct pi0_input {
    bool float32; /* lerobot */
    int cameras, image_size;
    const char *camera_names[PI0_MAX_CAMERAS]; /* borrowed from the policy */
    bool image_mask[PI0_MAX_CAMERAS];
    uint8_t *pixels;            /* [cameras,R,R,3], or NULL */
    float *floats;              /* [cameras,3,R,R], or NULL */
    struct resize_plan *resize; /* of the last image, while images are set */

    int32_t *tokens; /* [token_count], padded with 0 */
    bool *token_mask;
    int token_count, valid_tokens; /* the valid ones come first */

    int model_width;                    /* of state and actions */
    robot_state robot_state;            /* after the robot's input map; lerobot: as sent, in float32 */
    int state_count;                    /* of the normalised state before padding */
    double state[ROBOT_MAX_STATE];      /* normalised, zero-padded */
    float model_state[ROBOT_MAX_STATE]; /* the same in float32: what the model gets */
};

/* ---- input.c ---- */

/* An input without images and tokens yet: everything masked out. */
pi0_status input_new(pi0_input **input, const pi0_policy *policy, int cameras, bool float32, pi0_error *error);
/* Resizes an image into a slot and makes it valid. */
pi0_status input_set_image(pi0_input *input, int slot, const value *image, const char *key, camera_layout layout,
                           pi0_error *error);
/* Zero-pads the normalised state in input->state[0..state_count) and narrows it. */
void input_finish_state(pi0_input *input);

/* A request's text for the model. */
typedef struct task_text {
    char *text; /* UTF-8, release with memory_release; NULL: there is none */
    size_t length;
} task_text;

/* The prompt under `key`: text, a one-element text array, or UTF-8 bytes where allowed. Refuses anything else, null
 * too. */
pi0_status task_read(task_text *task, const value *v, const char *key, bool bytes_allowed, pi0_error *error);
pi0_status task_from_string(task_text *task, const char *text, pi0_error *error);

/* Fills the tokens from text, cut to `limit` (with a warning) and padded to it; no text: all are padding. */
pi0_status input_tokenize(pi0_input *input, const pi0_policy *policy, prompt_format format, int limit,
                          const task_text *task, const double *state, int state_count, pi0_error *error);
/* Fills the tokens from ids of a request; mask may be NULL. Masked ids are left out. */
pi0_status input_set_tokens(pi0_input *input, const pi0_policy *policy, const value *ids, const value *mask,
                            pi0_error *error);

/* ---- openpi.c ---- */

pi0_status openpi_prepare(const pi0_policy *policy, const pi0_request *request, pi0_input *input, pi0_error *error);
/* Unnormalised actions float64 [H,A] and state [A], both before the robot: the reference's values between the two. */
pi0_status openpi_unnormalise(const pi0_policy *policy, const pi0_input *input, const float *model_actions,
                              double *actions, double *state, pi0_error *error);
/* actions: float64 [H, robot's columns] */
pi0_status openpi_finish(const pi0_policy *policy, const pi0_input *input, const float *model_actions, double *actions,
                         pi0_error *error);
/* The reference's answer is float32. */
bool openpi_answers_float32(const pi0_policy *policy);
int openpi_columns(const pi0_policy *policy);

#endif
