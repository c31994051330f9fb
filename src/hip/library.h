/*
 * libamdhip64, opened at run time: nothing of AMD's is needed to build or to run on a machine without ROCm. The types
 * are those of HIP's headers; hip_library holds each function under its own name.
 */
#ifndef PI0_HIP_LIBRARY_H
#define PI0_HIP_LIBRARY_H

#ifndef __HIP_PLATFORM_AMD__
#define __HIP_PLATFORM_AMD__ 1
#endif
#include <hip/hip_runtime_api.h>

/* Functions that must be there: ROCm 6 or newer has them. hipGetDeviceProperties is a macro for the versioned name. */
#define HIP_FUNCTIONS(X)                                                                                               \
    X(hipInit)                                                                                                         \
    X(hipGetDeviceCount)                                                                                               \
    X(hipGetDevicePropertiesR0600)                                                                                     \
    X(hipGetErrorString)                                                                                               \
    X(hipGetErrorName)                                                                                                 \
    X(hipGetLastError)                                                                                                 \
    X(hipSetDevice)                                                                                                    \
    X(hipGetDevice)                                                                                                    \
    X(hipMemGetInfo)                                                                                                   \
    X(hipMalloc)                                                                                                       \
    X(hipFree)                                                                                                         \
    X(hipHostMalloc)                                                                                                   \
    X(hipHostFree)                                                                                                     \
    X(hipMemsetAsync)                                                                                                  \
    X(hipMemcpyAsync)                                                                                                  \
    X(hipStreamCreateWithFlags)                                                                                        \
    X(hipStreamDestroy)                                                                                                \
    X(hipStreamSynchronize)                                                                                            \
    X(hipStreamIsCapturing)                                                                                            \
    X(hipStreamBeginCapture)                                                                                           \
    X(hipStreamEndCapture)                                                                                             \
    X(hipGraphInstantiateWithFlags)                                                                                    \
    X(hipGraphUpload)                                                                                                  \
    X(hipGraphLaunch)                                                                                                  \
    X(hipGraphDestroy)                                                                                                 \
    X(hipGraphExecDestroy)                                                                                             \
    X(hipEventCreateWithFlags)                                                                                         \
    X(hipEventDestroy)                                                                                                 \
    X(hipEventRecord)                                                                                                  \
    X(hipEventRecordWithFlags)                                                                                         \
    X(hipEventSynchronize)                                                                                             \
    X(hipEventElapsedTime)                                                                                             \
    X(hipModuleLoadData)                                                                                               \
    X(hipModuleUnload)                                                                                                 \
    X(hipModuleGetFunction)                                                                                            \
    X(hipModuleLaunchKernel)

typedef struct hip_library {
#define HIP_MEMBER(name) __typeof__(name) *name;
    HIP_FUNCTIONS(HIP_MEMBER)
#undef HIP_MEMBER
    char reason[200]; /* why it cannot be used; empty: it can */
} hip_library;

/* The library, opened by the first call and for good: ROCm's threads would not survive its unloading. Never NULL; with
 * a reason set no function may be called. */
const hip_library *hip_library_get(void);

#endif
