/*
 * The emulator's own tests: matrix instructions against the vendors' tables (tests/data/layouts), and kernels with a
 * planted fault each, which must be found, beside the same kernel without it, in which nothing may be.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include <cmocka.h>
}

#include "cuda/common.cuh"
#include "cuda/launch.cuh"

static float *device_floats(size_t count) {
    void *memory = NULL;
    assert_int_equal(cudaMalloc(&memory, count * sizeof(float)), cudaSuccess);
    memset(memory, 0, count * sizeof(float));
    return (float *)memory;
}

static int forget(void **) {
    emulator_forget();
    return 0;
}

/* A launch in which `words` must be found; NULL: nothing. */
template <typename... Parameters>
static void expect(const char *words, void (*kernel)(Parameters...), int blocks, int threads, size_t shared_bytes,
                   Parameters... arguments) {
    emulator_forget();
    const cudaError_t status = launch(kernel, dim3(blocks), threads, shared_bytes, 1, false, NULL, arguments...);
    if (!words) {
        assert_string_equal(emulator_problem(), "");
        assert_int_equal(status, cudaSuccess);
        return;
    }
    assert_int_equal(status, cudaErrorUnknown);
    if (!strstr(emulator_problem(), words)) fail_msg("expected \"%s\", found \"%s\"", words, emulator_problem());
    assert_string_equal(cudaGetErrorString(status), emulator_problem());
    assert_non_null(strstr(emulator_problem(), "_kernel")); /* it says where */
}

/* ---- matrix instructions ---- */

enum { MOST_ELEMENTS = 16 };
typedef struct table {
    int count[3]; /* elements of A, B, D in a lane */
    int row[3][64][MOST_ELEMENTS], column[3][64][MOST_ELEMENTS];
} table;

static table read_table(const char *name) {
    table t = {};
    char path[500], line[500];
    const char *data = getenv("PI0_TEST_DATA");
    snprintf(path, sizeof path, "%s/layouts/%s.csv", data ? data : "tests/data", name);
    FILE *file = fopen(path, "r");
    if (!file) fail_msg("%s cannot be read", path);
    while (fgets(line, sizeof line, file)) {
        const int matrix = line[0] == 'A' ? 0 : line[0] == 'B' ? 1 : 2;
        char *at = line + 2;
        const int lane = (int)strtol(at, &at, 10);
        int i = 0;
        for (; *at == ','; i++) {
            t.row[matrix][lane][i] = (int)strtol(at + 1, &at, 10);
            t.column[matrix][lane][i] = (int)strtol(at + 1, &at, 10);
        }
        t.count[matrix] = i;
    }
    fclose(file);
    return t;
}

typedef enum instruction { MMA_16X8X16, MFMA_16X16X16, MFMA_16X16X32, MFMA_32X32X8 } instruction;

/* One warp; a and b: four registers a lane, d: sixteen. */
__global__ void product_kernel(instruction which, const uint32_t *a, const uint32_t *b, float *d) {
    const int lane = threadIdx.x;
    uint32_t x[4], y[4];
    float sum[16];
    for (int i = 0; i < 4; i++) x[i] = a[lane * 4 + i], y[i] = b[lane * 4 + i];
    for (int i = 0; i < 16; i++) sum[i] = d[lane * 16 + i];
#ifdef PI0_AMD
    if (which == MFMA_16X16X16) mfma_16x16x16(*(float(*)[4])sum, x, y);
    if (which == MFMA_16X16X32) mfma_16x16x32(*(float(*)[4])sum, x, y);
    if (which == MFMA_32X32X8) mfma_32x32x8(sum, x, y);
#else
    if (which == MMA_16X8X16) mma_bf16(*(float(*)[4])sum, x, y[0], y[1]);
#endif
    for (int i = 0; i < 16; i++) d[lane * 16 + i] = sum[i];
}

/* Elements of D that are not what the product of the matrices is; swap: registers 0 and 1 of A change places. */
static int wrong_elements(instruction which, const char *name, int rows, int columns, int depth, bool swap) {
    const table t = read_table(name);
    float a[32][32], b[32][32], d[32][32];
    assert_int_equal(t.count[0] * EMULATOR_LANES, rows * depth);
    assert_int_equal(t.count[1] * EMULATOR_LANES, columns * depth);
    assert_int_equal(t.count[2] * EMULATOR_LANES, rows * columns);
    for (int i = 0; i < 32; i++)
        for (int j = 0; j < 32; j++) {
            a[i][j] = (float)((i * 7 + j * 3) % 17 - 8);
            b[i][j] = (float)((i * 5 + j * 11) % 19 - 9);
            d[i][j] = (float)((i + j * 2) % 5);
        }
    uint32_t *x = (uint32_t *)device_floats(64 * 4), *y = (uint32_t *)device_floats(64 * 4);
    float *sums = device_floats(64 * 16);
    for (int lane = 0; lane < EMULATOR_LANES; lane++) {
        for (int i = 0; i < t.count[0]; i++)
            ((bf16 *)(x + lane * 4))[swap ? i ^ 2 : i] = __float2bfloat16(a[t.row[0][lane][i]][t.column[0][lane][i]]);
        for (int i = 0; i < t.count[1]; i++)
            ((bf16 *)(y + lane * 4))[i] = __float2bfloat16(b[t.row[1][lane][i]][t.column[1][lane][i]]);
        for (int i = 0; i < t.count[2]; i++) sums[lane * 16 + i] = d[t.row[2][lane][i]][t.column[2][lane][i]];
    }
    expect(NULL, product_kernel, 1, EMULATOR_LANES, 0, which, (const uint32_t *)x, (const uint32_t *)y, sums);
    int wrong = 0;
    for (int lane = 0; lane < EMULATOR_LANES; lane++)
        for (int i = 0; i < t.count[2]; i++) {
            const int row = t.row[2][lane][i], column = t.column[2][lane][i];
            float sum = d[row][column]; /* small whole numbers: exact in any order */
            for (int k = 0; k < depth; k++) sum += a[row][k] * b[k][column];
            wrong += sums[lane * 16 + i] != sum;
        }
    cudaFree(x);
    cudaFree(y);
    cudaFree(sums);
    return wrong;
}

static void matrix_instructions_follow_the_tables(void **) {
#ifdef PI0_AMD
    assert_int_equal(wrong_elements(MFMA_16X16X16, "mfma_16x16x16", 16, 16, 16, false), 0);
    assert_int_equal(wrong_elements(MFMA_32X32X8, "mfma_32x32x8", 32, 32, 8, false), 0);
    /* gfx942: two instructions, which take the same k-values in another order */
    assert_int_equal(wrong_elements(MFMA_16X16X32, "mfma_16x16x32", 16, 16, 32, false), 0);
#else
    assert_int_equal(wrong_elements(MMA_16X8X16, "mma_16x8x16", 16, 8, 16, false), 0);
#endif
}

static void wrong_layout_is_found(void **) {
#ifdef PI0_AMD
    assert_true(wrong_elements(MFMA_16X16X16, "mfma_16x16x16", 16, 16, 16, true) > 200);
    assert_true(wrong_elements(MFMA_32X32X8, "mfma_32x32x8", 32, 32, 8, true) > 800);
    assert_true(wrong_elements(MFMA_16X16X32, "mfma_16x16x32", 16, 16, 32, true) > 200);
#else
    assert_true(wrong_elements(MMA_16X8X16, "mma_16x8x16", 16, 8, 16, true) > 100);
#endif
}

#ifndef PI0_AMD
/* Row i of matrix m is the values m * 64 + i * 8 .. + 7. */
__global__ void load_matrix_kernel(uint32_t *out, bool transposed) {
    extern __shared__ __align__(128) uint8_t shared_raw[];
    const int lane = threadIdx.x;
    for (int i = 0; i < 8; i++) ((uint16_t *)shared_raw)[lane * 8 + i] = (uint16_t)(lane * 8 + i);
    __syncwarp();
    uint32_t r[4];
    if (transposed)
        load_matrix_4_transposed(r, shared_address(shared_raw) + lane * 16);
    else
        load_matrix_4(r, shared_address(shared_raw) + lane * 16);
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = r[i];
}

/* PTX ISA, ldmatrix: thread 4 * row + j holds elements 2j and 2j + 1 of the row; .trans: of the column. */
static void load_matrix_follows_the_table(void **) {
    uint32_t *out = (uint32_t *)device_floats(32 * 4);
    for (int transposed = 0; transposed < 2; transposed++) {
        expect(NULL, load_matrix_kernel, 1, 32, 512, out, (bool)transposed);
        for (int row = 0; row < 8; row++)
            for (int j = 0; j < 4; j++)
                for (int m = 0; m < 4; m++)
                    for (int half = 0; half < 2; half++) {
                        const int element = 2 * j + half;
                        const int value = m * 64 + (transposed ? element * 8 + row : row * 8 + element);
                        assert_int_equal(out[(row * 4 + j) * 4 + m] >> (half * 16) & 0xffff, value);
                    }
    }
    cudaFree(out);
}

/* Copies in the background, used before they were waited for, and after. */
__global__ void copy_kernel(const float *from, float *to, int wait) {
    extern __shared__ __align__(128) uint8_t shared_raw[];
    copy_async_16(shared_address(shared_raw) + threadIdx.x * 16, from + threadIdx.x * 4, true);
    copy_async_commit();
    if (wait)
        copy_async_wait<0>();
    else
        copy_async_wait<1>();
    __syncthreads();
    for (int i = 0; i < 4; i++) to[threadIdx.x * 4 + i] = ((const float *)shared_raw)[(threadIdx.x * 4 + i) ^ 4];
}

static void copies_come_when_they_are_waited_for(void **) {
    float *from = device_floats(256), *to = device_floats(256);
    for (int i = 0; i < 256; i++) from[i] = (float)i;
    expect(NULL, copy_kernel, 1, 64, 1024, (const float *)from, to, 1);
    for (int i = 0; i < 256; i++) assert_true(to[i] == (float)(i ^ 4));
    expect(NULL, copy_kernel, 1, 64, 1024, (const float *)from, to, 0);
    for (int i = 0; i < 256; i++) assert_true(to[i] != to[i]); /* not a number: nothing has come */
    cudaFree(from);
    cudaFree(to);
}
#endif

/* ---- planted faults ---- */

__global__ void reverse_kernel(float *to, int barrier) {
    __shared__ float values[128];
    values[threadIdx.x] = (float)threadIdx.x;
    if (barrier == 1) __syncthreads();
    if (barrier == 2) __syncwarp();
    to[threadIdx.x] = values[127 - threadIdx.x];
}

__global__ void overwrite_kernel(float *to, bool barrier) {
    __shared__ float value;
    if (threadIdx.x == 0) value = 1.0f;
    __syncthreads();
    to[threadIdx.x] = value;
    if (barrier) __syncthreads();
    if (threadIdx.x == 0) value = 2.0f;
}

/* Two groups of 64 threads, each with a barrier of its own: what they exchange must stay within the group. */
__global__ void groups_kernel(float *to, int reach) {
    __shared__ float values[128];
    values[threadIdx.x] = 0.0f;
    __syncthreads();
    values[threadIdx.x] = (float)threadIdx.x;
    barrier_sync(1 + threadIdx.x / 64, 64);
    to[threadIdx.x] = values[threadIdx.x ^ reach];
}

static void race_is_found(void **) {
    float *to = device_floats(128);
    expect(NULL, reverse_kernel, 1, 128, 0, to, 1);
    expect("which nobody has written", reverse_kernel, 1, 128, 0, to, 0);
    expect("race in shared memory", overwrite_kernel, 1, 128, 0, to, false);
    expect(NULL, overwrite_kernel, 1, 128, 0, to, true);
#ifndef PI0_AMD /* whose one barrier is the block's */
    expect(NULL, groups_kernel, 1, 128, 0, to, 63);
    expect("race in shared memory", groups_kernel, 1, 128, 0, to, 64 + 63);
#endif
    cudaFree(to);
}

/* Within a warp: neighbours exchange through shared memory, with and without __syncwarp. */
__global__ void neighbours_kernel(float *to, bool sync) {
    __shared__ float values[64];
    values[threadIdx.x] = 0.0f;
    __syncthreads();
    values[threadIdx.x] = (float)threadIdx.x;
    if (sync) __syncwarp();
    to[threadIdx.x] = values[threadIdx.x ^ 1];
}

static void race_within_a_warp_is_found(void **) {
    float *to = device_floats(64);
    expect(NULL, neighbours_kernel, 1, 64, 0, to, true);
    expect("race in shared memory", neighbours_kernel, 1, 64, 0, to, false);
    cudaFree(to);
}

__global__ void pass_on_kernel(float *parts, float *to, unsigned *ticket, bool fence) {
    __shared__ bool last;
    parts[blockIdx.x] = 1.0f;
    if (fence) __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(ticket, 1) == gridDim.x - 1;
    __syncthreads();
    if (!last || threadIdx.x) return;
    float sum = 0.0f;
    for (unsigned i = 0; i < gridDim.x; i++) sum += parts[i];
    *to = sum;
}
__global__ void same_place_kernel(float *to) { *to = 1.0f; }

static void race_of_blocks_is_found(void **) {
    float *parts = device_floats(4), *to = device_floats(1);
    unsigned *ticket = (unsigned *)device_floats(1);
    expect(NULL, pass_on_kernel, 4, 32, 0, parts, to, ticket, true);
    assert_true(*to == 4.0f);
    *ticket = 0;
    expect("race in global memory", pass_on_kernel, 4, 32, 0, parts, to, ticket, false);
    expect("race in global memory", same_place_kernel, 2, 1, 0, to);
    cudaFree(parts);
    cudaFree(to);
    cudaFree(ticket);
}

__global__ void bounds_kernel(float *to, int shared_index, int global_index) {
    extern __shared__ __align__(128) uint8_t shared_raw[];
    float *values = (float *)shared_raw;
    values[shared_index] = 3.0f;
    to[global_index] = values[shared_index];
}

static void out_of_bounds_is_found(void **) {
    float *to = device_floats(100);
    expect(NULL, bounds_kernel, 1, 1, 256, to, 63, 99);
    expect("out of bounds", bounds_kernel, 1, 1, 256, to, 64, 0);
    expect("out of bounds", bounds_kernel, 1, 1, 256, to, 0, 100);
    expect("out of bounds", bounds_kernel, 1, 1, 256, to, 0, -1);
    cudaFree(to);
}

/* Half of a warp goes another way: NVIDIA's __syncwarp asks for all lanes; AMD's waves go on with those there are. */
__global__ void halves_kernel(float *to) {
    if (threadIdx.x < 16) __syncwarp();
    to[threadIdx.x] = 1.0f;
}
__global__ void waiting_kernel(float *to) {
    if (threadIdx.x < 64) barrier_sync(1, 128);
    to[threadIdx.x] = 1.0f;
}

static void missing_threads_are_found(void **) {
    float *to = device_floats(128);
    expect(EMULATOR_LANES == 32 ? "of the whole warp" : NULL, halves_kernel, 1, 32, 0, to);
    expect("that never come", waiting_kernel, 1, 128, 0, to);
    cudaFree(to);
}

__global__ void shuffle_kernel(float *to, int distance) {
    to[threadIdx.x] = __shfl_xor_sync(~0u, (float)threadIdx.x, distance);
}

static void shuffles_reach_their_lanes(void **) {
    float *to = device_floats(128);
    for (int distance = 1; distance < EMULATOR_LANES; distance *= 2) {
        expect(NULL, shuffle_kernel, 1, 128, 0, to, distance);
        for (int i = 0; i < 128; i++) assert_true(to[i] == (float)(i ^ distance));
    }
    expect("that is not there", shuffle_kernel, 1, 128, 0, to, (int)EMULATOR_LANES);
    cudaFree(to);
}

/* ---- graphs ---- */

__global__ void add_kernel(float *to) { *to += 1.0f; }

static void graphs_run_when_they_are_launched(void **) {
    float *to = device_floats(1);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    emulator_forget();
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    for (int i = 0; i < 3; i++) assert_int_equal(launch(add_kernel, dim3(1), 1, 0, 1, false, stream, to), cudaSuccess);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    assert_true(*to == 0.0f);
    assert_int_equal(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    cudaGraphDestroy(graph);
    for (int i = 0; i < 2; i++) assert_int_equal(cudaGraphLaunch(executable, stream), cudaSuccess);
    assert_true(*to == 6.0f);
    cudaGraphExecDestroy(executable);
    cudaStreamDestroy(stream);
    cudaFree(to);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(matrix_instructions_follow_the_tables, forget),
        cmocka_unit_test_setup(wrong_layout_is_found, forget),
#ifndef PI0_AMD
        cmocka_unit_test_setup(load_matrix_follows_the_table, forget),
        cmocka_unit_test_setup(copies_come_when_they_are_waited_for, forget),
#endif
        cmocka_unit_test_setup(race_is_found, forget),
        cmocka_unit_test_setup(race_within_a_warp_is_found, forget),
        cmocka_unit_test_setup(race_of_blocks_is_found, forget),
        cmocka_unit_test_setup(out_of_bounds_is_found, forget),
        cmocka_unit_test_setup(missing_threads_are_found, forget),
        cmocka_unit_test_setup(shuffles_reach_their_lanes, forget),
        cmocka_unit_test_setup(graphs_run_when_they_are_launched, forget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
