/*
 * JSON inside a buffer that may end anywhere: every call either takes a whole piece, or says that more bytes are
 * needed and leaves the cursor where it was. Nothing is copied; the trace reader keeps one event in the buffer and
 * starts it over when the buffer ended too early.
 *
 * Lenient where traces in the wild are: NaN and Infinity are numbers, control characters may stand in strings.
 */
#ifndef PI0_PROFILE_TRACE_SCAN_H
#define PI0_PROFILE_TRACE_SCAN_H

#include <stdbool.h>
#include <stddef.h>

enum { SCAN_MAX_DEPTH = 1024 };

typedef enum scan_result {
    SCAN_TAKEN,
    SCAN_MORE, /* the buffer ends inside; the cursor did not move */
    SCAN_BAD,  /* no JSON; the cursor stands at the offending byte */
} scan_result;

typedef struct scan_cursor {
    const char *at, *end;
} scan_cursor;

/* The inside of a string, without quotes, or the text of another value. */
typedef struct scan_slice {
    const char *text;
    size_t length;
    bool escaped; /* holds backslash escapes: see scan_unescape */
} scan_slice;

/* Skips white space; false: the buffer ends first (nothing is restored: white space is of no use). */
bool scan_space(scan_cursor *cursor);
/* A string: the cursor stands at its opening quote. */
scan_result scan_string(scan_cursor *cursor, scan_slice *slice);
/* Any value. depth_limit: SCAN_MAX_DEPTH levels of nesting at most, else SCAN_BAD. */
scan_result scan_skip(scan_cursor *cursor);
/* A number, or a string that holds one (older tools write times as strings). *value is NaN for any other value, which
 * is skipped. */
scan_result scan_double(scan_cursor *cursor, double *value);
/* Reads a decimal number from text[0..length); NaN when it is none. Needs no "C" locale. */
double scan_parse_double(const char *text, size_t length);
/* Decodes escapes into bytes[capacity] and returns the length; what does not fit is cut off. Output is never longer
 * than the slice. Lone surrogates become U+FFFD. */
size_t scan_unescape(const scan_slice *slice, char *bytes, size_t capacity);

#endif
