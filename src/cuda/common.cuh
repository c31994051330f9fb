/*
 * What all kernels share: small device helpers. bf16 values travel as __nv_bfloat16 in memory and as packed
 * pairs (uint32_t) in fragments. Facts about instructions: NVIDIA's PTX ISA reference, 8.x/9.x.
 */
#ifndef PI0_CUDA_COMMON_CUH
#define PI0_CUDA_COMMON_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PI0_HOPPER 1 /* sm_90a: wgmma, TMA, setmaxnreg */
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define PI0_SM90 1 /* clusters, programmatic dependent launch */
#endif

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }

#if defined(PI0_EMULATOR)
#include "instructions_emulated.cuh"
#elif defined(PI0_HIP)
#include "instructions_amd.cuh"
#else
#include "instructions_nvidia.cuh"
#endif

/* ---- values ---- */

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&v);
}
/* 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3) */
__device__ __forceinline__ float gelu_tanh(float x) {
    float u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    return __fdividef(x, 1.0f + __expf(-2.0f * u));
}
__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

#ifdef PI0_SM90
/* ---- transaction barriers and clusters, sm_90 ---- */
__device__ __forceinline__ void mbarrier_init(uint64_t *barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void mbarrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void mbarrier_expect(uint64_t *barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void mbarrier_arrive(uint64_t *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
/* Arrives at the same barrier of block `rank` of the cluster. (Scopes wider than the block would add fences.) */
__device__ __forceinline__ void mbarrier_arrive_remote(uint64_t *barrier, int rank) {
    asm volatile("{ .reg .b32 remote; mapa.shared::cluster.u32 remote, %0, %1; "
                 "mbarrier.arrive.shared::cluster.b64 _, [remote]; }" ::"r"(shared_address(barrier)),
                 "r"(rank)
                 : "memory");
}
/* At block scope: a wider scope would empty the first-level cache at every wait. */
__device__ __forceinline__ void mbarrier_wait(uint64_t *barrier, int parity) {
    asm volatile("{ .reg .pred p; again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; "
                 "@p bra done; bra again; done: }" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}
__device__ __forceinline__ int cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
}
__device__ __forceinline__ void cluster_arrive() {
    __syncwarp(); /* .aligned: the warp must be whole */
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_sync() {
    cluster_arrive();
    cluster_wait();
}
/* Asks for a tensor map, so that the first copy by it does not wait for it. */
__device__ __forceinline__ void prefetch_map(const void *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
/* Asks for this block's share of `bytes` (a multiple of 16) to come into L2; one thread. */
__device__ __forceinline__ void prefetch_share(const void *from, uint32_t bytes, int block, int blocks) {
    const uint32_t share = (bytes / blocks + 4095) / 4096 * 4096, begin = share * block;
    for (uint32_t at = begin; at < begin + share && at < bytes; at += 4096) {
        const uint32_t size = bytes - at < 4096 ? bytes - at : 4096;
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"((const char *)from + at), "r"(size) : "memory");
    }
}
/* Address, in block `rank` of the cluster, of what `shared` is here. */
__device__ __forceinline__ uint32_t cluster_address(uint32_t shared, int rank) {
    uint32_t remote;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared), "r"(rank));
    return remote;
}
__device__ __forceinline__ float cluster_load(uint32_t remote) {
    float value;
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(remote) : "memory");
    return value;
}
#endif
#endif
