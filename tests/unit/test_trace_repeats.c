/* Repeats in sequences of symbols: periods, counts and places, with what real traces do to them. */
#include "data.h"

#include "base/memory.h"
#include "profile/trace_repeats.h"

enum { MAX_KERNELS = 20000, SYMBOLS = 1000 };

static uint32_t kernels[MAX_KERNELS];
static uint32_t count;
static repeat_run *runs;
static uint32_t run_count;

static int begin(void **state) {
    (void)state;
    count = 0;
    return 0;
}

static int end(void **state) {
    (void)state;
    memory_release(runs);
    runs = NULL;
    return 0;
}

static void put(uint32_t symbol) { kernels[count++] = symbol; }

/* `copies` times the symbols from..from+period-1. */
static void put_layers(uint32_t from, uint32_t period, uint32_t copies) {
    for (uint32_t c = 0; c < copies; c++)
        for (uint32_t i = 0; i < period; i++) put(from + i);
}

static void find(void) {
    const repeat_level levels[REPEAT_LEVELS] = {{kernels, SYMBOLS}, {kernels, SYMBOLS}};
    assert_int_equal(repeats_find(levels, count, NULL, &runs, &run_count, NULL), PI0_OK);
}

static void one_run_is_found_exactly(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 7; i++) put(900 + i);
    put_layers(10, 12, 27);
    for (uint32_t i = 0; i < 5; i++) put(950 + i);
    find();
    assert_int_equal(run_count, 1);
    assert_int_equal(runs[0].first, 7);
    assert_int_equal(runs[0].last, 7 + 12 * 27 - 1);
    assert_int_equal(runs[0].copies, 27);
    assert_float_equal(runs[0].period, 12, 0.01);
    assert_float_equal(runs[0].coverage, 1, 0.01);
}

/* Ten steps of eighteen layers: the layers are told, not the steps. */
static void the_innermost_runs_are_told(void **state) {
    (void)state;
    for (uint32_t step = 0; step < 10; step++) {
        for (uint32_t i = 0; i < 9; i++) put(500 + i);
        put_layers(100, 14, 18);
        for (uint32_t i = 0; i < 6; i++) put(600 + i);
    }
    find();
    assert_int_equal(run_count, 10);
    for (uint32_t i = 0; i < run_count; i++) {
        assert_int_equal(runs[i].copies, 18);
        assert_int_equal(runs[i].first, i * (9 + 14 * 18 + 6) + 9);
    }
}

/* The same product four times in a layer must not be taken for layers. */
static void repeats_inside_a_layer_are_none(void **state) {
    (void)state;
    for (uint32_t c = 0; c < 27; c++) {
        for (uint32_t i = 0; i < 3; i++) put(1);
        put(2);
        put(3);
        put(1);
        for (uint32_t i = 0; i < 6; i++) put(10 + i);
    }
    find();
    assert_int_equal(run_count, 1);
    assert_int_equal(runs[0].copies, 27);
}

/* A kernel more in one layer, and another kernel in the place of one in every third. */
static void uneven_layers_are_counted(void **state) {
    (void)state;
    for (uint32_t c = 0; c < 18; c++) {
        for (uint32_t i = 0; i < 16; i++) {
            put(i == 5 && c % 3 == 0 ? 300 : 20 + i);
            if (c == 7 && i == 9) put(400);
        }
    }
    find();
    assert_int_equal(run_count, 1);
    assert_int_equal(runs[0].copies, 18);
    assert_in_range(runs[0].last - runs[0].first + 1, 16 * 18 - 2, 16 * 18 + 1);
}

static void noise_has_no_layers(void **state) {
    (void)state;
    uint32_t seed = 1;
    for (uint32_t i = 0; i < 5000; i++) {
        seed = seed * 1664525u + 1013904223u;
        put((seed >> 16) % 60);
    }
    find();
    for (uint32_t i = 0; i < run_count; i++) assert_true(runs[i].copies < 17);
}

static void nothing_is_nothing(void **state) {
    (void)state;
    find();
    assert_int_equal(run_count, 0);
    memory_release(runs);
    put(1);
    find();
    assert_int_equal(run_count, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_run_is_found_exactly, begin, end),
        cmocka_unit_test_setup_teardown(the_innermost_runs_are_told, begin, end),
        cmocka_unit_test_setup_teardown(repeats_inside_a_layer_are_none, begin, end),
        cmocka_unit_test_setup_teardown(uneven_layers_are_counted, begin, end),
        cmocka_unit_test_setup_teardown(noise_has_no_layers, begin, end),
        cmocka_unit_test_setup_teardown(nothing_is_nothing, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
