/*
 * Attention of the ViT with wgmma and TMA: all 256 keys of an image at once, so the softmax needs no running maxima.
 *
 *   grid    x: tiles of 128 query rows, y: heads, z: images       block two warpgroups of 64 rows
 *   memory  queries, keys and values of the head whole, each as 64 columns in rows of 128 bytes and a tail of 16 in
 *           rows of 32 (a head has 72; the tensor map ends there and gives zeros)
 *   bytes   100 KB a block from L2                                 FLOPs 4 * rows * 256 * 80
 *   bound   latency: load, product, softmax and product follow one another; half of the keys at a time, so that a
 *           product runs beside maxima and powers of the other half
 */
#include "attention.h"
#include "common.cuh"
#include "launch.cuh"
#include "tensor_map.cuh"
#include "wgmma.cuh"

enum { ROWS = 128, KEYS = 256, HALF = 128, HEAD_DIM = 72, MAIN = 128, TAIL = 32 }; /* MAIN, TAIL: bytes of a row */
enum { Q_TAIL = ROWS * MAIN, K_MAIN = Q_TAIL + ROWS * TAIL, K_TAIL = K_MAIN + KEYS * MAIN };
enum { V_MAIN = K_TAIL + KEYS * TAIL, V_TAIL = V_MAIN + KEYS * MAIN, BARRIERS = V_TAIL + KEYS * TAIL };
enum { SHARED_BYTES = BARRIERS + 32 + 1024, OUT_STRIDE = HEAD_DIM * 2 };

#ifdef PI0_HOPPER
__device__ __forceinline__ void load_rows(uint32_t to, const CUtensorMap *map, int column, int head, int row,
                                          uint64_t *barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
                 "l"(map), "r"(column), "r"(head), "r"(row), "r"(shared_address(barrier))
                 : "memory");
}
/* Descriptors: `step` bytes to the next 8 rows, swizzle 1: 128 bytes, 3: 32. */
__device__ __forceinline__ uint64_t descriptor(uint32_t shared, int step, int swizzle) {
    return (uint64_t)(shared >> 4) | (1ull << 16) | ((uint64_t)(step / 16) << 32) | ((uint64_t)swizzle << 62);
}
/* Nothing that reads what wgmma wrote may be moved to before this. */
template <int COUNT> __device__ __forceinline__ void hold(float (&v)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(v[i])::"memory");
}
#endif

__global__ void __launch_bounds__(256, 1)
    attention_vit_kernel(const __grid_constant__ attention_vit_maps maps, const __grid_constant__ attention_problem p) {
#ifdef PI0_HOPPER
    extern __shared__ uint8_t shared_raw[];
    uint8_t *memory = (uint8_t *)(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023);
    const uint32_t at = shared_address(memory);
    uint64_t *keys_full = (uint64_t *)(memory + BARRIERS), *values_full = keys_full + 2; /* two halves of keys */
    const int warp = warp_uniform(threadIdx.x / 32), group = warp / 4, lane = threadIdx.x % 32;
    const int head = blockIdx.y, first_key = blockIdx.z * KEYS, first_row = first_key + blockIdx.x * ROWS;
    if (threadIdx.x == 0) {
        mbarrier_init(&keys_full[0], 1);
        mbarrier_init(&keys_full[1], 1);
        mbarrier_init(values_full, 1);
        mbarrier_init_fence();
        mbarrier_expect(&keys_full[0], (ROWS + HALF) * (MAIN + TAIL));
        mbarrier_expect(&keys_full[1], HALF * (MAIN + TAIL));
        mbarrier_expect(values_full, KEYS * (MAIN + TAIL));
    }
    __syncthreads();
    grid_launch_next();
    if (threadIdx.x == 0) {
        for (int i = 0; i < 3; i++) {
            prefetch_map(&maps.main[i]);
            prefetch_map(&maps.tail[i]);
        }
        grid_wait();
        load_rows(at, &maps.main[0], 0, head, first_row, &keys_full[0]);
        load_rows(at + Q_TAIL, &maps.tail[0], 64, head, first_row, &keys_full[0]);
        for (int i = 0; i < 2; i++) {
            load_rows(at + K_MAIN + i * HALF * MAIN, &maps.main[1], 0, head, first_key + i * HALF, &keys_full[i]);
            load_rows(at + K_TAIL + i * HALF * TAIL, &maps.tail[1], 64, head, first_key + i * HALF, &keys_full[i]);
        }
        for (int i = 0; i < 2; i++) {
            load_rows(at + V_MAIN + i * HALF * MAIN, &maps.main[2], 0, head, first_key + i * HALF, values_full);
            load_rows(at + V_TAIL + i * HALF * TAIL, &maps.tail[2], 64, head, first_key + i * HALF, values_full);
        }
        prefetch_share(p.next_weights, p.next_bytes, blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z),
                       gridDim.x * gridDim.y * gridDim.z);
    }
    __syncwarp();

    const uint32_t q = at + group * 64 * MAIN, q_tail = at + Q_TAIL + group * 64 * TAIL;
    float s[2][64];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        mbarrier_wait(&keys_full[h], 0);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++)
            wgmma<HALF>::run(s[h], descriptor(q + k * 32, 8 * MAIN, 1),
                             descriptor(at + K_MAIN + h * HALF * MAIN + k * 32, 8 * MAIN, 1), k > 0);
        wgmma<HALF>::run(s[h], descriptor(q_tail, 8 * TAIL, 3), descriptor(at + K_TAIL + h * HALF * TAIL, 8 * TAIL, 3),
                         1);
        wgmma_commit();
    }
    /* rows lane / 4 and lane / 4 + 8 */
    const float scale = p.scale * 1.4426950408889634f;
    float top[2], sum[2] = {0.0f, 0.0f};
    wgmma_wait<1>();
    hold(s[0]);
    top[0] = s[0][0];
    top[1] = s[0][2];
#pragma unroll
    for (int i = 0; i < 64; i++) top[i / 2 % 2] = fmaxf(top[i / 2 % 2], s[0][i]);
    wgmma_wait<0>();
    hold(s[1]);
#pragma unroll
    for (int i = 0; i < 64; i++) top[i / 2 % 2] = fmaxf(top[i / 2 % 2], s[1][i]);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
        top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2)) * scale;
    }
    float out[32], rest[8]; /* columns 0 to 63, 64 to 79 */
    uint32_t a[2][8][4];
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int k = 0; k < 8; k++)
#pragma unroll
            for (int i = 0; i < 8; i += 2) {
                const float low = exp2_fast(s[h][k * 8 + i] * scale - top[i / 2 % 2]),
                            high = exp2_fast(s[h][k * 8 + i + 1] * scale - top[i / 2 % 2]);
                sum[i / 2 % 2] += low + high;
                a[h][k][i / 2] = pack_bf16(low, high);
            }
#pragma unroll
        for (int k = 0; k < 8; k++)
#pragma unroll
            for (int i = 0; i < 4; i++) asm volatile("" : "+r"(a[h][k][i])); /* before the values are waited for */
        if (h == 0) mbarrier_wait(values_full, 0);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const int step = h * 8 + k;
            wgmma_ra<64, 1>::run(out, a[h][k], descriptor(at + V_MAIN + step * 16 * MAIN, 8 * MAIN, 1), step > 0);
            wgmma_ra<16, 1>::run(rest, a[h][k], descriptor(at + V_TAIL + step * 16 * TAIL, 8 * TAIL, 3), step > 0);
        }
        wgmma_commit();
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        sum[r] = 1.0f / sum[r];
    }
    wgmma_wait<0>();
    hold(out);
    hold(rest);

    __syncthreads(); /* queries are read by all: their memory takes the results, 16 rows a warp */
    uint8_t *staging = memory + warp * 16 * OUT_STRIDE;
    const uint32_t to = shared_address(staging) + (lane / 8 % 2 * 8 + lane % 8) * OUT_STRIDE + lane / 16 * 16;
#pragma unroll
    for (int j = 0; j < 8; j += 2)
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(to + j * 16),
                     "r"(pack_bf16(out[j * 4] * sum[0], out[j * 4 + 1] * sum[0])),
                     "r"(pack_bf16(out[j * 4 + 2] * sum[1], out[j * 4 + 3] * sum[1])),
                     "r"(pack_bf16(out[j * 4 + 4] * sum[0], out[j * 4 + 5] * sum[0])),
                     "r"(pack_bf16(out[j * 4 + 6] * sum[1], out[j * 4 + 7] * sum[1]))
                     : "memory");
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1,%2};" ::"r"(to + 128),
                 "r"(pack_bf16(rest[0] * sum[0], rest[1] * sum[0])), "r"(pack_bf16(rest[2] * sum[1], rest[3] * sum[1]))
                 : "memory");
    __syncwarp();
    for (int i = lane; i < 16 * 9; i += 32) {
        const int row = i / 9, c = i - row * 9;
        __stcg((uint4 *)(p.out + (size_t)(first_row + warp * 16 + row) * p.out_stride + head * HEAD_DIM + c * 8),
               *(const uint4 *)(staging + row * OUT_STRIDE + c * 16));
    }
#endif
}

static bool encode_heads(CUtensorMap *map, void *encode, const void *base, const attention_problem *p, int stride,
                         bool tail) {
    cuuint64_t sizes[3] = {HEAD_DIM, (cuuint64_t)p->heads, (cuuint64_t)p->sequences * KEYS};
    cuuint64_t strides[2] = {HEAD_DIM * 2, (cuuint64_t)stride * 2};
    cuuint32_t box[3] = {(cuuint32_t)(tail ? TAIL : MAIN) / 2, 1, ROWS}, steps[3] = {1, 1, 1};
    return ((tensor_map_encoder)encode)(
               map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, (void *)base, sizes, strides, box, steps,
               CU_TENSOR_MAP_INTERLEAVE_NONE, tail ? CU_TENSOR_MAP_SWIZZLE_32B : CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

extern "C" bool attention_vit_possible(const attention_problem *p) {
    return p->head_dim == HEAD_DIM && p->length == KEYS && p->group == 1 && !p->starts && !p->key_mask &&
           p->sequences < 65536 && p->q_stride % 8 == 0 && p->kv_stride % 8 == 0;
}

extern "C" cudaError_t attention_vit_setup(void) {
    return cudaFuncSetAttribute(attention_vit_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
}

extern "C" cudaError_t attention_vit_launch(const attention_problem *p, void *encode, bool dependent,
                                            cudaStream_t stream) {
    attention_vit_maps maps;
    const void *base[3] = {p->q, p->k, p->v};
    for (int i = 0; i < 3; i++)
        for (int tail = 0; tail < 2; tail++)
            if (!encode_heads(tail ? &maps.tail[i] : &maps.main[i], encode, base[i], p, i ? p->kv_stride : p->q_stride,
                              tail))
                return cudaErrorInvalidValue;
    return launch(attention_vit_kernel, dim3(KEYS / ROWS, p->heads, p->sequences), 256, SHARED_BYTES, 1, dependent,
                  stream, maps, *p);
}
