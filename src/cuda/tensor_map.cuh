/*
 * Tensor maps and the bulk copies that go by them, sm_90: rows of bf16 between global and shared memory in the swizzle
 * that wgmma reads. Facts: NVIDIA's PTX ISA reference and the driver API's cuTensorMapEncodeTiled.
 */
#ifndef PI0_CUDA_TENSOR_MAP_CUH
#define PI0_CUDA_TENSOR_MAP_CUH

#include <cuda.h>

#include "common.cuh"

#ifdef PI0_HOPPER
/* The map's box at (column, row) to shared memory; `barrier` hears of its bytes. */
__device__ __forceinline__ void tma_load(uint32_t to, const CUtensorMap *map, int column, int row, uint64_t *barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            to),
        "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier))
        : "memory");
}
/* To the same place in all `blocks` of the cluster (a mask), and to their barriers. */
__device__ __forceinline__ void tma_load_multicast(uint32_t to, const CUtensorMap *map, int column, int row,
                                                   uint64_t *barrier, uint16_t blocks) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier)), "h"(blocks)
                 : "memory");
}
/* With a policy of createpolicy: what nobody reads again soon need not stay in L2. */
__device__ __forceinline__ void tma_load_hinted(uint32_t to, const CUtensorMap *map, int column, int row,
                                                uint64_t *barrier, uint64_t policy) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier)), "l"(policy)
                 : "memory");
}
/* Asks for a box to come into L2. */
__device__ __forceinline__ void tma_prefetch(const CUtensorMap *map, int column, int row) {
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(map), "r"(column), "r"(row)
                 : "memory");
}
#endif

/* cuTensorMapEncodeTiled, which the engine looks up at run time */
typedef CUresult (*tensor_map_encoder)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                                       const cuuint64_t *, const cuuint32_t *, const cuuint32_t *,
                                       CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                       CUtensorMapFloatOOBfill);

/* Map of bf16 [rows, columns], rows `stride` values apart, in boxes of box_rows x box_columns (64 or 32, swizzled as
 * wide); what lies beyond reads as zeros. */
static inline cudaError_t tensor_map_encode(CUtensorMap *map, void *encode, const void *base, int64_t rows, int columns,
                                            int stride, int box_rows, int box_columns = 64) {
    cuuint64_t sizes[2] = {(cuuint64_t)columns, (cuuint64_t)rows}, strides[1] = {(cuuint64_t)stride * 2};
    cuuint32_t box[2] = {(cuuint32_t)box_columns, (cuuint32_t)box_rows}, steps[2] = {1, 1};
    const CUresult result = ((tensor_map_encoder)encode)(
        map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)base, sizes, strides, box, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE, box_columns == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}
#endif
