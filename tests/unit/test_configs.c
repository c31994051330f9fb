/* The table of named configurations against what openpi's own configurations resolve to. */
#include "data.h"

#include "policy/configs.h"
#include "policy/robot.h"

static const char *text_or_empty(const json_t *value) { return json_is_string(value) ? json_string_value(value) : ""; }

static void assert_mask(const char *name, const char *mask, const json_t *expected) {
    size_t length = mask ? strlen(mask) : 0;
    if (json_array_size(expected) != length) fail_msg("%s: mask of %zu", name, length);
    for (size_t i = 0; i < length; i++)
        assert_int_equal(mask[i] - '0', json_integer_value(json_array_get(expected, i)));
}

static void assert_config(const char *name, const json_t *expected) {
    const policy_config *config;
    pi0_error error;
    if (config_find(&config, name, &error) != PI0_OK) fail_msg("%s: %s", name, error.message);
    assert_string_equal(config->name, name);
    assert_string_equal(config->family == PI0_FAMILY_PI05 ? "pi05" : "pi0",
                        json_string_value(json_object_get(expected, "family")));
    assert_int_equal(config->action_dim, json_integer_value(json_object_get(expected, "action_dim")));
    assert_int_equal(config->horizon, json_integer_value(json_object_get(expected, "action_horizon")));
    assert_int_equal(config->max_token_len, json_integer_value(json_object_get(expected, "max_token_len")));
    assert_int_equal(config->state_in_prompt, json_is_true(json_object_get(expected, "state_in_prompt")));
    assert_string_equal(config->norm == NORM_QUANTILE ? "quantile" : "zscore",
                        json_string_value(json_object_get(expected, "norm")));
    assert_string_equal(config->robot->name, json_string_value(json_object_get(expected, "robot")));
    assert_int_equal(config->adapt_to_pi, json_is_true(json_object_get(expected, "adapt_to_pi")));
    assert_mask(name, config->absolute_mask, json_object_get(expected, "absolute_mask"));
    assert_string_equal(config->asset_id, json_string_value(json_object_get(expected, "asset_id")));
    assert_string_equal(config->default_prompt ? config->default_prompt : "",
                        text_or_empty(json_object_get(expected, "default_prompt")));
    json_t *metadata = json_loads(config->metadata, 0, NULL);
    assert_true(json_equal(metadata, json_object_get(expected, "policy_metadata")));
    json_decref(metadata);
}

static void test_equals_openpi(void **state) {
    (void)state;
    json_t *all = data_json("golden/policy", "configs.json"), *expected;
    const char *name;
    size_t compared = 0, refused = 0;
    json_object_foreach(all, name, expected) {
        if (json_is_string(json_object_get(expected, "robot"))) {
            assert_config(name, expected);
            compared++;
        } else {
            const policy_config *config;
            pi0_error error;
            assert_int_equal(config_find(&config, name, &error), PI0_ERROR_UNSUPPORTED);
            assert_null(config);
            assert_non_null(strstr(error.message, name));
            refused++;
        }
    }
    json_decref(all);
    assert_int_equal(compared, config_count() - 2); /* the two for the UR5 are in no openpi table */
    assert_int_equal(refused, 4);
}

static void test_ur5(void **state) {
    (void)state;
    const policy_config *config;
    assert_int_equal(config_find(&config, "pi0_ur5", NULL), PI0_OK);
    assert_int_equal(config->horizon, 50);
    assert_int_equal(config->norm, NORM_ZSCORE);
    assert_string_equal(config->asset_id, "ur5e");
    assert_string_equal(config->absolute_mask, "1111110");
    assert_int_equal(config_find(&config, "pi05_ur5", NULL), PI0_OK);
    assert_int_equal(config->norm, NORM_QUANTILE);
    assert_int_equal(config->max_token_len, 200);
    assert_true(config->state_in_prompt);
}

static void test_refusals(void **state) {
    (void)state;
    static const char *const fast[] = {"pi0_fast_droid", "pi0_fast_libero", "paligemma_fast_droid",
                                       "paligemma_binning_droid", "paligemma_vq_droid"};
    const policy_config *config;
    pi0_error error;
    for (size_t i = 0; i < sizeof fast / sizeof *fast; i++) {
        assert_int_equal(config_find(&config, fast[i], &error), PI0_ERROR_UNSUPPORTED);
        assert_non_null(strstr(error.message, "pi0-FAST"));
    }
    assert_int_equal(config_find(&config, "pi0_alhoa", &error), PI0_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "nearest is 'pi0_aloha'"));
    assert_non_null(strstr(error.message, "pi05_ur5")); /* the whole list */
    char endless[5000];
    memset(endless, 'x', sizeof endless);
    endless[sizeof endless - 1] = 0;
    assert_int_equal(config_find(&config, endless, &error), PI0_ERROR_ARGUMENT);
    assert_int_equal(config_find(&config, "", &error), PI0_ERROR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_openpi),
        cmocka_unit_test(test_ur5),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
