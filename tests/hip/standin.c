/* See standin.h. The functions are those that src/hip/library.h lists. */
#include "standin.h"

#include <elf.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define __HIP_PLATFORM_AMD__ 1
#include <hip/hip_runtime_api.h>

enum {
    MAX_BLOCKS = 256,
    MAX_DEVICES = 8,
    LDS_BYTES = 65536,
    MOST_FILLED = 1 << 26,
    EM_AMD = 224,
    MACH_GFX942 = 0x4c,
    MACH_GFX950 = 0x4f
};

static standin_state state = {.devices = 1, .arch = "gfx942:sramecc+:xnack-"};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int current_device;

typedef struct block {
    unsigned char *memory;
    size_t bytes;
    bool pinned;
} block;
static block blocks[MAX_BLOCKS];

standin_state *standin(void) { return &state; }

void standin_reset(void) {
    state.calls = state.fail_at = 0;
    state.failed = state.failed_giving = false;
    state.launches = state.copies = state.fills = state.captures = state.graph_launches = state.products = 0;
    state.most_shared_bytes = 0;
    state.misuse[0] = 0;
}

void standin_misuse(const char *format, ...) {
    if (state.misuse[0]) return;
    va_list list;
    va_start(list, format);
    vsnprintf(state.misuse, sizeof state.misuse, format, list);
    va_end(list);
}

bool standin_fails(void) {
    pthread_mutex_lock(&lock);
    const bool now = ++state.calls == state.fail_at;
    if (now) state.failed = true;
    pthread_mutex_unlock(&lock);
    return now;
}

/* It gives back, whatever it says, and nobody need pass that on. */
bool standin_fails_giving(void) {
    const bool now = standin_fails();
    if (now) {
        state.failed = false;
        state.failed_giving = true;
    }
    return now;
}

void standin_live(int change) { __atomic_add_fetch(&state.live, change, __ATOMIC_SEQ_CST); }

/* ---- memory ---- */

static bool within(const void *memory, size_t bytes, bool pinned_too) {
    const unsigned char *at = memory;
    bool found = false;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MAX_BLOCKS && !found; i++) {
        const block *b = &blocks[i];
        found = b->memory && (pinned_too || !b->pinned) && at >= b->memory && bytes <= b->bytes &&
                (size_t)(at - b->memory) <= b->bytes - bytes;
    }
    pthread_mutex_unlock(&lock);
    return found;
}
bool standin_on_device(const void *memory, size_t bytes) { return within(memory, bytes, false); }
bool standin_readable(const void *memory, size_t bytes) { return within(memory, bytes, true); }

static hipError_t take(void **memory, size_t bytes, bool pinned) {
    *memory = NULL;
    if (standin_fails()) return hipErrorOutOfMemory;
    unsigned char *fresh = malloc(bytes ? bytes : 1);
    if (!fresh) return hipErrorOutOfMemory;
    memset(fresh, 0xa5, bytes < 65536 ? bytes : 65536); /* nobody may count on zeros */
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MAX_BLOCKS && fresh; i++)
        if (!blocks[i].memory) {
            blocks[i] = (block){fresh, bytes, pinned};
            *memory = fresh;
            fresh = NULL;
        }
    pthread_mutex_unlock(&lock);
    if (fresh) abort(); /* more blocks than a backend should need */
    standin_live(1);
    return hipSuccess;
}

static hipError_t give(void *memory, bool pinned) {
    const bool failing = standin_fails_giving();
    bool found = false;
    pthread_mutex_lock(&lock);
    for (int i = 0; memory && i < MAX_BLOCKS && !found; i++)
        if (blocks[i].memory == memory && blocks[i].pinned == pinned) {
            found = true;
            blocks[i].memory = NULL;
        }
    pthread_mutex_unlock(&lock);
    if (!found) {
        standin_misuse("memory %p is given back that was not taken", memory);
        return hipErrorInvalidValue;
    }
    free(memory);
    standin_live(-1);
    return failing ? hipErrorUnknown : hipSuccess;
}

hipError_t hipMalloc(void **memory, size_t bytes) { return take(memory, bytes, false); }
hipError_t hipFree(void *memory) { return give(memory, false); }
hipError_t hipHostMalloc(void **memory, size_t bytes, unsigned flags) {
    (void)flags;
    return take(memory, bytes, true);
}
hipError_t hipHostFree(void *memory) { return give(memory, true); }
hipError_t hipMemGetInfo(size_t *available, size_t *all) {
    *available = (size_t)8 << 30;
    *all = (size_t)16 << 30;
    return standin_fails() ? hipErrorUnknown : hipSuccess;
}

/* ---- devices ---- */

hipError_t hipInit(unsigned flags) {
    (void)flags;
    if (getenv("STANDIN_INIT_FAILS")) return hipErrorNotInitialized;
    if (getenv("STANDIN_DEVICES")) state.devices = atoi(getenv("STANDIN_DEVICES"));
    if (getenv("STANDIN_ARCH")) snprintf(state.arch, sizeof state.arch, "%s", getenv("STANDIN_ARCH"));
    return standin_fails() ? hipErrorUnknown : hipSuccess;
}
hipError_t hipGetDeviceCount(int *count) {
    *count = state.devices;
    if (standin_fails()) return hipErrorUnknown;
    return state.devices ? hipSuccess : hipErrorNoDevice;
}
hipError_t hipGetDevicePropertiesR0600(hipDeviceProp_tR0600 *properties, int device) {
    memset(properties, 0, sizeof *properties);
    if (standin_fails()) return hipErrorUnknown;
    if (device < 0 || device >= state.devices) return hipErrorInvalidDevice;
    snprintf(properties->name, sizeof properties->name, "Stand-in %d", device);
    snprintf(properties->gcnArchName, sizeof properties->gcnArchName, "%s", state.arch);
    properties->totalGlobalMem = (size_t)16 << 30;
    properties->sharedMemPerBlock = LDS_BYTES;
    properties->multiProcessorCount = 304;
    properties->warpSize = 64;
    return hipSuccess;
}
hipError_t hipSetDevice(int device) {
    if (standin_fails()) return hipErrorUnknown;
    if (device < 0 || device >= state.devices) return hipErrorInvalidDevice;
    current_device = device;
    return hipSuccess;
}
hipError_t hipGetDevice(int *device) {
    *device = current_device;
    return standin_fails() ? hipErrorUnknown : hipSuccess;
}
const char *hipGetErrorString(hipError_t status) {
    return status == hipErrorNoDevice ? "no ROCm-capable device is detected" : "an error of the stand-in";
}
const char *hipGetErrorName(hipError_t status) {
    return status == hipErrorOutOfMemory ? "hipErrorOutOfMemory" : "hipErrorUnknown";
}
hipError_t hipGetLastError(void) { return hipSuccess; }

/* ---- what a stream does: at once, or when its graph is launched ---- */

struct ihipEvent_t {
    int recorded; /* how often */
    unsigned flags;
};

typedef enum work_kind { WORK_COPY, WORK_FILL, WORK_KERNEL, WORK_EVENT } work_kind;
typedef struct work {
    work_kind kind;
    void *to;
    const void *from;
    size_t bytes;
    int value;
    hipEvent_t event;
    struct work *next;
} work;

struct ihipGraph {
    work *first, **last;
};
struct hipGraphExec {
    work *first;
    bool uploaded;
};
struct ihipStream_t {
    struct ihipGraph *capturing;
};

static void perform(const work *w) {
    pthread_mutex_lock(&lock);
    switch (w->kind) {
    case WORK_COPY:
        memcpy(w->to, w->from, w->bytes);
        state.copies++;
        break;
    case WORK_FILL:
        memset(w->to, w->value, w->bytes < MOST_FILLED ? w->bytes : MOST_FILLED);
        state.fills++;
        break;
    case WORK_KERNEL:
        state.launches++;
        break;
    case WORK_EVENT:
        w->event->recorded++;
        break;
    }
    pthread_mutex_unlock(&lock);
}

static void release_work(work *w) {
    while (w) {
        work *next = w->next;
        free(w);
        w = next;
    }
}

static hipError_t submit(hipStream_t stream, work w) {
    if (!stream) {
        standin_misuse("work in the null stream");
        return hipErrorInvalidHandle;
    }
    if (!stream->capturing) {
        perform(&w);
        return hipSuccess;
    }
    work *copy = malloc(sizeof *copy);
    if (!copy) return hipErrorOutOfMemory;
    *copy = w;
    copy->next = NULL;
    *stream->capturing->last = copy;
    stream->capturing->last = &copy->next;
    return hipSuccess;
}

hipError_t hipMemsetAsync(void *to, int value, size_t bytes, hipStream_t stream) {
    if (standin_fails()) return hipErrorUnknown;
    if (!standin_on_device(to, bytes)) standin_misuse("%zu bytes are set outside device memory", bytes);
    return submit(stream, (work){.kind = WORK_FILL, .to = to, .value = value, .bytes = bytes});
}
hipError_t hipMemcpyAsync(void *to, const void *from, size_t bytes, hipMemcpyKind kind, hipStream_t stream) {
    if (standin_fails()) return hipErrorUnknown;
    const bool to_device = kind != hipMemcpyDeviceToHost, from_device = kind != hipMemcpyHostToDevice;
    if (kind != hipMemcpyHostToDevice && kind != hipMemcpyDeviceToHost && kind != hipMemcpyDeviceToDevice)
        standin_misuse("copy of kind %d", (int)kind);
    if (standin_on_device(to, bytes) != to_device || standin_on_device(from, bytes) != from_device)
        standin_misuse("a copy of %zu bytes of kind %d between wrong places", bytes, (int)kind);
    if (stream && stream->capturing &&
        !(standin_readable(to_device ? from : to, bytes))) /* a graph outlives the call: pageable memory may not */
        standin_misuse("a captured copy from or to memory that is not pinned");
    return submit(stream, (work){.kind = WORK_COPY, .to = to, .from = from, .bytes = bytes});
}

hipError_t hipStreamCreateWithFlags(hipStream_t *stream, unsigned flags) {
    *stream = NULL;
    if (standin_fails()) return hipErrorUnknown;
    if (flags != hipStreamNonBlocking) standin_misuse("a stream that waits for the null stream");
    *stream = calloc(1, sizeof **stream);
    if (!*stream) return hipErrorOutOfMemory;
    standin_live(1);
    return hipSuccess;
}
hipError_t hipStreamDestroy(hipStream_t stream) {
    const bool failing = standin_fails_giving();
    if (stream->capturing) standin_misuse("a stream is destroyed while it captures");
    free(stream);
    standin_live(-1);
    return failing ? hipErrorUnknown : hipSuccess;
}
hipError_t hipStreamSynchronize(hipStream_t stream) {
    if (stream->capturing) standin_misuse("a capturing stream is waited for");
    return standin_fails() ? hipErrorUnknown : hipSuccess;
}
hipError_t hipStreamIsCapturing(hipStream_t stream, hipStreamCaptureStatus *status) {
    *status = stream->capturing ? hipStreamCaptureStatusActive : hipStreamCaptureStatusNone;
    return standin_fails() ? hipErrorUnknown : hipSuccess;
}
hipError_t hipStreamBeginCapture(hipStream_t stream, hipStreamCaptureMode mode) {
    if (standin_fails()) return hipErrorUnknown;
    if (mode != hipStreamCaptureModeThreadLocal) standin_misuse("a capture that stops other threads");
    if (stream->capturing) standin_misuse("a capture within a capture");
    stream->capturing = calloc(1, sizeof *stream->capturing);
    if (!stream->capturing) return hipErrorOutOfMemory;
    stream->capturing->last = &stream->capturing->first;
    standin_live(1);
    state.captures++;
    return hipSuccess;
}
/* As the real one, a failing end leaves no capture and no graph. */
hipError_t hipStreamEndCapture(hipStream_t stream, hipGraph_t *graph) {
    *graph = stream->capturing;
    stream->capturing = NULL;
    if (!*graph) standin_misuse("the end of a capture that never began");
    if (!standin_fails()) return *graph ? hipSuccess : hipErrorInvalidValue;
    if (*graph) hipGraphDestroy(*graph);
    *graph = NULL;
    return hipErrorUnknown;
}

/* ---- graphs ---- */

hipError_t hipGraphInstantiateWithFlags(hipGraphExec_t *executable, hipGraph_t graph, unsigned long long flags) {
    *executable = NULL;
    if (standin_fails()) return hipErrorUnknown;
    if (flags) standin_misuse("flags for a graph");
    *executable = calloc(1, sizeof **executable);
    if (!*executable) return hipErrorOutOfMemory;
    work **last = &(*executable)->first;
    for (const work *w = graph->first; w; w = w->next) {
        *last = malloc(sizeof **last);
        if (!*last) abort();
        **last = *w;
        (*last)->next = NULL;
        last = &(*last)->next;
    }
    standin_live(1);
    return hipSuccess;
}
hipError_t hipGraphUpload(hipGraphExec_t executable, hipStream_t stream) {
    if (standin_fails()) return hipErrorUnknown;
    if (stream->capturing) standin_misuse("a graph is uploaded into a capture");
    executable->uploaded = true;
    return hipSuccess;
}
hipError_t hipGraphLaunch(hipGraphExec_t executable, hipStream_t stream) {
    if (standin_fails()) return hipErrorUnknown;
    if (stream->capturing || !executable->uploaded) standin_misuse("a graph is launched too early");
    state.graph_launches++;
    for (const work *w = executable->first; w; w = w->next) perform(w);
    return hipSuccess;
}
hipError_t hipGraphDestroy(hipGraph_t graph) {
    release_work(graph->first);
    free(graph);
    standin_live(-1);
    return hipSuccess;
}
hipError_t hipGraphExecDestroy(hipGraphExec_t executable) {
    const bool failing = standin_fails_giving();
    release_work(executable->first);
    free(executable);
    standin_live(-1);
    return failing ? hipErrorUnknown : hipSuccess;
}

/* ---- events ---- */

hipError_t hipEventCreateWithFlags(hipEvent_t *event, unsigned flags) {
    *event = NULL;
    if (standin_fails()) return hipErrorUnknown;
    *event = calloc(1, sizeof **event);
    if (!*event) return hipErrorOutOfMemory;
    (*event)->flags = flags;
    standin_live(1);
    return hipSuccess;
}
hipError_t hipEventDestroy(hipEvent_t event) {
    const bool failing = standin_fails_giving();
    free(event);
    standin_live(-1);
    return failing ? hipErrorUnknown : hipSuccess;
}
hipError_t hipEventRecord(hipEvent_t event, hipStream_t stream) { return hipEventRecordWithFlags(event, stream, 0); }
hipError_t hipEventRecordWithFlags(hipEvent_t event, hipStream_t stream, unsigned flags) {
    if (standin_fails()) return hipErrorUnknown;
    if (stream->capturing && flags != hipEventRecordExternal)
        standin_misuse("an event in a graph that nobody outside can read");
    return submit(stream, (work){.kind = WORK_EVENT, .event = event});
}
hipError_t hipEventSynchronize(hipEvent_t event) {
    (void)event;
    return standin_fails() ? hipErrorUnknown : hipSuccess;
}
hipError_t hipEventElapsedTime(float *ms, hipEvent_t begin, hipEvent_t end) {
    *ms = 0.5f;
    if (standin_fails()) return hipErrorUnknown;
    if (!begin->recorded || !end->recorded || (begin->flags | end->flags) & hipEventDisableTiming) {
        standin_misuse("time between events that were not recorded, or keep none");
        return hipErrorInvalidHandle;
    }
    return hipSuccess;
}

/* ---- code objects: real ELF files for the device's architecture ---- */

struct ihipModule_t {
    const unsigned char *image;
    hipFunction_t functions;
};
struct ihipModuleSymbol_t {
    char name[200];
    uint32_t shared_bytes; /* from the kernel's descriptor */
    struct ihipModuleSymbol_t *next;
};

static uint32_t machine(void) { return strncmp(state.arch, "gfx950", 6) ? MACH_GFX942 : MACH_GFX950; }

hipError_t hipModuleLoadData(hipModule_t *module, const void *image) {
    const Elf64_Ehdr *header = image;
    *module = NULL;
    if (standin_fails()) return hipErrorUnknown;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) || header->e_machine != EM_AMD) {
        standin_misuse("what is loaded is no code object");
        return hipErrorInvalidImage;
    }
    if ((header->e_flags & 0xff) != machine()) {
        standin_misuse("a code object for another architecture (flags %x)", header->e_flags);
        return hipErrorNoBinaryForGpu;
    }
    *module = calloc(1, sizeof **module);
    if (!*module) return hipErrorOutOfMemory;
    (*module)->image = image;
    standin_live(1);
    return hipSuccess;
}
hipError_t hipModuleUnload(hipModule_t module) {
    const bool failing = standin_fails_giving();
    while (module->functions) {
        hipFunction_t next = module->functions->next;
        free(module->functions);
        module->functions = next;
    }
    free(module);
    standin_live(-1);
    return failing ? hipErrorUnknown : hipSuccess;
}
/* Looks for NAME.kd, the kernel's descriptor, whose first word is its static LDS. */
hipError_t hipModuleGetFunction(hipFunction_t *function, hipModule_t module, const char *name) {
    const unsigned char *image = module->image;
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + header->e_shoff);
    char wanted[250];
    *function = NULL;
    if (standin_fails()) return hipErrorUnknown;
    snprintf(wanted, sizeof wanted, "%s.kd", name);
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_DYNSYM) continue;
        const Elf64_Sym *symbols = (const Elf64_Sym *)(image + sections[i].sh_offset);
        const char *names = (const char *)image + sections[sections[i].sh_link].sh_offset;
        for (size_t s = 0; s < sections[i].sh_size / sizeof *symbols; s++) {
            if (strcmp(names + symbols[s].st_name, wanted)) continue;
            const Elf64_Shdr *home = &sections[symbols[s].st_shndx];
            *function = calloc(1, sizeof **function);
            if (!*function) return hipErrorOutOfMemory;
            snprintf((*function)->name, sizeof(*function)->name, "%s", name);
            memcpy(&(*function)->shared_bytes, image + home->sh_offset + (symbols[s].st_value - home->sh_addr), 4);
            (*function)->next = module->functions;
            module->functions = *function;
            return hipSuccess;
        }
    }
    standin_misuse("the code object has no kernel %s", name);
    return hipErrorNotFound;
}

hipError_t hipModuleLaunchKernel(hipFunction_t function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                 unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                                 hipStream_t stream, void **arguments, void **extra) {
    if (standin_fails()) return hipErrorUnknown;
    const standin_launch launch = {function->name, {grid_x, grid_y, grid_z}, block_x, shared_bytes, arguments};
    const size_t all = (size_t)shared_bytes + function->shared_bytes;
    if (all > state.most_shared_bytes) state.most_shared_bytes = all;
    if (all > LDS_BYTES) standin_misuse("%s: %zu bytes of LDS", function->name, all);
    if (!grid_x || !grid_y || !grid_z || !block_x || block_x > 1024 || block_x % 64 || block_y != 1 || block_z != 1)
        standin_misuse("%s: grid %u %u %u of %u %u %u", function->name, grid_x, grid_y, grid_z, block_x, block_y,
                       block_z);
    if (getenv("STANDIN_LOG")) {
        FILE *log = fopen(getenv("STANDIN_LOG"), "a");
        if (log) {
            fprintf(log, "%s %u %u %u %u %zu\n", function->name, grid_x, grid_y, grid_z, block_x, all);
            fclose(log);
        }
    }
    if (extra || !arguments) standin_misuse("%s: arguments in another form", function->name);
    standin_check_launch(&launch);
    return submit(stream, (work){.kind = WORK_KERNEL});
}
