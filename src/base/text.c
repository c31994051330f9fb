#include "base/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

void text_put_n(text_buffer *text, const char *string, size_t length) {
    if (text->failed) return;
    size_t needed = text->size + length + 1;
    if (needed > text->capacity) {
        size_t capacity = needed < 256 ? 256 : needed + needed / 2;
        char *grown = memory_resize(text->bytes, text->size, capacity);
        if (!grown) {
            text->failed = true;
            return;
        }
        text->bytes = grown;
        text->capacity = capacity;
    }
    memcpy(text->bytes + text->size, string, length);
    text->size += length;
    text->bytes[text->size] = 0;
}

void text_put(text_buffer *text, const char *string) { text_put_n(text, string, strlen(string)); }

void text_put_format(text_buffer *text, const char *format, ...) {
    char line[1000];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length > 0 && (size_t)length < sizeof line) {
        text_put_n(text, line, (size_t)length);
    } else if (length > 0) {
        char *longer = memory_allocate((size_t)length + 1);
        if (!longer) {
            text->failed = true;
            return;
        }
        va_start(arguments, format);
        vsnprintf(longer, (size_t)length + 1, format, arguments);
        va_end(arguments);
        text_put_n(text, longer, (size_t)length);
        memory_release(longer);
    }
}

void text_put_number(text_buffer *text, double number) {
    if (isnan(number)) {
        text_put(text, "nan");
        return;
    }
    if (isinf(number)) {
        text_put(text, number > 0 ? "inf" : "-inf");
        return;
    }
    char digits[40];
    int precision = 15; /* %g drops zeros at the end, so 15 digits are the shortest form of most short numbers */
    do snprintf(digits, sizeof digits, "%.*g", precision, number);
    while (strtod(digits, NULL) != number && ++precision <= 17);
    char *comma = strchr(digits, ','); /* the decimal point of some locales */
    if (comma) *comma = '.';
    text_put(text, digits);
}

void text_put_json_string(text_buffer *text, const char *string, size_t length) {
    text_put(text, "\"");
    size_t plain = 0; /* start of the stretch that needs no escape */
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)string[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        text_put_n(text, string + plain, i - plain);
        if (c == '"' || c == '\\')
            text_put_format(text, "\\%c", c);
        else if (c == '\n')
            text_put(text, "\\n");
        else
            text_put_format(text, "\\u%04x", c);
        plain = i + 1;
    }
    text_put_n(text, string + plain, length - plain);
    text_put(text, "\"");
}
