#include "policy/normalise.h"

#define EPSILON 1e-6

/* numpy's broadcast of a statistic, cut to x's length, over x. */
static bool covers(const norm_values *values, int count) { return values->count >= count || values->count == 1; }

static double at(const norm_values *values, int i) { return values->values[values->count == 1 ? 0 : i]; }

static pi0_status check_forward(const char *key, const char *name, const norm_values *values, int count,
                                pi0_error *error) {
    if (covers(values, count)) return PI0_OK;
    return error_set(error, PI0_ERROR_ARGUMENT,
                     "'%.60s' has %d values, but its statistics (%s) cover %d: expected at least as many, or 1", key,
                     count, name, values->count);
}

pi0_status norm_forward(norm_kind kind, const norm_entry *entry, double *x, int count, pi0_error *error) {
    if (kind == NORM_ZSCORE) {
        TRY(check_forward(entry->key, "mean", &entry->mean, count, error));
        TRY(check_forward(entry->key, "std", &entry->std, count, error));
        for (int i = 0; i < count; i++) x[i] = (x[i] - at(&entry->mean, i)) / (at(&entry->std, i) + EPSILON);
    } else if (kind == NORM_QUANTILE) {
        TRY(check_forward(entry->key, "q01", &entry->q01, count, error));
        TRY(check_forward(entry->key, "q99", &entry->q99, count, error));
        for (int i = 0; i < count; i++) {
            double low = at(&entry->q01, i), high = at(&entry->q99, i);
            x[i] = (x[i] - low) / (high - low + EPSILON) * 2.0 - 1.0;
        }
    }
    return PI0_OK;
}

static pi0_status check_inverse(const char *key, const char *name, const norm_values *values, int width,
                                pi0_error *error) {
    if (values->count <= width) return PI0_OK;
    return error_set(error, PI0_ERROR_FORMAT,
                     "statistics of '%.60s' (%s) have %d values, expected at most the model's %d", key, name,
                     values->count, width);
}

static void inverse_zscore(const norm_entry *entry, double *x, int width) {
    for (int i = 0; i < width; i++) {
        double mean = i < entry->mean.count ? entry->mean.values[i] : 0.0;
        double std = i < entry->std.count ? entry->std.values[i] : 1.0;
        x[i] = x[i] * (std + EPSILON) + mean;
    }
}

static void inverse_quantile(const norm_entry *entry, double *x, bool float32_values) {
    for (int i = 0; i < entry->q01.count; i++) {
        double low = entry->q01.values[i], high = entry->q99.values[i];
        double half = float32_values ? (double)(((float)x[i] + 1.0f) / 2.0f) : (x[i] + 1.0) / 2.0;
        x[i] = half * (high - low + EPSILON) + low;
    }
}

pi0_status norm_inverse(norm_kind kind, const norm_entry *entry, double *rows, int count, int width,
                        bool float32_values, pi0_error *error) {
    if (kind == NORM_ZSCORE) {
        TRY(check_inverse(entry->key, "mean", &entry->mean, width, error));
        TRY(check_inverse(entry->key, "std", &entry->std, width, error));
        for (int i = 0; i < count; i++) inverse_zscore(entry, rows + (size_t)i * (size_t)width, width);
    } else if (kind == NORM_QUANTILE) {
        TRY(check_inverse(entry->key, "q01", &entry->q01, width, error));
        if (entry->q99.count != entry->q01.count)
            return error_set(error, PI0_ERROR_FORMAT, "statistics of '%.60s': q01 has %d values and q99 has %d",
                             entry->key, entry->q01.count, entry->q99.count);
        for (int i = 0; i < count; i++) inverse_quantile(entry, rows + (size_t)i * (size_t)width, float32_values);
    }
    return PI0_OK;
}

/* high - low, replaced where that is 0, as torch.where does. */
static float span(const feature_norm *norm, int k) {
    float d = norm->high[k] - norm->low[k];
    return d == 0 ? norm->eps : d;
}

void feature_forward(const feature_norm *norm, float *x, int count) {
    if (norm->mode == FEATURE_IDENTITY || norm->count == 0) return;
    for (int i = 0; i < count; i++) {
        int k = norm->count == 1 ? 0 : i;
        if (norm->mode == FEATURE_MEAN_STD)
            x[i] = (x[i] - norm->low[k]) / (norm->high[k] + norm->eps);
        else
            x[i] = 2.0f * (x[i] - norm->low[k]) / span(norm, k) - 1.0f;
    }
}

void feature_inverse(const feature_norm *norm, float *rows, int count, int width) {
    if (norm->mode == FEATURE_IDENTITY || norm->count == 0) return;
    for (int row = 0; row < count; row++) {
        float *x = rows + (size_t)row * (size_t)width;
        for (int i = 0; i < width; i++) {
            int k = norm->count == 1 ? 0 : i;
            if (norm->mode == FEATURE_MEAN_STD)
                x[i] = x[i] * norm->high[k] + norm->low[k];
            else if (norm->mode == FEATURE_MIN_MAX)
                x[i] = (x[i] + 1.0f) / 2.0f * span(norm, k) + norm->low[k];
            else
                x[i] = (x[i] + 1.0f) * span(norm, k) / 2.0f + norm->low[k];
        }
    }
}
