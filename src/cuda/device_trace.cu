#include "device_trace.h"

#if __has_include(<cupti.h>)
#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "base/memory.h"
}

/* What is used of CUPTI. */
#define CUPTI_FUNCTIONS(X)                                                                                             \
    X(cuptiActivityRegisterCallbacks)                                                                                  \
    X(cuptiActivityEnable)                                                                                             \
    X(cuptiActivityDisable)                                                                                            \
    X(cuptiActivityFlushAll)                                                                                           \
    X(cuptiActivityGetNextRecord)                                                                                      \
    X(cuptiActivityPushExternalCorrelationId)                                                                          \
    X(cuptiActivityPopExternalCorrelationId)                                                                           \
    X(cuptiGetCallbackName)                                                                                            \
    X(cuptiGetResultString)                                                                                            \
    X(cuptiGetTimestamp)                                                                                               \
    X(cuptiSubscribe)                                                                                                  \
    X(cuptiUnsubscribe)

enum { BUFFER_BYTES = 1 << 20, FIRST_RECORDS = 4096, MAX_RECORDS = 1 << 24 };

struct device_trace {
    void *library;
#define FIELD(name) decltype(&::name) name;
    CUPTI_FUNCTIONS(FIELD)
#undef FIELD
    CUpti_SubscriberHandle subscriber;
    bool subscribed;
    uint64_t base_ns, begin_ns;
    pthread_mutex_t lock;   /* buffers come back on CUPTI's own thread too */
    launch_record *records; /* note of a call: external correlation, filled in at the end */
    int count, capacity;
    uint32_t *linked; /* pairs of correlation and note */
    int linked_count, linked_capacity;
    bool lost;
};

/* CUPTI's callbacks carry no pointer of ours: the one session that records. */
static pthread_mutex_t current_lock = PTHREAD_MUTEX_INITIALIZER;
static device_trace *current;

static const CUpti_ActivityKind kinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                                           CUPTI_ACTIVITY_KIND_MEMSET, CUPTI_ACTIVITY_KIND_RUNTIME,
                                           CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION};
enum { KIND_COUNT = sizeof kinds / sizeof *kinds };

/* ---- records ---- */

static bool grow(void **list, int count, int *capacity, size_t size) {
    if (count < *capacity) return true;
    const int more = *capacity ? *capacity * 2 : FIRST_RECORDS;
    if (more > MAX_RECORDS) return false;
    void *larger = memory_resize(*list, (size_t)count * size, (size_t)more * size);
    if (!larger) return false;
    *list = larger;
    *capacity = more;
    return true;
}

static launch_record *add_record(device_trace *t, launch_record_kind kind, uint64_t start, uint64_t end,
                                 uint32_t correlation) {
    void *list = t->records;
    const bool room = grow(&list, t->count, &t->capacity, sizeof *t->records);
    t->records = (launch_record *)list;
    if (!room) {
        t->lost = true;
        return NULL;
    }
    launch_record *r = &t->records[t->count++];
    memset(r, 0, sizeof *r);
    r->kind = kind;
    r->start_ns = start;
    r->end_ns = end;
    r->correlation = correlation;
    r->note = -1;
    return r;
}

static const char *direction_of(uint8_t kind) {
    switch (kind) {
    case CUPTI_ACTIVITY_MEMCPY_KIND_HTOD:
        return "host to device";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOH:
        return "device to host";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOD:
        return "on the device";
    default:
        return "other";
    }
}

static void take_kernel(device_trace *t, const CUpti_ActivityKernel10 *a) {
    launch_record *r = add_record(t, LAUNCH_KERNEL, a->start, a->end, a->correlationId);
    if (!r) return;
    r->name = a->name; /* lives as long as its module */
    r->stream = (int)a->streamId;
    r->node = a->graphNodeId;
    r->grid[0] = a->gridX;
    r->grid[1] = a->gridY;
    r->grid[2] = a->gridZ;
    r->block[0] = a->blockX;
    r->block[1] = a->blockY;
    r->block[2] = a->blockZ;
    r->cluster[0] = (int)a->clusterX;
    r->cluster[1] = (int)a->clusterY;
    r->cluster[2] = (int)a->clusterZ;
    r->registers = a->registersPerThread;
    r->static_shared = a->staticSharedMemory;
    r->dynamic_shared = a->dynamicSharedMemory;
}

static void take_link(device_trace *t, const CUpti_ActivityExternalCorrelation *a) {
    void *list = t->linked;
    const bool room = grow(&list, t->linked_count, &t->linked_capacity, 2 * sizeof *t->linked);
    t->linked = (uint32_t *)list;
    if (!room) {
        t->lost = true;
        return;
    }
    t->linked[2 * t->linked_count] = a->correlationId;
    t->linked[2 * t->linked_count++ + 1] = (uint32_t)a->externalId;
}

static void take_activity(device_trace *t, const CUpti_Activity *activity) {
    switch (activity->kind) {
    case CUPTI_ACTIVITY_KIND_KERNEL:
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL:
        take_kernel(t, (const CUpti_ActivityKernel10 *)activity);
        break;
    case CUPTI_ACTIVITY_KIND_MEMCPY: {
        const CUpti_ActivityMemcpy6 *a = (const CUpti_ActivityMemcpy6 *)activity;
        launch_record *r = add_record(t, LAUNCH_COPY, a->start, a->end, a->correlationId);
        if (!r) break;
        r->stream = (int)a->streamId;
        r->node = a->graphNodeId;
        r->bytes = (double)a->bytes;
        r->direction = direction_of(a->copyKind);
        break;
    }
    case CUPTI_ACTIVITY_KIND_MEMSET: {
        const CUpti_ActivityMemset4 *a = (const CUpti_ActivityMemset4 *)activity;
        launch_record *r = add_record(t, LAUNCH_SET, a->start, a->end, a->correlationId);
        if (!r) break;
        r->stream = (int)a->streamId;
        r->node = a->graphNodeId;
        r->bytes = (double)a->bytes;
        break;
    }
    case CUPTI_ACTIVITY_KIND_RUNTIME: {
        const CUpti_ActivityAPI *a = (const CUpti_ActivityAPI *)activity;
        launch_record *r = add_record(t, LAUNCH_CALL, a->start, a->end, a->correlationId);
        if (!r) break;
        const char *name = NULL;
        r->thread = (int)(a->threadId & INT32_MAX);
        if (t->cuptiGetCallbackName(CUPTI_CB_DOMAIN_RUNTIME_API, a->cbid, &name) == CUPTI_SUCCESS) r->name = name;
        break;
    }
    case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION:
        take_link(t, (const CUpti_ActivityExternalCorrelation *)activity);
        break;
    default:
        break;
    }
}

static void CUPTIAPI buffer_wanted(uint8_t **buffer, size_t *size, size_t *most_records) {
    *buffer = (uint8_t *)memory_allocate(BUFFER_BYTES); /* NULL: CUPTI drops records, and the count does not fit */
    *size = *buffer ? BUFFER_BYTES : 0;
    *most_records = 0;
}

static void CUPTIAPI buffer_full(CUcontext, uint32_t, uint8_t *buffer, size_t, size_t valid) {
    pthread_mutex_lock(&current_lock);
    device_trace *t = current;
    if (t && valid) {
        pthread_mutex_lock(&t->lock);
        CUpti_Activity *record = NULL;
        while (t->cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) take_activity(t, record);
        pthread_mutex_unlock(&t->lock);
    }
    pthread_mutex_unlock(&current_lock);
    memory_release(buffer);
}

/* ---- opening ---- */

static void *open_library(void) {
    static const char *const names[] = {"libcupti.so.13", "/usr/local/cuda/lib64/libcupti.so.13",
                                        "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so.13"};
    for (const char *name : names)
        if (void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
    return NULL;
}

static void CUPTIAPI no_callback(void *, CUpti_CallbackDomain, CUpti_CallbackId, const void *) {}

static pi0_status refuse(const device_trace *t, CUptiResult result, const char *what, pi0_error *error) {
    const char *text = NULL;
    if (t->cuptiGetResultString(result, &text) != CUPTI_SUCCESS) text = "unknown error";
    return error_set(error, PI0_ERROR_UNSUPPORTED, "no traces here: CUPTI says %s (%d) in %s", text, (int)result, what);
}

static pi0_status start(device_trace *t, pi0_error *error) {
    CUptiResult result = t->cuptiSubscribe(&t->subscriber, no_callback, NULL);
    if (result != CUPTI_SUCCESS) return refuse(t, result, "cuptiSubscribe (does another profiler run?)", error);
    t->subscribed = true;
    result = t->cuptiActivityRegisterCallbacks(buffer_wanted, buffer_full);
    if (result != CUPTI_SUCCESS) return refuse(t, result, "cuptiActivityRegisterCallbacks", error);
    for (const CUpti_ActivityKind kind : kinds) {
        result = t->cuptiActivityEnable(kind);
        if (result != CUPTI_SUCCESS) return refuse(t, result, "cuptiActivityEnable", error);
    }
    result = t->cuptiGetTimestamp(&t->base_ns);
    return result == CUPTI_SUCCESS ? PI0_OK : refuse(t, result, "cuptiGetTimestamp", error);
}

static pi0_status load(device_trace *t, pi0_error *error) {
    t->library = open_library();
    if (!t->library)
        return error_set(
            error, PI0_ERROR_UNSUPPORTED,
            "no traces here: libcupti.so.13 was not found; it comes with CUDA 13, LD_LIBRARY_PATH says where");
#define LOAD(name)                                                                                                     \
    t->name = (decltype(t->name))dlsym(t->library, #name);                                                             \
    if (!t->name) return error_set(error, PI0_ERROR_UNSUPPORTED, "no traces here: this CUPTI has no %s", #name);
    CUPTI_FUNCTIONS(LOAD)
#undef LOAD
    return PI0_OK;
}

extern "C" void device_trace_close(device_trace **trace) {
    device_trace *t = *trace;
    if (!t) return;
    if (t->subscribed) {
        for (const CUpti_ActivityKind kind : kinds) t->cuptiActivityDisable(kind);
        t->cuptiActivityFlushAll(0);
        t->cuptiUnsubscribe(t->subscriber);
    }
    pthread_mutex_lock(&current_lock);
    if (current == t) current = NULL;
    pthread_mutex_unlock(&current_lock);
    pthread_mutex_destroy(&t->lock);
    memory_release(t->records);
    memory_release(t->linked);
    /* the library stays: threads of its own may run */
    memory_release(t);
    *trace = NULL;
}

extern "C" pi0_status device_trace_open(device_trace **trace, pi0_error *error) {
    *trace = NULL;
    device_trace *t = (device_trace *)memory_zeroed(1, sizeof *t);
    if (!t) return error_memory(error, sizeof *t, "a trace");
    pthread_mutex_init(&t->lock, NULL);
    pi0_status status = load(t, error);
    if (status == PI0_OK) {
        pthread_mutex_lock(&current_lock);
        if (current)
            status =
                error_set(error, PI0_ERROR_UNSUPPORTED, "no second trace: another session of this process records");
        else
            current = t;
        pthread_mutex_unlock(&current_lock);
    }
    if (status == PI0_OK) status = start(t, error);
    if (status != PI0_OK) {
        device_trace_close(&t);
        return status;
    }
    *trace = t;
    return PI0_OK;
}

/* ---- an inference ---- */

extern "C" void device_trace_begin(device_trace *t) {
    t->cuptiActivityFlushAll(0);
    pthread_mutex_lock(&t->lock);
    t->count = t->linked_count = 0;
    t->lost = false;
    pthread_mutex_unlock(&t->lock);
    t->cuptiGetTimestamp(&t->begin_ns);
}

extern "C" void device_trace_launch(device_trace *t, int note) {
    t->cuptiActivityPushExternalCorrelationId(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0, (uint64_t)note);
}

extern "C" void device_trace_launched(device_trace *t) {
    uint64_t last;
    t->cuptiActivityPopExternalCorrelationId(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0, &last);
}

extern "C" int device_trace_nodes(cudaStream_t stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaGraph_t graph = NULL;
    size_t count = 0;
    if (cudaStreamGetCaptureInfo(stream, &status, NULL, &graph, NULL, NULL, NULL) != cudaSuccess || !graph) return 0;
    return cudaGraphGetNodes(graph, NULL, &count) == cudaSuccess ? (int)count : 0;
}

static int by_correlation(const void *a, const void *b) {
    const uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return left < right ? -1 : left > right;
}

static void link_notes(device_trace *t) {
    qsort(t->linked, (size_t)t->linked_count, 2 * sizeof *t->linked, by_correlation);
    for (int i = 0; i < t->count && t->linked_count; i++) {
        launch_record *r = &t->records[i];
        const uint32_t *found = (const uint32_t *)bsearch(&r->correlation, t->linked, (size_t)t->linked_count,
                                                          2 * sizeof *t->linked, by_correlation);
        if (found) r->note = (int)found[1];
    }
}

/* Kernels come with the names that the linker sees. names[count] receives the readable ones, the caller's to free. */
static void demangle(launch_record *records, char **names, int count) {
    int outcome;
    for (int i = 0; i < count; i++) {
        if (records[i].kind != LAUNCH_KERNEL || !records[i].name) continue;
        names[i] = abi::__cxa_demangle(records[i].name, NULL, NULL, &outcome);
        if (names[i]) records[i].name = names[i];
    }
}

extern "C" pi0_status device_trace_end(device_trace *t, const launch_note *notes, int note_count,
                                       pi0_trace_function function, void *user, pi0_error *error) {
    uint64_t end_ns = 0;
    t->cuptiGetTimestamp(&end_ns);
    const CUptiResult flushed = t->cuptiActivityFlushAll(0);
    if (flushed != CUPTI_SUCCESS) return refuse(t, flushed, "cuptiActivityFlushAll", error);
    pthread_mutex_lock(&t->lock);
    pi0_status status = t->lost ? error_memory(error, (size_t)t->count * sizeof *t->records, "a trace") : PI0_OK;
    char **names = status == PI0_OK ? (char **)memory_zeroed((size_t)t->count + 1, sizeof *names) : NULL;
    if (status == PI0_OK && !names) status = error_memory(error, (size_t)t->count * sizeof *names, "a trace");
    if (status == PI0_OK) {
        link_notes(t);
        demangle(t->records, names, t->count);
        launch_trace trace = {};
        trace.records = t->records;
        trace.record_count = t->count;
        trace.notes = notes;
        trace.note_count = note_count;
        trace.begin_ns = t->begin_ns;
        trace.end_ns = end_ns;
        trace.base_ns = t->base_ns;
        trace.function = function;
        trace.user = user;
        status = launch_trace_tell(&trace, error);
        for (int i = 0; i < t->count; i++) free(names[i]);
        t->count = 0;
    }
    memory_release(names);
    pthread_mutex_unlock(&t->lock);
    return status;
}

#else /* a toolkit without CUPTI's header */

extern "C" pi0_status device_trace_open(device_trace **trace, pi0_error *error) {
    *trace = NULL;
    return error_set(error, PI0_ERROR_UNSUPPORTED, "no traces here: this build was made without CUPTI's header");
}
extern "C" void device_trace_close(device_trace **trace) { *trace = NULL; }
extern "C" void device_trace_begin(device_trace *) {}
extern "C" pi0_status device_trace_end(device_trace *, const launch_note *, int, pi0_trace_function, void *,
                                       pi0_error *) {
    return PI0_OK;
}
extern "C" void device_trace_launch(device_trace *, int) {}
extern "C" void device_trace_launched(device_trace *) {}
extern "C" int device_trace_nodes(cudaStream_t) { return 0; }

#endif
