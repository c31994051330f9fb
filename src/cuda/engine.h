/*
 * The inside of a GPU backend: weights in device memory (load.cu), one inference (session.cu, inference.cu). CUDA's and
 * HIP's are built from the same files; src/hip/include has what HIP lacks of CUDA's headers.
 */
#ifndef PI0_CUDA_ENGINE_H
#define PI0_CUDA_ENGINE_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "backend.h"
#ifdef __cplusplus
}
#endif

#ifdef PI0_HIP
#define DEVICE_BACKEND      PI0_BACKEND_HIP
#define DEVICE_BACKEND_NAME hip_backend
#define DEVICE_NAME         "hip"
#define DEVICE_TITLE        "HIP"
#else
#define DEVICE_BACKEND      PI0_BACKEND_CUDA
#define DEVICE_BACKEND_NAME cuda_backend
#define DEVICE_NAME         "cuda"
#define DEVICE_TITLE        "CUDA"
#endif

#define CUDA_TRY(call)                                                                                                 \
    do {                                                                                                               \
        cudaError_t cuda_status_ = (call);                                                                             \
        if (cuda_status_ != cudaSuccess) return cuda_error(error, cuda_status_, #call);                                \
    } while (0)

/* Device memory handed out in 256-byte pieces; base NULL: only measuring (see base/memory.h's arena). */
typedef struct device_arena {
    unsigned char *base;
    size_t used;
} device_arena;

/* Packed weights; W: vit.width, D: the Gemma's width, Q: heads * head_dim. Products are [features, k], bf16. */
typedef struct cuda_vit_layer {
    __nv_bfloat16 *qkv;           /* [3 * heads * padded head_dim, W] */
    __nv_bfloat16 *out;           /* [W, heads * padded head_dim] */
    __nv_bfloat16 *fc1, *fc2;     /* [M, W], [W, M] */
    float *qkv_bias, *qkv_center; /* LayerNorm folded: see gemm.h */
    float *fc1_bias, *fc1_center;
    float *out_bias, *fc2_bias;
    float *gain1, *beta1, *gain2, *beta2; /* [W] */
} cuda_vit_layer;

typedef struct cuda_gemma_layer {
    __nv_bfloat16 *qkv;                       /* [Q + 2 * head_dim, D], rows in RoPE pairs of eights */
    __nv_bfloat16 *o;                         /* [D, Q] */
    __nv_bfloat16 *gate_up;                   /* [2 * F, D], eights of gate and up alternate */
    __nv_bfloat16 *down;                      /* [D, F] */
    float *gain1, *gain2;                     /* [D] 1 + w; adaRMS: NULL */
    __nv_bfloat16 *modulation1, *modulation2; /* adaRMS: [3 * D, D] */
    float *modulation_bias1, *modulation_bias2;
} cuda_gemma_layer;

enum { CUDA_MAX_LAYERS = 64 };

typedef struct cuda_weights {
    __nv_bfloat16 *patch; /* [W, 2 * PATCH_K]: twice the same half */
    float *patch_bias;    /* [W] */
    float *positions;     /* [tokens, W] */
    cuda_vit_layer vit[CUDA_MAX_LAYERS];
    float *post_gain, *post_beta;
    __nv_bfloat16 *projector; /* [language D, W] */
    float *projector_bias, *projector_center;
    __nv_bfloat16 *embedding; /* [vocabulary, D] */
    cuda_gemma_layer language[CUDA_MAX_LAYERS], expert[CUDA_MAX_LAYERS];
    float *final_gain;
    __nv_bfloat16 *final_modulation;
    float *final_modulation_bias;
    __nv_bfloat16 *action_in, *action_out, *state_proj; /* [D, A], [A, D], [D, A] */
    float *action_in_bias, *action_out_bias, *state_bias;
    __nv_bfloat16 *time_in, *time_out; /* pi0: action_time_mlp [D, 2 D], [D, D]; pi0.5: time_mlp [D, D] twice */
    float *time_in_bias, *time_out_bias;
    float *action_fold;      /* pi0: [D, A] action half of action_time_mlp_in times action_in_proj */
    float *action_fold_bias; /* pi0: [D] the same times action_in_proj's bias, action_time_mlp_in's bias added */
    float *action_in_f32;    /* pi0.5: [D, A] action_in_proj */
} cuda_weights;

struct backend_engine {
    model_config config;
    cuda_weights weights;
    void *memory;
    size_t bytes;
    int device, multiprocessors, head_padded; /* ViT head_dim rounded up to 8 */
    bool hopper;                              /* the kernels of sm_90a run here */
    void *encode;                             /* cuTensorMapEncodeTiled */
    bool kernels;                             /* HIP: the device's code object is loaded for this engine */
    pi0_rope rope;
    struct cublaslt *blas; /* --gemm cublaslt: products of ViT and prefix by that library, on AMD hipBLASLt */
    bool plain_attention, separate_qkv; /* --attention naive, --no-fuse-qkv */
    bool overlap;                       /* kernels may start before their predecessors end (sm_90 and later) */
    char name[128], arch[16];
};

#ifdef __cplusplus
extern "C" {
#endif
pi0_status cuda_error(pi0_error *error, cudaError_t status, const char *what);

/* device.cu of CUDA, device.c of HIP. Devices there are; 0 with a reason otherwise. */
int device_count(char *reason, size_t size);
/* Fills *d; usable false with a reason where no kernel runs. */
void device_describe(pi0_device_info *d, int index);
/* Makes the kernels ready on the engine's device, which is current; chooses between them. */
pi0_status device_setup(backend_engine *engine, const pi0_engine_options *options, pi0_error *error);
/* Undoes device_setup, even one that failed or was never called. */
void device_release(backend_engine *engine);

void *device_take(device_arena *arena, size_t count, size_t size);
/* Makes the engine's device current on this thread. */
pi0_status engine_use_device(const backend_engine *engine, pi0_error *error);
pi0_status engine_load(backend_engine *engine, const backend_engine_options *options, pi0_error *error);

pi0_status cuda_session_open(backend_session **session, backend_engine *engine, const pi0_session_options *options,
                             pi0_error *error);
void cuda_session_close(backend_session *session);
pi0_status cuda_infer(backend_session *session, const backend_input *inputs, int batch, float *actions,
                      pi0_timings *timings, pi0_error *error);
pi0_status cuda_read(const backend_session *session, const char *name, int index, float *values, size_t capacity,
                     size_t *count, pi0_error *error);
#ifdef __cplusplus
}
#endif
#endif
