/*
 * Which stage of the model each kernel of a trace belongs to: from the ranges that our own traces carry, from our
 * kernels' names, or else from the structure of the model (Pi0: 27 ViT layers for each image or for all of them
 * together, then 17 or 18 prefill layers, then 18 expert layers for each Euler step).
 */
#ifndef PI0_PROFILE_TRACE_STAGES_H
#define PI0_PROFILE_TRACE_STAGES_H

#include "profile/kernel_class.h"
#include "profile/trace.h"

/* Kernels first..end-1 in time order. */
typedef struct trace_inference {
    uint32_t first, end;
    int vit_layers, prefill_layers, denoise_steps; /* passes found, -1 not known */
    int expert_layers;                             /* of a step that breaks off, 0 */
    bool complete;
    uint32_t step_first; /* its steps are steps[step_first..], denoise_steps of them, or none */
    uint32_t step_count;
} trace_inference;

typedef struct trace_step {
    uint32_t first, end; /* kernels */
} trace_step;

enum { TRACE_STAGE_OUTSIDE = PI0_STAGE_COUNT }; /* of kernels that belong to no inference that counts */

typedef struct trace_split {
    uint32_t *order;       /* the records by device and time, [count] */
    uint8_t *stages;       /* PI0_STAGE_* or TRACE_STAGE_OUTSIDE of each, [count] */
    kernel_class *classes; /* of each name in trace.kernels */
    uint32_t count;
    trace_inference *inferences; /* those that are averaged: the whole ones, or the one that is there in part */
    uint32_t inference_count;    /* 0: unknown structure */
    uint32_t left_out;           /* inferences that are there in part beside whole ones */
    trace_step *steps;
    uint32_t step_count;
    const char *source; /* "ranges", "kernel names", "repetition"; NULL for unknown structure */
    const char *reason; /* why the structure is unknown, else NULL */
    bool stage_known[PI0_STAGE_COUNT];
    int vit_layers, prefill_layers, denoise_steps; /* the same in all inferences, else -1 */
    int expert_layers;                             /* of the step that breaks off, or 0 */
    bool complete;
} trace_split;

/* Fails only for lack of memory; a structure that is not understood is PI0_OK with inference_count 0. Give *split to
 * trace_split_release in either case. */
pi0_status trace_split_find(trace_split *split, const trace *trace, pi0_error *error);
void trace_split_release(trace_split *split);

static inline const trace_kernel *trace_split_kernel(const trace_split *split, const trace *trace, uint32_t index) {
    return trace_record(trace, split->order[index]);
}

#endif
