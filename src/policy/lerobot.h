/*
 * A lerobot pi0 or pi0.5 directory: config.json and the two pipelines saved beside it (lerobot policies/pi0*,
 * processor/pipeline.py). The pipelines' JSON says which steps run in which order; statistics are in the safetensors
 * files the steps name.
 */
#ifndef PI0_POLICY_LEROBOT_H
#define PI0_POLICY_LEROBOT_H

#include "policy/normalise.h"
#include "policy/policy.h"

enum { LEROBOT_MAX_STEPS = 32, LEROBOT_MAX_NAMES = 64 };

typedef enum lerobot_step_kind {
    STEP_NOTHING,      /* to_batch, device: nothing to do here */
    STEP_RENAME,       /* rename_observations_processor */
    STEP_NEW_LINE,     /* pi0_new_line_processor */
    STEP_STATE_PROMPT, /* pi05_prepare_state_tokenizer_processor_step */
    STEP_TOKENIZE,     /* tokenizer_processor */
    STEP_KEEP_STATE,   /* relative_actions_processor: keeps the raw state for the post-processor */
    STEP_NORMALISE,    /* normalizer_processor */
    STEP_UNNORMALISE,  /* unnormalizer_processor */
    STEP_ABSOLUTE,     /* absolute_actions_processor */
} lerobot_step_kind;

/* Steps that do something, in order. */
typedef struct lerobot_pipeline {
    lerobot_step_kind steps[LEROBOT_MAX_STEPS];
    int count;
} lerobot_pipeline;

typedef struct lerobot_rename {
    char *from, *to;
} lerobot_rename;

struct lerobot {
    /* config.json */
    pi0_family family;
    int chunk_size, num_steps, image_size, model_width;
    int state_count, action_count;  /* of the features; at most ROBOT_MAX_STATE */
    char *cameras[PI0_MAX_CAMERAS]; /* feature names, in the model's order */
    int camera_count;

    /* policy_preprocessor.json */
    lerobot_pipeline before;
    lerobot_rename renames[LEROBOT_MAX_NAMES]; /* request's name -> feature */
    int rename_count;
    int max_length; /* tokens */
    bool relative;
    bool absolute_mask[ROBOT_MAX_STATE]; /* actions the state is added to */
    feature_norm state_norm;
    char *state_file; /* of the normalizer, or NULL */

    /* policy_postprocessor.json */
    lerobot_pipeline after;
    feature_norm action_norm;
    char *action_file;
};

/* On failure *policy is NULL; release with lerobot_close. */
pi0_status lerobot_open(lerobot **policy, const char *directory, pi0_error *error);
void lerobot_close(lerobot **policy);

/* The files one by one, over a zeroed struct: text is the content, `name` stands in errors. config.json first. */
pi0_status lerobot_parse_config(lerobot *policy, const char *text, size_t size, const char *name, pi0_error *error);
pi0_status lerobot_parse_before(lerobot *policy, const char *text, size_t size, const char *name, pi0_error *error);
pi0_status lerobot_parse_after(lerobot *policy, const char *text, size_t size, const char *name, pi0_error *error);
/* Frees what the struct holds. */
void lerobot_release(lerobot *policy);

/* ---- lerobot.c ---- */

pi0_status lerobot_prepare(const pi0_policy *policy, const pi0_request *request, pi0_input *input, pi0_error *error);
/* actions: [H, action_count], float32 numbers */
pi0_status lerobot_finish(const pi0_policy *policy, const pi0_input *input, const float *model_actions, double *actions,
                          pi0_error *error);

#endif
