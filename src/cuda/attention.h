/*
 * Attention of the ViT and of the prefix pass: softmax(scale q k^T) v over the rows of one sequence.
 *
 * A query row is (token, group): with one kv head all query heads of a token are rows of one problem (group = heads),
 * so keys and values are read once for all of them; in the ViT group = 1 and heads are separate problems.
 */
#ifndef PI0_CUDA_ATTENTION_H
#define PI0_CUDA_ATTENTION_H

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

typedef struct attention_problem {
    const __nv_bfloat16 *q;     /* row r of sequence s, head h: q + (start[s] * group + r) * q_stride + h * head_dim */
    const __nv_bfloat16 *k, *v; /* key j: k + (start[s] + j) * kv_stride + h * head_dim */
    __nv_bfloat16 *out;         /* as q, with out_stride */
    int q_stride, kv_stride, out_stride;
    int group, heads, head_dim; /* head_dim 16, 72 or 256 */
    int sequences;
    const int *starts;       /* [sequences + 1] first tokens, or NULL: every sequence has `length` tokens */
    int length;              /* the longest sequence */
    const uint8_t *key_mask; /* [tokens] 0: left out; NULL: all count */
    float scale;
    const void *next_weights; /* asked for into L2, see gemm.h */
    unsigned next_bytes;
} attention_problem;

#ifdef __cplusplus
extern "C" {
#endif
cudaError_t attention_setup(void);
/* mma.sync, any architecture from sm_80 on. */
cudaError_t attention_launch(const attention_problem *problem, bool dependent, cudaStream_t stream);
/* wgmma, head_dim 256 and one head; tokens: rows of k and v that exist. `encode` is cuTensorMapEncodeTiled. */
typedef struct attention_plan {
    CUtensorMap q_map, k_map, v_map;
    attention_problem problem;
} attention_plan;
cudaError_t attention_hopper_plan(attention_plan *plan, const attention_problem *problem, int tokens, void *encode);
cudaError_t attention_hopper_launch(const attention_plan *plan, bool dependent, cudaStream_t stream);
/* wgmma for the ViT: 256 keys a sequence, heads of 72; whether a problem is such. */
typedef struct attention_vit_maps {
    CUtensorMap main[3], tail[3]; /* of q, k, v: columns 0 to 63 and 64 to 71 of a head */
} attention_vit_maps;
bool attention_vit_possible(const attention_problem *problem);
cudaError_t attention_vit_setup(void);
cudaError_t attention_vit_launch(const attention_problem *problem, void *encode, bool dependent, cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
