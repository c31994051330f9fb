/* Everything that is no product and no attention: conversions, embeddings, packing of weights, small float32 products.
 */
#ifndef PI0_CUDA_ELEMENTWISE_H
#define PI0_CUDA_ELEMENTWISE_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

/* ---- inference ---- */

enum { IMAGE_MASKED, IMAGE_U8, IMAGE_F32 };
enum { PATCH_K = 640 }; /* 3 * 14 * 14 = 588 values, padded; a second such half holds the low parts of float images */

/*
 * Images -> operand of the patch product, [images * tokens, parts * PATCH_K]: p - 128 for uint8 pixels (whole numbers,
 * exact in bf16; x = p / 255 * 2 - 1 = (p - 128) * 2/255 + 1/255 comes back in the epilogue), for float images
 * (x - 1/255) * 255/2 as the sum of two bf16 parts.
 */
typedef struct patches_problem {
    const uint8_t *images; /* image i starts at i * image_stride bytes: uint8 [R,R,3] or float32 [3,R,R] */
    size_t image_stride;
    const int *kinds; /* [images] IMAGE_* */
    int count, size, patch, parts;
    __nv_bfloat16 *out;
} patches_problem;

/* Text tokens into the residual stream: x = embedding * sqrt(width), operand and row sums as gemm's residual epilogue.
 */
typedef struct text_problem {
    const __nv_bfloat16 *table; /* [vocabulary, width] */
    const int *tokens, *rows;   /* [count] id and row of the prefix */
    int count, width;
    float scale;
    float *x;
    __nv_bfloat16 *operand;
    const float *gain;
    float2 *stats;
    int stats_stride;
} text_problem;

#ifdef __cplusplus
extern "C" {
#endif
cudaError_t patches_launch(const patches_problem *problem, bool dependent, cudaStream_t stream);
cudaError_t text_launch(const text_problem *problem, bool dependent, cudaStream_t stream);

/* ---- loading ---- */

typedef enum pack_rows {
    PACK_PLAIN,      /* row r -> r */
    PACK_INTERLEAVE, /* r -> r / 8 * 16 + r % 8: eights of two matrices alternate (row_offset 0 and 8) */
    PACK_ROPE,       /* per head of head_dim: eights of the first half and of the second alternate */
    PACK_HEADS,      /* per head of head_dim rows -> padded rows */
} pack_rows;

typedef struct pack_problem {
    const void *source; /* [rows, cols], dtype; host memory the device can read. NULL: synthetic */
    int dtype;          /* tensor_dtype: BF16, F16 or F32 */
    uint64_t key;
    float amplitude, base;
    int64_t first; /* element of the stream where this piece starts (synthetic) */
    int64_t rows, cols, first_row;
    pack_rows mode;
    int head_dim, padded, row_offset;
    int column_head_dim, column_padded, column_offset; /* columns per head -> padded; 0: plain */
    void *out;
    int64_t out_stride;
    bool out_f32;
    float add;
    unsigned *changed; /* counts elements that bf16 does not hold exactly, or NULL */
} pack_problem;

cudaError_t pack_launch(const pack_problem *problem, cudaStream_t stream);

/* y[m, n] = x[m, k] W[n, k]^T + bias (+ 1 for n below ones), silu on demand; float32, one warp an output column. */
typedef struct linear_problem {
    const float *x;
    int64_t x_stride;
    const __nv_bfloat16 *weights;
    int64_t weights_stride;
    const float *bias;
    float *y;
    int64_t y_stride;
    int m, n, k, ones;
    bool silu;
} linear_problem;
cudaError_t linear_launch(const linear_problem *problem, cudaStream_t stream);

/* LayerNorm folded into the product after it: bias += W beta, center = W gain. */
cudaError_t fold_layer_norm(const __nv_bfloat16 *weights, int64_t stride, int rows, int k, const float *gain,
                            const float *beta, float *bias, float *center, cudaStream_t stream);
/* patch product: out[r] = bias + rowsum(W[r]) / 255 */
cudaError_t fold_patch_bias(const __nv_bfloat16 *weights, int64_t stride, int rows, int k, float *bias,
                            cudaStream_t stream);
/* out[f, d] = sum_j W[f, j] in[j, d], float32 */
cudaError_t fold_action(const __nv_bfloat16 *weights, int64_t stride, const __nv_bfloat16 *in, float *out, int width,
                        int action_dim, cudaStream_t stream);
/* (cos, sin) [positions][half] by frequency [half]; angle = position * frequency in float32, as the reference. */
cudaError_t rope_table_launch(float2 *table, const float *frequency, int positions, int half, cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
