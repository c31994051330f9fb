/* norm_stats.json: what is read, what is refused and with which words; the two references' normalisation by hand. */
#include "data.h"

#include <math.h>

#include "policy/norm_stats.h"
#include "policy/normalise.h"

static void parse(norm_stats *stats, const char *text) {
    pi0_error error;
    if (norm_stats_parse(stats, text, strlen(text), "norm_stats.json", &error) != PI0_OK) fail_msg("%s", error.message);
}

static void assert_refused(const char *text, const char *word) {
    norm_stats stats;
    pi0_error error = {0};
    assert_int_equal(norm_stats_parse(&stats, text, strlen(text), "some/norm_stats.json", &error), PI0_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "some/norm_stats.json"));
    if (!strstr(error.message, word)) fail_msg("expected '%s' in: %s", word, error.message);
    assert_null(stats.entries);
    assert_int_equal(stats.count, 0);
}

static void test_reads(void **state) {
    (void)state;
    norm_stats stats;
    parse(&stats, "{\"norm_stats\": {\"state\": {\"mean\": [1, -2.5], \"std\": [1e-3, 4, 5], \"q01\": null},"
                  "\"observation/image\": {\"mean\": [0], \"std\": [123456789012345678901234567890], \"min\": \"x\"}},"
                  "\"note\": []}");
    assert_int_equal(stats.count, 2);
    const norm_entry *entry = norm_stats_find(&stats, "state");
    assert_int_equal(entry->mean.count, 2);
    assert_int_equal(entry->std.count, 3);
    assert_true(entry->mean.values[1] == -2.5);
    assert_null(entry->q01.values);
    assert_null(entry->q99.values);
    entry = norm_stats_find(&stats, "observation/image");
    assert_true(entry->std.values[0] == 123456789012345678901234567890.0);
    assert_null(norm_stats_find(&stats, "actions"));
    norm_stats_release(&stats);
    parse(&stats, "{\"norm_stats\": {}}");
    assert_int_equal(stats.count, 0);
    norm_stats_release(&stats);
}

static void test_refuses(void **state) {
    (void)state;
#define STATE(fields) "{\"norm_stats\": {\"state\": {" fields "}}}"
    assert_refused("", "not valid JSON");
    assert_refused("[]", "an array");
    assert_refused("{\"state\": {}}", "\"norm_stats\"");
    assert_refused("{\"norm_stats\": [1]}", "an array");
    assert_refused("{\"norm_stats\": {\"state\": 3}}", "\"state\"");
    assert_refused(STATE("\"mean\": [1]"), "\"std\"");
    assert_refused(STATE("\"std\": [1]"), "\"mean\"");
    assert_refused(STATE("\"mean\": null, \"std\": [1]"), "null");
    assert_refused(STATE("\"mean\": 1, \"std\": [1]"), "a number");
    assert_refused(STATE("\"mean\": [], \"std\": [1]"), "empty");
    assert_refused(STATE("\"mean\": [[1]], \"std\": [1]"), "an array");
    assert_refused(STATE("\"mean\": [1, \"2\"], \"std\": [1]"), "a string");
    assert_refused(STATE("\"mean\": [1], \"std\": [true]"), "a boolean");
    assert_refused(STATE("\"mean\": [1], \"std\": [1], \"q01\": {}"), "\"q01\"");
    assert_refused(STATE("\"mean\": [1], \"std\": [NaN]"), "in \"std\"");
    assert_refused(STATE("\"mean\": [-Infinity], \"std\": [1]"), "in \"mean\"");
    assert_refused(STATE("\"mean\": [1e999], \"std\": [1]"), "in \"mean\"");
    assert_refused(STATE("\"mean\": [1], \"std\": [1], \"mean\": [2]"), "mean");
    assert_refused("{\"norm_stats\": {\"state\": {\"mean\": [1], \"std\": [1]}, \"state\": {}}}", "duplicate");
    assert_refused("{\"norm_stats\": {}} x", "not valid JSON");
    assert_refused("{\"\\ud800", "not valid JSON");
}

static void test_missing_file(void **state) {
    (void)state;
    norm_stats stats;
    pi0_error error;
    assert_int_equal(norm_stats_open(&stats, "/nowhere/norm_stats.json", &error), PI0_ERROR_IO);
    assert_non_null(strstr(error.message, "/nowhere/norm_stats.json"));
}

static void test_openpi_lengths(void **state) {
    (void)state;
    norm_stats stats;
    parse(&stats, STATE("\"mean\": [1, 2], \"std\": [2, 4], \"q01\": [0, 1], \"q99\": [2, 3]"));
    const norm_entry *entry = norm_stats_find(&stats, "state");
    double x[4] = {3, 6, 7, 8};
    pi0_error error;
    assert_int_equal(norm_forward(NORM_ZSCORE, entry, x, 1, &error), PI0_OK); /* statistics are cut */
    assert_true(x[0] == (3.0 - 1.0) / (2.0 + 1e-6) && x[1] == 6);
    assert_int_equal(norm_forward(NORM_ZSCORE, entry, x, 3, &error), PI0_ERROR_ARGUMENT);
    assert_int_equal(norm_forward(NORM_QUANTILE, entry, x, 3, &error), PI0_ERROR_ARGUMENT);
    double z[4] = {1, 1, 1, 1}, q[4] = {1, 1, 1, 1};
    assert_int_equal(norm_inverse(NORM_ZSCORE, entry, z, 1, 4, true, &error), PI0_OK);
    assert_true(z[1] == 1.0 * (4.0 + 1e-6) + 2.0 && z[3] == 1.0 + 1e-6);
    assert_int_equal(norm_inverse(NORM_QUANTILE, entry, q, 1, 4, true, &error), PI0_OK);
    assert_true(q[0] == 1.0 * (2.0 + 1e-6) && q[3] == 1);
    assert_int_equal(norm_inverse(NORM_ZSCORE, entry, z, 1, 1, true, &error), PI0_ERROR_FORMAT);
    assert_int_equal(norm_inverse(NORM_QUANTILE, entry, z, 1, 1, true, &error), PI0_ERROR_FORMAT);
    norm_stats_release(&stats);
}

static void test_lerobot_modes(void **state) {
    (void)state;
    float low[] = {1, 2}, high[] = {3, 2}, x[] = {2.5f, 2.25f};
    feature_norm norm = {.eps = 1e-8f, .count = 2, .low = low, .high = high};
    static const feature_mode modes[] = {FEATURE_MEAN_STD, FEATURE_MIN_MAX, FEATURE_QUANTILES, FEATURE_QUANTILE10};
    for (size_t i = 0; i < 4; i++) {
        norm.mode = modes[i];
        memcpy(x, (float[]){2.5f, 2.25f}, sizeof x);
        feature_forward(&norm, x, 2);
        if (modes[i] == FEATURE_MEAN_STD)
            assert_true(x[0] == 1.5f / (3.0f + 1e-8f));
        else
            assert_true(x[0] == 0.5f && x[1] == 2.0f * 0.25f / 1e-8f - 1.0f); /* 2 - 2 is replaced by eps */
        feature_inverse(&norm, x, 1, 2);
        assert_true(fabsf(x[0] - 2.5f) < 1e-6f);
    }
    norm.count = 0; /* without statistics nothing changes */
    feature_forward(&norm, x, 2);
    assert_true(fabsf(x[0] - 2.5f) < 1e-6f);
    float rows[] = {1, 1, 1, 1};
    norm = (feature_norm){.mode = FEATURE_MEAN_STD, .count = 1, .low = low, .high = high};
    feature_inverse(&norm, rows, 2, 2); /* one value covers all columns */
    for (int i = 0; i < 4; i++) assert_true(rows[i] == 4);
}

static void test_synthetic(void **state) {
    (void)state;
    norm_stats stats;
    assert_int_equal(norm_stats_synthetic(&stats, 8, 7, NULL), PI0_OK);
    const norm_entry *actions = norm_stats_find(&stats, "actions");
    assert_int_equal(norm_stats_find(&stats, "state")->q99.count, 8);
    assert_int_equal(actions->mean.count, 7);
    assert_true(actions->mean.values[6] == 0 && actions->std.values[6] == 1);
    assert_true(actions->q01.values[6] == -1 && actions->q99.values[6] == 1);
    norm_stats_release(&stats);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),         cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_missing_file),  cmocka_unit_test(test_openpi_lengths),
        cmocka_unit_test(test_lerobot_modes), cmocka_unit_test(test_synthetic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
