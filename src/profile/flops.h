/*
 * How much arithmetic and how many bytes an inference takes, by part and by stage, from the configuration alone.
 * FLOP = 2 * multiply-add of products and attention; softmax, norms and activations are not counted.
 */
#ifndef PI0_PROFILE_FLOPS_H
#define PI0_PROFILE_FLOPS_H

#include "model/config.h"

typedef struct work_shape {
    int batch;
    int cameras;       /* whose images are computed, per observation */
    int prompt_tokens; /* valid ones */
    int horizon, steps;
    /* true: as openpi computes it: the last layer of prefill to its end; state token, time embedding and adaRMS vectors
     * anew in every step. false: only what the answer depends on, and only once. */
    bool reference;
} work_shape;

/* weights: numbers that have to be read once. cache: keys and values written (prefill) or read (denoise), as numbers.
 */
typedef struct work {
    double flops, weights, cache;
} work;

typedef enum work_part {
    WORK_PATCHES,
    WORK_VIT_LINEAR,
    WORK_VIT_ATTENTION,
    WORK_PROJECTOR,
    WORK_PREFILL_LINEAR,
    WORK_PREFILL_ATTENTION,
    WORK_EXPERT_LINEAR,    /* this and the following: one step */
    WORK_EXPERT_ATTENTION, /* reads the cache */
    WORK_HEADS,            /* projections of actions, state and time; adaRMS */
    WORK_PART_COUNT,
} work_part;

work work_of_part(const model_config *config, const work_shape *shape, work_part part);
/* All parts of PI0_STAGE_VIT, _PREFILL or _DENOISE (all steps). PI0_STAGE_OTHER takes no work that is counted. */
work work_of_stage(const model_config *config, const work_shape *shape, int stage);

int work_prefix_tokens(const model_config *config, const work_shape *shape); /* of one observation */
int work_suffix_tokens(const model_config *config, const work_shape *shape); /* state token (pi0) and actions */

#endif
