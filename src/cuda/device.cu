/* What of the CUDA backend is NVIDIA's alone: devices, drivers, which kernels an architecture runs. libcuda is found at
 * run time through CUDA's run-time library. */
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "cublaslt.h"
#include "denoise.h"
#include "engine.h"
#include "gemm.h"

extern "C" int device_count(char *reason, size_t size) {
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

extern "C" void device_describe(pi0_device_info *d, int index) {
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

extern "C" pi0_status device_setup(backend_engine *e, const pi0_engine_options *o, pi0_error *error) {
    cudaFuncAttributes attributes;
    e->overlap = atoi(e->arch + 3) >= 90;
    if (o->gemm == PI0_GEMM_CUBLASLT) TRY(cublaslt_open(&e->blas, error));
    e->hopper = strcmp(e->arch, "sm_90") == 0 && o->kernels != PI0_KERNELS_PORTABLE && gemm_hopper_built(&attributes);
    if (e->hopper) {
        cudaDriverEntryPointQueryResult found;
        CUDA_TRY(
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &e->encode, 12000, cudaEnableDefault, &found));
        if (found != cudaDriverEntryPointSuccess)
            return error_set(error, PI0_ERROR_DEVICE, "the NVIDIA driver is too old for TMA");
        CUDA_TRY(gemm_setup());
        CUDA_TRY(attention_vit_setup());
    }
    CUDA_TRY(gemm_portable_setup());
    CUDA_TRY(attention_setup());
    CUDA_TRY(denoise_setup());
    return PI0_OK;
}

extern "C" void device_release(backend_engine *engine) { cublaslt_close(&engine->blas); }
