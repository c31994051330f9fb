/* UTF-8 as Python's strict decoder sees it: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef PI0_BASE_UTF8_H
#define PI0_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads one code point; returns its length in bytes (1..4), or 0 if there is none at text[0..length). */
size_t utf8_read(const char *text, size_t length, uint32_t *code_point);
/* Writes 1..4 bytes and returns how many; 0 for what is no code point. */
size_t utf8_write(char *text, uint32_t code_point);
bool utf8_valid(const char *text, size_t length);

#endif
