#!/usr/bin/env python3
"""Writes src/cuda/wgmma.cuh: one wgmma wrapper per tile width, since PTX wants every accumulator register named."""
WIDTHS = [16, 56, 64, 80, 104, 112, 120, 128, 136, 144, 160, 184, 200, 208, 256]

HEAD = """/*
 * wgmma m64nNk16, bf16 x bf16 -> float32: one specialisation per N, written by tools/make_wgmma.py.
 * Operands are rows of 64 (or 32) k-values in shared memory in the swizzle that TMA writes.
 */
#ifndef PI0_CUDA_WGMMA_CUH
#define PI0_CUDA_WGMMA_CUH

#include "common.cuh"

#ifdef PI0_HOPPER
/* clang-format off */
/* Descriptor of a K-major operand in rows of 128 or 64 bytes, swizzled as wide; 8 rows form a group. Its low word holds
 * the address in 16 bytes (add 2 for the next 16 k-values); kept apart from the high one, which never changes, so that
 * the k loop adds 32 bits in uniform registers. */
__device__ __forceinline__ uint32_t wgmma_low(uint32_t shared) { return (shared >> 4) + (1u << 16); }
template <int ROW_BYTES = 128> __device__ __forceinline__ uint64_t wgmma_descriptor_of(uint32_t low) {
    uint64_t descriptor;
    asm("mov.b64 %0, {%1, %2};" : "=l"(descriptor) : "r"(low), "n"((ROW_BYTES / 2) | (ROW_BYTES == 128 ? 1 : 2) << 30));
    return descriptor;
}
template <int ROW_BYTES = 128> __device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t shared) {
    return wgmma_descriptor_of<ROW_BYTES>(wgmma_low(shared));
}
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* d[64, N] = a b^T (+ d where `accumulate`). B_TRANSPOSED: b lies [k][N] (MN-major) instead of [N][k]. */
template <int N, int B_TRANSPOSED = 0> struct wgmma;
/* The same with a in registers: four packed pairs, laid out as mma.m16n8k16's A, 16 rows a warp. */
template <int N, int B_TRANSPOSED = 0> struct wgmma_ra;
"""


def names(count, first=0):
    parts = [f"%{first + i}" for i in range(count)]
    lines = [",".join(parts[i:i + 20]) for i in range(0, count, 20)]
    return ',"\n                     "'.join(lines)


def operands(count):
    parts = [f'"+f"(d[{i}])' for i in range(count)]
    return ",\n                       ".join(", ".join(parts[i:i + 8]) for i in range(0, count, 8))


def variant(n):
    c = n // 2
    return f"""
template <int T> struct wgmma<{n}, T> {{
    static __device__ __forceinline__ void run(float (&d)[{c}], uint64_t a, uint64_t b, int accumulate) {{
        asm volatile("{{ .reg .pred p; setp.ne.b32 p, %{c + 2}, 0; wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{"
                     "{names(c)}"
                     "}}, %{c}, %{c + 1}, p, 1, 1, 0, %{c + 3}; }}"
                     : {operands(c)}
                     : "l"(a), "l"(b), "r"(accumulate), "n"(T));
    }}
}};
template <int T> struct wgmma_ra<{n}, T> {{
    static __device__ __forceinline__ void run(float (&d)[{c}], const uint32_t (&a)[4], uint64_t b, int accumulate) {{
        asm volatile("{{ .reg .pred p; setp.ne.b32 p, %{c + 5}, 0; wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{"
                     "{names(c)}"
                     "}}, {{%{c}, %{c + 1}, %{c + 2}, %{c + 3}}}, %{c + 4}, p, 1, 1, %{c + 6}; }}"
                     : {operands(c)}
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(T));
    }}
}};
"""


with open("src/cuda/wgmma.cuh", "w") as file:
    file.write(HEAD + "".join(variant(n) for n in WIDTHS) + "/* clang-format on */\n#endif\n#endif\n")
