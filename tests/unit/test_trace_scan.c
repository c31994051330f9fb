/* The JSON pieces of the trace reader: whole values, values that the buffer cuts off, numbers, escapes. */
#include <math.h>

#include "data.h"
#include "profile/trace_scan.h"

static scan_cursor over(const char *text) { return (scan_cursor){text, text + strlen(text)}; }

/* Takes all of the text but `rest`. */
static void skips(const char *text, const char *rest) {
    scan_cursor cursor = over(text);
    if (scan_skip(&cursor) != SCAN_TAKEN) fail_msg("not taken: %s", text);
    assert_string_equal(cursor.at, rest);
}

static void refuses(const char *text) {
    scan_cursor cursor = over(text);
    if (scan_skip(&cursor) != SCAN_BAD) fail_msg("not refused: %s", text);
}

static void whole_values_are_skipped(void **state) {
    (void)state;
    skips("{\"a\": [1, {\"b\": \"}]\\\"{\"}], \"c\": null} ,", " ,");
    skips("[[[[[[[[[[10-deep]]]]]]]]]] ", " ");
    skips("\"a string of more than sixteen bytes, with \\\\ and \\\" inside\",", ",");
    skips("-12.5e+3,", ",");
    skips("NaN ", " ");
    skips("true]", "]");
}

static void what_is_no_json_is_refused(void **state) {
    (void)state;
    refuses("[1}");
    refuses("{\"a\":[1,2}]");
    refuses("?");
    refuses("12\x01 ");
    char deep[SCAN_MAX_DEPTH + 8];
    memset(deep, '[', sizeof deep);
    deep[sizeof deep - 1] = 0;
    refuses(deep);
}

/* Every prefix of a value asks for more and leaves the cursor alone. */
static void cut_values_ask_for_more(void **state) {
    (void)state;
    const char text[] =
        "{\"name\": \"void kernel<4>(int, \\\"quoted\\\")\", \"args\": {\"grid\": [1, 2, 3], \"x\": -1.5e3}}";
    for (size_t size = 0; size + 1 < sizeof text - 1; size++) {
        scan_cursor cursor = {text, text + size};
        assert_int_equal(scan_skip(&cursor), SCAN_MORE);
        assert_ptr_equal(cursor.at, text);
    }
    scan_slice slice;
    for (size_t size = 0; size < 9; size++) {
        const char string[] = "\"a\\\"bcde\"";
        scan_cursor cursor = {string, string + size};
        assert_int_equal(scan_string(&cursor, &slice), SCAN_MORE);
        assert_ptr_equal(cursor.at, string);
    }
}

static double number(const char *text) { return scan_parse_double(text, strlen(text)); }

static void numbers_are_those_of_strtod(void **state) {
    (void)state;
    static const char *const texts[] = {"0",
                                        "-0",
                                        "1",
                                        "12.5",
                                        "3098244771686.877",
                                        "4.439",
                                        "0.1",
                                        "1e3",
                                        "-2.5E-3",
                                        "123456789012345678",
                                        "1e22",
                                        "7.768",
                                        "9007199254740991",
                                        "0.001",
                                        "1767189312000000000",
                                        "5e-324"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        double expected = strtod(texts[i], NULL), found = number(texts[i]);
        if (fabs(found - expected) > fabs(expected) * 3e-16) fail_msg("%s: %.17g", texts[i], found);
    }
    assert_true(number("3098244771686.877") == 3098244771686.877); /* exact, as every time stamp of a trace */
    static const char *const none[] = {"", "-", ".", "e5", "1e", "1x", "NaN", "Infinity", "0x10", "1 2"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        if (!isnan(number(none[i]))) fail_msg("%s is no number", none[i]);
    assert_true(isinf(number("1e999999999")) || number("1e999999999") > 1e300);
    assert_true(number("1e-999999999") == 0);
}

static void numbers_may_stand_in_strings(void **state) {
    (void)state;
    double value;
    scan_cursor cursor = over("\"2047.5\",");
    assert_int_equal(scan_double(&cursor, &value), SCAN_TAKEN);
    assert_true(value == 2047.5);
    cursor = over("{\"a\":1},");
    assert_int_equal(scan_double(&cursor, &value), SCAN_TAKEN);
    assert_true(isnan(value));
    assert_int_equal(*cursor.at, ',');
}

static void escapes(const char *text, const char *expected) {
    scan_slice slice = {text, strlen(text), true};
    char bytes[64];
    size_t size = scan_unescape(&slice, bytes, sizeof bytes - 1);
    bytes[size] = 0;
    assert_string_equal(bytes, expected);
}

static void escapes_are_decoded(void **state) {
    (void)state;
    escapes("a\\\"b\\\\c\\/d\\n\\t", "a\"b\\c/d\n\t");
    escapes("\\u0041\\u00e9\\u20ac", "A\xc3\xa9\xe2\x82\xac");
    escapes("\\ud83d\\ude00", "\xf0\x9f\x98\x80");
    escapes("\\ud83d!", "\xef\xbf\xbd!"); /* a lone surrogate */
    escapes("\\u12", "12");               /* cut off: no crash, nothing invented */
    scan_slice slice = {"\\u20ac\\u20ac", 12, true};
    char bytes[4];
    assert_int_equal(scan_unescape(&slice, bytes, sizeof bytes), 3); /* no half of a character */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_values_are_skipped),     cmocka_unit_test(what_is_no_json_is_refused),
        cmocka_unit_test(cut_values_ask_for_more),      cmocka_unit_test(numbers_are_those_of_strtod),
        cmocka_unit_test(numbers_may_stand_in_strings), cmocka_unit_test(escapes_are_decoded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
