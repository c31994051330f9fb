/* bf16 rounding: nearest, ties to even, infinities and NaN kept. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bf16.h"

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void every_bf16_survives(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 0x10000; i++) {
        float value = bf16_to_float((bf16)i);
        if (isnan(value))
            assert_true(isnan(bf16_to_float(bf16_from_float(value))));
        else
            assert_int_equal(bf16_from_float(value), i);
    }
}

static void ties_go_to_even(void **state) {
    (void)state;
    assert_int_equal(bf16_from_float(from_bits(0x3f808000)), 0x3f80);
    assert_int_equal(bf16_from_float(from_bits(0x3f818000)), 0x3f82);
    assert_int_equal(bf16_from_float(from_bits(0x3f808001)), 0x3f81);
    assert_int_equal(bf16_from_float(from_bits(0x3f807fff)), 0x3f80);
    assert_int_equal(bf16_from_float(from_bits(0xbf818000)), 0xbf82);
    assert_int_equal(bf16_from_float(from_bits(0x7f7fffff)), 0x7f80); /* beyond the largest bf16: infinity */
}

static void nan_stays_nan(void **state) {
    (void)state;
    /* the payload's upper half is zero: plain truncation would give an infinity */
    assert_true(isnan(bf16_to_float(bf16_from_float(from_bits(0x7f800001)))));
    assert_true(isnan(bf16_to_float(bf16_from_float(from_bits(0x7fffffff)))));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_bf16_survives),
        cmocka_unit_test(ties_go_to_even),
        cmocka_unit_test(nan_stays_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
