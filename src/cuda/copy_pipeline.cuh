/*
 * Tiles from global to shared memory while the block computes. NVIDIA: cp.async into one of STAGES stages, STAGES - 1
 * ahead. AMD: buffer loads into registers, one tile ahead, written to the one stage when everybody is done with it; two
 * blocks or more of a CU then cover each other's barriers. A piece is 16 bytes; PIECES of each tile are a thread's own.
 */
#ifndef PI0_CUDA_COPY_PIPELINE_CUH
#define PI0_CUDA_COPY_PIPELINE_CUH

#include "common.cuh"

typedef struct copy_piece {
    const void *base; /* the same for all threads */
    uint32_t offset;  /* bytes from base */
    uint32_t shared;  /* where in the stage */
    bool valid;       /* else zeros are written */
    bool there;       /* else nothing is */
} copy_piece;

template <int STAGES_ON_NVIDIA, int STAGE_BYTES, int PIECES> struct copy_pipeline {
#ifdef PI0_AMD
    static constexpr int STAGES = 1;
    uint4 held[PIECES];
#else
    static constexpr int STAGES = STAGES_ON_NVIDIA;
#endif
    uint32_t memory; /* of the first stage */

    /* `piece(tile, i)` describes piece i of this thread. */
    template <typename PIECE> __device__ __forceinline__ void fetch(int tile, PIECE piece) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const copy_piece p = piece(tile, i);
#ifdef PI0_AMD
            held[i] = buffer_load_16(p.base, p.offset, p.valid && p.there);
#else
            if (p.there)
                copy_async_16(memory + tile % STAGES * STAGE_BYTES + p.shared,
                              (const char *)p.base + (p.valid ? p.offset : 0), p.valid);
#endif
        }
    }

    /* Before the first tile. */
    template <typename PIECE> __device__ __forceinline__ void begin(uint32_t to, int tiles, PIECE piece) {
        memory = to;
#ifdef PI0_AMD
        if (tiles > 0) fetch(0, piece);
#else
        for (int tile = 0; tile < STAGES - 1; tile++) {
            if (tile < tiles) fetch(tile, piece);
            copy_async_commit();
        }
#endif
    }

    /* Waits for tile `tile` and sets the next fetch off; where the tile lies. All threads of the block. */
    template <typename PIECE> __device__ __forceinline__ uint32_t next(int tile, int tiles, PIECE piece) {
#ifdef PI0_AMD
        __syncthreads(); /* everyone is done with the last tile */
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const copy_piece p = piece(tile, i);
            if (p.there) shared_store_16(memory + p.shared, held[i]);
        }
        __syncthreads();
        if (tile + 1 < tiles) fetch(tile + 1, piece);
        return memory;
#else
        copy_async_wait<STAGES - 2>();
        __syncthreads(); /* this tile is there, and the last one's stage is free */
        if (tile + STAGES - 1 < tiles) fetch(tile + STAGES - 1, piece);
        copy_async_commit();
        return memory + tile % STAGES * STAGE_BYTES;
#endif
    }

    /* Nothing is under way any more. */
    __device__ __forceinline__ void end() {
#ifndef PI0_AMD
        copy_async_wait<0>();
#endif
    }
};
#endif
