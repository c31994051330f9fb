/* What of the HIP backend is AMD's alone: devices, which of them the kernels are built for, what Hopper has and AMD has
 * not. See engine.h. */
#include <stdio.h>
#include <string.h>

#include "cuda/attention.h"
#include "cuda/denoise.h"
#include "cuda/engine.h"
#include "cuda/gemm_cublaslt.h"
#include "cuda/gemm_portable.h"
extern "C" {
#include "hip/modules.h"
}
#include "hip/runtime.h"

extern "C" int device_count(char *reason, size_t size) { return hip_device_count(reason, size); }

extern "C" void device_describe(pi0_device_info *d, int index) {
    hip_device device;
    d->backend = PI0_BACKEND_HIP;
    d->index = index;
    d->name[0] = d->arch[0] = d->features[0] = d->reason[0] = 0;
    d->memory_bytes = 0;
    d->units = 0;
    d->usable = false;
    const cudaError_t status = (cudaError_t)hip_device_describe(index, &device);
    if (status != cudaSuccess) {
        cudaGetLastError();
        snprintf(d->reason, sizeof d->reason, "%s", cudaGetErrorString(status));
        return;
    }
    snprintf(d->name, sizeof d->name, "%.127s", device.name);
    snprintf(d->arch, sizeof d->arch, "%.15s", device.architecture);
    d->memory_bytes = (int64_t)device.memory_bytes;
    d->units = device.units;
    d->usable = hip_modules_built(device.architecture);
    if (d->usable)
        snprintf(d->features, sizeof d->features, "bf16 mfma");
    else
        snprintf(d->reason, sizeof d->reason, "%.63s: kernels are built for gfx942 and gfx950", device.architecture);
}

extern "C" pi0_status device_setup(backend_engine *engine, const pi0_engine_options *options, pi0_error *error) {
    if (options->gemm == PI0_GEMM_CUBLASLT) TRY(cublaslt_open(&engine->blas, error)); /* AMD's: hipBLASLt */
    CUDA_TRY((cudaError_t)hip_modules_open(engine->device, engine->arch));
    engine->kernels = true;
    CUDA_TRY(gemm_portable_setup());
    CUDA_TRY(attention_setup());
    CUDA_TRY(denoise_setup());
    return PI0_OK;
}

extern "C" void device_release(backend_engine *engine) {
    if (!engine->kernels && !engine->blas) return;
    engine_use_device(engine, NULL); /* what is given back is known by its handles, even if this fails */
    cublaslt_close(&engine->blas);
    if (engine->kernels) hip_modules_close(engine->device);
    engine->kernels = false;
}

/* ---- products: the portable kernel has them all ---- */

extern "C" size_t gemm_partial_bytes(void) { return (size_t)32 << 20; }
extern "C" int gemm_slab(gemm_epilogue, gemm_choice) { return GEMM_SLAB; }
extern "C" gemm_choice gemm_choose(gemm_epilogue, const gemm_problem *, int) { return {-1, 1}; }
extern "C" cudaError_t gemm_plan_make(gemm_plan *plan, gemm_epilogue, const gemm_problem *problem, gemm_choice choice,
                                      int multiprocessors, void *) {
    plan->problem = *problem;
    plan->choice = choice;
    plan->grid = multiprocessors;
    return cudaSuccess;
}
extern "C" cudaError_t gemm_launch(gemm_epilogue epilogue, const gemm_plan *plan, bool dependent, cudaStream_t stream) {
    return gemm_portable_launch(epilogue, &plan->problem, -2 - plan->choice.variant, plan->choice.split, plan->grid,
                                dependent, stream);
}

/* ---- kernels of Hopper's: `hopper` is never set, so none of these is chosen ---- */

extern "C" cudaError_t attention_hopper_plan(attention_plan *, const attention_problem *, int, void *) {
    return cudaErrorNotSupported;
}
extern "C" cudaError_t attention_hopper_launch(const attention_plan *, bool, cudaStream_t) {
    return cudaErrorNotSupported;
}
extern "C" bool attention_vit_possible(const attention_problem *) { return false; }
extern "C" cudaError_t attention_vit_launch(const attention_problem *, void *, bool, cudaStream_t) {
    return cudaErrorNotSupported;
}
cudaError_t stream_setup(void) { return cudaErrorNotSupported; }
cudaError_t wide_setup(void) { return cudaErrorNotSupported; }
extern "C" cudaError_t wide_launch(skinny_epilogue, const skinny_problem *, void *, bool, cudaStream_t) {
    return cudaErrorNotSupported;
}
extern "C" cudaError_t wide_attention_launch(const suffix_attention_problem *, int, int, void *, bool, cudaStream_t) {
    return cudaErrorNotSupported;
}
extern "C" size_t stream_exchange_bytes(int) { return 0; }
extern "C" bool stream_fits(int, int, int) { return false; }
extern "C" cudaError_t stream_launch(const stream_problem *, cudaStream_t) { return cudaErrorNotSupported; }
