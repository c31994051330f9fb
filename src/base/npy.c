/*
 * The header of a .npy file is a Python dictionary in ASCII (numpy.lib.format): {'descr': '<f4', 'fortran_order':
 * False, 'shape': (50, 32), }, padded with blanks, ending in a newline. Keys come in any order.
 */
#include "base/npy.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/number.h"

enum { MAX_HEADER_BYTES = 65536 };
#define MAX_FILE_BYTES ((size_t)1 << 32)

static const char magic[6] = {(char)0x93, 'N', 'U', 'M', 'P', 'Y'};

/* ---- the header ---- */

typedef struct reader {
    const char *at, *end;
} reader;

static void skip_blanks(reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n')) r->at++;
}

static bool take(reader *r, char c) {
    skip_blanks(r);
    if (r->at == r->end || *r->at != c) return false;
    r->at++;
    return true;
}

/* A quoted string without escapes into word[size]. */
static bool take_string(reader *r, char *word, size_t size) {
    skip_blanks(r);
    if (r->at == r->end || (*r->at != '\'' && *r->at != '"')) return false;
    char quote = *r->at++;
    size_t length = 0;
    while (r->at < r->end && *r->at != quote) {
        if (*r->at == '\\' || *r->at == '\n' || length + 1 >= size) return false;
        word[length++] = *r->at++;
    }
    word[length] = 0;
    return take(r, quote);
}

static bool take_word(reader *r, const char *word) {
    skip_blanks(r);
    size_t length = strlen(word);
    if ((size_t)(r->end - r->at) < length || memcmp(r->at, word, length)) return false;
    r->at += length;
    return true;
}

static bool take_size(reader *r, int64_t *size) {
    skip_blanks(r);
    const char *start = r->at;
    int64_t value = 0;
    for (; r->at < r->end && *r->at >= '0' && *r->at <= '9'; r->at++)
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *r->at - '0', &value))
            return false;
    *size = value;
    return r->at > start;
}

static bool take_shape(reader *r, npy *array) {
    if (!take(r, '(')) return false;
    array->rank = 0;
    while (!take(r, ')')) {
        if (array->rank == NPY_MAX_RANK || !take_size(r, &array->shape[array->rank])) return false;
        array->rank++;
        if (take(r, ',')) continue;
        return array->rank > 1 && take(r, ')'); /* (3) is a number, not a tuple */
    }
    return true;
}

static bool take_type(const char *text, npy *array) {
    if (strlen(text) != 3) return false;
    array->kind = text[1];
    array->item_bytes = text[2] - '0';
    int n = array->item_bytes;
    bool known = (text[1] == 'f' && (n == 2 || n == 4 || n == 8)) || (text[1] == 'b' && n == 1) ||
                 ((text[1] == 'i' || text[1] == 'u') && (n == 1 || n == 2 || n == 4 || n == 8));
    return known && (text[0] == '<' || text[0] == '=' || (n == 1 && (text[0] == '|' || text[0] == '>')));
}

static pi0_status parse_header(npy *array, const char *text, size_t size, const char *name, pi0_error *error) {
    reader r = {text, text + size};
    bool has_type = false, has_order = false, has_shape = false, good = take(&r, '{');
    while (good && !take(&r, '}')) {
        char key[32], type[32];
        good = take_string(&r, key, sizeof key) && take(&r, ':');
        if (!good) break;
        if (!strcmp(key, "descr") && !has_type) {
            if (!take_string(&r, type, sizeof type) || !take_type(type, array))
                return error_set(error, PI0_ERROR_UNSUPPORTED,
                                 "%s: expected numbers as little-endian 'f', 'i', 'u' or 'b' of 1 to 8 bytes, found "
                                 "another dtype",
                                 name);
            has_type = true;
        } else if (!strcmp(key, "fortran_order") && !has_order) {
            if (take_word(&r, "True"))
                return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: expected C order, found Fortran order", name);
            good = has_order = take_word(&r, "False");
        } else if (!strcmp(key, "shape") && !has_shape) {
            good = has_shape = take_shape(&r, array);
        } else {
            good = false;
        }
        if (good && !take(&r, ',')) {
            good = take(&r, '}');
            break;
        }
    }
    skip_blanks(&r);
    if (!good || r.at != r.end || !has_type || !has_order || !has_shape)
        return error_set(error, PI0_ERROR_FORMAT, "%s: expected a .npy header with descr, fortran_order and shape",
                         name);
    return PI0_OK;
}

/* Finds header and data in the file's bytes, and checks that they fit. array->data points into bytes. */
static pi0_status parse(npy *array, const unsigned char *bytes, size_t size, const char *name, pi0_error *error) {
    memset(array, 0, sizeof *array);
    if (size < 10 || memcmp(bytes, magic, sizeof magic))
        return error_set(error, PI0_ERROR_FORMAT, "%s: expected a .npy file, found something else", name);
    int version = bytes[6];
    if (version < 1 || version > 3)
        return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: expected .npy version 1 to 3, found %d", name, version);
    size_t start = version == 1 ? 10 : 12;
    if (size < start) return error_set(error, PI0_ERROR_FORMAT, "%s: truncated", name);
    size_t length = bytes[8] | (size_t)bytes[9] << 8;
    if (version > 1) length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (length > MAX_HEADER_BYTES || length > size - start)
        return error_set(error, PI0_ERROR_FORMAT, "%s: header of %zu bytes in a file of %zu", name, length, size);
    TRY(parse_header(array, (const char *)bytes + start, length, name, error));
    size_t count = 1, data_bytes = 0;
    bool overflow = false;
    for (int i = 0; i < array->rank; i++) overflow |= __builtin_mul_overflow(count, (size_t)array->shape[i], &count);
    overflow |= __builtin_mul_overflow(count, (size_t)array->item_bytes, &data_bytes);
    size_t found = size - start - length;
    if (overflow || data_bytes != found) {
        char text[128];
        return error_set(error, PI0_ERROR_FORMAT, "%s: %s does not fit %zu bytes of data", name,
                         npy_describe(array, text, sizeof text), found);
    }
    array->count = count;
    array->data = bytes + start + length;
    return PI0_OK;
}

pi0_status npy_parse(npy *array, const void *bytes, size_t size, const char *name, pi0_error *error) {
    TRY(parse(array, bytes, size, name, error));
    size_t data_bytes = array->count * (size_t)array->item_bytes;
    array->memory = memory_allocate(data_bytes);
    if (!array->memory) return error_memory(error, data_bytes, name);
    memcpy(array->memory, array->data, data_bytes);
    array->data = array->memory;
    return PI0_OK;
}

pi0_status npy_open(npy *array, const char *path, pi0_error *error) {
    void *bytes;
    size_t size;
    TRY(file_read(&bytes, &size, path, MAX_FILE_BYTES, error));
    pi0_status status = parse(array, bytes, size, path, error);
    if (status)
        memory_release(bytes);
    else
        array->memory = bytes;
    return status;
}

void npy_release(npy *array) {
    memory_release(array->memory);
    memset(array, 0, sizeof *array);
}

/* ---- elements ---- */

double npy_number(const npy *array, size_t index) {
    return number_read(array->kind, array->item_bytes, array->data + index * (size_t)array->item_bytes);
}

char *npy_describe(const npy *array, char *text, size_t size) {
    return number_describe(array->kind, array->item_bytes, array->rank, array->shape, text, size);
}

/* ---- writing ---- */

pi0_status npy_write_table(const char *path, const double *table, int rows, int columns, bool as_float32,
                           pi0_error *error) {
    size_t count = (size_t)rows * (size_t)columns, item = as_float32 ? 4 : 8, start = 128;
    unsigned char *bytes = memory_allocate(start + count * item);
    if (!bytes) return error_memory(error, start + count * item, path);
    memcpy(bytes, magic, sizeof magic);
    bytes[6] = 1;
    bytes[7] = 0;
    bytes[8] = (unsigned char)(start - 10);
    bytes[9] = 0;
    char *header = (char *)bytes + 10;
    memset(header, ' ', start - 10);
    int length = snprintf(header, start - 10, "{'descr': '<f%zu', 'fortran_order': False, 'shape': (%d, %d), }", item,
                          rows, columns);
    header[length] = ' '; /* over snprintf's NUL */
    header[start - 11] = '\n';
    for (size_t i = 0; i < count; i++) {
        float narrow = (float)table[i];
        if (as_float32)
            memcpy(bytes + start + i * item, &narrow, item);
        else
            memcpy(bytes + start + i * item, &table[i], item);
    }
    pi0_status status = file_write(path, bytes, start + count * item, error);
    memory_release(bytes);
    return status;
}

pi0_status csv_write_table(const char *path, const double *table, int rows, int columns, pi0_error *error) {
    text_buffer text = {0};
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < columns; column++) {
            text_put_number(&text, table[(size_t)row * (size_t)columns + (size_t)column]);
            text_put(&text, column + 1 < columns ? "," : "\n");
        }
    pi0_status status = text.failed ? error_memory(error, text.capacity, path)
                                    : file_write(path, text.bytes ? text.bytes : "", text.size, error);
    memory_release(text.bytes);
    return status;
}

void text_put_json_table(text_buffer *text, const double *table, int rows, int columns) {
    text_put(text, "[");
    for (int row = 0; row < rows; row++) {
        text_put(text, row ? ",\n[" : "[");
        for (int column = 0; column < columns; column++) {
            double number = table[(size_t)row * (size_t)columns + (size_t)column];
            if (column) text_put(text, ",");
            if (isfinite(number))
                text_put_number(text, number);
            else
                text_put(text, "null");
        }
        text_put(text, "]");
    }
    text_put(text, "]");
}
