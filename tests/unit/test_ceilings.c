/* Ceilings: plausible rates from small problems, and the floor they make. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "profile/ceilings.h"

static void test_rates(void **state) {
    (void)state;
    ceilings_options options = {
        .threads = 1, .rows = 64, .columns = 256, .outputs = 512, .read_bytes = (size_t)16 << 20};
    ceilings found;
    pi0_error error;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        options.bf16 = bf16;
        if (ceilings_measure(&found, &options, &error) != PI0_OK) fail_msg("%s", error.message);
        assert_true(found.product_flops > 1e8 && found.product_flops < 1e14);
        assert_true(found.read_bytes > 1e8 && found.read_bytes < 1e13);
        assert_true(found.product[0] != 0);
    }
}

static void test_floor_is_the_nearer_bound(void **state) {
    (void)state;
    ceilings rates = {.product_flops = 1e9, .read_bytes = 1e8};
    assert_true(ceilings_floor_ms(&rates, (work){.flops = 2e9, .weights = 1e7, .cache = 1e6}, 2) == 2000);
    assert_true(ceilings_floor_ms(&rates, (work){.flops = 1e8, .weights = 1e7, .cache = 1e7}, 2) == 400);
    assert_true(ceilings_floor_ms(&rates, (work){.weights = 1e7}, 4) == 400);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_floor_is_the_nearer_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
