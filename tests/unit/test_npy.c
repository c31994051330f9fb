/* .npy files in and out, tables as CSV and JSON, and the numbers in them. */
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/npy.h"
#include "base/number.h"
#include "data.h"

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/test_npy_XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    return rmdir(folder);
}

static const char *in_folder(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static const double table[] = {0.1,
                               -0.0,
                               1.0 / 3,
                               5e-324,
                               1.7976931348623157e308,
                               -2.5,
                               1e22,
                               1e-5,
                               123456789.125,
                               0.30000000000000004,
                               3.4028234663852886e38,
                               7};
enum { ROWS = 3, COLUMNS = 4 };

/* ---- writing ---- */

static void tables_read_back(void **state) {
    (void)state;
    npy array;
    pi0_error error;
    char text[64];
    assert_int_equal(npy_write_table(in_folder("a.npy"), table, ROWS, COLUMNS, false, &error), PI0_OK);
    if (npy_open(&array, in_folder("a.npy"), &error)) fail_msg("%s", error.message);
    assert_string_equal(npy_describe(&array, text, sizeof text), "float64 [3, 4]");
    assert_int_equal(array.count, ROWS * COLUMNS);
    for (size_t i = 0; i < array.count; i++) assert_memory_equal(&(double){npy_number(&array, i)}, &table[i], 8);
    npy_release(&array);
    assert_int_equal(npy_write_table(in_folder("a.npy"), table, ROWS, COLUMNS, true, &error), PI0_OK);
    if (npy_open(&array, in_folder("a.npy"), &error)) fail_msg("%s", error.message);
    assert_string_equal(npy_describe(&array, text, sizeof text), "float32 [3, 4]");
    for (size_t i = 0; i < array.count; i++) assert_true(npy_number(&array, i) == (double)(float)table[i]);
    npy_release(&array);
    unlink(in_folder("a.npy"));
}

static void csv_and_json_keep_every_bit(void **state) {
    (void)state;
    pi0_error error;
    assert_int_equal(csv_write_table(in_folder("a.csv"), table, ROWS, COLUMNS, &error), PI0_OK);
    void *bytes;
    size_t size;
    assert_int_equal(file_read(&bytes, &size, in_folder("a.csv"), 10000, &error), PI0_OK);
    char *at = bytes;
    for (size_t i = 0; i < ROWS * COLUMNS; i++) {
        double number = strtod(at, &at);
        assert_memory_equal(&number, &table[i], 8);
        assert_int_equal(*at++, i % COLUMNS == COLUMNS - 1 ? '\n' : ',');
    }
    assert_ptr_equal(at, (char *)bytes + size);
    memory_release(bytes);
    unlink(in_folder("a.csv"));
    text_buffer text = {0};
    text_put_json_table(&text, table, ROWS, COLUMNS);
    json_t *json = json_loads(text.bytes, 0, NULL);
    assert_int_equal(json_array_size(json), ROWS);
    for (size_t i = 0; i < ROWS * COLUMNS; i++) {
        json_t *number = json_array_get(json_array_get(json, i / COLUMNS), i % COLUMNS);
        assert_true(json_number_value(number) == table[i]);
    }
    json_decref(json);
    memory_release(text.bytes);
    double nonfinite[] = {NAN, INFINITY, -INFINITY, 1};
    text = (text_buffer){0};
    text_put_json_table(&text, nonfinite, 1, 4);
    assert_string_equal(text.bytes, "[[null,null,null,1]]");
    memory_release(text.bytes);
    text = (text_buffer){0};
    text_put_json_string(&text, "a\"b\\\n\x01\0z", 8);
    assert_string_equal(text.bytes, "\"a\\\"b\\\\\\n\\u0001\\u0000z\"");
    memory_release(text.bytes);
}

static void numbers_are_short_and_exact(void **state) {
    (void)state;
    static const struct {
        double number;
        const char *text;
    } cases[] = {{0.1, "0.1"},    {1, "1"},     {-0.0, "-0"},       {0.30000000000000004, "0.30000000000000004"},
                 {1e22, "1e+22"}, {NAN, "nan"}, {-INFINITY, "-inf"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        text_buffer text = {0};
        text_put_number(&text, cases[i].number);
        assert_string_equal(text.bytes, cases[i].text);
        memory_release(text.bytes);
    }
    uint64_t random = 1;
    for (int i = 0; i < 100000; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        double number;
        memcpy(&number, &random, sizeof number);
        if (!isfinite(number)) continue;
        text_buffer text = {0};
        text_put_number(&text, number);
        double back = strtod(text.bytes, NULL);
        assert_memory_equal(&back, &number, sizeof back);
        memory_release(text.bytes);
    }
}

static void halves_convert_exactly(void **state) {
    (void)state;
    for (uint32_t half = 0; half < 0x10000; half++) {
        double number = half_to_double((uint16_t)half);
        if (isnan(number))
            assert_true(isnan(half_to_double(half_from_double(number))));
        else
            assert_int_equal(half_from_double(number), half);
        if (half >= 0x7bff || half < 1) continue;
        /* halfway to the next: ties to even; a little beyond: up */
        double middle = (number + half_to_double((uint16_t)(half + 1))) / 2;
        assert_int_equal(half_from_double(middle), half + (half & 1));
        assert_int_equal(half_from_double(nextafter(middle, 1e9)), half + 1);
        assert_int_equal(half_from_double(nextafter(middle, 0)), half);
    }
    assert_int_equal(half_from_double(65519.999), 0x7bff);
    assert_int_equal(half_from_double(65520), 0x7c00);
    assert_int_equal(half_from_double(-1e300), 0xfc00);
    assert_int_equal(half_from_double(1e-300), 0);
}

/* ---- paths that cannot be written ---- */

static void failed_writes_leave_nothing(void **state) {
    (void)state;
    pi0_error error = {0};
    assert_int_equal(file_write(in_folder("missing/a.npy"), "x", 1, &error), PI0_ERROR_IO);
    assert_non_null(strstr(error.message, "missing/a.npy"));
    assert_int_equal(file_write(folder, "x", 1, &error), PI0_ERROR_IO);
    assert_int_equal(file_write("/proc/pi0.npy", "x", 1, &error), PI0_ERROR_IO);
    assert_int_equal(file_write(in_folder("a"), "old", 3, &error), PI0_OK);
    assert_int_equal(file_write(in_folder("a"), "new", 3, &error), PI0_OK);
    void *bytes;
    size_t size;
    assert_int_equal(file_read(&bytes, &size, in_folder("a"), 3, &error), PI0_OK);
    assert_string_equal(bytes, "new");
    memory_release(bytes);
    assert_int_equal(file_read(&bytes, &size, in_folder("a"), 2, &error), PI0_ERROR_FORMAT);
    assert_int_equal(file_read(&bytes, &size, folder, 10, &error), PI0_ERROR_IO);
    assert_int_equal(file_read(&bytes, &size, in_folder("b"), 10, &error), PI0_ERROR_IO);
    assert_int_equal(file_read(&bytes, &size, "/dev/zero", 1000000, &error), PI0_ERROR_FORMAT);
    assert_int_equal(file_write("/dev/full", "x", 1, &error), PI0_ERROR_IO);
    assert_int_equal(file_write("/dev/null", "x", 1, &error), PI0_OK);
    struct stat info;
    assert_int_equal(stat("/dev/null", &info), 0);
    assert_true(S_ISCHR(info.st_mode));
    char target[128];
    strcpy(target, in_folder("link"));
    assert_int_equal(symlink("a", target), 0);
    assert_int_equal(file_write(target, "linked", 6, &error), PI0_OK);
    assert_int_equal(lstat(target, &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    unlink(target);
    unlink(in_folder("a"));
}

/* ---- reading ---- */

/* A file of `version` with this header and some zeros. */
static pi0_status read_header(const char *header, int version, size_t data, npy *array) {
    unsigned char bytes[2000] = {0x93, 'N', 'U', 'M', 'P', 'Y', (unsigned char)version, 0};
    size_t length = strlen(header), start = version == 1 ? 10 : 12;
    bytes[8] = (unsigned char)length;
    bytes[9] = (unsigned char)(length >> 8);
    memcpy(bytes + start, header, length);
    unsigned char *exact = malloc(start + length + data);
    memcpy(exact, bytes, start + length + data);
    pi0_status status = npy_parse(array, exact, start + length + data, "file", NULL);
    free(exact);
    return status;
}

static void headers_are_read_in_every_version_and_order(void **state) {
    (void)state;
    npy array;
    for (int version = 1; version <= 3; version++) {
        assert_int_equal(
            read_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  \n", version, 24, &array),
            PI0_OK);
        assert_int_equal(array.rank, 2);
        npy_release(&array);
    }
    static const struct {
        const char *header;
        size_t data;
    } good[] = {{"{\"shape\":(),\"descr\":\"<f8\",\"fortran_order\":False}", 8},
                {"{'shape': (5,), 'fortran_order': False, 'descr': '|u1'}\n", 5},
                {"{'shape': (0, 7), 'fortran_order': False, 'descr': '<i8'}", 0},
                {"{'shape': (2,), 'fortran_order': False, 'descr': '<f2'}", 4},
                {"{'shape': (3,), 'fortran_order': False, 'descr': '|b1'}", 3}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (read_header(good[i].header, 1, good[i].data, &array)) fail_msg("%s", good[i].header);
        npy_release(&array);
    }
}

static void bad_files_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data;
    } bad[] = {{"{'shape': (2, 3), 'fortran_order': True, 'descr': '<f4'}", 24},
               {"{'shape': (2, 3), 'fortran_order': False, 'descr': '>f4'}", 24},
               {"{'shape': (2, 3), 'fortran_order': False, 'descr': '|O'}", 48},
               {"{'shape': (2, 3), 'fortran_order': False, 'descr': '<f3'}", 18},
               {"{'shape': (2, 3), 'fortran_order': False, 'descr': '<U2'}", 48},
               {"{'shape': (2, 3), 'fortran_order': False, 'descr': [('a', '<f4')]}", 24},
               {"{'shape': (2, 3), 'fortran_order': False, 'descr': '<f4'}", 23},
               {"{'shape': (2, 3), 'fortran_order': False, 'descr': '<f4'}", 25},
               {"{'shape': (-2, 3), 'fortran_order': False, 'descr': '<f4'}", 24},
               {"{'shape': (2, 3, 'fortran_order': False, 'descr': '<f4'}", 24},
               {"{'shape': (6), 'fortran_order': False, 'descr': '<f4'}", 24},
               {"{'shape': 6, 'fortran_order': False, 'descr': '<f4'}", 24},
               {"{'shape': (1,1,1,1,1,1,1,1,1), 'fortran_order': False, 'descr': '<f4'}", 4},
               {"{'shape': (4294967296, 4294967296), 'fortran_order': False, 'descr': '<f4'}", 0},
               {"{'shape': (99999999999999999999,), 'fortran_order': False, 'descr': '<f4'}", 0},
               {"{'shape': (2,), 'shape': (2,), 'fortran_order': False, 'descr': '<f4'}", 8},
               {"{'shape': (2,), 'fortran_order': False}", 8},
               {"{'shape': (2,), 'fortran_order': False, 'descr': '<f4', 'more': 1}", 8},
               {"{'shape': (2,), 'fortran_order': False, 'descr': '<f4'} x", 8},
               {"{'shape': (2,), 'fortran_order': False, 'descr': '<f4'", 8},
               {"", 8}};
    npy array;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (read_header(bad[i].header, 1, bad[i].data, &array) == PI0_OK) fail_msg("%s", bad[i].header);
    assert_int_not_equal(read_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", 4, 4, &array), PI0_OK);
    assert_int_equal(npy_parse(&array, "\x93NUMPY\x01\0\xff\xff", 10, "file", NULL), PI0_ERROR_FORMAT);
    assert_int_equal(npy_parse(&array, "\x93NUMPY\x02\0\0\0", 10, "file", NULL), PI0_ERROR_FORMAT);
    assert_int_equal(npy_parse(&array, "hello", 5, "file", NULL), PI0_ERROR_FORMAT);
    assert_int_equal(npy_open(&array, in_folder("missing.npy"), NULL), PI0_ERROR_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_read_back),
        cmocka_unit_test(csv_and_json_keep_every_bit),
        cmocka_unit_test(numbers_are_short_and_exact),
        cmocka_unit_test(halves_convert_exactly),
        cmocka_unit_test(failed_writes_leave_nothing),
        cmocka_unit_test(headers_are_read_in_every_version_and_order),
        cmocka_unit_test(bad_files_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
