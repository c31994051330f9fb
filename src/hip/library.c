#include "hip/library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

/* ROCm 7 and 6 by their versions, then whatever the developer package or a folder names. */
static const char *const names[] = {"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so",
                                    "/opt/rocm/lib/libamdhip64.so"};

/* One library a process, as with a linked one: its state is the process's anyway. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static hip_library library;

static void open_library(void) {
    void *file = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !file; i++) file = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!file) {
        snprintf(library.reason, sizeof library.reason, "ROCm was not found (no libamdhip64)");
        return;
    }
#define HIP_FIND(name)                                                                                                 \
    library.name = (__typeof__(name) *)dlsym(file, #name);                                                             \
    if (!library.name && !library.reason[0])                                                                           \
        snprintf(library.reason, sizeof library.reason, "libamdhip64 has no %s: ROCm 6 or newer is needed", #name);
    HIP_FUNCTIONS(HIP_FIND)
#undef HIP_FIND
    const hipError_t status = library.reason[0] ? hipSuccess : library.hipInit(0);
    if (status != hipSuccess)
        snprintf(library.reason, sizeof library.reason, "no AMD GPU can be used (%s)",
                 library.hipGetErrorString(status));
}

const hip_library *hip_library_get(void) {
    pthread_once(&once, open_library);
    return &library;
}
