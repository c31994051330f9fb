/* The context of the CPU ops: scratch memory, choice of variants, and the public ops, which time themselves. */
#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"
#include "cpu/engine.h"
#include "cpu/onednn.h"
#include "cpu/trace.h"

static size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* Scratch: what one thread needs for the largest of its jobs, for each thread; then what attention shares; then the
 * times of the threads. */
static void size_scratch(ops *context) {
    size_t own = (size_t)context->options.max_keys * sizeof(double), shared = 0;
    if (context->kernels) {
        size_t product = product_scratch_bytes(context), attention = attention_scratch_bytes(context);
        own = own > product ? own : product;
        own = own > attention ? own : attention;
        shared = attention_shared_bytes(context);
    }
    context->thread_scratch_bytes = round_up(own);
    context->scratch_bytes = context->thread_scratch_bytes * context->threads + round_up(shared);
    context->scratch_bytes += (size_t)context->threads * sizeof(thread_span);
}

/* Panels of weights and sums lie in megabytes: with pages of 4 KB their translations alone would overflow the TLB.
 * Where the system does not give large pages nothing changes. */
static void ask_for_large_pages(void *memory, size_t bytes) {
    enum { LARGE_PAGE = 2 << 20 };
    uintptr_t from = ((uintptr_t)memory + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    uintptr_t to = ((uintptr_t)memory + bytes) / LARGE_PAGE * LARGE_PAGE;
    if (to > from) madvise((void *)from, to - from, MADV_HUGEPAGE);
}

static size_t cache_bytes(int name, size_t fallback, size_t highest) {
    long bytes = sysconf(name);
    if (bytes <= 0) return fallback;
    return (size_t)bytes < highest ? (size_t)bytes : highest;
}

static void choose_variants(ops *context) {
    context->table = plain_table;
    if (context->options.isa == CPU_ISA_PLAIN) return;
    context->kernels = context->options.isa == CPU_ISA_AVX2 ? &kernels_avx2 : &kernels_avx512;
    context->l1_bytes = cache_bytes(_SC_LEVEL1_DCACHE_SIZE, 32 << 10, 64 << 10);
    size_t panel_bytes = (size_t)BLOCK_K * 2 * context->kernels->lanes * sizeof(float);
    size_t fitting = cache_bytes(_SC_LEVEL2_CACHE_SIZE, 512 << 10, 2 << 20) / 2 / panel_bytes;
    context->panels = fitting < 4 ? 4 : (int)fitting;
    context->table.linear = product_linear;
    context->table.linear_f32 = product_linear_f32;
    context->table.linear_many = product_linear_many;
    context->table.linear_gelu = product_linear_gelu;
    context->table.linear_gated = product_linear_gated;
    if (!context->options.plain_attention) context->table.attention = attention_run;
    rows_fill_table(&context->table);
}

pi0_status ops_open(ops **context, const ops_options *options, pi0_error *error) {
    *context = NULL;
    cpu_isa best = cpu_isa_best();
    if (options->isa > best)
        return error_set(error, PI0_ERROR_UNSUPPORTED, "instruction set %s asked for, this CPU has %s",
                         cpu_isa_name(options->isa), cpu_isa_name(best));
    if (options->precision != PI0_PRECISION_F32 && options->precision != PI0_PRECISION_BF16)
        return error_set(error, PI0_ERROR_UNSUPPORTED, "the CPU computes in f32 or bf16");
    ops *opened = memory_zeroed(1, sizeof *opened);
    if (!opened) return error_memory(error, sizeof *opened, "CPU ops");
    opened->options = *options;
    opened->threads = options->threads > 0 ? options->threads : omp_get_num_procs();
    opened->storage = options->precision == PI0_PRECISION_F32 ? OPERAND_F32 : OPERAND_ROUNDED;
    opened->max_kv_columns = options->max_kv_columns > 0 ? options->max_kv_columns : options->max_columns;
    choose_variants(opened);
    size_scratch(opened);
    opened->scratch = memory_allocate(opened->scratch_bytes);
    pi0_status status = PI0_OK;
    if (opened->scratch) {
        ask_for_large_pages(opened->scratch, opened->scratch_bytes);
        size_t spans = (size_t)opened->threads * sizeof(thread_span);
        opened->spans = (thread_span *)(opened->scratch + opened->scratch_bytes - spans);
        memset(opened->spans, 0, spans);
    } else {
        status = error_memory(error, opened->scratch_bytes, "CPU scratch memory");
    }
#ifdef PI0_WITH_ONEDNN
    bool multiplies_bf16 = options->isa >= CPU_ISA_AVX512_BF16 || (options->emulate_bf16 && best >= CPU_ISA_AVX512);
    if (status == PI0_OK && options->precision == PI0_PRECISION_BF16 && multiplies_bf16)
        status = onednn_open(opened, error);
#endif
    if (status != PI0_OK) {
        ops_close(&opened);
        return status;
    }
    *context = opened;
    return PI0_OK;
}

void ops_close(ops **context) {
    if (!*context) return;
#ifdef PI0_WITH_ONEDNN
    onednn_close(*context);
#endif
    memory_release((*context)->scratch);
    memory_release(*context);
    *context = NULL;
}

size_t ops_scratch_bytes(const ops *context) {
    size_t bytes = context->scratch_bytes;
#ifdef PI0_WITH_ONEDNN
    bytes += onednn_bytes(context);
#endif
    return bytes;
}
int ops_threads(const ops *context) { return context->threads; }

size_t ops_operand_bytes(const ops *context, size_t elements) {
    return elements * (context->storage == OPERAND_BF16 ? sizeof(bf16) : sizeof(float));
}

operand *operand_at(const ops *context, const operand *base, size_t element) {
    return base ? (operand *)((unsigned char *)base + ops_operand_bytes(context, element)) : NULL;
}

static void op_begin(ops *context, int64_t start_ns) { context->trace.op_start_ns = start_ns; }

static void op_end(ops *context, int kind, int64_t start_ns, op_note note) {
    int64_t end_ns = clock_ns();
    context->profile.ms[context->profile.stage][kind] += (double)(end_ns - start_ns) * 1e-6;
    context->profile.calls[context->profile.stage][kind]++;
    if (context->trace.function) trace_op(context, &note, start_ns, end_ns);
}

/* Runs a statement; when profiling, adds its wall time to the op kind and tells the trace. */
#define TIMED(kind, note, ...)                                                                                         \
    do {                                                                                                               \
        if (!context->profile.enabled) {                                                                               \
            __VA_ARGS__;                                                                                               \
            break;                                                                                                     \
        }                                                                                                              \
        int64_t start_ns_ = clock_ns();                                                                                \
        op_begin(context, start_ns_);                                                                                  \
        __VA_ARGS__;                                                                                                   \
        op_end(context, kind, start_ns_, note);                                                                        \
    } while (0)

/* Bytes of a number: of an operand, of the float32 side, of sums that are read and written. */
#define OPERAND (ops_operand_bytes(context, 1))
enum { NOTHING = 0, FLOAT = sizeof(float), UPDATED = 2 * sizeof(float) };

void ops_to_operand(ops *context, operand *out, const float *in, size_t count) {
    TIMED(PI0_OP_OTHER, note_rows("to_operand", 1, (double)count, FLOAT, OPERAND),
          context->table.to_operand(context, out, in, count));
}

void ops_from_operand(ops *context, float *out, const operand *in, size_t count) {
    TIMED(PI0_OP_OTHER, note_rows("from_operand", 1, (double)count, OPERAND, FLOAT),
          context->table.from_operand(context, out, in, count));
}

void ops_linear(ops *context, float *y, const operand *x, const weight *w, const float *bias, int rows, bool add) {
    TIMED(PI0_OP_GEMM, note_linear("linear", &w, 1, rows, OPERAND, add ? UPDATED : FLOAT),
          context->table.linear(context, y, x, w, bias, rows, add));
}

void ops_linear_f32(ops *context, float *y, const float *x, const weight *w, const float *bias, int rows, bool add) {
    TIMED(PI0_OP_GEMM, note_linear("linear_f32", &w, 1, rows, FLOAT, add ? UPDATED : FLOAT),
          context->table.linear_f32(context, y, x, w, bias, rows, add));
}

void ops_linear_many(ops *context, float *const *y, const operand *x, const weight *const *w, const float *const *bias,
                     int count, int rows) {
    if (context->options.separate_products) {
        for (int i = 0; i < count; i++) ops_linear(context, y[i], x, w[i], bias ? bias[i] : NULL, rows, false);
        return;
    }
    TIMED(PI0_OP_GEMM, note_linear("linear_qkv", w, count, rows, OPERAND, FLOAT),
          context->table.linear_many(context, y, x, w, bias, count, rows));
}

void ops_linear_gelu(ops *context, operand *out, const operand *x, const weight *fc1, const float *bias, int rows) {
    TIMED(PI0_OP_GEMM, note_linear("linear_gelu", &fc1, 1, rows, OPERAND, OPERAND),
          context->table.linear_gelu(context, out, x, fc1, bias, rows));
}

void ops_linear_gated(ops *context, operand *out, const operand *x, const weight *gate, const weight *up, int rows) {
    TIMED(PI0_OP_GEMM, note_linear("linear_gated", (const weight *const[]){gate, up}, 2, rows, OPERAND, OPERAND / 2),
          context->table.linear_gated(context, out, x, gate, up, rows));
}

void ops_attention(ops *context, operand *out, const operand *q, const operand *k, const operand *v,
                   const attention_shape *shape) {
    TIMED(PI0_OP_ATTENTION, note_attention(context, shape), context->table.attention(context, out, q, k, v, shape));
}

size_t ops_attention_panels_bytes(const ops *context, int keys, int kv_heads, int head_dim) {
    return attention_panels_bytes(context, keys, kv_heads, head_dim);
}

void ops_layer_norm(ops *context, operand *out, const float *x, const float *weight, const float *bias, int rows,
                    int width) {
    TIMED(PI0_OP_NORM, note_rows("layer_norm", rows, width, FLOAT, OPERAND),
          context->table.layer_norm(context, out, x, weight, bias, rows, width));
}

void ops_rms_norm(ops *context, operand *out, const float *x, const float *scale, const float *shift, int rows,
                  int width) {
    TIMED(PI0_OP_NORM, note_rows("rms_norm", rows, width, FLOAT, OPERAND),
          context->table.rms_norm(context, out, x, scale, shift, rows, width));
}

void ops_rms_norm_f32(ops *context, float *out, const float *x, const float *scale, const float *shift, int rows,
                      int width) {
    TIMED(PI0_OP_NORM, note_rows("rms_norm_f32", rows, width, FLOAT, FLOAT),
          context->table.rms_norm_f32(context, out, x, scale, shift, rows, width));
}

void ops_rope(ops *context, operand *out, const float *x, const float *cosine, const float *sine, int rows, int heads,
              int head_dim) {
    TIMED(PI0_OP_ROPE, note_rows("rope", rows, heads * head_dim, FLOAT, OPERAND),
          context->table.rope(context, out, x, cosine, sine, rows, heads, head_dim));
}

void ops_add_gated(ops *context, float *x, const float *y, const float *gate, int rows, int width) {
    TIMED(PI0_OP_OTHER, note_rows("add_gated", rows, width, FLOAT, UPDATED),
          context->table.add_gated(context, x, y, gate, rows, width));
}

void ops_silu(ops *context, float *x, size_t count) {
    TIMED(PI0_OP_ACTIVATION, note_rows("silu", 1, (double)count, NOTHING, UPDATED),
          context->table.silu(context, x, count));
}

/* Patches: as many numbers as the image has. */
static op_note note_patches(const char *name, int image_size, size_t in_bytes) {
    return note_rows(name, image_size, 3 * image_size, in_bytes, FLOAT);
}

void ops_patches_u8(ops *context, float *patches, const uint8_t *image, int image_size, int patch_size) {
    TIMED(PI0_OP_OTHER, note_patches("patches_u8", image_size, 1),
          context->table.patches_u8(context, patches, image, image_size, patch_size));
}

void ops_patches_f32(ops *context, float *patches, const float *image, int image_size, int patch_size) {
    TIMED(PI0_OP_OTHER, note_patches("patches_f32", image_size, FLOAT),
          context->table.patches_f32(context, patches, image, image_size, patch_size));
}

void ops_embed(ops *context, float *x, const weight *table, const int32_t *ids, int count, float scale) {
    TIMED(PI0_OP_OTHER,
          note_rows("embed", count, table->cols, table->dtype == DTYPE_BF16 ? sizeof(bf16) : FLOAT, FLOAT),
          context->table.embed(context, x, table, ids, count, scale));
}

void ops_add_rows(ops *context, float *x, const float *y, int rows, int width, int period) {
    TIMED(PI0_OP_OTHER, note_rows("add_rows", rows, width, FLOAT, UPDATED),
          context->table.add_rows(context, x, y, rows, width, period));
}

void ops_euler(ops *context, float *x, const float *v, float dt, size_t count) {
    TIMED(PI0_OP_OTHER, note_rows("euler", 1, (double)count, FLOAT, UPDATED),
          context->table.euler(context, x, v, dt, count));
}

void ops_profile(ops *context, bool enabled) { context->profile.enabled = enabled; }
void ops_profile_stage(ops *context, int stage) { context->profile.stage = stage; }

void ops_profile_read(const ops *context, pi0_timings *timings) {
    memcpy(timings->op_ms, context->profile.ms, sizeof timings->op_ms);
    memcpy(timings->op_calls, context->profile.calls, sizeof timings->op_calls);
}

void ops_profile_reset(ops *context) {
    memset(context->profile.ms, 0, sizeof context->profile.ms);
    memset(context->profile.calls, 0, sizeof context->profile.calls);
}
