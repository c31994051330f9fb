/*
 * CUDA's language and run-time library for the emulator: src/cuda's files become C++ for the host. Types and run-time
 * functions are declared by src/hip's header; this adds the language. A thread of a block is a fiber, a block runs on
 * one thread of the host: what is __shared__ is local to that thread.
 */
#ifndef PI0_EMULATOR_CUDA_RUNTIME_H
#define PI0_EMULATOR_CUDA_RUNTIME_H

#include "hip/include/cuda_runtime.h"

#ifdef __cplusplus
#include <math.h>
#include <string.h>

#include "emulator.h"

#define __host__
#define __device__
#define __global__
#define __shared__      thread_local
#define __forceinline__ inline
#define __align__(n)    __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx (emulator_here().thread)
#define blockIdx  (emulator_here().block)
#define blockDim  (emulator_here().threads)
#define gridDim   (emulator_here().blocks)

static inline void __syncthreads() { emulator_barrier(0, 0); }
static inline void __syncwarp() { emulator_warp(EMULATOR_SYNC_WARP, nullptr); }
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int distance) {
    static_assert(sizeof(T) == 4, "one register");
    emulator_shuffle shuffle = {0, distance, mask, 0};
    memcpy(&shuffle.value, &value, 4);
    emulator_warp(EMULATOR_SHUFFLE, &shuffle);
    memcpy(&value, &shuffle.result, 4);
    return value;
}
static inline void __threadfence() { emulator_fence(); }
template <typename T> static inline T __ldg(const T *from) { return *from; }
template <typename T> static inline T __ldcg(const T *from) { return *from; }
template <typename T> static inline void __stcg(T *to, T value) { *to = value; }
static inline unsigned atomicAdd(unsigned *to, unsigned value) { return emulator_atomic_add(to, value); }

static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
#define __expf expf /* the C library has an __expf of its own */
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
#endif
#endif
