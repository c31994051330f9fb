/* The split that needs no help from the trace: the model's layers, found in the repetition of the kernels. */
#ifndef PI0_PROFILE_TRACE_LAYERS_H
#define PI0_PROFILE_TRACE_LAYERS_H

#include "profile/trace_stages.h"

/* Where the parts of one inference stand, as kernels of the split's order; ends are excluded. */
typedef struct layer_plan {
    uint32_t vit_first, vit_end;         /* from the first ViT layer to the last */
    uint32_t prefill_first, prefill_end; /* empty: the trace ends before */
    uint32_t expert_first, expert_end;
    uint32_t run_first, run_count; /* of the expert's runs in the list */
    uint32_t first, end;           /* with what is before, between and after the layers */
    uint32_t other_end;            /* first..other_end is work before the images are looked at */
    int vit_layers, prefill_layers, denoise_steps, expert_layers;
    bool complete;
} layer_plan;

typedef struct layer_plans {
    layer_plan *plans;
    uint32_t count;
    uint32_t partial;  /* inferences left out because they are not whole */
    trace_step *steps; /* of all plans, in order; run_first and run_count of a plan are its part of them */
    uint32_t step_count;
    const char *reason; /* set when count is 0 */
} layer_plans;

/* Looks at kernels begin..end-1 of the split's order, one device's. Release with layer_plans_release either way. */
pi0_status layer_plans_find(layer_plans *plans, const trace_split *split, const trace *trace, uint32_t begin,
                            uint32_t end, pi0_error *error);
void layer_plans_release(layer_plans *plans);

#endif
