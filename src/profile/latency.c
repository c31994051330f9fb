#include "profile/latency.h"

#include <math.h>
#include <stdlib.h>

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const double *sorted, size_t count, double percent) {
    double place = percent / 100 * (double)(count - 1);
    size_t below = (size_t)place, above = below + 1 < count ? below + 1 : below;
    return sorted[below] + (sorted[above] - sorted[below]) * (place - (double)below);
}

latency latency_of(double *samples, size_t count) {
    qsort(samples, count, sizeof *samples, compare);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < count; i++) sum += samples[i];
    double mean = sum / (double)count;
    for (size_t i = 0; i < count; i++) squares += (samples[i] - mean) * (samples[i] - mean);
    return (latency){.min = samples[0],
                     .mean = mean,
                     .std = sqrt(squares / (double)count),
                     .p50 = percentile(samples, count, 50),
                     .p90 = percentile(samples, count, 90),
                     .p99 = percentile(samples, count, 99)};
}
