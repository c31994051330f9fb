/* The CUDA backend's face: devices, engines, errors. libcuda is found at run time through CUDA's run-time library. */
#include <cuda.h>
#include <stdio.h>
#include <string.h>

#include "attention.h"
#include "denoise.h"
#include "engine.h"
#include "gemm.h"
extern "C" {
#include "base/memory.h"
}

extern "C" pi0_status cuda_error(pi0_error *error, cudaError_t status, const char *what) {
    cudaGetLastError(); /* errors that are no faults of the device must not stick to the next call */
    return error_set(error, status == cudaErrorMemoryAllocation ? PI0_ERROR_MEMORY : PI0_ERROR_DEVICE,
                     "CUDA: %s (%s) in %s", cudaGetErrorString(status), cudaGetErrorName(status), what);
}

extern "C" pi0_status engine_use_device(const backend_engine *engine, pi0_error *error) {
    CUDA_TRY(cudaSetDevice(engine->device));
    return PI0_OK;
}

/* Devices there are; 0 with a reason otherwise. */
static int device_count(char *reason, size_t size) {
    int count = 0, driver = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaSuccess && count > 0) return count;
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    cudaGetLastError();
    if (driver == 0)
        snprintf(reason, size, "no NVIDIA driver was found");
    else if (status == cudaErrorInsufficientDriver)
        snprintf(reason, size, "the NVIDIA driver supports CUDA %d.%d, this build needs %d.%d", driver / 1000,
                 driver % 100 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 100 / 10);
    else
        snprintf(reason, size, "no CUDA device is visible (%s)",
                 cudaGetErrorString(status == cudaSuccess ? cudaErrorNoDevice : status));
    return 0;
}

static void describe_device(pi0_device_info *d, int index) {
    cudaDeviceProp properties;
    d->backend = PI0_BACKEND_CUDA;
    d->index = index;
    d->name[0] = d->arch[0] = d->features[0] = d->reason[0] = 0;
    d->memory_bytes = 0;
    d->units = 0;
    d->usable = false;
    const cudaError_t status = cudaGetDeviceProperties(&properties, index);
    if (status != cudaSuccess) {
        cudaGetLastError();
        snprintf(d->reason, sizeof d->reason, "%s", cudaGetErrorString(status));
        return;
    }
    snprintf(d->name, sizeof d->name, "%.127s", properties.name);
    snprintf(d->arch, sizeof d->arch, "sm_%d%d", properties.major, properties.minor);
    snprintf(d->features, sizeof d->features, "bf16%s%s", properties.major >= 9 ? " clusters tma" : "",
             properties.major == 9 ? " wgmma" : "");
    d->memory_bytes = (int64_t)properties.totalGlobalMem;
    d->units = properties.multiProcessorCount;
    d->usable = properties.major >= 8;
    if (!d->usable)
        snprintf(d->reason, sizeof d->reason, "compute capability %d.%d, 8.0 or newer is needed", properties.major,
                 properties.minor);
}

static void cuda_devices(pi0_device_info *devices, int capacity, int *count) {
    char reason[200] = "";
    const int found = device_count(reason, sizeof reason);
    for (int i = 0; i < found; i++, ++*count)
        if (*count < capacity) describe_device(&devices[*count], i);
    if (found) return;
    if (*count < capacity) {
        pi0_device_info *d = &devices[*count];
        d->backend = PI0_BACKEND_CUDA;
        d->index = 0;
        d->name[0] = d->arch[0] = d->features[0] = 0;
        d->memory_bytes = 0;
        d->units = 0;
        d->usable = false;
        snprintf(d->reason, sizeof d->reason, "%s", reason);
    }
    ++*count;
}

static pi0_status check_model(const model_config *c, pi0_error *error) {
    const int padded = (c->vit.head_dim + 7) / 8 * 8;
    if (c->action_dim > 32 || (padded != 72 && padded != 16) ||
        (c->language.head_dim != 256 && c->language.head_dim != 16) || c->language.head_dim != c->expert.head_dim ||
        c->vit.patch_size * c->vit.patch_size * 3 > 640 || c->vit.layers > CUDA_MAX_LAYERS ||
        c->language.layers > CUDA_MAX_LAYERS || c->language.mlp % 8 || c->expert.mlp % 8 || c->vit.mlp % 8 ||
        c->language.width % 8 || c->expert.width % 8 || c->vit.width % 8 || c->expert.width > 1024)
        return error_set(
            error, PI0_ERROR_UNSUPPORTED,
            "the CUDA backend has no kernels for these sizes (head dims %d and %d, action_dim %d, expert width %d)",
            c->vit.head_dim, c->language.head_dim, c->action_dim, c->expert.width);
    return PI0_OK;
}

static pi0_status open_device(backend_engine *e, const pi0_engine_options *o, pi0_error *error) {
    char reason[200] = "";
    const int count = device_count(reason, sizeof reason);
    if (!count) return error_set(error, PI0_ERROR_DEVICE, "backend cuda: %s", reason);
    if (o->device < 0 || o->device >= count)
        return error_set(error, PI0_ERROR_ARGUMENT, "device %d: there are %d CUDA devices", o->device, count);
    pi0_device_info info = {};
    describe_device(&info, o->device);
    if (!info.usable)
        return error_set(error, PI0_ERROR_DEVICE, "device %d (%s): %s", o->device, info.name, info.reason);
    e->device = o->device;
    memcpy(e->name, info.name, sizeof e->name);
    snprintf(e->arch, sizeof e->arch, "%.15s", info.arch);
    e->multiprocessors = info.units;
    TRY(engine_use_device(e, error));

    cudaFuncAttributes attributes;
    e->hopper = strcmp(e->arch, "sm_90") == 0 && o->kernels != PI0_KERNELS_PORTABLE && gemm_hopper_built(&attributes);
    if (e->hopper) {
        cudaDriverEntryPointQueryResult found;
        CUDA_TRY(
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &e->encode, 12000, cudaEnableDefault, &found));
        if (found != cudaDriverEntryPointSuccess)
            return error_set(error, PI0_ERROR_DEVICE, "the NVIDIA driver is too old for TMA");
        CUDA_TRY(gemm_setup());
    }
    CUDA_TRY(gemm_portable_setup());
    CUDA_TRY(attention_setup());
    CUDA_TRY(denoise_setup());
    return PI0_OK;
}

static void cuda_engine_close(backend_engine *engine) {
    if (!engine) return;
    if (engine->memory && engine_use_device(engine, NULL) == PI0_OK) cudaFree(engine->memory);
    memory_release(engine);
}

static pi0_status cuda_engine_open(backend_engine **result, const backend_engine_options *options, pi0_error *error) {
    *result = NULL;
    const pi0_engine_options *o = options->options;
    if (o->precision == PI0_PRECISION_F32 || o->precision == PI0_PRECISION_FP8)
        return error_set(error, PI0_ERROR_UNSUPPORTED, "backend cuda: precision %s is not there, bf16 is",
                         o->precision == PI0_PRECISION_F32 ? "f32" : "fp8");
    backend_engine *engine = (backend_engine *)memory_zeroed(1, sizeof *engine);
    if (!engine) return error_memory(error, sizeof *engine, "an engine");
    engine->config = *checkpoint_config(options->checkpoint);
    engine->head_padded = (engine->config.vit.head_dim + 7) / 8 * 8;
    engine->rope = o->rope;
    pi0_status status = check_model(&engine->config, error);
    if (status == PI0_OK) status = open_device(engine, o, error);
    if (status == PI0_OK) status = engine_load(engine, options, error);
    if (status != PI0_OK) {
        cuda_engine_close(engine);
        return status;
    }
    *result = engine;
    return PI0_OK;
}

static void cuda_engine_describe(const backend_engine *engine, pi0_engine_info *info) {
    snprintf(info->device_name, sizeof info->device_name, "%s", engine->name);
    snprintf(info->device_arch, sizeof info->device_arch, "%s", engine->arch);
    info->precision = PI0_PRECISION_BF16;
    info->weights_bytes = (int64_t)engine->bytes;
}

extern "C" {
extern const backend cuda_backend;
const backend cuda_backend = {
    PI0_BACKEND_CUDA,  "cuda",
    cuda_devices,      cuda_engine_open,
    cuda_engine_close, cuda_engine_describe,
    cuda_session_open, cuda_session_close,
    cuda_infer,        cuda_read,
    PI0_CHOICE_GRAPH,
};
}
