/* Text that grows: for output files and JSON. */
#ifndef PI0_BASE_TEXT_H
#define PI0_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

typedef struct text_buffer {
    char *bytes; /* NUL-terminated once something was put; release with memory_release */
    size_t size, capacity;
    bool failed; /* out of memory: the other calls do nothing from then on */
} text_buffer;

void text_put(text_buffer *text, const char *string);
void text_put_n(text_buffer *text, const char *string, size_t length);
__attribute__((format(printf, 2, 3))) void text_put_format(text_buffer *text, const char *format, ...);
/* The shortest decimal that reads back as the same double; "nan", "inf", "-inf". Needs no "C" locale. */
void text_put_number(text_buffer *text, double number);
/* A JSON string with its quotes. */
void text_put_json_string(text_buffer *text, const char *string, size_t length);

#endif
