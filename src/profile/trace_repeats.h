/*
 * Finds where a sequence of kernels repeats itself: the layers of a network as a profiler sees them, without being
 * told what they are.
 *
 * A kernel that runs once (or m times) in every layer comes back at the same distance; such chains of equal symbols
 * are found one symbol at a time, so that kernels which differ from layer to layer (autotuning, a fused first or last
 * layer) only thin out the evidence. Chains that agree in place and distance make a run.
 */
#ifndef PI0_PROFILE_TRACE_REPEATS_H
#define PI0_PROFILE_TRACE_REPEATS_H

#include <stdint.h>

#include "base/status.h"

typedef struct repeat_run {
    uint32_t first, last; /* the kernels it spans, both included */
    uint32_t copies;      /* how often its pattern comes */
    float period;         /* kernels from one copy to the next */
    float coverage;       /* share of the span's kernels that keep their distance */
} repeat_run;

enum { REPEAT_MIN_COPIES = 5, REPEAT_LEVELS = 2 };

/* One way to tell kernels apart: symbols[i] of kernel i, in 0..symbol_count-1. */
typedef struct repeat_level {
    const uint32_t *symbols;
    uint32_t symbol_count;
} repeat_level;

/*
 * The innermost runs of REPEAT_MIN_COPIES copies or more, by their first kernel; they do not overlap by more than a
 * part of a copy. levels[0] tells kernels apart finely (name and grid), levels[1] coarsely (name without its numbers).
 * *runs is the caller's, to give to memory_release. regular: NULL, or [kernel_count], where those become true that keep
 * a distance over some copies.
 */
pi0_status repeats_find(const repeat_level levels[REPEAT_LEVELS], uint32_t kernel_count, bool *regular,
                        repeat_run **runs, uint32_t *run_count, pi0_error *error);

#endif
