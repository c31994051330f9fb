/* Kernel launches with the two attributes used here. */
#ifndef PI0_CUDA_LAUNCH_CUH
#define PI0_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

#if defined(PI0_EMULATOR)
/* tests/emulator; neither clusters nor overlapping launches are there. */
template <typename... Parameters>
static cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes, int, bool,
                          cudaStream_t stream, Parameters... arguments) {
    typedef emulator_bound<Parameters...> bound;
    const bound body = {kernel, std::tuple<Parameters...>(arguments...)};
    return emulator_launch((const void *)kernel, bound::call, &body, sizeof body, grid, threads, shared_bytes, stream);
}
#elif defined(PI0_HIP)
/* Neither clusters nor overlapping launches are there. */
template <typename... Parameters>
static cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes, int, bool,
                          cudaStream_t stream, Parameters... arguments) {
    void *list[] = {&arguments...};
    return hip_launch((const void *)kernel, grid, dim3(threads), list, shared_bytes, stream);
}
#else
/* dependent: the kernel may start before its predecessor ends (it calls grid_wait); cluster: blocks along x, 1: none.
 */
template <typename... Parameters>
static cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes, int cluster,
                          bool dependent, cudaStream_t stream, Parameters... arguments) {
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    if (dependent) {
        attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attributes[config.numAttrs].val.clusterDim.x = cluster;
        attributes[config.numAttrs].val.clusterDim.y = attributes[config.numAttrs].val.clusterDim.z = 1;
        config.numAttrs++;
    }
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}
#endif
#endif
