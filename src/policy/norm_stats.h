/*
 * Normalisation statistics: openpi's norm_stats.json (openpi shared/normalize.py).
 *
 *     {"norm_stats": {"state": {"mean": [...], "std": [...], "q01": [...], "q99": [...]}, "actions": {...}}}
 *
 * mean and std are required, quantiles may be absent or null; any further field is ignored, as openpi ignores it.
 */
#ifndef PI0_POLICY_NORM_STATS_H
#define PI0_POLICY_NORM_STATS_H

#include "base/status.h"

/* Numbers of one statistic; values NULL: absent. */
typedef struct norm_values {
    double *values; /* [count] */
    int count;      /* 1 .. */
} norm_values;

typedef struct norm_entry {
    char *key; /* "state", "actions", or another field of the data, with '/' between levels */
    norm_values mean, std, q01, q99;
} norm_entry;

typedef struct norm_stats {
    norm_entry *entries;
    size_t count;
} norm_stats;

/* text: the file's content; `name` (the file) stands in errors. On failure *stats is empty. */
pi0_status norm_stats_parse(norm_stats *stats, const char *text, size_t size, const char *name, pi0_error *error);
pi0_status norm_stats_open(norm_stats *stats, const char *path, pi0_error *error);
/* What a synthetic checkpoint has: state and actions with mean 0, std 1, q01 -1, q99 1. */
pi0_status norm_stats_synthetic(norm_stats *stats, int state_count, int action_count, pi0_error *error);
void norm_stats_release(norm_stats *stats);

/* The entry of a key, or NULL. */
const norm_entry *norm_stats_find(const norm_stats *stats, const char *key);

#endif
