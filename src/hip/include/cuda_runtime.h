/*
 * What src/cuda uses of CUDA's language and run-time library, for AMD: the kernels and the host code are compiled from
 * the same files with this header in the place of NVIDIA's. The functions are in runtime.c, over libamdhip64; their
 * meaning is CUDA's. Kernels see waves of 64 lanes; nothing here comes from AMD's headers.
 */
#ifndef PI0_HIP_CUDA_RUNTIME_H
#define PI0_HIP_CUDA_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PI0_HIP 1
#ifndef PI0_EMULATOR /* which emulates NVIDIA's GPUs as well */
#define PI0_AMD 1
#endif

/* ---- vectors ---- */

typedef struct __attribute__((aligned(8))) float2 {
    float x, y;
} float2;
typedef struct __attribute__((aligned(16))) float4 {
    float x, y, z, w;
} float4;
typedef struct __attribute__((aligned(8))) uint2 {
    unsigned x, y;
} uint2;
typedef struct __attribute__((aligned(16))) uint4 {
    unsigned x, y, z, w;
} uint4;
typedef struct dim3 {
    unsigned x, y, z;
#ifdef __cplusplus
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
#endif
} dim3;

/* ---- the run-time library ---- */

typedef enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorNoDevice = 100,
    cudaErrorNotSupported = 801,
    cudaErrorUnknown = 999, /* others keep the number that libamdhip64 gave them */
} cudaError_t;

typedef struct hip_stream *cudaStream_t;
typedef struct hip_event *cudaEvent_t;
typedef struct hip_graph *cudaGraph_t;
typedef struct hip_graph_exec *cudaGraphExec_t;

enum { cudaStreamNonBlocking = 1, cudaHostAllocDefault = 0, cudaEventDisableTiming = 2 };
enum { cudaEventRecordDefault = 0, cudaEventRecordExternal = 1 };
typedef enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3
} cudaMemcpyKind;
typedef enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone,
    cudaStreamCaptureStatusActive
} cudaStreamCaptureStatus;
typedef enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 } cudaStreamCaptureMode;
typedef enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize,
    cudaFuncAttributeNonPortableClusterSizeAllowed
} cudaFuncAttribute;
typedef struct cudaFuncAttributes {
    int unused; /* only Hopper's kernels are asked about */
} cudaFuncAttributes;
typedef enum cudaDeviceAttr {
    cudaDevAttrMaxSharedMemoryPerBlockOptin, /* bytes of LDS */
    cudaDevAttrComputeCapabilityMajor        /* 0: no NVIDIA GPU */
} cudaDeviceAttr;

#ifdef __cplusplus
extern "C" {
#endif
const char *cudaGetErrorString(cudaError_t status);
const char *cudaGetErrorName(cudaError_t status);
cudaError_t cudaGetLastError(void);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemGetInfo(size_t *available, size_t *all);
cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end);
/* Whether `kernel` is in the code object of the current device and gets by with that attribute. */
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value);
/* `kernel` is the address that host code knows it by; arguments as hipModuleLaunchKernel takes them. */
cudaError_t hip_launch(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared_bytes,
                       cudaStream_t stream);
/* What the compiler's host side of a kernel calls when it is launched with <<<>>>; nothing here does that. */
cudaError_t hipLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared_bytes,
                            cudaStream_t stream);
#ifdef __cplusplus
}

template <typename FUNCTION>
static inline cudaError_t cudaFuncSetAttribute(FUNCTION *kernel, cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute((const void *)kernel, attribute, value);
}
#endif

/* ---- the language ---- */

#ifdef __HIP__
#define __host__        __attribute__((host))
#define __device__      __attribute__((device))
#define __global__      __attribute__((global))
#define __shared__      __attribute__((shared))
#define __constant__    __attribute__((constant))
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n)    __attribute__((aligned(n)))
/* threads of a block, and the blocks that a CU of four SIMDs shall hold */
#define __launch_bounds__(...)      HIP_BOUNDS(__VA_ARGS__, HIP_BLOCKS, HIP_THREADS)(__VA_ARGS__)
#define HIP_BOUNDS(a, b, name, ...) name
#define HIP_THREADS(threads)        __attribute__((amdgpu_flat_work_group_size(1, threads)))
#define HIP_BLOCKS(threads, blocks)                                                                                    \
    __attribute__((amdgpu_flat_work_group_size(1, threads), amdgpu_waves_per_eu(((threads) * (blocks) + 255) / 256)))
#define __grid_constant__
#define threadIdx (hip_thread_index())
#define blockIdx  (hip_block_index())
#define blockDim  (hip_block_size())
#define gridDim   (hip_grid_size())

__device__ __forceinline__ dim3 hip_thread_index() {
    return dim3(__builtin_amdgcn_workitem_id_x(), __builtin_amdgcn_workitem_id_y(), __builtin_amdgcn_workitem_id_z());
}
__device__ __forceinline__ dim3 hip_block_index() {
    return dim3(__builtin_amdgcn_workgroup_id_x(), __builtin_amdgcn_workgroup_id_y(),
                __builtin_amdgcn_workgroup_id_z());
}
__device__ __forceinline__ dim3 hip_block_size() {
    return dim3(__builtin_amdgcn_workgroup_size_x(), __builtin_amdgcn_workgroup_size_y(),
                __builtin_amdgcn_workgroup_size_z());
}
/* Code object version 5: the hidden arguments begin with the number of blocks in x, y and z. */
__device__ __forceinline__ dim3 hip_grid_size() {
    const __attribute__((address_space(4))) unsigned *hidden =
        (const __attribute__((address_space(4))) unsigned *)__builtin_amdgcn_implicitarg_ptr();
    return dim3(hidden[0], hidden[1], hidden[2]);
}

__device__ __forceinline__ void __syncthreads() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
__device__ __forceinline__ void __syncwarp() {
    __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "wavefront");
    __builtin_amdgcn_wave_barrier();
}
/* The mask is not looked at: all lanes that run take part. */
template <typename T> __device__ __forceinline__ T __shfl_xor_sync(unsigned mask, T value, int distance) {
    static_assert(sizeof(T) == 4, "one register");
    const int lane = __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0));
    return __builtin_bit_cast(T, __builtin_amdgcn_ds_bpermute((lane ^ distance) << 2, __builtin_bit_cast(int, value)));
}
/* What this thread wrote is seen by all blocks before what it writes next; and it sees what they wrote before. */
__device__ __forceinline__ void __threadfence() { __builtin_amdgcn_fence(__ATOMIC_SEQ_CST, "agent"); }
template <typename T> __device__ __forceinline__ T __ldg(const T *from) { return *from; }
template <typename T> __device__ __forceinline__ T __ldcg(const T *from) { return *from; }
template <typename T> __device__ __forceinline__ void __stcg(T *to, T value) { *to = value; }
__device__ __forceinline__ unsigned atomicAdd(unsigned *to, unsigned value) {
    return __hip_atomic_fetch_add(to, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}

#define HIP_BOTH __host__ __device__ __forceinline__
HIP_BOTH float2 make_float2(float x, float y) { return {x, y}; }
HIP_BOTH float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
HIP_BOTH uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
HIP_BOTH uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

HIP_BOTH int min(int a, int b) { return a < b ? a : b; }
HIP_BOTH int max(int a, int b) { return a > b ? a : b; }

#ifndef INFINITY
#define INFINITY __builtin_inff()
#endif
extern "C" __device__ float __ocml_exp_f32(float);
extern "C" __device__ float __ocml_exp2_f32(float);
extern "C" __device__ double __ocml_sincos_f64(double, __attribute__((address_space(5))) double *);

__device__ __forceinline__ float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }
__device__ __forceinline__ float expf(float x) { return __ocml_exp_f32(x); }
__device__ __forceinline__ float exp2f(float x) { return __ocml_exp2_f32(x); }
__device__ __forceinline__ float rsqrtf(float x) { return __builtin_amdgcn_rsqf(x); }
__device__ __forceinline__ float __expf(float x) { return __builtin_amdgcn_exp2f(x * 1.4426950408889634f); }
__device__ __forceinline__ float __fdividef(float a, float b) { return a * __builtin_amdgcn_rcpf(b); }
__device__ __forceinline__ void sincos(double angle, double *sine, double *cosine) {
    double c;
    *sine = __ocml_sincos_f64(angle, (__attribute__((address_space(5))) double *)&c);
    *cosine = c;
}
/* Rounded as written: never fused with what follows. */
__device__ __forceinline__ float __fadd_rn(float a, float b) {
#pragma clang fp contract(off)
    return a + b;
}
__device__ __forceinline__ float __fsub_rn(float a, float b) {
#pragma clang fp contract(off)
    return a - b;
}
__device__ __forceinline__ float __fmul_rn(float a, float b) {
#pragma clang fp contract(off)
    return a * b;
}
#endif
#endif
