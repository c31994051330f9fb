/*
 * The CPU operations that the model is written in. Each has a plain C twin (plain.c) that says what it computes, and
 * faster variants picked at run time by cpuid; tests hold every variant to the twin.
 *
 * Two kinds of activations:
 *   float *     the residual stream, results of products, everything that is added up: float32 always.
 *   operand *   what goes into a product: float32 at precision f32, bf16 values at precision bf16. How those are stored
 *               (bf16 where the CPU multiplies bf16, rounded float32 elsewhere) is known to src/cpu alone; ask
 *               ops_operand_bytes and operand_at.
 * All matrices are row-major; a row is a token. Products accumulate in float32. Ops run on all threads of the context.
 */
#ifndef PI0_CPU_OPS_H
#define PI0_CPU_OPS_H

#include "base/status.h"
#include "model/weights.h"

typedef struct operand operand;
typedef struct ops ops;

typedef enum cpu_isa { CPU_ISA_PLAIN, CPU_ISA_AVX2, CPU_ISA_AVX512, CPU_ISA_AVX512_BF16, CPU_ISA_AMX } cpu_isa;

/* What cpuid and the operating system allow (AMX needs a permission request, which this makes). */
cpu_isa cpu_isa_best(void);
const char *cpu_isa_name(cpu_isa isa); /* "avx512": static string */

typedef struct ops_options {
    pi0_precision precision; /* F32 or BF16 */
    cpu_isa isa;             /* at most cpu_isa_best() */
    int threads;             /* 0: all */
    int max_rows;            /* most rows any product will have */
    int max_columns;         /* widest input or output of any product */
    int max_keys;            /* most keys of any attention */
    int max_heads;
    int max_kv_columns;     /* widest k or v of any attention, kv_heads * head_dim; 0: max_columns */
    bool emulate_bf16;      /* for tests: bf16 products through oneDNN on any AVX-512 CPU */
    bool plain_attention;   /* attention as its plain twin computes it, for comparison */
    bool separate_products; /* ops_linear_many as one product after the other, for comparison */
} ops_options;

/* Takes all scratch memory that the ops will need; one context serves one inference at a time. */
pi0_status ops_open(ops **context, const ops_options *options, pi0_error *error);
void ops_close(ops **context);
size_t ops_scratch_bytes(const ops *context);
int ops_threads(const ops *context);

/* ---- operands ---- */
size_t ops_operand_bytes(const ops *context, size_t elements);
operand *operand_at(const ops *context, const operand *base, size_t element); /* base may be NULL: then NULL */
void ops_to_operand(ops *context, operand *out, const float *in, size_t count);
void ops_from_operand(ops *context, float *out, const operand *in, size_t count);

/* ---- products ---- */
/* y[rows, w.rows] = x[rows, w.cols] * w^T + bias (bias NULL: none); with `add`, += instead of =. */
void ops_linear(ops *context, float *y, const operand *x, const weight *w, const float *bias, int rows, bool add);
/* The same with float32 input at every precision: patch embedding, action and time heads, adaRMS modulation. */
void ops_linear_f32(ops *context, float *y, const float *x, const weight *w, const float *bias, int rows, bool add);
/* Several products of one input in one pass over it: y[i][rows, w[i]->rows]. */
void ops_linear_many(ops *context, float *const *y, const operand *x, const weight *const *w, const float *const *bias,
                     int count, int rows);
/* out[rows, fc1.rows] = gelu_tanh(x * fc1^T + bias) */
void ops_linear_gelu(ops *context, operand *out, const operand *x, const weight *fc1, const float *bias, int rows);
/* out[rows, gate.rows] = gelu_tanh(x * gate^T) * (x * up^T) */
void ops_linear_gated(ops *context, operand *out, const operand *x, const weight *gate, const weight *up, int rows);

/* ---- attention ---- */
/*
 * out[queries, heads * head_dim] = softmax(scale * q k^T) v per head, softmax in float32.
 * q [queries, heads * head_dim]; k, v [keys, kv_heads * head_dim]; query head h reads kv head h * kv_heads / heads.
 * key_mask: uint8 [keys], 0 leaves a key out; NULL: all count. At least one key counts.
 */
typedef struct attention_shape {
    int queries, keys, heads, kv_heads, head_dim;
    float scale;
    const uint8_t *key_mask;
    /* For calls that share most of their keys: memory that keeps keys and values in the form the kernels read,
     * ops_attention_panels_bytes for `capacity` keys. Earlier calls put the first `packed` keys there, this one adds
     * the others. NULL: nothing is kept. */
    float *panels;
    int capacity, packed;
} attention_shape;
/* 0 where the context's attention reads keys and values as they are. 64-byte aligned memory is wanted. */
size_t ops_attention_panels_bytes(const ops *context, int keys, int kv_heads, int head_dim);
void ops_attention(ops *context, operand *out, const operand *q, const operand *k, const operand *v,
                   const attention_shape *shape);

/* ---- the rest ---- */
/* LayerNorm with weight and bias, eps 1e-6. */
void ops_layer_norm(ops *context, operand *out, const float *x, const float *weight, const float *bias, int rows,
                    int width);
/* Gemma RMSNorm: n = x * rsqrt(mean(x^2) + eps); out = n * (1 + scale) + shift; shift NULL: none. scale, shift [width].
 */
void ops_rms_norm(ops *context, operand *out, const float *x, const float *scale, const float *shift, int rows,
                  int width);
/* The same to float32 (final norm before action_out_proj). */
void ops_rms_norm_f32(ops *context, float *out, const float *x, const float *scale, const float *shift, int rows,
                      int width);
/* Half-rotation RoPE per head: pairs (i, i + head_dim/2); cosine and sine float32 [rows, head_dim/2]. */
void ops_rope(ops *context, operand *out, const float *x, const float *cosine, const float *sine, int rows, int heads,
              int head_dim);
/* x[r, :] += y[r, :] * gate[:]  (adaRMS residual) */
void ops_add_gated(ops *context, float *x, const float *y, const float *gate, int rows, int width);
/* x = silu(x) */
void ops_silu(ops *context, float *x, size_t count);
/* uint8 [R,R,3] -> (v/255)*2-1 (three roundings, openpi models/model.py) -> patches [(R/p)^2, 3*p*p], columns (channel,
 * row, col). */
void ops_patches_u8(ops *context, float *patches, const uint8_t *image, int image_size, int patch_size);
/* float32 [3,R,R] -> the same patches */
void ops_patches_f32(ops *context, float *patches, const float *image, int image_size, int patch_size);
/* x[r, :] = table[ids[r], :] * scale, in float32 */
void ops_embed(ops *context, float *x, const weight *table, const int32_t *ids, int count, float scale);
/* x[r, :] += y[r % period, :]; period = rows: plain addition */
void ops_add_rows(ops *context, float *x, const float *y, int rows, int width, int period);
/* x += dt * v, multiply and add rounded separately (openpi's eager Euler step) */
void ops_euler(ops *context, float *x, const float *v, float dt, size_t count);

/* While function is not NULL it is told every op, each thread's part of it, and the ranges around them. The function is
 * set before an inference and profiling enabled. */
void ops_trace(ops *context, pi0_trace_function function, void *user);
/* A range named "NAME INDEX" (index below 0: NAME, which outlives the range). Ranges nest. */
void ops_range_begin(ops *context, pi0_trace_kind kind, const char *name, int index);
void ops_range_end(ops *context);

/* Where time goes: when enabled, every op adds its wall time to its kind (PI0_OP_*) of the current stage. */
void ops_profile(ops *context, bool enabled);
void ops_profile_stage(ops *context, int stage);
void ops_profile_read(const ops *context, pi0_timings *timings); /* fills op_ms and op_calls */
void ops_profile_reset(ops *context);

#endif
