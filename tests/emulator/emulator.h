/*
 * A GPU on the host, for the kernels of src/cuda: threads are fibers, a block runs on one thread of the host, warps of
 * EMULATOR_LANES lanes (32: NVIDIA; 64: AMD, whose kernels PI0_AMD chooses) meet at each operation of a warp. What is
 * wrong with a kernel (see emulator_problem) ends its launch with an error.
 *
 *   schedule.cc      fibers, barriers, warps        instructions.cc  matrix instructions, copies, shuffles
 *   detect.cc        bounds, races, what nobody wrote, from the compiler's calls at each load and store
 *   runtime.cc       CUDA's run-time library: memory, streams, graphs, events
 */
#ifndef PI0_EMULATOR_H
#define PI0_EMULATOR_H

#include <stddef.h>
#include <stdint.h>

#include <tuple>

#include "hip/include/cuda_runtime.h"

#ifdef PI0_AMD
enum { EMULATOR_LANES = 64 };
#else
enum { EMULATOR_LANES = 32 };
#endif
enum { EMULATOR_MAX_THREADS = 1024, EMULATOR_SHARED_BYTES = 160 << 10 };

/* ---- what the kernels' header is written over ---- */

typedef struct emulator_place {
    dim3 thread, block, threads, blocks;
} emulator_place;

enum emulator_operation {
    EMULATOR_SYNC_WARP,
    EMULATOR_UNIFORM,       /* int *: the first lane's value */
    EMULATOR_SHUFFLE,       /* emulator_shuffle */
    EMULATOR_LOAD_MATRIX,   /* emulator_matrix: ldmatrix of b16 */
    EMULATOR_MMA_16X8X16,   /* emulator_product: mma.sync.m16n8k16 of bf16 */
    EMULATOR_MFMA_16X16X16, /* emulator_product: bf16, as the next two */
    EMULATOR_MFMA_16X16X32,
    EMULATOR_MFMA_32X32X8,
};

/* What one lane brings and gets. */
typedef struct emulator_shuffle {
    uint32_t value;
    int distance;
    uint32_t mask, result;
} emulator_shuffle;
typedef struct emulator_matrix {
    uint32_t *registers;
    uint32_t shared; /* of the row that this lane names */
    int count;       /* 8x8 matrices, 2 or 4 */
    bool transposed;
} emulator_matrix;
typedef struct emulator_product {
    float *d;
    const uint32_t *a, *b;
} emulator_product;

const emulator_place &emulator_here(void);
void emulator_warp(emulator_operation operation, void *argument);
/* id 0: all threads of the block that have not ended; else `threads` of them */
void emulator_barrier(int id, int threads);
void emulator_fence(void);
unsigned emulator_atomic_add(unsigned *to, unsigned value);

uint32_t emulator_shared_address(const void *p);
void emulator_shared_load(void *to, uint32_t shared, int bytes);
void emulator_shared_store(uint32_t shared, const void *from, int bytes);
void emulator_global_load(void *to, const void *from, int bytes);
/* 16 bytes that come when they are waited for, and no sooner */
void emulator_copy_async(uint32_t shared, const void *from, bool valid);
void emulator_copy_commit(void);
void emulator_copy_wait(int pending);

/* ---- launches and what they found ---- */

/* A kernel with its arguments, which it may read where they lie. */
template <typename... Parameters> struct emulator_bound {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;

    static void call(const void *from) {
        std::apply(((const emulator_bound *)from)->kernel, ((const emulator_bound *)from)->arguments);
    }
};

/* `kernel` names it in problems; `call` runs one thread with a copy of `arguments`. */
cudaError_t emulator_launch(const void *kernel, void (*call)(const void *arguments), const void *arguments,
                            size_t bytes, dim3 blocks, int threads, size_t shared_bytes, cudaStream_t stream);
/* The first thing that was wrong since the last emulator_forget; empty: nothing. */
const char *emulator_problem(void);
void emulator_forget(void);

#endif
