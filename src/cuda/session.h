/* A session's inside: buffers, tables, graphs. Shared by session.cu (opening, input, output) and inference.cu. */
#ifndef PI0_CUDA_SESSION_H
#define PI0_CUDA_SESSION_H

#include "attention.h"
#include "denoise.h"
#include "device_trace.h"
#include "elementwise.h"
#include "engine.h"
#include "gemm.h"

enum { SESSION_GRAPHS = 32, SESSION_EVENTS = 5 };

/* What the launches of an inference depend on; all else is read from tables in device memory. */
typedef struct graph_key {
    int batch, images, text, rows, longest;
    bool float_images, masked; /* masked: some computed rows are not to be attended to */
} graph_key;

typedef struct graph_entry {
    graph_key key;
    cudaGraphExec_t graph;
    uint64_t used; /* when, for replacing the oldest */
} graph_entry;

/* Input of one inference, the same layout in pinned host memory and on the device; one copy moves all of it. */
typedef struct input_block {
    int *tokens, *text_rows;       /* [batch * max_prompt] */
    int *positions;                /* [rows] */
    int *image_rows, *image_kinds; /* [batch * cameras] */
    int *starts;                   /* [batch + 1] */
    int *prefix_valid;             /* [batch] */
    float *state;                  /* [batch, A] */
    float *noise;                  /* [batch * H, A] */
    uint8_t *key_mask;             /* [rows] */
    uint8_t *images;               /* [images] of image_stride bytes; last: only what is used is copied */
} input_block;

/* Schedule of the steps on the device: see denoise.h. */
typedef struct device_schedule {
    float *next_bias;                      /* pi0: [steps, D] */
    float *modulation;                     /* pi0.5: [2 * layers + 1][steps, 3 D]: 1 + scale, shift, gate */
    float *shift_qkv;                      /* pi0.5: [layers][steps, Q + 2 head_dim] W * shift */
    float *shift_gate;                     /* pi0.5: [layers][steps, 2 F] */
    float *out_bias;                       /* [steps, A] action_out_proj's bias, pi0.5: W * shift added */
    float *embedding, *hidden, *condition; /* [steps, D] scratch */
} device_schedule;

struct backend_session {
    backend_engine *engine;
    pi0_session_options options;
    cudaStream_t stream;
    cudaEvent_t events[SESSION_EVENTS];
    graph_entry graphs[SESSION_GRAPHS];
    uint64_t clock;
    size_t input_bytes; /* of the tables before the images */
    unsigned char *host_memory;
    float *host_actions;
    unsigned char *device_memory;
    size_t device_bytes, host_bytes;
    int max_rows, max_images, max_suffix_rows, slots, has_state;
    input_block host, device;
    graph_key last;
    int *last_starts; /* host copy for reads */

    /* ViT, prefix */
    __nv_bfloat16 *patches, *vit_operand, *vit_qkv, *vit_attention, *vit_mlp;
    float *vit_x, *x, *record_embeddings;
    float2 *vit_stats, *stats;
    __nv_bfloat16 *operand, *q, *attention, *mlp, *keys, *values; /* keys, values [layers][rows, head_dim] */
    float *partial;
    float *sums; /* cuBLASLt: of the largest product */
    void *blas_workspace;
    unsigned *ticket;
    float2 *rope;
    float *rope_frequency;

    /* steps */
    device_schedule schedule;
    float *token_x, *token_stats, *actions, *velocity; /* actions [steps + 1][rows, A], velocity [steps][rows, A] */
    __nv_bfloat16 *token_operand, *token_q, *token_attention, *token_mlp, *high_low;
    __nv_bfloat16 *suffix_keys, *suffix_values; /* [layers][batch][slots, head_dim] */
    float *times, dt;
    uint8_t *exchange; /* of the one kernel for all steps, where it can run */

    /* profile: events around every launch */
    int attention_split; /* blocks that share the keys of a head in a step */

    cudaEvent_t *marks;
    int *mark_stage, *mark_op;
    int marks_used, marks_capacity;

    device_trace *trace; /* NULL: none is asked for */
    launch_note *notes;  /* of the launches of the last inference, or of the graph of notes_key */
    int note_count, note_capacity;
    graph_key notes_key;
};

#ifdef __cplusplus
extern "C" {
#endif
/* All launches of one inference into the session's stream, in order; profile: without overlap, events around each. */
pi0_status inference_launch(backend_session *session, const graph_key *key, bool profile, pi0_error *error);
/* Fills the schedule's tables. */
pi0_status inference_schedule(backend_session *session, pi0_error *error);
#ifdef __cplusplus
}
#endif
#endif
