#include "base/number.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

double half_to_double(uint16_t half) {
    int exponent = half >> 10 & 31, fraction = half & 1023;
    double magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                       : exponent == 0 ? ldexp(fraction, -24)
                                       : ldexp(1024 + fraction, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

uint16_t half_from_double(double value) {
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    if (isnan(value)) return sign | 0x7e00;
    double magnitude = fabs(value);
    if (magnitude >= 65520.0) return sign | 0x7c00; /* halfway between the largest half and the next step */
    int exponent;
    frexp(magnitude, &exponent);                          /* magnitude in [2^(exponent-1), 2^exponent) */
    if (exponent < -13 || magnitude == 0) exponent = -13; /* subnormal */
    /* In units of the last place; the division is exact, rint rounds ties to even. A carry into the next exponent
     * lands on the right bits by itself. */
    uint16_t units = (uint16_t)rint(ldexp(magnitude, 11 - exponent));
    return sign | (uint16_t)(units + ((exponent + 13) << 10));
}

#define READ(type)                                                                                                     \
    do {                                                                                                               \
        type element_;                                                                                                 \
        memcpy(&element_, item, sizeof element_);                                                                      \
        return (double)element_;                                                                                       \
    } while (0)

double number_read(char kind, int item_bytes, const void *item) {
    switch (kind << 8 | item_bytes) {
    case 'b' << 8 | 1:
        return *(const unsigned char *)item != 0;
    case 'u' << 8 | 1:
        READ(uint8_t);
    case 'u' << 8 | 2:
        READ(uint16_t);
    case 'u' << 8 | 4:
        READ(uint32_t);
    case 'u' << 8 | 8:
        READ(uint64_t);
    case 'i' << 8 | 1:
        READ(int8_t);
    case 'i' << 8 | 2:
        READ(int16_t);
    case 'i' << 8 | 4:
        READ(int32_t);
    case 'i' << 8 | 8:
        READ(int64_t);
    case 'f' << 8 | 4:
        READ(float);
    case 'f' << 8 | 8:
        READ(double);
    case 'f' << 8 | 2: {
        uint16_t half;
        memcpy(&half, item, sizeof half);
        return half_to_double(half);
    }
    default:
        return 0.0;
    }
}

char *number_describe(char kind, int item_bytes, int rank, const int64_t *shape, char *text, size_t size) {
    const char *name = kind == 'f'   ? "float"
                       : kind == 'i' ? "int"
                       : kind == 'u' ? "uint"
                       : kind == 'b' ? "bool"
                       : kind == 'U' ? "text"
                                     : "bytes";
    bool sized = kind == 'f' || kind == 'i' || kind == 'u';
    int length = sized ? snprintf(text, size, "%s%d [", name, item_bytes * 8) : snprintf(text, size, "%s [", name);
    for (int i = 0; i < rank && length >= 0 && (size_t)length < size; i++)
        length += snprintf(text + length, size - (size_t)length, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (length >= 0 && (size_t)length < size) snprintf(text + length, size - (size_t)length, "]");
    return text;
}
