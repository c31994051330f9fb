/* IEEE 754 binary16, as the bits that a file holds. */
#ifndef PI0_BASE_HALF_H
#define PI0_BASE_HALF_H

#include <stdint.h>
#include <string.h>

/* Exact for every value, NaN payloads included; no branches, so loops over it vectorise. Subnormal halves go through an
 * integer, since a float32 subnormal might be flushed to zero. */
static inline float half_to_float(uint16_t half) {
    uint32_t exponent = (half >> 10) & 31u, mantissa = half & 1023u;
    float small = (float)(int32_t)mantissa * 0x1p-24f;
    uint32_t small_bits, bits = ((exponent + (exponent == 31 ? 224u : 112u)) << 23) | (mantissa << 13);
    memcpy(&small_bits, &small, sizeof small_bits);
    bits = (exponent == 0 ? small_bits : bits) | (uint32_t)(half & 0x8000u) << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

#endif
