/* Figures of series, against values computed by numpy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "profile/latency.h"
#include "profile/memory_use.h"

static void near(double found, double expected) {
    if (fabs(found - expected) > 1e-12 * fabs(expected)) fail_msg("found %.17g, expected %.17g", found, expected);
}

static void test_one(void **state) {
    (void)state;
    double samples[] = {3.5};
    latency l = latency_of(samples, 1);
    near(l.min, 3.5);
    near(l.mean, 3.5);
    assert_true(l.std == 0);
    near(l.p50, 3.5);
    near(l.p99, 3.5);
}

static void test_numpy(void **state) {
    (void)state;
    double samples[] = {9, 1, 4, 16, 25, 36, 2};
    latency l = latency_of(samples, 7);
    near(l.min, 1);
    near(l.mean, 13.285714285714286);
    near(l.std, 12.209063210983713);
    near(l.p50, 9);
    near(l.p90, 29.4);
    near(l.p99, 35.34);
}

static void test_memory_peak_counts_what_was_touched(void **state) {
    (void)state;
    memory_use use = {0};
    memory_use_sample(&use);
    int64_t peak = memory_use_peak_bytes(&use);
    assert_true(peak > 100000 && peak < (int64_t)1 << 36);
    assert_true(peak >= use.anonymous_peak_bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one),
        cmocka_unit_test(test_numpy),
        cmocka_unit_test(test_memory_peak_counts_what_was_touched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
