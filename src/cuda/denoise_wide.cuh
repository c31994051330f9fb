/* What the wide kernels of the steps share: copies by tensor maps. */
#ifndef PI0_CUDA_DENOISE_WIDE_CUH
#define PI0_CUDA_DENOISE_WIDE_CUH

#include <cuda.h>

#include "denoise.cuh"
#include "wgmma.cuh"

enum { WIDE_ROWS = 64, WIDE_THREADS = 160 };

#ifdef PI0_HOPPER
__device__ __forceinline__ void wide_load(uint32_t to, const CUtensorMap *map, int column, int row, uint64_t *barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            to),
        "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier))
        : "memory");
}
/* What nobody reads again soon. */
__device__ __forceinline__ void wide_load_once(uint32_t to, const CUtensorMap *map, int column, int row,
                                               uint64_t *barrier, uint64_t policy) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier)), "l"(policy)
                 : "memory");
}
#endif

/* Map of [rows, columns] in boxes of 64 columns x box_rows, swizzled for wgmma; rows beyond read as zeros. */
bool wide_encode(CUtensorMap *map, void *encode, const void *base, int rows, int columns, int box_rows);
cudaError_t wide_setup(void);
cudaError_t wide_attention_setup(void);
#endif
