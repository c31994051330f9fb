/*
 * CUDA's run-time library and what src/hip/device.cu asks about devices, over the emulator: one device, whose memory is
 * the host's between pages that nobody may touch. A stream's work is done when it is asked for; while a stream is
 * captured it is kept, and done each time the graph is launched.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "emulator_inside.h"
extern "C" {
#include "hip/modules.h"
}
#include "hip/runtime.h"

typedef std::function<cudaError_t()> work;

struct hip_graph {
    std::vector<work> nodes;
};
struct hip_graph_exec {
    std::vector<work> nodes;
};
struct hip_stream {
    hip_graph *capture;
};
struct hip_event {
    double seconds;
};

static const size_t DEVICE_BYTES = (size_t)2 << 30, PAGE = 4096;

static std::mutex memory_lock;
static std::map<void *, size_t> blocks; /* of device memory, with bytes */
static size_t bytes_taken;

/* ---- devices ---- */

static const char *architecture(void) {
#if defined(PI0_GFX950)
    return "gfx950";
#elif defined(PI0_AMD)
    return "gfx942";
#else
    return "sm_80";
#endif
}

extern "C" int hip_device_count(char *, size_t) { return 1; }
extern "C" int hip_device_describe(int index, hip_device *device) {
    if (index) return cudaErrorInvalidValue;
    snprintf(device->name, sizeof device->name, "emulated %s", architecture());
    snprintf(device->architecture, sizeof device->architecture, "%s", architecture());
    device->memory_bytes = DEVICE_BYTES;
    device->units = 4;
    return cudaSuccess;
}
extern "C" bool hip_modules_built(const char *) { return true; }
extern "C" int hip_modules_open(int, const char *) { return 0; }
extern "C" void hip_modules_close(int) {}

extern "C" {

const char *cudaGetErrorString(cudaError_t status) {
    switch (status) {
    case cudaSuccess:
        return "success";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorNotSupported:
        return "not supported";
    case cudaErrorUnknown:
        return emulator_problem()[0] ? emulator_problem() : "unknown error";
    default:
        return "invalid value";
    }
}
const char *cudaGetErrorName(cudaError_t status) { return status == cudaErrorUnknown ? "kernel" : "emulator"; }
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device ? cudaErrorInvalidValue : cudaSuccess; }
cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}
/* sm_80's limit, which the variants are chosen by; gfx942's 64 KB, gfx950's 160 */
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
#if defined(PI0_GFX950)
    const int bytes = 160 << 10;
#elif defined(PI0_AMD)
    const int bytes = 64 << 10;
#else
    const int bytes = 99 << 10; /* of sm_86, the least */
#endif
    *value = attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? bytes : 0;
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int) { return cudaSuccess; }

/* ---- memory ---- */

cudaError_t cudaMemGetInfo(size_t *available, size_t *all) {
    std::lock_guard<std::mutex> guard(memory_lock);
    *available = DEVICE_BYTES - bytes_taken;
    *all = DEVICE_BYTES;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **memory, size_t bytes) {
    std::lock_guard<std::mutex> guard(memory_lock);
    const size_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
    *memory = NULL;
    if (!bytes || whole > DEVICE_BYTES - bytes_taken) return cudaErrorMemoryAllocation;
    char *pages = (char *)mmap(NULL, whole + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return cudaErrorMemoryAllocation;
    if (mprotect(pages + PAGE, whole, PROT_READ | PROT_WRITE)) return cudaErrorMemoryAllocation;
    *memory = pages + PAGE;
    blocks[*memory] = whole;
    bytes_taken += whole;
    detect_memory_add(*memory, bytes, true);
    return cudaSuccess;
}
cudaError_t cudaFree(void *memory) {
    std::lock_guard<std::mutex> guard(memory_lock);
    const auto found = blocks.find(memory);
    if (!memory) return cudaSuccess;
    if (found == blocks.end()) return cudaErrorInvalidValue;
    detect_memory_remove(memory);
    munmap((char *)memory - PAGE, found->second + 2 * PAGE);
    bytes_taken -= found->second;
    blocks.erase(found);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned) {
    *memory = malloc(bytes);
    if (!*memory) return cudaErrorMemoryAllocation;
    detect_memory_add(*memory, bytes, false);
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *memory) {
    detect_memory_remove(memory);
    free(memory);
    return cudaSuccess;
}

/* ---- streams ---- */

static cudaError_t enqueue(cudaStream_t stream, const work &job) {
    if (!stream || !stream->capture) return job();
    stream->capture->nodes.push_back(job);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream) {
    return enqueue(stream, [=] {
        if (value) {
            memset(memory, value, bytes);
            return cudaSuccess;
        }
        /* zero pages come back when they are touched; most of a session's never are */
        const uintptr_t first = ((uintptr_t)memory + PAGE - 1) / PAGE * PAGE,
                        last = ((uintptr_t)memory + bytes) / PAGE * PAGE;
        if (last > first && blocks.count(memory)) {
            memset(memory, 0, first - (uintptr_t)memory);
            madvise((void *)first, last - first, MADV_DONTNEED);
            memset((void *)last, 0, (uintptr_t)memory + bytes - last);
        } else {
            memset(memory, 0, bytes);
        }
        return cudaSuccess;
    });
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    return enqueue(stream, [=] {
        memcpy(to, from, bytes);
        return cudaSuccess;
    });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    *stream = new hip_stream();
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return emulator_problem()[0] ? cudaErrorUnknown : cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
    *status = stream->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (stream->capture) return cudaErrorInvalidValue;
    stream->capture = new hip_graph();
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = stream->capture;
    stream->capture = NULL;
    return *graph ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long) {
    *executable = new hip_graph_exec{graph->nodes};
    return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
    for (const work &job : executable->nodes) {
        const cudaError_t status = job();
        if (status != cudaSuccess) return status;
    }
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    delete executable;
    return cudaSuccess;
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = new hip_event();
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
    return enqueue(stream, [=] {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        event->seconds = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
        return cudaSuccess;
    });
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return cudaEventRecordWithFlags(event, stream, 0);
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
    *ms = (float)((end->seconds - begin->seconds) * 1e3);
    return cudaSuccess;
}
}

cudaError_t emulator_launch(const void *kernel, void (*call)(const void *arguments), const void *arguments,
                            size_t bytes, dim3 blocks, int threads, size_t shared_bytes, cudaStream_t stream) {
    const auto copy = std::make_shared<std::vector<uint64_t>>((bytes + 7) / 8);
    memcpy(copy->data(), arguments, bytes);
    const launch_work job = {kernel, call, copy, bytes, blocks, threads, shared_bytes};
    return enqueue(stream, [=] { return launch_run(&job); });
}
