/* Figures of a series of latencies. */
#ifndef PI0_PROFILE_LATENCY_H
#define PI0_PROFILE_LATENCY_H

#include <stddef.h>

typedef struct latency {
    double min, mean, std, p50, p90, p99;
} latency;

/* Sorts samples[count], count >= 1. Percentiles as numpy.percentile gives them (linear between neighbours); std is that
 * of the samples (divided by count). */
latency latency_of(double *samples, size_t count);

#endif
