#include "ceilings.h"

#include <cuda_bf16.h>

#include "cublaslt.h"
#include "engine.h"

enum { ROUNDS = 12, READ_THREADS = 512 };

/* Numbers in [-1, 1) that repeat nowhere near: zeros or constants would run faster than real data does. */
static __global__ void fill_bf16(__nv_bfloat16 *values, size_t count, unsigned seed) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        unsigned x = (unsigned)i * 2654435761u + seed;
        x = (x ^ x >> 15) * 2246822519u;
        x = (x ^ x >> 13) * 3266489917u;
        values[i] = __float2bfloat16((float)(int)(x ^ x >> 16) * 0x1p-31f);
    }
}

static __global__ void read_all(const uint4 *from, size_t count, unsigned *never) {
    unsigned seen = 0;
    const size_t stride = (size_t)gridDim.x * blockDim.x;
    size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    for (; i + 3 * stride < count; i += 4 * stride) {
        const uint4 a = __ldcs(from + i), b = __ldcs(from + i + stride), c = __ldcs(from + i + 2 * stride),
                    d = __ldcs(from + i + 3 * stride);
        seen ^= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
    }
    for (; i < count; i += stride) seen ^= from[i].x ^ from[i].y ^ from[i].z ^ from[i].w;
    if (seen == 0x5eed5eed) *never = seen; /* so that the reads are not left out */
}

typedef struct bed {
    cudaStream_t stream;
    cudaEvent_t begin, end;
    unsigned char *memory;
    cublaslt *library;
    int multiprocessors;
} bed;

/* The shortest of several rounds. */
template <typename Run> static pi0_status best_of(const bed *b, double *best_ms, pi0_error *error, Run run) {
    for (int round = 0; round < ROUNDS; round++) {
        float ms = 0;
        CUDA_TRY(cudaEventRecord(b->begin, b->stream));
        TRY(run());
        CUDA_TRY(cudaEventRecord(b->end, b->stream));
        CUDA_TRY(cudaEventSynchronize(b->end));
        CUDA_TRY(cudaEventElapsedTime(&ms, b->begin, b->end));
        if (round == 1 || (round > 1 && ms < *best_ms)) *best_ms = ms;
    }
    return PI0_OK;
}

static pi0_status measure(bed *b, int rows, int columns, int outputs, size_t bytes, double *product_flops,
                          double *read_bytes, pi0_error *error) {
    const size_t inputs = (size_t)rows * columns * 2, weights = (size_t)outputs * columns * 2,
                 results = (size_t)rows * outputs * 2, products = inputs + weights + results + CUBLASLT_WORKSPACE_BYTES,
                 all = (products > bytes ? products : bytes) + 16;
    CUDA_TRY(cudaMalloc((void **)&b->memory, all));
    CUDA_TRY(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking));
    CUDA_TRY(cudaEventCreate(&b->begin));
    CUDA_TRY(cudaEventCreate(&b->end));
    fill_bf16<<<b->multiprocessors * 4, 256, 0, b->stream>>>((__nv_bfloat16 *)b->memory, all / 2, 1);
    CUDA_TRY(cudaGetLastError());

    double ms = 0;
    TRY(best_of(b, &ms, error, [&]() {
        read_all<<<b->multiprocessors * 4, READ_THREADS, 0, b->stream>>>(
            (const uint4 *)b->memory, bytes / 16, (unsigned *)(b->memory + (all - 16) / 16 * 16));
        CUDA_TRY(cudaGetLastError());
        return PI0_OK;
    }));
    *read_bytes = (double)bytes / (ms * 1e-3);

    TRY(cublaslt_open(&b->library, error));
    cublaslt_shape shape = {};
    shape.features = outputs;
    shape.tokens = rows;
    shape.k = shape.weights_stride = shape.input_stride = columns;
    shape.output_stride = outputs;
    unsigned char *w = b->memory, *x = w + weights, *y = x + inputs, *workspace = y + results;
    TRY(best_of(b, &ms, error,
                [&]() { return cublaslt_run(b->library, &shape, w, x, y, workspace, b->stream, error); }));
    *product_flops = 2.0 * rows * columns * outputs / (ms * 1e-3);
    return PI0_OK;
}

extern "C" pi0_status cuda_ceilings(int device, int rows, int columns, int outputs, size_t bytes, double *product_flops,
                                    double *read_bytes, pi0_error *error) {
    bed b = {};
    CUDA_TRY(cudaSetDevice(device));
    CUDA_TRY(cudaDeviceGetAttribute(&b.multiprocessors, cudaDevAttrMultiProcessorCount, device));
    const pi0_status status = measure(&b, rows, columns, outputs, bytes / 16 * 16, product_flops, read_bytes, error);
    if (b.stream) cudaStreamSynchronize(b.stream);
    cublaslt_close(&b.library);
    if (b.begin) cudaEventDestroy(b.begin);
    if (b.end) cudaEventDestroy(b.end);
    if (b.stream) cudaStreamDestroy(b.stream);
    if (b.memory) cudaFree(b.memory);
    return status;
}
