/* A GPU backend's face: devices, engines, errors. What differs between CUDA and HIP is in device.cu. */
#include <stdio.h>
#include <string.h>

#include "device_trace.h"
#include "engine.h"
extern "C" {
#include "base/memory.h"
}

extern "C" pi0_status cuda_error(pi0_error *error, cudaError_t status, const char *what) {
    cudaGetLastError(); /* errors that are no faults of the device must not stick to the next call */
    return error_set(error, status == cudaErrorMemoryAllocation ? PI0_ERROR_MEMORY : PI0_ERROR_DEVICE,
                     DEVICE_TITLE ": %s (%s) in %s", cudaGetErrorString(status), cudaGetErrorName(status), what);
}

extern "C" pi0_status engine_use_device(const backend_engine *engine, pi0_error *error) {
    CUDA_TRY(cudaSetDevice(engine->device));
    return PI0_OK;
}

static void devices(pi0_device_info *list, int capacity, int *count) {
    char reason[200] = "";
    const int found = device_count(reason, sizeof reason);
    for (int i = 0; i < found; i++, ++*count)
        if (*count < capacity) device_describe(&list[*count], i);
    if (found) return;
    if (*count < capacity) {
        pi0_device_info *d = &list[*count];
        d->backend = DEVICE_BACKEND;
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
            "the " DEVICE_TITLE
            " backend has no kernels for these sizes (head dims %d and %d, action_dim %d, expert width %d)",
            c->vit.head_dim, c->language.head_dim, c->action_dim, c->expert.width);
    return PI0_OK;
}

static pi0_status open_device(backend_engine *e, const pi0_engine_options *o, pi0_error *error) {
    char reason[200] = "";
    const int count = device_count(reason, sizeof reason);
    if (!count) return error_set(error, PI0_ERROR_DEVICE, "backend " DEVICE_NAME ": %s", reason);
    if (o->device < 0 || o->device >= count)
        return error_set(error, PI0_ERROR_ARGUMENT, "device %d: there are %d " DEVICE_TITLE " devices", o->device,
                         count);
    pi0_device_info info = {};
    device_describe(&info, o->device);
    if (!info.usable)
        return error_set(error, PI0_ERROR_DEVICE, "device %d (%s): %s", o->device, info.name, info.reason);
    e->device = o->device;
    memcpy(e->name, info.name, sizeof e->name);
    snprintf(e->arch, sizeof e->arch, "%.15s", info.arch);
    e->multiprocessors = info.units;
    TRY(engine_use_device(e, error));
    return device_setup(e, o, error);
}

static void engine_close(backend_engine *engine) {
    if (!engine) return;
    if (engine->memory) {
        engine_use_device(engine, NULL); /* where that fails, memory is given back all the same */
        cudaFree(engine->memory);
    }
    device_release(engine);
    memory_release(engine);
}

static pi0_status engine_open(backend_engine **result, const backend_engine_options *options, pi0_error *error) {
    *result = NULL;
    const pi0_engine_options *o = options->options;
    if (o->precision == PI0_PRECISION_F32 || o->precision == PI0_PRECISION_FP8)
        return error_set(error, PI0_ERROR_UNSUPPORTED, "backend " DEVICE_NAME ": precision %s is not there, bf16 is",
                         o->precision == PI0_PRECISION_F32 ? "f32" : "fp8");
    backend_engine *engine = (backend_engine *)memory_zeroed(1, sizeof *engine);
    if (!engine) return error_memory(error, sizeof *engine, "an engine");
    engine->config = *checkpoint_config(options->checkpoint);
    engine->head_padded = (engine->config.vit.head_dim + 7) / 8 * 8;
    engine->rope = o->rope;
    engine->plain_attention = o->attention == PI0_ATTENTION_NAIVE;
    engine->separate_qkv = !o->fuse_qkv;
    pi0_status status = check_model(&engine->config, error);
    if (status == PI0_OK) status = open_device(engine, o, error);
    if (status == PI0_OK) status = engine_load(engine, options, error);
    if (status != PI0_OK) {
        engine_close(engine);
        return status;
    }
    *result = engine;
    return PI0_OK;
}

static void engine_describe(const backend_engine *engine, pi0_engine_info *info) {
    snprintf(info->device_name, sizeof info->device_name, "%s", engine->name);
    snprintf(info->device_arch, sizeof info->device_arch, "%s", engine->arch);
    info->precision = PI0_PRECISION_BF16;
    info->weights_bytes = (int64_t)engine->bytes;
}

extern "C" {
extern const backend DEVICE_BACKEND_NAME;
const backend DEVICE_BACKEND_NAME = {
    DEVICE_BACKEND,
    DEVICE_NAME,
    devices,
    engine_open,
    engine_close,
    engine_describe,
    cuda_session_open,
    cuda_session_close,
    cuda_infer,
    cuda_read,
    PI0_CHOICE_GRAPH | PI0_CHOICE_GEMM | PI0_CHOICE_ATTENTION | PI0_CHOICE_FUSE_QKV | DEVICE_TRACE_CHOICE,
};
}
