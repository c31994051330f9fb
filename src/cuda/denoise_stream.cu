/*
 * All denoising steps of one observation as one kernel that stays on the device: 128 blocks, one a multiprocessor.
 *
 *   grid     128 blocks, launched cooperatively; block b owns fixed rows of every weight matrix
 *   warps    0..7 multiply; 8 streams the block's weights (and its share of the prefix's keys and values) into a ring
 *            in shared memory by bulk copies and waits for nobody's activations; 9 clears what will be written next
 *   bytes    weights once a step from memory (0.62 GB), activations from L2 by every block (0.2 MB a layer and block)
 *   bound    latency of the six exchanges of a layer; the read hides behind them
 *
 * Phases of a layer: qkv, attention over a sixteenth of the keys of one head, merging of those sixteenths,
 * o-projection, gate and up, down. Blocks exchange activations through L2 without a barrier: a word of the exchange
 * memory holds VACANT until it is written, and readers poll the very words that they need. VACANT is a NaN that no
 * conversion and no arithmetic gives. There are two slots of exchange memory that layers take in turn; when every block
 * must have read a slot (its own next qkv product needed everybody's last result), warp 9 makes it vacant again, with a
 * fence before its block publishes anything that the next writers depend on.
 *
 * The residual stream never leaves its block: the 8 features of it that block b adds to, in o and in down, are the same
 * for all layers and steps, and stay in registers.
 *
 * Nothing here depends on time: sums have a fixed order, so replays are bit-equal. Every wait is bounded; a wait that
 * does not end (a fault: nothing else can cause it) traps, which the host sees as a failed launch.
 */
#include "denoise.cuh"

enum {
    BLOCKS = 128,
    WIDTH = 1024,
    MLP = 4096,
    HEADS = 8,
    HEAD_DIM = 256,
    QUERIES = HEADS * HEAD_DIM,
    GROUPS = (QUERIES + 2 * HEAD_DIM) / 16, /* of 16 packed rows of the qkv product */
    ACTIONS = 32,
    SPLITS = 16,   /* of the keys of a head */
    KEY_TILE = 16, /* keys of one stage of the ring */
    MAX_TILES = 4, /* stages of keys of one block */
    WARPS = 8,
    CONSUMERS = WARPS * 32,
    THREADS = CONSUMERS + 128, /* a third warpgroup for warps 8 and 9, so that the first two can have its registers */
    STAGES = 10,
    PITCH = WIDTH * 2 + 64, /* bytes of a row of weights in a stage: lanes that read together hit different banks */
    KEY_PITCH = 512 + 64,   /* keys likewise; values are read by ldmatrix */
    VALUE_PITCH = 512 + 16,
    VALUES_AT = KEY_TILE * KEY_PITCH,
    STAGE_BYTES = KEY_TILE * (KEY_PITCH + VALUE_PITCH), /* 17,664; weights need 16,896 */
    SCORE_PITCH = 36,                                   /* float4s of one tile of scores */
    PARTIAL_BYTES = WARPS * 8 * SCORE_PITCH * 16,
    WEIGHTS_PITCH = KEY_TILE * MAX_TILES + 8,
};
enum : uint32_t { VACANT = 0xffffffffu };
enum { MBARRIER_TRIES = 1 << 24, POLL_TRIES = 1 << 23 };

/* Shared memory after the ring. */
struct stream_shared {
    float4 partial[PARTIAL_BYTES / 16];
    bf16 weights[16 * WEIGHTS_PITCH];
    float factors[64];
    float next_weights[8][ACTIONS];
    uint64_t full[STAGES], empty[STAGES];
};
static const int SHARED_BYTES = STAGES * STAGE_BYTES + (int)sizeof(stream_shared);

/* Where things lie in a slot of exchange memory for ROWS rows; all in bytes. Operands in "chunk order": for every 16
 * rows and 32 k-values rows 0..7 and then rows 8..15, 16 bytes (8 k-values of one row) a lane. */
template <int ROWS> struct slot_layout {
    static constexpr size_t X = 0,                 /* operand of qkv */
        Y = X + (size_t)ROWS * WIDTH * 2,          /* operand of gate and up */
        Z = Y + (size_t)ROWS * WIDTH * 2,          /* operand of the velocity, after the last layer */
        Q = Z + (size_t)ROWS * WIDTH * 2,          /* queries */
        K = Q + (size_t)ROWS * QUERIES * 2,        /* keys and values of the suffix, row-major */
        V = K + (size_t)ROWS * HEAD_DIM * 2,       //
        O = V + (size_t)ROWS * HEAD_DIM * 2,       /* operand of the o-projection */
        M = O + (size_t)ROWS * QUERIES * 2,        /* operand of down */
        H = M + (size_t)ROWS * MLP * 2,            /* pi0: operand of action_time_mlp_out, high and low parts */
        A = H + (size_t)ROWS * WIDTH * 4,          /* actions, float [row][32] */
        XS = A + (size_t)ROWS * ACTIONS * 4,       /* sums of squares of X, Y and Z, float [row][block] */
        YS = XS + (size_t)ROWS * BLOCKS * 4,       //
        ZS = YS + (size_t)ROWS * BLOCKS * 4,       //
        L = ZS + (size_t)ROWS * BLOCKS * 4,        /* top and sum of a split, float2 [head][split][row] */
        P = L + (size_t)HEADS * SPLITS * ROWS * 8, /* its values, float [head][16 columns][split][row][16] */
        BYTES = P + (size_t)HEADS * SPLITS * ROWS * HEAD_DIM * 4;
    static_assert(BYTES % (BLOCKS * 16) == 0, "");
};

/* Byte offset of element (row, k) of an operand with `k_all` columns. */
__device__ __forceinline__ uint32_t chunk_offset(int row, int k, int k_all) {
    return (((row / 16) * (k_all / 32) + k / 32) * 2 + row % 16 / 8) * 512 + (row % 8 * 4 + k % 32 / 8) * 16 +
           k % 8 * 2;
}

#ifdef PI0_HOPPER
/* v = *p where `wanted`; one predicated instruction, so that many are under way at once. */
__device__ __forceinline__ void load_words(uint4 &v, const uint4 *p, bool wanted) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0; @p ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4]; }"
                 : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
                 : "l"(p), "r"((int)wanted)
                 : "memory");
}
__device__ __forceinline__ void load_words(uint2 &v, const uint2 *p, bool wanted) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %3, 0; @p ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2]; }"
                 : "+r"(v.x), "+r"(v.y)
                 : "l"(p), "r"((int)wanted)
                 : "memory");
}
__device__ __forceinline__ void publish(void *p, uint32_t a) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(a) : "memory");
}
__device__ __forceinline__ void publish(void *p, uint32_t a, uint32_t b) {
    asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1,%2};" ::"l"(p), "r"(a), "r"(b) : "memory");
}
__device__ __forceinline__ bool vacant(const uint4 &v) {
    return v.x == VACANT || v.y == VACANT || v.z == VACANT || v.w == VACANT;
}
__device__ __forceinline__ bool vacant(const uint2 &v) { return v.x == VACANT || v.y == VACANT; }
/* The largest word so far. VACANT is the largest there is; comparing all words with it would be a chain of predicates.
 */
__device__ __forceinline__ uint32_t largest(uint32_t so_far, const uint4 &v) {
    return __vimax3_u32(__vimax3_u32(so_far, v.x, v.y), v.z, v.w);
}
__device__ __forceinline__ uint32_t largest(uint32_t so_far, const uint2 &v) { return __vimax3_u32(so_far, v.x, v.y); }

/* COUNT words, each at `at(i)` where `valid(i)`, else zero. All are asked for at once, and again if some were not there
 * yet. */
template <int COUNT, typename T, typename F, typename V>
__device__ __forceinline__ void collect(T (&v)[COUNT], F at, V valid) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) v[i] = T{};
    /* wait with one word each: asking for all again and again would stand in everybody's way */
    load_words(v[0], at(0), valid(0));
    for (int tries = 0; __any_sync(0xffffffffu, vacant(v[0])); tries++) {
        load_words(v[0], at(0), valid(0));
        if (tries > POLL_TRIES) __trap();
    }
    if constexpr (COUNT > 1) {
#pragma unroll 1
        for (int tries = 0;; tries++) {
#pragma unroll
            for (int i = 1; i < COUNT; i++) load_words(v[i], at(i), valid(i));
            uint32_t top[4] = {};
#pragma unroll
            for (int i = 1; i < COUNT; i++) top[i % 4] = largest(top[i % 4], v[i]);
            if (max(max(top[0], top[1]), max(top[2], top[3])) != VACANT) break;
            if (tries > POLL_TRIES) __trap();
        }
    }
    __syncwarp();
}

__device__ __forceinline__ void ring_wait(uint64_t *barrier, uint32_t parity) {
    const uint32_t at = shared_address(barrier);
    for (int tries = 0;; tries++) {
        uint32_t done;
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2; "
                     "selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(at), "r"(parity)
                     : "memory");
        if (done) break;
        if (tries > MBARRIER_TRIES) __trap();
    }
}
__device__ __forceinline__ void bulk_copy(uint32_t to, const void *from, int bytes, uint64_t *barrier,
                                          uint64_t policy) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], "
        "%4;" ::"r"(to),
        "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
        : "memory");
}
__device__ __forceinline__ uint4 load_shared4(uint32_t at) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at));
    return v;
}
__device__ __forceinline__ void mma_chunk(float (&d)[4], const uint4 &low, const uint4 &high, const uint4 &b) {
    const uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
    mma_bf16(d, first, b.x, b.y);
    mma_bf16(d, second, b.z, b.w);
}
__device__ __forceinline__ float2 operator+(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }

/* The keys of block (head, split): tiles [first, last) of `prefix_tiles` tiles of the prefix and those of the suffix.
 */
struct key_share {
    int first, last, prefix_tiles;
};
__device__ __forceinline__ key_share share_of(const stream_problem &p, int split) {
    const int prefix_tiles = ceil_div(p.prefix, KEY_TILE);
    const int tiles = prefix_tiles + ceil_div(p.horizon + (p.time_out ? 1 : 0), KEY_TILE);
    return {split * tiles / SPLITS, (split + 1) * tiles / SPLITS, prefix_tiles};
}

/* Warp 8: everything the block will read, in the order in which it will. */
struct producer {
    uint8_t *ring;
    stream_shared *s;
    uint64_t stream_policy, keep_policy;
    int stage, round, lane, issued, inflight;

    __device__ __forceinline__ uint64_t *acquire(int bytes) {
        uint64_t *full = &s->full[stage];
        if (round) ring_wait(&s->empty[stage], (round - 1) & 1);
        if (issued >= inflight) { /* short queues in the memory system make exchanges fast */
            const int before = issued - inflight;
            ring_wait(&s->full[before % STAGES], before / STAGES & 1);
        }
        if (lane == 0) mbarrier_expect(full, bytes);
        __syncwarp();
        return full;
    }
    __device__ __forceinline__ void advance() {
        issued++;
        if (++stage == STAGES) stage = 0, round++;
    }
    /* 8 rows of 1024 k-values */
    __device__ __forceinline__ void weights(const bf16 *from, int row_stride) {
        uint64_t *full = acquire(8 * WIDTH * 2);
        if (lane < 8)
            bulk_copy(shared_address(ring) + stage * STAGE_BYTES + lane * PITCH, from + (size_t)lane * row_stride,
                      WIDTH * 2, full, stream_policy);
        advance();
    }
    __device__ __forceinline__ void keys(const bf16 *keys, const bf16 *values, int count) {
        uint64_t *full = acquire(count * HEAD_DIM * 4);
        const int row = lane % KEY_TILE;
        if (row < count)
            bulk_copy(shared_address(ring) + stage * STAGE_BYTES +
                          (lane < KEY_TILE ? row * KEY_PITCH : VALUES_AT + row * VALUE_PITCH),
                      (lane < KEY_TILE ? keys : values) + (size_t)row * HEAD_DIM, HEAD_DIM * 2, full, keep_policy);
        advance();
    }
    /* a stage that the consumers fill themselves */
    __device__ __forceinline__ void nothing() {
        acquire(0);
        advance();
    }
};

static __device__ void produce(const stream_problem &p, uint8_t *ring, stream_shared *s, int lane) {
    const int block = blockIdx.x;
    producer r = {ring, s, 0, 0, 0, 0, lane, 0, p.inflight};
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(r.stream_policy));
    asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(r.keep_policy));
    const key_share share = share_of(p, block % SPLITS);
    for (int step = 0; step <= p.steps; step++) {
        if (step && block < ACTIONS / 8) r.weights(p.out_weights + (size_t)block * 8 * WIDTH, WIDTH);
        if (step == p.steps) break;
        if (p.time_out) r.weights(p.time_out + (size_t)block * 8 * WIDTH, WIDTH);
        for (int i = 0; i < p.layer_count; i++) {
            const stream_layer &l = p.layers[i];
            for (int group = block; group < GROUPS; group += BLOCKS)
                for (int half = 0; half < 2; half++) r.weights(l.qkv + (size_t)(group * 2 + half) * 8 * WIDTH, WIDTH);
            for (int tile = share.first; tile < share.last; tile++) {
                const size_t at = i * p.cache_stride + (size_t)tile * KEY_TILE * HEAD_DIM;
                if (tile < share.prefix_tiles)
                    r.keys(p.keys + at, p.values + at, min(KEY_TILE, p.prefix - tile * KEY_TILE));
                else
                    r.nothing();
            }
            for (int part = 0; part < QUERIES / WIDTH; part++)
                r.weights(l.o + (size_t)block * 8 * QUERIES + part * WIDTH, QUERIES);
            for (int tile = 0; tile < 2 * MLP / BLOCKS / 8; tile++)
                r.weights(l.gate_up + ((size_t)block * 8 + tile) * 8 * WIDTH, WIDTH);
            for (int part = 0; part < MLP / WIDTH; part++)
                r.weights(l.down + (size_t)block * 8 * MLP + part * WIDTH, MLP);
        }
    }
}

/* Warp 9: makes the block's share of the slot that layer n - 1 used vacant, between qkv and gate+up of layer n. */
enum { BARRIER_CONSUMERS = 1, BARRIER_CLEAR, BARRIER_CLEARED };
static __device__ void clear_slots(const stream_problem &p, size_t slot_bytes, int lane) {
    const size_t share = slot_bytes / BLOCKS;
    for (int n = 1; n < p.steps * p.layer_count; n++) {
        barrier_sync(BARRIER_CLEAR, CONSUMERS + 32);
        uint8_t *at = p.exchange + (n - 1) % 2 * slot_bytes + blockIdx.x * share;
        for (size_t i = lane * 16; i < share; i += 512)
            __stcg((uint4 *)(at + i), make_uint4(VACANT, VACANT, VACANT, VACANT));
        __threadfence();
        barrier_arrive(BARRIER_CLEARED, CONSUMERS + 32);
    }
}

/* Warps 0..7. */
template <int TILES> struct consumer {
    using layout = slot_layout<TILES * 16>;
    static constexpr int PAIRS = 4 / TILES; /* pairs of weight tiles whose sums fit in `partial` at once */
    static constexpr int BATCH = 4 / TILES; /* parts of an operand that fit in registers at once */

    const stream_problem &p;
    uint8_t *ring;
    stream_shared *s;
    int block, thread, warp, lane, g, t;
    int stage, parity; /* of the ring */
    uint8_t *slot, *next_slot;
    /* the thread's item of a tile of 8 features: row and a pair of features */
    int item_tile, item_lane, item_half, row, column;
    bool item;     /* threads beyond 64 a row tile have none */
    float2 x, act; /* residual stream; Euler state in the first four blocks */

    __device__ __forceinline__ void sync() { barrier_sync(BARRIER_CONSUMERS, CONSUMERS); }
    __device__ __forceinline__ uint32_t take() {
        ring_wait(&s->full[stage], parity);
        return shared_address(ring) + stage * STAGE_BYTES;
    }
    __device__ __forceinline__ void release() {
        __syncwarp();
        if (lane == 0) mbarrier_arrive(&s->empty[stage]);
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }

    /* This warp's 128 k-values of `PARTS` parts of 1024: [part][row tile][chunk of 32][half] */
    template <int K, int PARTS>
    __device__ __forceinline__ void operand(uint4 (&a)[PARTS * TILES * 8], const uint8_t *from, int first_part,
                                            int rows) {
        const uint4 *at = (const uint4 *)from + (first_part * 32 + warp * 4) * 64 + lane;
        collect(
            a,
            [&](int i) {
                const int half = i % 2, j = i / 2 % 4, m = i / 8 % TILES, part = i / 8 / TILES;
                return at + ((m * (K / 32) + part * 32 + j) * 2 + half) * 32;
            },
            [&](int i) { return i / 8 % TILES * 16 + i % 2 * 8 + g < rows; });
    }
    /* Row sums of squares -> 1 / rms, in shared memory after the next sync. */
    __device__ __forceinline__ void collect_factors(uint4 (&v)[TILES * 2], const uint8_t *stats, int rows) {
        collect(
            v, [&](int i) { return (const uint4 *)stats + (i * 8 + warp) * (BLOCKS / 4) + lane; },
            [&](int i) { return i * 8 + warp < rows; });
    }
    __device__ __forceinline__ void write_factors(const uint4 (&v)[TILES * 2]) {
#pragma unroll
        for (int i = 0; i < TILES * 2; i++) {
            float sum =
                __uint_as_float(v[i].x) + __uint_as_float(v[i].y) + __uint_as_float(v[i].z) + __uint_as_float(v[i].w);
#pragma unroll
            for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
            if (lane == 0) s->factors[i * 8 + warp] = rsqrtf(sum / (float)WIDTH + 1e-6f);
        }
    }

    /* Sums over the warps of tile `tile` of `partial`, this thread's pair of features. */
    __device__ __forceinline__ float2 summed(int tile, int tiles) const {
        float2 v = make_float2(0.0f, 0.0f);
        const float2 *at = (const float2 *)(s->partial + tile * 32 + item_lane) + item_half;
#pragma unroll
        for (int w = 0; w < WARPS; w++) v = v + at[w * tiles * 64];
        return v;
    }

    /* acc[tile][row tile] += the next `count` weight tiles of the ring times the operand. */
    template <int COUNT> __device__ __forceinline__ void multiply(float (&acc)[COUNT][TILES][4], const uint4 *a) {
        /* up to four tiles at a time, so that products do not wait for each other */
        constexpr int WIDE = COUNT < 4 / TILES ? COUNT : TILES == 4 ? 2 : 4 / TILES < 2 ? 2 : 4 / TILES;
#pragma unroll
        for (int n = 0; n < COUNT; n += WIDE) {
            uint32_t at[WIDE];
            int st = stage, par = parity;
#pragma unroll
            for (int i = 0; i < WIDE; i++) {
                ring_wait(&s->full[st], par);
                at[i] = shared_address(ring) + st * STAGE_BYTES + g * PITCH + warp * 256 + t * 16;
                if (++st == STAGES) st = 0, par ^= 1;
            }
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int i = 0; i < WIDE; i++) {
                    const uint4 b = load_shared4(at[i] + j * 64);
#pragma unroll
                    for (int m = 0; m < TILES; m++) mma_chunk(acc[n + i][m], a[m * 8 + j * 2], a[m * 8 + j * 2 + 1], b);
                }
#pragma unroll
            for (int i = 0; i < WIDE; i++) release();
        }
    }
    template <int COUNT>
    __device__ __forceinline__ void write_partial(const float (&acc)[COUNT][TILES][4], int first, int all) {
#pragma unroll
        for (int n = 0; n < COUNT; n++)
#pragma unroll
            for (int m = 0; m < TILES; m++)
                s->partial[((warp * all + first + n) * TILES + m) * 32 + lane] =
                    make_float4(acc[n][m][0], acc[n][m][1], acc[n][m][2], acc[n][m][3]);
    }

    /* 8 features, k in PARTS parts: returns this thread's two sums (items only). SHARED: one tile for all parts. */
    template <int K, bool SHARED = false> __device__ __forceinline__ float2 narrow(const uint8_t *from, int rows) {
        constexpr int PARTS = K / WIDTH, AT_ONCE = PARTS < BATCH ? PARTS : BATCH;
        float acc[1][TILES][4] = {};
#pragma unroll
        for (int first = 0; first < PARTS; first += AT_ONCE) {
            uint4 a[AT_ONCE * TILES * 8];
            operand<K, AT_ONCE>(a, from, first, rows);
            float other[AT_ONCE][TILES][4] = {}; /* independent sums */
            uint32_t at[AT_ONCE];
            int st = stage, par = parity;
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                ring_wait(&s->full[st], par);
                at[i] = shared_address(ring) + st * STAGE_BYTES + g * PITCH + warp * 256 + t * 16;
                if (!SHARED && ++st == STAGES) st = 0, par ^= 1;
            }
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) {
                    const uint4 b = load_shared4(at[i] + j * 64);
#pragma unroll
                    for (int m = 0; m < TILES; m++)
                        mma_chunk(other[i][m], a[(i * TILES + m) * 8 + j * 2], a[(i * TILES + m) * 8 + j * 2 + 1], b);
                }
            if (!SHARED || first + AT_ONCE == PARTS)
#pragma unroll
                for (int i = 0; i < (SHARED ? 1 : AT_ONCE); i++) release();
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
#pragma unroll
                for (int m = 0; m < TILES; m++)
#pragma unroll
                    for (int c = 0; c < 4; c++) acc[0][m][c] += other[i][m][c];
        }
        sync();
        write_partial<1>(acc, 0, 1);
        sync();
        return item ? summed(item_tile, TILES) : make_float2(0.0f, 0.0f);
    }

    /* x * gain as operand of the next product, and the row's sum of squares over the block's 8 features. */
    __device__ __forceinline__ void publish_x(uint8_t *operand, uint8_t *stats, float2 gain, int rows) {
        const bool valid = item && row < rows;
        if (valid) publish(operand + chunk_offset(row, column, WIDTH), pack_bf16(x.x * gain.x, x.y * gain.y));
        float squares = x.x * x.x + x.y * x.y;
        squares += __shfl_xor_sync(0xffffffffu, squares, 2);
        squares += __shfl_xor_sync(0xffffffffu, squares, 4);
        if (valid && (thread & 6) == 0) publish(stats + (row * BLOCKS + block) * 4, __float_as_uint(squares));
    }

    __device__ __forceinline__ const float *modulation(int index, int step) const {
        return p.modulation + ((size_t)index * p.steps + step) * 3 * WIDTH;
    }
    __device__ __forceinline__ float2 pair(const float *v) const { return *(const float2 *)(v + column); }

    /* Velocity and Euler step: eight actions in each of the first four blocks. */
    __device__ __forceinline__ void velocity(int step) {
        if (block >= ACTIONS / 8) return;
        uint4 v[TILES * 2];
        const float2 bias = pair(p.out_bias + (size_t)step * ACTIONS);
        float2 y = narrow<WIDTH>(slot + layout::Z, p.horizon);
        collect_factors(v, slot + layout::ZS, p.horizon);
        write_factors(v);
        sync();
        if (item && row < p.horizon) {
            const float factor = s->factors[row];
            y = make_float2(y.x * factor + bias.x, y.y * factor + bias.y);
            act.x = __fadd_rn(act.x, __fmul_rn(p.dt, y.x));
            act.y = __fadd_rn(act.y, __fmul_rn(p.dt, y.y));
            publish(next_slot + layout::A + (row * ACTIONS + column) * 4, __float_as_uint(act.x),
                    __float_as_uint(act.y));
            *(float2 *)(p.velocity + step * p.action_stride + row * ACTIONS + column) = y;
            *(float2 *)(p.actions + (step + 1) * p.action_stride + row * ACTIONS + column) = act;
        }
    }

    /* The actions become the tokens of step `step`: pi0 operand H, pi0.5 the residual stream. */
    __device__ __forceinline__ void tokens(int step) {
        float *actions = (float *)s->partial; /* [row][33] */
        const float2 bias = pair(p.next_bias + (size_t)step * p.next_bias_stride);
        sync();
#pragma unroll
        for (int i = 0; i < ceil_div(TILES, 2); i++) {
            const int at = i * CONSUMERS + thread, r = at / 8, d = at % 8 * 4;
            uint4 a[1];
            const bool valid = r < p.horizon && r < TILES * 16;
            if (step == 0)
                a[0] = valid ? __ldcg((const uint4 *)p.actions + at) : make_uint4(0, 0, 0, 0);
            else
                collect(a, [&](int) { return (const uint4 *)(slot + layout::A) + at; }, [&](int) { return valid; });
            if (r < TILES * 16) {
                actions[r * 33 + d] = __uint_as_float(a[0].x);
                actions[r * 33 + d + 1] = __uint_as_float(a[0].y);
                actions[r * 33 + d + 2] = __uint_as_float(a[0].z);
                actions[r * 33 + d + 3] = __uint_as_float(a[0].w);
            }
        }
        sync();
        float2 y = bias;
        if (item) {
            const int f = column % 8;
#pragma unroll 4
            for (int d = 0; d < ACTIONS; d++) {
                const float a = actions[row * 33 + d];
                y.x += s->next_weights[f][d] * a;
                y.y += s->next_weights[f + 1][d] * a;
            }
        }
        if (!p.time_out) {
            x = y;
            publish_x(slot + layout::X, slot + layout::XS, pair(modulation(0, step)), p.horizon);
            return;
        }
        if (item && row < p.horizon) {
            y = make_float2(silu(y.x), silu(y.y));
            const uint32_t high = pack_bf16(y.x, y.y);
            const float2 rounded = __bfloat1622float2(*(const __nv_bfloat162 *)&high);
            publish(slot + layout::H + chunk_offset(row, column, 2 * WIDTH), high);
            publish(slot + layout::H + chunk_offset(row, WIDTH + column, 2 * WIDTH),
                    pack_bf16(y.x - rounded.x, y.y - rounded.y));
        }
        const int rows = p.horizon + (step == 0);
        const float2 gain = pair(p.layers[0].gain1), out_bias = pair(p.time_out_bias);
        x = narrow<2 * WIDTH, true>(slot + layout::H, p.horizon) + out_bias;
        if (step == 0 && item && row == p.horizon) {
            x = pair(p.state_bias);
#pragma unroll 1
            for (int d = 0; d < ACTIONS; d++) {
                x.x += __bfloat162float(p.state_weights[(size_t)column * ACTIONS + d]) * p.state[d];
                x.y += __bfloat162float(p.state_weights[(size_t)(column + 1) * ACTIONS + d]) * p.state[d];
            }
        }
        publish_x(slot + layout::X, slot + layout::XS, gain, rows);
    }

    __device__ __forceinline__ void qkv(int step, int i, int rows) {
        uint4 a[TILES * 8], v[TILES * 2];
        const int groups = block + BLOCKS < GROUPS ? 2 : 1;
        operand<WIDTH, 1>(a, slot + layout::X, 0, rows);
        collect_factors(v, slot + layout::XS, rows);
        const int valid = p.prefix_valid[0];
#pragma unroll
        for (int first = 0; first < 2; first += PAIRS < 2 ? PAIRS : 2) {
            if (first >= groups) break;
            constexpr int MOST = PAIRS < 2 ? 1 : 2;
            float acc[2][TILES][4] = {}, more[2][TILES][4] = {};
            multiply<2>(acc, a);
            if (MOST == 2 && groups == 2) multiply<2>(more, a);
            sync();
            write_partial<2>(acc, 0, MOST * 2);
            if (MOST == 2 && groups == 2) write_partial<2>(more, 2, MOST * 2);
            write_factors(v);
            sync();
            const int pair_local = thread / 64 / TILES, group = first + pair_local;
            if (pair_local >= MOST || group >= groups) continue;
            const int m = thread / 64 % TILES, r = m * 16 + item_half * 8 + item_lane / 4;
            const int packed = (block + group * BLOCKS) * 16 + item_lane % 4 * 2, head = packed / HEAD_DIM;
            const int d = packed % HEAD_DIM / 16 * 8 + item_lane % 4 * 2;
            if (r >= rows) continue;
            const float factor = s->factors[r];
            float2 low = summed((pair_local * 2) * TILES + m, MOST * 2 * TILES),
                   high = summed((pair_local * 2 + 1) * TILES + m, MOST * 2 * TILES);
            low = make_float2(low.x * factor, low.y * factor);
            high = make_float2(high.x * factor, high.y * factor);
            if (p.modulation) {
                const float *shift = p.shift_qkv + ((size_t)i * p.steps + step) * (GROUPS * 16) + packed;
                low = low + *(const float2 *)shift;
                high = high + *(const float2 *)(shift + 8);
            }
            const int slot_of_row = r == p.horizon ? 0 : r + (p.time_out ? 1 : 0);
            if (head <= HEADS) {
                const float4 turn = *(const float4 *)(p.rope + (size_t)(valid + slot_of_row) * (HEAD_DIM / 2) + d);
                const float2 from = low;
                low = make_float2(from.x * turn.x - high.x * turn.y, from.y * turn.z - high.y * turn.w);
                high = make_float2(high.x * turn.x + from.x * turn.y, high.y * turn.z + from.y * turn.w);
            }
            const uint32_t low_word = pack_bf16(low.x, low.y), high_word = pack_bf16(high.x, high.y);
            if (head < HEADS) {
                publish(slot + layout::Q + chunk_offset(r, head * HEAD_DIM + d, QUERIES), low_word);
                publish(slot + layout::Q + chunk_offset(r, head * HEAD_DIM + d + HEAD_DIM / 2, QUERIES), high_word);
            } else {
                uint8_t *to = slot + (head == HEADS ? layout::K : layout::V) + (r * HEAD_DIM + d) * 2;
                publish(to, low_word);
                publish(to + HEAD_DIM, high_word);
                if (r == p.horizon) { /* the state's, for the steps to come */
                    uint8_t *keep =
                        (uint8_t *)((head == HEADS ? p.state_keys : p.state_values) + (size_t)i * HEAD_DIM + d);
                    publish(keep, low_word);
                    publish(keep + HEAD_DIM, high_word);
                }
            }
        }
    }

    /* Keys and values of the suffix into a stage of the ring. */
    __device__ __forceinline__ void fill_suffix(uint32_t at, int tile, int step, int i) {
        uint4 v[4];
        const bool stored = step > 0;
        auto source = [&](int c) -> const uint4 * {
            const int index = c * CONSUMERS + thread, of_values = index / (KEY_TILE * 32);
            const int key = tile * KEY_TILE + index / 32 % KEY_TILE, chunk = index % 32;
            if (key == p.horizon && stored)
                return (const uint4 *)((of_values ? p.state_values : p.state_keys) + (size_t)i * HEAD_DIM) + chunk;
            return (const uint4 *)(slot + (of_values ? layout::V : layout::K)) + key * 32 + chunk;
        };
        collect(v, source, [&](int c) {
            const int key = tile * KEY_TILE + (c * CONSUMERS + thread) / 32 % KEY_TILE;
            return key < p.horizon || (key == p.horizon && p.time_out);
        });
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int index = c * CONSUMERS + thread, of_values = index / (KEY_TILE * 32);
            const int row_of = index / 32 % KEY_TILE, chunk = index % 32;
            const uint32_t to = at + (of_values ? VALUES_AT + row_of * VALUE_PITCH : row_of * KEY_PITCH) + chunk * 16;
            asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(v[c].x), "r"(v[c].y), "r"(v[c].z),
                         "r"(v[c].w)
                         : "memory");
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); /* the ring's next copy comes after this */
    }

    __device__ __forceinline__ void attention(int step, int i, int rows) {
        const int head = block / SPLITS, split = block % SPLITS;
        const key_share share = share_of(p, split);
        const int tiles = share.last - share.first;
        auto stage_at = [&](int j) {
            return shared_address(ring) + (stage + j < STAGES ? stage + j : stage + j - STAGES) * STAGE_BYTES;
        };
#pragma unroll 1
        for (int j = 0; j < tiles; j++) {
            const bool wraps = stage + j >= STAGES;
            ring_wait(&s->full[wraps ? stage + j - STAGES : stage + j], parity ^ (wraps ? 1 : 0));
            if (share.first + j >= share.prefix_tiles)
                fill_suffix(stage_at(j), share.first + j - share.prefix_tiles, step, i);
        }
        /* this warp's 32 of the head's 256 dimensions */
        uint4 q[TILES * 2];
        const uint4 *q_at = (const uint4 *)(slot + layout::Q) + (head * 8 + warp) * 64 + lane;
        collect(
            q, [&](int c) { return q_at + (c / 2 * (QUERIES / 32) * 2 + c % 2) * 32; },
            [&](int c) { return c / 2 * 16 + c % 2 * 8 + g < rows; });
        sync(); /* the suffix's keys are there; `partial` is free */
        const float scale = 0.0625f * 1.4426950408889634f;
#pragma unroll
        for (int m = 0; m < TILES; m++) {
            if (m * 16 >= rows) break;
            if (m) sync();
#pragma unroll
            for (int j = 0; j < MAX_TILES; j++) {
                float acc[2][4] = {};
                if (j < tiles)
#pragma unroll
                    for (int n = 0; n < 2; n++)
                        mma_chunk(acc[n], q[m * 2], q[m * 2 + 1],
                                  load_shared4(stage_at(j) + (n * 8 + g) * KEY_PITCH + warp * 64 + t * 16));
#pragma unroll
                for (int n = 0; n < 2; n++)
                    s->partial[(warp * 8 + j * 2 + n) * SCORE_PITCH + lane] =
                        make_float4(acc[n][0], acc[n][1], acc[n][2], acc[n][3]);
            }
            sync();
            /* warp: rows `warp` and `warp` + 8; lane: two keys of tile lane / 4 */
            const int n = lane / 4, tile = share.first + n / 2;
            float4 score = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                const float4 v = s->partial[(w * 8 + n) * SCORE_PITCH + warp * 4 + t];
                score.x += v.x;
                score.y += v.y;
                score.z += v.z;
                score.w += v.w;
            }
            float value[2][2] = {{score.x, score.y}, {score.z, score.w}};
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const int local = n % 2 * 8 + 2 * t + c;
                bool counts = n / 2 < tiles, of_state = counts;
                if (tile < share.prefix_tiles) {
                    const int key = tile * KEY_TILE + local;
                    counts = counts && key < p.prefix;
                    if (counts && p.key_mask) counts = p.key_mask[key];
                    of_state = counts;
                } else { /* the state sees itself alone */
                    const int key = (tile - share.prefix_tiles) * KEY_TILE + local;
                    of_state = counts && key == p.horizon;
                    counts = counts && key < p.horizon + (p.time_out ? 1 : 0);
                }
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const bool state_row = m * 16 + half * 8 + warp == p.horizon;
                    value[half][c] = (state_row ? of_state : counts) ? value[half][c] * scale : -INFINITY;
                }
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float top = fmaxf(value[half][0], value[half][1]);
#pragma unroll
                for (int d = 16; d; d /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, d));
                const float level = top == -INFINITY ? 0.0f : top;
                const float first = exp2f(value[half][0] - level), second = exp2f(value[half][1] - level);
                float sum = first + second;
#pragma unroll
                for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
                const int local = half * 8 + warp, r = m * 16 + local;
                *(uint32_t *)&s->weights[local * WEIGHTS_PITCH + n * 8 + 2 * t] = pack_bf16(first, second);
                if (lane == 0 && r < rows)
                    publish(slot + layout::L + ((head * SPLITS + split) * TILES * 16 + r) * 8, __float_as_uint(top),
                            __float_as_uint(sum));
            }
            sync();
            float acc[4][4] = {};
#pragma unroll
            for (int j = 0; j < MAX_TILES; j++) {
                if (j >= tiles) break;
                uint32_t weights[4];
                load_matrix_4(weights, shared_address(s->weights) +
                                           ((lane % 16) * WEIGHTS_PITCH + j * KEY_TILE + lane / 16 * 8) * 2);
#pragma unroll
                for (int n2 = 0; n2 < 2; n2++) {
                    uint32_t v[4];
                    load_matrix_4_transposed(v, stage_at(j) + VALUES_AT + (lane % 16) * VALUE_PITCH +
                                                    (warp * 32 + n2 * 16 + lane / 16 * 8) * 2);
                    mma_bf16(acc[n2 * 2], weights, v[0], v[1]);
                    mma_bf16(acc[n2 * 2 + 1], weights, v[2], v[3]);
                }
            }
#pragma unroll
            for (int n2 = 0; n2 < 4; n2++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int r = m * 16 + half * 8 + g;
                    if (r < rows)
                        publish(slot + layout::P +
                                    ((((size_t)head * SPLITS + warp * 2 + n2 / 2) * SPLITS + split) * TILES * 16 + r) *
                                        64 +
                                    (n2 % 2 * 8 + 2 * t) * 4,
                                __float_as_uint(acc[n2][half * 2]), __float_as_uint(acc[n2][half * 2 + 1]));
                }
        }
        for (int j = 0; j < tiles; j++) release();
    }

    /* 16 columns of one head: the sixteen splits weighted and added. Lane: a quarter of the splits, four columns. */
    __device__ __forceinline__ void merge(int rows) {
        const int head = block / SPLITS, slice = block % SPLITS, quarter = lane / 8, combo = warp * 8 + lane % 8;
        const int r0 = combo / 4, c = combo % 4;
        uint4 v[TILES * 4];
        uint2 l[TILES * 4];
        const uint2 *l_at = (const uint2 *)(slot + layout::L) + (head * SPLITS + quarter * 4) * TILES * 16 + r0;
        const uint4 *v_at = (const uint4 *)(slot + layout::P) +
                            (((head * SPLITS + slice) * SPLITS + quarter * 4) * TILES * 16 + r0) * 4 + c;
        auto valid = [&](int i) { return i / 4 * 16 + r0 < rows; };
        collect(l, [&](int i) { return l_at + i % 4 * TILES * 16 + i / 4 * 16; }, valid);
        collect(v, [&](int i) { return v_at + (i % 4 * TILES * 16 + i / 4 * 16) * 4; }, valid);
#pragma unroll
        for (int m = 0; m < TILES; m++) {
            float top = -INFINITY;
#pragma unroll
            for (int i = 0; i < 4; i++) top = fmaxf(top, __uint_as_float(l[m * 4 + i].x));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 8));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 16));
            float sums[5] = {};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float keep = exp2f(__uint_as_float(l[m * 4 + i].x) - top);
                sums[0] += keep * __uint_as_float(l[m * 4 + i].y);
                sums[1] += keep * __uint_as_float(v[m * 4 + i].x);
                sums[2] += keep * __uint_as_float(v[m * 4 + i].y);
                sums[3] += keep * __uint_as_float(v[m * 4 + i].z);
                sums[4] += keep * __uint_as_float(v[m * 4 + i].w);
            }
#pragma unroll
            for (int i = 0; i < 5; i++) {
                sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], 8);
                sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], 16);
            }
            const int r = m * 16 + r0;
            if (quarter == 0 && r < rows) {
                const float by = 1.0f / sums[0];
                publish(slot + layout::O + chunk_offset(r, head * HEAD_DIM + slice * 16 + c * 4, QUERIES),
                        pack_bf16(sums[1] * by, sums[2] * by), pack_bf16(sums[3] * by, sums[4] * by));
            }
        }
    }

    __device__ __forceinline__ void gate_up(int step, int i, int rows, bool cleared) {
        uint4 a[TILES * 8], v[TILES * 2];
        operand<WIDTH, 1>(a, slot + layout::Y, 0, rows);
        collect_factors(v, slot + layout::YS, rows);
#pragma unroll
        for (int first = 0; first < 4; first += PAIRS) {
            float acc[PAIRS * 2][TILES][4] = {};
            multiply<PAIRS * 2>(acc, a);
            sync();
            write_partial<PAIRS * 2>(acc, 0, PAIRS * 2);
            if (first == 0) write_factors(v);
            if (first == 0 && cleared)
                barrier_sync(BARRIER_CLEARED, CONSUMERS + 32);
            else
                sync();
            const int pair_local = thread / 64 / TILES, m = thread / 64 % TILES;
            const int r = m * 16 + item_half * 8 + item_lane / 4, f = (first + pair_local) * 8 + item_lane % 4 * 2;
            if (r >= rows) continue;
            const float factor = s->factors[r];
            float2 gate = summed(pair_local * 2 * TILES + m, PAIRS * 2 * TILES),
                   up = summed((pair_local * 2 + 1) * TILES + m, PAIRS * 2 * TILES);
            gate = make_float2(gate.x * factor, gate.y * factor);
            up = make_float2(up.x * factor, up.y * factor);
            if (p.modulation) {
                const float *shift =
                    p.shift_gate + ((size_t)i * p.steps + step) * (2 * MLP) + block * 64 + f / 8 * 16 + f % 8;
                gate = gate + *(const float2 *)shift;
                up = up + *(const float2 *)(shift + 8);
            }
            publish(slot + layout::M + chunk_offset(r, block * (MLP / BLOCKS) + f, MLP),
                    pack_bf16(gelu_tanh(gate.x) * up.x, gelu_tanh(gate.y) * up.y));
        }
    }

    __device__ __forceinline__ void run() {
        const size_t slot_bytes = layout::BYTES;
        act = x = make_float2(0.0f, 0.0f);
        if (block < ACTIONS / 8 && item && row < p.horizon) act = *(const float2 *)(p.actions + row * ACTIONS + column);
        int n = 0;
        slot = p.exchange;
        for (int step = 0; step < p.steps; step++) {
            tokens(step);
            const int rows = p.horizon + (step == 0 && p.time_out ? 1 : 0);
            for (int i = 0; i < p.layer_count; i++, n++) {
                next_slot = p.exchange + (n + 1) % 2 * slot_bytes;
                float2 gate1, gate2, gain1, gain2;
                gate1 = gate2 = make_float2(1.0f, 1.0f);
                const bool last = i + 1 == p.layer_count;
                if (p.modulation) {
                    gate1 = pair(modulation(2 * i, step) + 2 * WIDTH);
                    gain2 = pair(modulation(2 * i + 1, step));
                    gate2 = pair(modulation(2 * i + 1, step) + 2 * WIDTH);
                    gain1 = pair(modulation(2 * i + 2, step));
                } else {
                    gain2 = pair(p.layers[i].gain2);
                    gain1 = pair(last ? p.final_gain : p.layers[i + 1].gain1);
                }
                qkv(step, i, rows);
                if (n) barrier_arrive(BARRIER_CLEAR, CONSUMERS + 32);
                attention(step, i, rows);
                merge(rows);
                float2 y = narrow<QUERIES>(slot + layout::O, rows);
                x = make_float2(x.x + y.x * gate1.x, x.y + y.y * gate1.y);
                publish_x(slot + layout::Y, slot + layout::YS, gain2, rows);
                gate_up(step, i, rows, n > 0);
                y = narrow<MLP>(slot + layout::M, rows);
                x = make_float2(x.x + y.x * gate2.x, x.y + y.y * gate2.y);
                if (last)
                    publish_x(slot + layout::Z, slot + layout::ZS, gain1, rows);
                else
                    publish_x(next_slot + layout::X, next_slot + layout::XS, gain1, rows);
                if (!last) slot = next_slot;
            }
            velocity(step);
            slot = next_slot;
        }
    }
};
#endif

template <int TILES>
__global__ void __launch_bounds__(THREADS, 1) stream_kernel(const __grid_constant__ stream_problem p) {
#ifdef PI0_HOPPER
    extern __shared__ __align__(128) uint8_t shared_raw[];
    stream_shared *s = (stream_shared *)(shared_raw + STAGES * STAGE_BYTES);
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, block = blockIdx.x;
    /* weights of keys that do not count are zero, but what they multiply must be finite */
    for (int i = thread; i < STAGES * STAGE_BYTES / 16; i += THREADS) ((uint4 *)shared_raw)[i] = make_uint4(0, 0, 0, 0);
    for (int i = thread; i < 8 * ACTIONS; i += THREADS)
        s->next_weights[i / ACTIONS][i % ACTIONS] = p.next_weights[(size_t)block * 8 * ACTIONS + i];
    if (thread < STAGES) {
        mbarrier_init(&s->full[thread], 1);
        mbarrier_init(&s->empty[thread], WARPS);
    }
    mbarrier_init_fence();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (warp >= WARPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 72;");
        if (warp == WARPS)
            produce(p, shared_raw, s, lane);
        else if (warp == WARPS + 1)
            clear_slots(p, slot_layout<TILES * 16>::BYTES, lane);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 216;");
        const int item_lane = thread / 2 % 32, item_half = thread % 2, item_tile = thread / 64;
        consumer<TILES> c = {p,
                             shared_raw,
                             s,
                             block,
                             thread,
                             warp,
                             lane,
                             lane / 4,
                             lane % 4,
                             0,
                             0,
                             NULL,
                             NULL,
                             item_tile,
                             item_lane,
                             item_half,
                             item_tile * 16 + item_half * 8 + item_lane / 4,
                             block * 8 + item_lane % 4 * 2,
                             item_tile < TILES};
        c.run();
    }
#endif
}

extern "C" size_t stream_exchange_bytes(int rows) { return rows <= 16 ? 2 * slot_layout<16>::BYTES : 0; }

extern "C" bool stream_fits(int prefix, int rows, int multiprocessors) {
    return rows <= 16 && multiprocessors >= BLOCKS &&
           ceil_div(prefix, KEY_TILE) + ceil_div(rows, KEY_TILE) <= SPLITS * MAX_TILES;
}

cudaError_t stream_setup(void) {
    return cudaFuncSetAttribute(stream_kernel<1>, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
}

extern "C" cudaError_t stream_launch(const stream_problem *p, cudaStream_t stream) {
    const int rows = p->horizon + (p->time_out ? 1 : 0);
    cudaError_t status = cudaMemsetAsync(p->exchange, 0xff, stream_exchange_bytes(rows), stream);
    if (status != cudaSuccess) return status;
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(BLOCKS);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = SHARED_BYTES;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    void *arguments[] = {(void *)p};
    return cudaLaunchKernelExC(&config, (const void *)stream_kernel<1>, arguments);
}
