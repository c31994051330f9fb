/*
 * The steps' products for more than 16 rows (longer horizons, batches) on Hopper: y[rows, features] = operand *
 * weights^T with wgmma. The problems are those of denoise_skinny.cu, their operands row-major.
 *
 *   grid     x: features / BN * SPLIT, y: 64 rows      block: one warpgroup that multiplies, one warp that fills the
 * ring cluster  SPLIT blocks share out k; each sends its sums to the block that finishes those rows (64 / SPLIT of
 * them) through distributed shared memory, where they are added in the order of the blocks before   the predecessor
 * ends: the first stages of weights are under way; blocks take half a multiprocessor's memory at most, so that the next
 * kernel's are resident by then bytes    weights once from memory per 64 rows, operand 64 * k / SPLIT * 2 per block
 * from L2; FLOPs 2 * rows * k * features bound    latency of a phase (launch, fill, cluster) at 64 rows; L2 for the
 * weights of many row tiles
 */
#include "denoise_wide.cuh"

template <int BN, int SPLIT> struct wide_shape {
    static constexpr int ROWS = WIDE_ROWS / SPLIT; /* that a block finishes */
    static constexpr int STAGE_BYTES = (WIDE_ROWS + BN) * 128;
    static constexpr int SUM_ROW = BN + 4; /* floats */
    static constexpr int SUM_BYTES = WIDE_ROWS * SUM_ROW * 4;
    static constexpr int FIXED_BYTES = SUM_BYTES + 128 * 4 + 1024 + 256;
    static constexpr int FIT = (112 * 1024 - FIXED_BYTES) / STAGE_BYTES;
    static constexpr int STAGES = FIT > 8 ? 8 : FIT;
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES + FIXED_BYTES;
    static_assert(WIDE_ROWS % SPLIT == 0 && ROWS >= 8 && BN % 16 == 0, "");
};

template <skinny_epilogue EPILOGUE, int BN, int SPLIT>
__global__ void __launch_bounds__(WIDE_THREADS)
    wide_kernel(const __grid_constant__ CUtensorMap weights_map, const __grid_constant__ CUtensorMap operand_map,
                const __grid_constant__ skinny_problem p) {
#ifdef PI0_HOPPER
    using shape = wide_shape<BN, SPLIT>;
    constexpr int ROWS = shape::ROWS, STAGES = shape::STAGES, STAGE_BYTES = shape::STAGE_BYTES,
                  SUM_ROW = shape::SUM_ROW;
    constexpr bool PAIRS = EPILOGUE == SKINNY_QKV || EPILOGUE == SKINNY_GATED;
    /* what a thread finishes: four features of a row, or four pairs of them */
    constexpr int ITEMS = ROWS * BN / (PAIRS ? 8 : 4), TURNS = ceil_div(ITEMS, 128);
    extern __shared__ uint8_t shared_raw[];
    uint8_t *ring = (uint8_t *)(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023);
    float *sums = (float *)(ring + STAGES * STAGE_BYTES); /* [piece][row][feature] */
    float *parts = sums + WIDE_ROWS * SUM_ROW;
    uint64_t *full = (uint64_t *)(parts + 128), *empty = full + STAGES;
    const int warp = warp_uniform(threadIdx.x / 32), lane = threadIdx.x % 32, thread = threadIdx.x;
    const int piece = cluster_rank(), first_feature = blockIdx.x / SPLIT * BN, first_row = blockIdx.y * WIDE_ROWS;
    const int blocks = p.k / 64, k_begin = piece * blocks / SPLIT, count = (piece + 1) * blocks / SPLIT - k_begin;
    if (thread == 0) {
        for (int s = 0; s < STAGES; s++) {
            mbarrier_init(&full[s], 1);
            mbarrier_init(&empty[s], 1);
        }
        mbarrier_init_fence();
    }
    cluster_sync(); /* all are there: they may be written to */
    grid_launch_next();

    if (warp == 4) {
        if (lane == 0) {
            const uint32_t base = shared_address(ring);
            const int ahead = min(STAGES, count);
            uint64_t policy;
            asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
            auto load_weights = [&](int stage, int block) {
                mbarrier_expect(&full[stage], STAGE_BYTES);
                tma_load_hinted(base + stage * STAGE_BYTES + WIDE_ROWS * 128, &weights_map, block * 64 % p.weights_k,
                                first_feature, &full[stage], policy);
            };
            auto load_operand = [&](int stage, int block) {
                tma_load(base + stage * STAGE_BYTES, &operand_map, block * 64, first_row, &full[stage]);
            };
            for (int s = 0; s < ahead; s++) load_weights(s, k_begin + s);
            grid_wait();
            for (int s = 0; s < ahead; s++) load_operand(s, k_begin + s);
            int stage = 0, parity = 0;
            for (int i = ahead; i < count; i++) {
                mbarrier_wait(&empty[stage], parity);
                load_weights(stage, k_begin + i);
                load_operand(stage, k_begin + i);
                if (++stage == STAGES) stage = 0, parity ^= 1;
            }
        }
        cluster_sync();
        return;
    }

    /* what the end needs of tables that no predecessor writes */
    const int row_begin = first_row + piece * ROWS;
    auto item_row = [&](int i) { return i / (BN / (PAIRS ? 8 : 4)); };
    auto item_feature = [&](int i) { return PAIRS ? i % (BN / 8) / 2 * 16 + i % 2 * 4 : i % (BN / 4) * 4; };
    float4 first[TURNS], second[TURNS];
#pragma unroll
    for (int n = 0; n < TURNS; n++) {
        const int i = n * 128 + thread, row = row_begin + item_row(i), f = first_feature + item_feature(i);
        first[n] = second[n] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (i >= ITEMS || row >= p.rows) continue;
        if constexpr (EPILOGUE == SKINNY_QKV) {
            if (f / p.head_dim <= p.heads) {
                const bool state = row >= p.action_rows;
                const int b = state ? row - p.action_rows : row / p.horizon;
                const int slot = state ? 0 : p.first_slot + row % p.horizon;
                const float4 *turn =
                    (const float4 *)&p.rope[(size_t)(__ldg(&p.prefix_valid[b]) + slot) * (p.head_dim / 2) +
                                            f % p.head_dim / 16 * 8 + f % 8];
                first[n] = __ldg(turn); /* (cos, sin) of two pairs each */
                second[n] = __ldg(turn + 1);
            }
        } else if constexpr (EPILOGUE == SKINNY_GATED) {
            if (p.shift) {
                first[n] = __ldg((const float4 *)&p.shift[f]);
                second[n] = __ldg((const float4 *)&p.shift[f + 8]);
            }
        } else if constexpr (EPILOGUE == SKINNY_RESIDUAL) {
            first[n] = p.gate ? __ldg((const float4 *)&p.gate[f]) : make_float4(1.0f, 1.0f, 1.0f, 1.0f);
            second[n] = __ldg((const float4 *)&p.gain[f]);
        } else {
            first[n] = __ldg((const float4 *)&p.bias[f]);
            second[n] = __ldg((const float4 *)&p.gain[f]);
        }
    }
    grid_wait();
    /* what it needs of the predecessors */
    float4 old[EPILOGUE == SKINNY_RESIDUAL ? TURNS : 1];
    if constexpr (EPILOGUE == SKINNY_RESIDUAL) {
#pragma unroll
        for (int n = 0; n < TURNS; n++) {
            const int i = n * 128 + thread, row = row_begin + item_row(i);
            if (i < ITEMS && row < p.rows)
                old[n] = __ldcg((const float4 *)&p.x[(size_t)row * p.features + first_feature + item_feature(i)]);
        }
    }
    if (PAIRS && p.stats) {
        float sum = 0.0f;
        const int row = row_begin + thread % ROWS;
        if (row < p.rows)
#pragma unroll 16
            for (int s = thread / ROWS; s < p.stats_slabs; s += 128 / ROWS)
                sum += __ldcg(&p.stats[(size_t)s * p.stats_stride + row]);
        parts[thread] = sum;
    }

    float acc[BN / 2];
    const uint32_t base = wgmma_low(shared_address(ring));
    int stage = 0, parity = 0;
    for (int i = 0; i < count; i++) {
        mbarrier_wait(&full[stage], parity);
        const uint32_t at = base + stage * (STAGE_BYTES / 16);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++)
            wgmma<BN>::run(acc, wgmma_descriptor_of(at + k * 2), wgmma_descriptor_of(at + WIDE_ROWS * 8 + k * 2),
                           i > 0 || k > 0);
        wgmma_commit();
        wgmma_wait<1>();
        if (i > 0 && thread == 0) mbarrier_arrive(&empty[stage == 0 ? STAGES - 1 : stage - 1]);
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < BN / 2; i++) asm volatile("" : "+f"(acc[i])::"memory");

#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int local = warp * 16 + half * 8 + lane / 4;
        const uint32_t to = cluster_address(
            shared_address(sums + (piece * ROWS + local % ROWS) * SUM_ROW + lane % 4 * 2), local / ROWS);
        if (first_row + local < p.rows)
#pragma unroll
            for (int j = 0; j < BN / 8; j++)
                asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(to + j * 32), "f"(acc[j * 4 + half * 2]),
                             "f"(acc[j * 4 + half * 2 + 1])
                             : "memory");
    }
    cluster_sync();

    auto summed = [&](int local, int f) {
        float4 v = *(const float4 *)&sums[local * SUM_ROW + f];
#pragma unroll
        for (int s = 1; s < SPLIT; s++) {
            const float4 more = *(const float4 *)&sums[(s * ROWS + local) * SUM_ROW + f];
            v = make_float4(v.x + more.x, v.y + more.y, v.z + more.z, v.w + more.w);
        }
        return v;
    };
    auto factor_of = [&](int local) {
        if (!p.stats) return 1.0f;
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < 128 / ROWS; i++) sum += parts[i * ROWS + local];
        return rsqrtf(sum / (float)p.norm_width + 1e-6f);
    };
#pragma unroll
    for (int n = 0; n < TURNS; n++) {
        const int i = n * 128 + thread, local = item_row(i), row = row_begin + local;
        const int column = item_feature(i), f = first_feature + column;
        const bool there = i < ITEMS && row < p.rows;
        if constexpr (PAIRS) {
            if (!there) continue;
            const float factor = factor_of(local);
            float4 low = summed(local, column), high = summed(local, column + 8);
            low = make_float4(low.x * factor, low.y * factor, low.z * factor, low.w * factor);
            high = make_float4(high.x * factor, high.y * factor, high.z * factor, high.w * factor);
            if constexpr (EPILOGUE == SKINNY_GATED) {
                low = make_float4(low.x + first[n].x, low.y + first[n].y, low.z + first[n].z, low.w + first[n].w);
                high =
                    make_float4(high.x + second[n].x, high.y + second[n].y, high.z + second[n].z, high.w + second[n].w);
                *(uint2 *)&p.out[(size_t)row * p.out_k + f / 16 * 8 + f % 8] =
                    make_uint2(pack_bf16(gelu_tanh(low.x) * high.x, gelu_tanh(low.y) * high.y),
                               pack_bf16(gelu_tanh(low.z) * high.z, gelu_tanh(low.w) * high.w));
            } else {
                if (p.shift) {
                    const float4 a = __ldg((const float4 *)&p.shift[f]), b = __ldg((const float4 *)&p.shift[f + 8]);
                    low = make_float4(low.x + a.x, low.y + a.y, low.z + a.z, low.w + a.w);
                    high = make_float4(high.x + b.x, high.y + b.y, high.z + b.z, high.w + b.w);
                }
                const int head = f / p.head_dim, d = f % p.head_dim / 16 * 8 + f % 8;
                if (head <= p.heads) {
                    const float4 a = first[n], b = second[n], x = low;
                    low = make_float4(x.x * a.x - high.x * a.y, x.y * a.z - high.y * a.w, x.z * b.x - high.z * b.y,
                                      x.w * b.z - high.w * b.w);
                    high = make_float4(high.x * a.x + x.x * a.y, high.y * a.z + x.y * a.w, high.z * b.x + x.z * b.y,
                                       high.w * b.z + x.w * b.w);
                }
                const bool state = row >= p.action_rows;
                const int b = state ? row - p.action_rows : row / p.horizon;
                const int slot = state ? 0 : p.first_slot + row % p.horizon;
                bf16 *to = head < p.heads ? p.q + ((size_t)row * p.heads + head) * p.head_dim
                                          : (head == p.heads ? p.suffix_keys : p.suffix_values) +
                                                ((size_t)b * p.slots + slot) * p.head_dim;
                *(uint2 *)(to + d) = make_uint2(pack_bf16(low.x, low.y), pack_bf16(low.z, low.w));
                *(uint2 *)(to + d + p.head_dim / 2) = make_uint2(pack_bf16(high.x, high.y), pack_bf16(high.z, high.w));
            }
        } else {
            float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (there) {
                v = summed(local, column);
                const float4 a = first[n];
                if constexpr (EPILOGUE == SKINNY_RESIDUAL) {
                    v = make_float4(old[n].x + v.x * a.x, old[n].y + v.y * a.y, old[n].z + v.z * a.z,
                                    old[n].w + v.w * a.w);
                } else if (row < p.action_rows) {
                    v = make_float4(v.x + a.x, v.y + a.y, v.z + a.z, v.w + a.w);
                } else {
                    float state[4];
                    for (int e = 0; e < 4; e++) {
                        state[e] = p.state_bias[f + e];
                        for (int d = 0; d < p.action_dim; d++)
                            state[e] += __bfloat162float(p.state_weights[(size_t)(f + e) * p.action_dim + d]) *
                                        p.state[(row - p.action_rows) * p.action_dim + d];
                    }
                    v = make_float4(state[0], state[1], state[2], state[3]);
                }
                *(float4 *)&p.x[(size_t)row * p.features + f] = v;
                const uint32_t low = pack_bf16(v.x * second[n].x, v.y * second[n].y),
                               high = pack_bf16(v.z * second[n].z, v.w * second[n].w);
                if (p.row_major) {
                    *(uint2 *)&p.out[(size_t)row * p.out_k + f] = make_uint2(low, high);
                } else {
                    *(uint32_t *)&p.out[operand_offset(row, f, p.out_k)] = low;
                    *(uint32_t *)&p.out[operand_offset(row, f + 2, p.out_k)] = high;
                }
            }
            float squares = v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
            squares += __shfl_xor_sync(0xffffffffu, squares, 1); /* the neighbour has the slab's other half */
            if (there && thread % 2 == 0) p.stats_out[(size_t)(f / SKINNY_SLAB) * p.stats_stride + row] = squares;
        }
    }
#endif
}

typedef void (*wide_function)(CUtensorMap, CUtensorMap, skinny_problem);
typedef struct wide_variant {
    wide_function kernel;
    int bn, split, shared_bytes;
} wide_variant;
#define VARIANT(epilogue, bn, split) {wide_kernel<epilogue, bn, split>, bn, split, wide_shape<bn, split>::SHARED_BYTES}

/* Few row tiles: every multiprocessor streams its share of the weights. Many: fewer, larger blocks. */
static wide_variant variant_of(skinny_epilogue epilogue, bool many) {
    switch (epilogue) {
    case SKINNY_QKV:
        return many ? (wide_variant)VARIANT(SKINNY_QKV, 128, 2) : (wide_variant)VARIANT(SKINNY_QKV, 80, 4);
    case SKINNY_GATED:
        return VARIANT(SKINNY_GATED, 128, 2);
    case SKINNY_RESIDUAL:
        return many ? (wide_variant)VARIANT(SKINNY_RESIDUAL, 64, 4) : (wide_variant)VARIANT(SKINNY_RESIDUAL, 64, 8);
    case SKINNY_TOKENS:
        return VARIANT(SKINNY_TOKENS, 64, 8);
    }
    return {};
}

cudaError_t wide_setup(void) {
    cudaError_t status = cudaSuccess;
    for (int epilogue = SKINNY_QKV; epilogue <= SKINNY_TOKENS; epilogue++)
        for (int many = 0; many < 2 && status == cudaSuccess; many++) {
            const wide_variant v = variant_of((skinny_epilogue)epilogue, many != 0);
            status = cudaFuncSetAttribute((const void *)v.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          v.shared_bytes);
        }
    return status == cudaSuccess ? wide_attention_setup() : status;
}

extern "C" cudaError_t wide_launch(skinny_epilogue epilogue, const skinny_problem *p, void *encode, bool dependent,
                                   cudaStream_t stream) {
    const int row_tiles = ceil_div(p->rows, WIDE_ROWS);
    const wide_variant v = variant_of(epilogue, row_tiles > 2);
    if (p->features % v.bn || p->k % 64 || p->weights_k % 64 || p->k / 64 < v.split) return cudaErrorNotSupported;
    CUtensorMap weights_map, operand_map;
    cudaError_t status =
        tensor_map_encode(&weights_map, encode, p->weights, p->features, p->weights_k, p->weights_k, v.bn);
    if (status == cudaSuccess)
        status = tensor_map_encode(&operand_map, encode, p->operand, p->rows, p->operand_k, p->operand_k, WIDE_ROWS);
    if (status != cudaSuccess) return status;
    return launch(v.kernel, dim3(p->features / v.bn * v.split, row_tiles), WIDE_THREADS, v.shared_bytes, v.split,
                  dependent, stream, weights_map, operand_map, *p);
}
