/*
 * The kernels on each device. Host code knows a kernel by the address that the compiler gave it and its name by what
 * the compiler registers before main (__hipRegisterFunction); the code objects, one for each architecture, are part of
 * the program and come to a device with its first engine.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "hip/library.h"
#include "hip/modules.h"

enum { MAX_KERNELS = 256, MAX_DEVICES = 64 };

/* Linked in by code_objects.S. */
extern const unsigned char hip_code_gfx942[], hip_code_gfx950[];
static const struct {
    const char *architecture;
    const unsigned char *code;
} code_objects[] = {{"gfx942", hip_code_gfx942}, {"gfx950", hip_code_gfx950}};

/* Filled by constructors that the compiler made, before main; constant from then on. */
static struct {
    const void *address;
    const char *name;
} kernels[MAX_KERNELS];
static int kernel_count;

typedef struct device_modules {
    hipModule_t module;
    hipFunction_t *functions; /* [kernel_count] */
    int users;
} device_modules;

/* A device's kernels are the process's, whichever engines use them. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static device_modules devices[MAX_DEVICES];

/* ---- what the compiler's code calls before main, and for kernel<<<>>>, which is not used ---- */

void **__hipRegisterFatBinary(const void *binary);
void __hipUnregisterFatBinary(void **binary);
void __hipRegisterFunction(void **binary, const void *address, char *device_function, const char *name, unsigned limit,
                           void *thread, void *block, void *block_size, void *grid_size, int *warp_size);

void **__hipRegisterFatBinary(const void *binary) {
    (void)binary;
    return NULL;
}
void __hipUnregisterFatBinary(void **binary) { (void)binary; }
hipError_t __hipPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared_bytes, hipStream_t *stream) {
    (void)grid, (void)block, (void)shared_bytes, (void)stream;
    return hipErrorNotSupported;
}
hipError_t hipLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared_bytes,
                           hipStream_t stream) {
    (void)kernel, (void)grid, (void)block, (void)arguments, (void)shared_bytes, (void)stream;
    return hipErrorNotSupported;
}
void __hipRegisterFunction(void **binary, const void *address, char *device_function, const char *name, unsigned limit,
                           void *thread, void *block, void *block_size, void *grid_size, int *warp_size) {
    (void)binary, (void)device_function, (void)limit, (void)thread, (void)block, (void)block_size, (void)grid_size,
        (void)warp_size;
    if (kernel_count == MAX_KERNELS) return; /* hip_kernel_find will say that it is missing */
    kernels[kernel_count].address = address; /* of the kernel as host code takes it */
    kernels[kernel_count++].name = name;
}

/* ---- code objects ---- */

/* "gfx942:sramecc+:xnack-" is gfx942 */
static const unsigned char *find_code(const char *architecture) {
    for (size_t i = 0; i < sizeof code_objects / sizeof *code_objects; i++) {
        const size_t length = strlen(code_objects[i].architecture);
        if (!strncmp(architecture, code_objects[i].architecture, length) &&
            (architecture[length] == 0 || architecture[length] == ':'))
            return code_objects[i].code;
    }
    return NULL;
}

bool hip_modules_built(const char *architecture) { return find_code(architecture) != NULL; }

static hipError_t load(device_modules *d, const unsigned char *code) {
    const hip_library *library = hip_library_get();
    d->functions = memory_zeroed(kernel_count ? kernel_count : 1, sizeof *d->functions);
    if (!d->functions) return hipErrorOutOfMemory;
    hipError_t status = library->hipModuleLoadData(&d->module, code);
    const bool loaded = status == hipSuccess;
    for (int i = 0; i < kernel_count && status == hipSuccess; i++)
        status = library->hipModuleGetFunction(&d->functions[i], d->module, kernels[i].name);
    if (status == hipSuccess) return hipSuccess;
    if (loaded) library->hipModuleUnload(d->module);
    memory_release(d->functions);
    memset(d, 0, sizeof *d);
    return status;
}

int hip_modules_open(int device, const char *architecture) {
    const unsigned char *code = find_code(architecture);
    if (device < 0 || device >= MAX_DEVICES) return hipErrorInvalidDevice;
    if (!code) return hipErrorNoBinaryForGpu;
    pthread_mutex_lock(&lock);
    device_modules *d = &devices[device];
    const int status = d->users ? hipSuccess : (int)load(d, code);
    if (status == hipSuccess) d->users++;
    pthread_mutex_unlock(&lock);
    return status;
}

void hip_modules_close(int device) {
    if (device < 0 || device >= MAX_DEVICES) return;
    pthread_mutex_lock(&lock);
    device_modules *d = &devices[device];
    if (d->users > 0 && --d->users == 0) {
        hip_library_get()->hipModuleUnload(d->module);
        memory_release(d->functions);
        memset(d, 0, sizeof *d);
    }
    pthread_mutex_unlock(&lock);
}

void *hip_kernel_find(int device, const void *address) {
    if (device < 0 || device >= MAX_DEVICES || !devices[device].functions) return NULL;
    for (int i = 0; i < kernel_count; i++)
        if (kernels[i].address == address) return devices[device].functions[i];
    return NULL;
}
