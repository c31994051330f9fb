/* See cudart.h. Only what the CUDA backend calls; names and types are those of CUDA's own header. */
#include "standin/cudart.h"

#include <cuda.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

standin_state standin;
static bool lost, capturing;

void standin_reset(void) {
    standin = standin_state();
    standin.driver = 13000;
    standin.major = 9;
    standin.all_bytes = (size_t)140 << 30;
    standin.free_bytes = (size_t)139 << 30;
    lost = capturing = false;
}

/* One call that may fail. */
static cudaError_t step(const char *name) {
    standin.calls++;
    cudaError_t status = cudaSuccess;
    if (standin.count_status) status = (cudaError_t)standin.count_status;
    if (lost) status = (cudaError_t)standin.fail_status;
    if (standin.calls == standin.fail_call || (standin.fail_name && !strcmp(standin.fail_name, name))) {
        status = (cudaError_t)standin.fail_status;
        lost = standin.fail_stays;
    }
    if (status != cudaSuccess) standin.last_failed = name;
    return status;
}
#define STEP()                                                                                                         \
    do {                                                                                                               \
        const cudaError_t status_ = step(__func__);                                                                    \
        if (status_ != cudaSuccess) return status_;                                                                    \
    } while (0)

typedef struct header {
    size_t bytes;
    char padding[256 - sizeof(size_t)];
} header;

static void *take(size_t bytes) {
    header *h = (header *)calloc(1, sizeof *h + bytes);
    if (!h) abort();
    h->bytes = bytes;
    standin.live++;
    standin.live_bytes += bytes;
    if (standin.live_bytes > standin.most_bytes) standin.most_bytes = standin.live_bytes;
    return h + 1;
}
static void give(void *memory) {
    if (!memory) return;
    header *h = (header *)memory - 1;
    standin.live--;
    standin.live_bytes -= h->bytes;
    free(h);
}

extern "C" {

/* ---- device ---- */

cudaError_t cudaDriverGetVersion(int *version) {
    *version = standin.driver;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    STEP();
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int) {
    STEP();
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "Stand-in");
    properties->major = standin.major;
    properties->minor = standin.minor;
    properties->totalGlobalMem = standin.all_bytes;
    properties->multiProcessorCount = 132;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int) {
    STEP();
    *value = attribute == cudaDevAttrComputeCapabilityMajor         ? standin.major
             : attribute == cudaDevAttrComputeCapabilityMinor       ? standin.minor
             : attribute == cudaDevAttrMultiProcessorCount          ? 132
             : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 227 << 10
                                                                    : 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int) {
    STEP();
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    STEP();
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
const char *cudaGetErrorName(cudaError_t error) {
    static __thread char text[40];
    snprintf(text, sizeof text, "cudaError%d", (int)error);
    return text;
}
const char *cudaGetErrorString(cudaError_t error) { return error == cudaErrorNoDevice ? "no device" : "made to fail"; }
static CUresult encode_anything(void) { return CUDA_SUCCESS; }
cudaError_t cudaGetDriverEntryPointByVersion(const char *, void **function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult *result) {
    STEP();
    *function = (void *)encode_anything;
    *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}

/* ---- memory ---- */

cudaError_t cudaMemGetInfo(size_t *available, size_t *all) {
    STEP();
    *available = standin.free_bytes - standin.live_bytes;
    *all = standin.all_bytes;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **memory, size_t bytes) {
    *memory = NULL;
    STEP();
    *memory = take(bytes);
    return cudaSuccess;
}
cudaError_t cudaFree(void *memory) {
    give(memory);
    return step(__func__);
}
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned) {
    *memory = NULL;
    STEP();
    *memory = take(bytes);
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *memory) {
    give(memory);
    return step(__func__);
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind, cudaStream_t) {
    STEP();
    if (!capturing) memcpy(to, from, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind) {
    STEP();
    memcpy(to, from, bytes);
    return cudaSuccess;
}
/* What was taken is zero already, and nothing else is asked for. */
cudaError_t cudaMemsetAsync(void *, int, size_t, cudaStream_t) {
    STEP();
    return cudaSuccess;
}

/* ---- streams, events, graphs ---- */

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    *stream = NULL;
    STEP();
    *stream = (cudaStream_t)take(1);
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    *stream = NULL;
    STEP();
    *stream = (cudaStream_t)take(1);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    give(stream);
    return step(__func__);
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
    STEP();
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, enum cudaStreamCaptureMode) {
    STEP();
    capturing = true;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph) {
    *graph = NULL;
    capturing = false;
    STEP();
    *graph = (cudaGraph_t)take(1);
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, enum cudaStreamCaptureStatus *status) {
    STEP();
    *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, enum cudaStreamCaptureStatus *status, unsigned long long *,
                                     cudaGraph_t *graph, const cudaGraphNode_t **, const cudaGraphEdgeData **,
                                     size_t *) {
    *graph = NULL;
    STEP();
    *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t, cudaGraphNode_t *, size_t *count) {
    *count = 0;
    STEP();
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) {
    *event = NULL;
    STEP();
    *event = (cudaEvent_t)take(1);
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = NULL;
    STEP();
    *event = (cudaEvent_t)take(1);
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    give(event);
    return step(__func__);
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
    STEP();
    return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t, cudaStream_t, unsigned) {
    STEP();
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
    STEP();
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) {
    STEP();
    *ms = 1.0f;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *graph, cudaGraph_t, unsigned long long) {
    *graph = NULL;
    STEP();
    *graph = (cudaGraphExec_t)take(1);
    return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
    STEP();
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) {
    STEP();
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    give(graph);
    return step(__func__);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    give(graph);
    return step(__func__);
}

/* ---- kernels ---- */

cudaError_t cudaFuncSetAttribute(const void *, enum cudaFuncAttribute, int) {
    STEP();
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *) {
    STEP();
    memset(attributes, 0, sizeof *attributes);
    attributes->binaryVersion = standin.major * 10 + standin.minor;
    return cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *, const void *, void **) {
    STEP();
    return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void *, dim3, dim3, void **, size_t, cudaStream_t) {
    STEP();
    return cudaSuccess;
}
/* what nvcc's code calls by itself */
static void *no_binary;
void **__cudaRegisterFatBinary(void *) { return &no_binary; }
void __cudaRegisterFatBinaryEnd(void **) {}
void __cudaUnregisterFatBinary(void **) {}
void __cudaRegisterFunction(void **, const char *, char *, const char *, int, uint3 *, uint3 *, dim3 *, dim3 *, int *) {
}
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int) {}
unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, struct CUstream_st *) { return 0; }
cudaError_t __cudaPopCallConfiguration(dim3 *, dim3 *, size_t *, void *) { return cudaSuccess; }
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *) {
    *kernel = NULL;
    return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void **, size_t, cudaStream_t) { return step(__func__); }
}
