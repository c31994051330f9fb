/*
 * The run-time functions of include/cuda_runtime.h over libamdhip64. HIP's numbers for errors, copies and captures are
 * CUDA's; what differs is said where it does. No function is called before hip_library_get found the library usable.
 */
#include "hip/runtime.h"

#include <stdio.h>
#include <string.h>

#include "hip/library.h"
#include "hip/modules.h"

/* Their declarations are in include/cuda_runtime.h, which cannot be read beside HIP's own headers. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

static const hip_library *hip(void) { return hip_library_get(); }

/* ---- devices ---- */

int hip_device_count(char *reason, size_t size) {
    const hip_library *library = hip_library_get();
    int count = 0;
    if (library->reason[0]) {
        snprintf(reason, size, "%s", library->reason);
        return 0;
    }
    const hipError_t status = library->hipGetDeviceCount(&count);
    if (status == hipSuccess && count > 0) return count;
    library->hipGetLastError();
    snprintf(reason, size, "no AMD GPU is visible (%s)",
             library->hipGetErrorString(status == hipSuccess ? hipErrorNoDevice : status));
    return 0;
}

int hip_device_describe(int index, hip_device *device) {
    hipDeviceProp_tR0600 properties;
    memset(&properties, 0, sizeof properties);
    memset(device, 0, sizeof *device);
    const hipError_t status = hip()->hipGetDevicePropertiesR0600(&properties, index);
    if (status != hipSuccess) return (int)status;
    snprintf(device->name, sizeof device->name, "%.127s", properties.name);
    /* "gfx942:sramecc+:xnack-": the features after the colon choose no kernels here */
    snprintf(device->architecture, sizeof device->architecture, "%.*s", (int)strcspn(properties.gcnArchName, ":"),
             properties.gcnArchName);
    device->memory_bytes = properties.totalGlobalMem;
    device->units = properties.multiProcessorCount;
    return 0;
}

/* ---- the functions of cuda_runtime.h ---- */

const char *cudaGetErrorString(hipError_t status) { return hip()->hipGetErrorString(status); }
const char *cudaGetErrorName(hipError_t status) { return hip()->hipGetErrorName(status); }
hipError_t cudaGetLastError(void) { return hip()->hipGetLastError(); }
hipError_t cudaSetDevice(int device) { return hip()->hipSetDevice(device); }
hipError_t cudaGetDevice(int *device) { return hip()->hipGetDevice(device); }
hipError_t cudaMemGetInfo(size_t *available, size_t *all) { return hip()->hipMemGetInfo(available, all); }
hipError_t cudaMalloc(void **memory, size_t bytes) { return hip()->hipMalloc(memory, bytes); }
hipError_t cudaFree(void *memory) { return hip()->hipFree(memory); }
hipError_t cudaHostAlloc(void **memory, size_t bytes, unsigned flags) {
    return hip()->hipHostMalloc(memory, bytes, flags);
}
hipError_t cudaFreeHost(void *memory) { return hip()->hipHostFree(memory); }
hipError_t cudaMemsetAsync(void *memory, int value, size_t bytes, hipStream_t stream) {
    return hip()->hipMemsetAsync(memory, value, bytes, stream);
}
hipError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, hipMemcpyKind kind, hipStream_t stream) {
    return hip()->hipMemcpyAsync(to, from, bytes, kind, stream);
}
hipError_t cudaStreamCreateWithFlags(hipStream_t *stream, unsigned flags) {
    return hip()->hipStreamCreateWithFlags(stream, flags);
}
hipError_t cudaStreamDestroy(hipStream_t stream) { return hip()->hipStreamDestroy(stream); }
hipError_t cudaStreamSynchronize(hipStream_t stream) { return hip()->hipStreamSynchronize(stream); }
hipError_t cudaStreamIsCapturing(hipStream_t stream, hipStreamCaptureStatus *status) {
    return hip()->hipStreamIsCapturing(stream, status);
}
hipError_t cudaStreamBeginCapture(hipStream_t stream, hipStreamCaptureMode mode) {
    return hip()->hipStreamBeginCapture(stream, mode);
}
hipError_t cudaStreamEndCapture(hipStream_t stream, hipGraph_t *graph) {
    return hip()->hipStreamEndCapture(stream, graph);
}
hipError_t cudaGraphInstantiate(hipGraphExec_t *executable, hipGraph_t graph, unsigned long long flags) {
    return hip()->hipGraphInstantiateWithFlags(executable, graph, flags);
}
hipError_t cudaGraphUpload(hipGraphExec_t executable, hipStream_t stream) {
    return hip()->hipGraphUpload(executable, stream);
}
hipError_t cudaGraphLaunch(hipGraphExec_t executable, hipStream_t stream) {
    return hip()->hipGraphLaunch(executable, stream);
}
hipError_t cudaGraphDestroy(hipGraph_t graph) { return hip()->hipGraphDestroy(graph); }
hipError_t cudaGraphExecDestroy(hipGraphExec_t executable) { return hip()->hipGraphExecDestroy(executable); }
hipError_t cudaEventCreate(hipEvent_t *event) { return hip()->hipEventCreateWithFlags(event, 0); }
hipError_t cudaEventCreateWithFlags(hipEvent_t *event, unsigned flags) {
    return hip()->hipEventCreateWithFlags(event, flags);
}
hipError_t cudaEventDestroy(hipEvent_t event) { return hip()->hipEventDestroy(event); }
hipError_t cudaEventRecord(hipEvent_t event, hipStream_t stream) { return hip()->hipEventRecord(event, stream); }
hipError_t cudaEventRecordWithFlags(hipEvent_t event, hipStream_t stream, unsigned flags) {
    return hip()->hipEventRecordWithFlags(event, stream, flags);
}
hipError_t cudaEventSynchronize(hipEvent_t event) { return hip()->hipEventSynchronize(event); }
hipError_t cudaEventElapsedTime(float *ms, hipEvent_t begin, hipEvent_t end) {
    return hip()->hipEventElapsedTime(ms, begin, end);
}

hipError_t cudaDeviceGetAttribute(int *value, int attribute, int device) {
    hipDeviceProp_tR0600 properties;
    *value = 0;
    if (attribute != 0) return hipSuccess; /* the compute capability: none of NVIDIA's */
    const hipError_t status = hip()->hipGetDevicePropertiesR0600(&properties, device);
    if (status == hipSuccess) *value = (int)properties.sharedMemPerBlock;
    return status;
}

/* LDS needs no leave: a kernel may use what the device has. */
hipError_t cudaFuncSetAttribute(const void *kernel, int attribute, int value) {
    int device;
    (void)attribute, (void)value;
    const hipError_t status = hip()->hipGetDevice(&device);
    if (status != hipSuccess) return status;
    return hip_kernel_find(device, kernel) ? hipSuccess : hipErrorInvalidDeviceFunction;
}

hipError_t hip_launch(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared_bytes,
                      hipStream_t stream) {
    int device;
    const hipError_t status = hip()->hipGetDevice(&device);
    if (status != hipSuccess) return status;
    hipFunction_t function = hip_kernel_find(device, kernel);
    if (!function) return hipErrorInvalidDeviceFunction;
    return hip()->hipModuleLaunchKernel(function, grid.x, grid.y, grid.z, block.x, block.y, block.z,
                                        (unsigned)shared_bytes, stream, arguments, NULL);
}
