/* The counts of the benchmark shape: FLOPs and weight bytes of every part, computed by hand from the architecture. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "profile/flops.h"

static void near(double found, double expected, double relative) {
    if (!(fabs(found - expected) <= relative * expected)) fail_msg("found %.6g, expected %.6g", found, expected);
}

static const work_shape benchmark = {
    .batch = 1, .cameras = 3, .prompt_tokens = 20, .horizon = 10, .steps = 10, .reference = true};

static void test_parts_of_the_benchmark_shape(void **state) {
    (void)state;
    static const struct {
        work_part part;
        double gflop, megabytes;
        int bytes; /* of one weight in the reference's bf16 configuration */
    } rows[] = {
        {WORK_PATCHES, 1.04, 3.9, 4},
        {WORK_VIT_LINEAR, 631.40, 822.7, 2},
        {WORK_VIT_ATTENTION, 24.46, 0, 2},
        {WORK_PROJECTOR, 3.62, 4.7, 2},
        {WORK_PREFILL_LINEAR, 3123.33, 3963.6, 2},
        {WORK_PREFILL_ATTENTION, 91.56, 0, 2},
        {WORK_EXPERT_LINEAR, 6.85, 622.9, 2},
        {WORK_EXPERT_ATTENTION, 1.30, 0, 2},
        {WORK_HEADS, 0.0643, 13.0, 4},
    };
    model_config config = model_config_full(PI0_FAMILY_PI0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        work w = work_of_part(&config, &benchmark, rows[i].part);
        near(w.flops, rows[i].gflop * 1e9, 5e-3);
        near(w.weights * rows[i].bytes, rows[i].megabytes * 1e6, 5e-3);
    }
}

static void test_totals(void **state) {
    (void)state;
    model_config pi0 = model_config_full(PI0_FAMILY_PI0), pi05 = model_config_full(PI0_FAMILY_PI05);
    struct {
        const model_config *config;
        int prompt, horizon;
        double total, prefill, denoise;
    } rows[] = {
        {&pi0, 20, 10, 3957.5, 3214.9, 82.1},
        {&pi0, 20, 50, 4259.4, 3214.9, 384.0},
        {&pi05, 200, 15, 4753.0, 3975.0, 117.6},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        work_shape shape = benchmark;
        shape.prompt_tokens = rows[i].prompt;
        shape.horizon = rows[i].horizon;
        double vit = work_of_stage(rows[i].config, &shape, PI0_STAGE_VIT).flops;
        double prefill = work_of_stage(rows[i].config, &shape, PI0_STAGE_PREFILL).flops;
        double denoise = work_of_stage(rows[i].config, &shape, PI0_STAGE_DENOISE).flops;
        near(vit + prefill + denoise, rows[i].total * 1e9, 1e-4);
        near(prefill, rows[i].prefill * 1e9, 1e-4);
        near(denoise, rows[i].denoise * 1e9, 1e-3);
        assert_true(work_of_stage(rows[i].config, &shape, PI0_STAGE_OTHER).flops == 0);
    }
}

static void test_what_the_answer_depends_on(void **state) {
    (void)state;
    model_config config = model_config_full(PI0_FAMILY_PI0);
    work_shape shape = benchmark;
    shape.reference = false;
    work linear = work_of_part(&config, &shape, WORK_PREFILL_LINEAR);
    near(linear.flops, 2951.47e9, 1e-4);
    near(linear.weights * 2, 3745.5e6, 1e-4);
    near(linear.cache * 2, 14.52e6, 1e-3);
    near(work_of_part(&config, &shape, WORK_PREFILL_ATTENTION).flops, 86.48e9, 1e-3);
    /* ten steps of ten rows, and the state token once */
    work step = work_of_part(&config, &shape, WORK_EXPERT_LINEAR);
    near(step.flops * 10, 6.8508e9 / 11 * 101, 1e-3);
}

static void test_batch_and_tokens(void **state) {
    (void)state;
    model_config config = model_config_tiny(PI0_FAMILY_PI0);
    work_shape one = benchmark, four = benchmark;
    four.batch = 4;
    for (int stage = 0; stage < PI0_STAGE_OTHER; stage++) {
        work a = work_of_stage(&config, &one, stage), b = work_of_stage(&config, &four, stage);
        near(b.flops, 4 * a.flops, 1e-12);
        near(b.weights, a.weights, 1e-12);
    }
    assert_int_equal(work_prefix_tokens(&config, &one), 68);
    assert_int_equal(work_suffix_tokens(&config, &one), 11);
    config = model_config_tiny(PI0_FAMILY_PI05);
    assert_int_equal(work_suffix_tokens(&config, &one), 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts_of_the_benchmark_shape),
        cmocka_unit_test(test_totals),
        cmocka_unit_test(test_what_the_answer_depends_on),
        cmocka_unit_test(test_batch_and_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
