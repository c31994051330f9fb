#include "profile/trace_scan.h"

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "base/utf8.h"

bool scan_space(scan_cursor *cursor) {
    const char *at = cursor->at, *end = cursor->end;
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) at++;
    cursor->at = at;
    return at < end;
}

/* The first quote or backslash in [at, end), or end. */
static const char *find_quote(const char *at, const char *end) {
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\');
    for (; end - at >= 16; at += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)at);
        int hits = _mm_movemask_epi8(_mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, backslash)));
        if (hits) return at + __builtin_ctz((unsigned)hits);
    }
#endif
    while (at < end && *at != '"' && *at != '\\') at++;
    return at;
}

/* The first quote, brace or bracket in [at, end), or end. '[' and '{', ']' and '}' differ in bit 5 alone. */
static const char *find_structure(const char *at, const char *end) {
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), open = _mm_set1_epi8('{'), shut = _mm_set1_epi8('}');
    const __m128i fold = _mm_set1_epi8(0x20);
    for (; end - at >= 16; at += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)at);
        __m128i folded = _mm_or_si128(bytes, fold);
        __m128i equal = _mm_or_si128(_mm_cmpeq_epi8(folded, open), _mm_cmpeq_epi8(folded, shut));
        int hits = _mm_movemask_epi8(_mm_or_si128(equal, _mm_cmpeq_epi8(bytes, quote)));
        if (hits) return at + __builtin_ctz((unsigned)hits);
    }
#endif
    while (at < end && *at != '"' && *at != '{' && *at != '}' && *at != '[' && *at != ']') at++;
    return at;
}

scan_result scan_string(scan_cursor *cursor, scan_slice *slice) {
    if (cursor->at >= cursor->end) return SCAN_MORE;
    if (*cursor->at != '"') return SCAN_BAD;
    const char *start = cursor->at + 1, *at = start, *end = cursor->end;
    bool escaped = false;
    for (;;) {
        at = find_quote(at, end);
        if (at >= end) return SCAN_MORE;
        if (*at == '"') break;
        escaped = true;
        if (end - at < 2) return SCAN_MORE;
        at += 2;
    }
    *slice = (scan_slice){start, (size_t)(at - start), escaped};
    cursor->at = at + 1;
    return SCAN_TAKEN;
}

static bool ends_scalar(char c) {
    return c == ',' || c == '}' || c == ']' || c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == ':';
}

/* Characters that numbers, true, false, null, NaN and Infinity are made of. */
static bool in_scalar(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '+' ||
           c == '.';
}

static scan_result scalar(scan_cursor *cursor, scan_slice *slice) {
    const char *at = cursor->at, *end = cursor->end;
    while (at < end && in_scalar(*at)) at++;
    if (at >= end) return SCAN_MORE;
    if (at == cursor->at || !ends_scalar(*at)) {
        cursor->at = at;
        return SCAN_BAD;
    }
    *slice = (scan_slice){cursor->at, (size_t)(at - cursor->at), false};
    cursor->at = at;
    return SCAN_TAKEN;
}

static scan_result skip_nested(scan_cursor *cursor) {
    uint64_t is_object[SCAN_MAX_DEPTH / 64] = {0};
    int depth = 0;
    scan_cursor inner = *cursor;
    for (;;) {
        inner.at = find_structure(inner.at, inner.end);
        if (inner.at >= inner.end) return SCAN_MORE;
        char c = *inner.at;
        if (c == '"') {
            scan_slice ignored;
            if (scan_string(&inner, &ignored) == SCAN_MORE) return SCAN_MORE;
            continue;
        }
        bool object = (c & 0x20) != 0;
        if (c == '{' || c == '[') {
            if (depth == SCAN_MAX_DEPTH) break;
            uint64_t bit = UINT64_C(1) << (depth & 63);
            is_object[depth >> 6] = object ? is_object[depth >> 6] | bit : is_object[depth >> 6] & ~bit;
            depth++;
        } else {
            depth--;
            if (((is_object[depth >> 6] >> (depth & 63)) & 1) != object) break;
        }
        inner.at++;
        if (depth == 0) {
            cursor->at = inner.at;
            return SCAN_TAKEN;
        }
    }
    cursor->at = inner.at;
    return SCAN_BAD;
}

scan_result scan_skip(scan_cursor *cursor) {
    scan_slice ignored;
    if (cursor->at >= cursor->end) return SCAN_MORE;
    if (*cursor->at == '"') return scan_string(cursor, &ignored);
    if (*cursor->at == '{' || *cursor->at == '[') return skip_nested(cursor);
    return scalar(cursor, &ignored);
}

double scan_parse_double(const char *text, size_t length) {
    const char *at = text, *end = text + length;
    bool negative = false;
    if (at < end && (*at == '-' || *at == '+')) negative = *at++ == '-';
    uint64_t mantissa = 0;
    int exponent = 0, digits = 0;
    bool any = false;
    for (bool fraction = false; at < end; at++) {
        if (*at == '.' && !fraction) {
            fraction = true;
            continue;
        }
        if (*at < '0' || *at > '9') break;
        any = true;
        if (digits < 19) { /* what 64 bits hold; further digits cannot matter */
            mantissa = mantissa * 10 + (uint64_t)(*at - '0');
            if (mantissa) digits++;
            exponent -= fraction;
        } else if (!fraction) {
            exponent++;
        }
        if (exponent > 100000) return (double)NAN;
    }
    if (!any) return (double)NAN;
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        bool minus = false;
        if (at < end && (*at == '-' || *at == '+')) minus = *at++ == '-';
        int power = 0;
        if (at >= end) return (double)NAN;
        for (; at < end && *at >= '0' && *at <= '9'; at++)
            if (power < 100000) power = power * 10 + (*at - '0');
        exponent += minus ? -power : power;
    }
    if (at != end) return (double)NAN;
    static const double tens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                  1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    double value;
    if (mantissa == 0)
        value = 0;
    else if (mantissa <= (UINT64_C(1) << 53) && exponent >= -22 && exponent <= 22) /* exact: one rounding */
        value = exponent < 0 ? (double)mantissa / tens[-exponent] : (double)mantissa * tens[exponent];
    else
        value = (double)((long double)mantissa * powl(10.0L, exponent));
    return negative ? -value : value;
}

scan_result scan_double(scan_cursor *cursor, double *value) {
    scan_slice slice;
    *value = (double)NAN;
    if (cursor->at >= cursor->end) return SCAN_MORE;
    if (*cursor->at == '{' || *cursor->at == '[') return skip_nested(cursor);
    scan_result result = *cursor->at == '"' ? scan_string(cursor, &slice) : scalar(cursor, &slice);
    if (result == SCAN_TAKEN) *value = scan_parse_double(slice.text, slice.length);
    return result;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The four digits after \u, or -1. */
static int32_t hex4(const char *at, const char *end) {
    if (end - at < 4) return -1;
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(at[i]);
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

size_t scan_unescape(const scan_slice *slice, char *bytes, size_t capacity) {
    const char *at = slice->text, *end = at + slice->length;
    size_t size = 0;
    while (at < end && size < capacity) {
        if (*at != '\\' || end - at < 2) {
            bytes[size++] = *at++;
            continue;
        }
        char c = at[1];
        at += 2;
        if (c != 'u') {
            static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
            const char *found = strchr(from, c);
            bytes[size++] = found && c ? to[found - from] : c;
            continue;
        }
        int32_t unit = hex4(at, end);
        if (unit < 0) continue;
        at += 4;
        uint32_t point = (uint32_t)unit;
        if (point >= 0xd800 && point < 0xe000) {
            int32_t low = point < 0xdc00 && end - at >= 6 && at[0] == '\\' && at[1] == 'u' ? hex4(at + 2, end) : -1;
            if (low >= 0xdc00 && low < 0xe000) {
                point = 0x10000 + ((point - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
                at += 6;
            } else {
                point = 0xfffd;
            }
        }
        char encoded[4];
        size_t length = utf8_write(encoded, point);
        if (size + length > capacity) break;
        memcpy(bytes + size, encoded, length);
        size += length;
    }
    return size;
}
