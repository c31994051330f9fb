/*
 * Normalisation, both ways, by the two references' rules (spec of the policy transforms, section 4 and 7).
 *
 * openpi (transforms.py, Normalize and Unnormalize): float64 statistics; results are float64. Forward, statistics are
 * cut to the length of the data; inverse, they are filled up to it.
 *     z-score    forward (x-mean)/(std+1e-6)                 inverse x*(std+1e-6)+mean
 *     quantile   forward (x-q01)/(q99-q01+1e-6)*2-1          inverse (x+1)/2*(q99-q01+1e-6)+q01
 *
 * lerobot (processor/normalize_processor.py): everything float32, one rounding per operation.
 */
#ifndef PI0_POLICY_NORMALISE_H
#define PI0_POLICY_NORMALISE_H

#include "policy/norm_stats.h"

/* ---- openpi ---- */

typedef enum norm_kind { NORM_NONE, NORM_ZSCORE, NORM_QUANTILE } norm_kind;

/* x: float64 [count], in place. Refuses statistics shorter than x, unless of length 1: those apply to every column. */
pi0_status norm_forward(norm_kind kind, const norm_entry *entry, double *x, int count, pi0_error *error);

/* rows: float64 [count, width], in place. float32_values: x are float32 numbers, which the reference adds 1 to and
 * halves in that precision. Columns beyond the statistics: z-score as with mean 0 and std 1, quantile unchanged.
 * Refuses statistics longer than width. */
pi0_status norm_inverse(norm_kind kind, const norm_entry *entry, double *rows, int count, int width,
                        bool float32_values, pi0_error *error);

/* ---- lerobot ---- */

/* NormalizationMode of lerobot; each but IDENTITY maps two statistics, `low` and `high`. */
typedef enum feature_mode {
    FEATURE_IDENTITY,
    FEATURE_MEAN_STD,   /* mean, std: (x-mean)/(std+eps); x*std+mean */
    FEATURE_MIN_MAX,    /* min, max: 2*(x-low)/d-1; (x+1)/2*d+low; d = high-low, eps where that is 0 */
    FEATURE_QUANTILES,  /* q01, q99: 2*(x-low)/d-1; (x+1)*d/2+low */
    FEATURE_QUANTILE10, /* q10, q90: the same */
} feature_mode;

typedef struct feature_norm {
    feature_mode mode;
    float eps;
    int count;         /* of each: the feature's length, or 1 for all columns; 0: no statistics, pass unchanged */
    float *low, *high; /* [count] */
} feature_norm;

void feature_forward(const feature_norm *norm, float *x, int count);
/* rows: [count, width] */
void feature_inverse(const feature_norm *norm, float *rows, int count, int width);

#endif
