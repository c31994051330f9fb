/*
 * Loading weights: what can be used in place in the mapped file is (no second copy of 6.5 GB); the rest, converted or
 * generated, goes into one block whose size is known and checked before it is taken.
 *
 *     file        matrices                                   vectors
 *     BF16        in place                                   widened
 *     F32         rounded to bf16 (one warning); in place    in place
 *                 where the reference computes in float32
 *                 or with keep_f32
 *     F16         rounded to bf16; float32 in those cases    widened
 *     synthetic   generated as bf16                          generated
 */
#include "model/weights.h"

#include <errno.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bf16.h"
#include "base/half.h"
#include "base/memory.h"
#include "checkpoint/synthetic.h"

enum {
    PIECE = 1 << 20,         /* elements that one thread makes at a time */
    PREFETCH = 64 << 20,     /* bytes of a mapped file that are brought in at a time */
    HUGE_PAGE = 2 << 20,     /* bytes */
    HUGE_MINIMUM = 64 << 20, /* smaller blocks do not gain from huge pages */
};

/* One tensor to make or to bring in. */
typedef struct job {
    const tensor *source;
    void *target;       /* in the block; NULL: used in place */
    tensor_dtype dtype; /* of the target */
    size_t first_piece; /* of this job among all pieces */
} job;

typedef struct loader {
    const checkpoint *checkpoint;
    const weights_options *options;
    model_weights *weights;
    arena arena; /* base NULL in the first pass */
    job *jobs;   /* NULL in the first pass */
    size_t job_count, piece_count;
    /* shared by the threads */
    size_t done;
    bool stop, cancelled, unreadable;
    const char *rounded; /* a tensor whose values were no bf16 numbers */
} loader;

/* ---- which way each tensor goes ---------------------------------------------------------------------------------- */

static bool aligned(const void *data, size_t alignment) { return (uintptr_t)data % alignment == 0; }

static tensor_dtype target_dtype(const loader *loader, const weight_slot *slot, const tensor *source) {
    if (slot->vector) return DTYPE_F32;
    bool wide = slot->reference_f32 || loader->options->keep_f32;
    return wide && source->data && source->dtype != DTYPE_BF16 ? DTYPE_F32 : DTYPE_BF16;
}

static pi0_status plan_slot(void *user, const weight_slot *slot, pi0_error *error) {
    loader *loader = user;
    const tensor *source = checkpoint_find(loader->checkpoint, slot->name);
    if (!source)
        return error_set(error, PI0_ERROR_FORMAT, "%.300s: tensor '%.200s' is missing",
                         checkpoint_path(loader->checkpoint), slot->name);
    job job = {.source = source, .dtype = target_dtype(loader, slot, source), .first_piece = loader->piece_count};
    size_t elements = (size_t)tensor_elements(source);
    bool in_place = source->data && source->dtype == job.dtype && aligned(source->data, tensor_dtype_size(job.dtype));
    const void *data = source->data;
    if (!in_place) data = job.target = arena_take(&loader->arena, elements, tensor_dtype_size(job.dtype));
    loader->piece_count += in_place ? (source->bytes + PREFETCH - 1) / PREFETCH : (elements + PIECE - 1) / PIECE;
    if (loader->jobs) {
        loader->jobs[loader->job_count] = job;
        if (in_place) loader->weights->mapped_bytes += source->bytes;
        if (slot->vector)
            *slot->vector = data;
        else
            *slot->matrix = (weight){.data = data,
                                     .dtype = job.dtype,
                                     .rows = (int)slot->shape[0],
                                     .cols = (int)(elements / (size_t)slot->shape[0])};
    }
    loader->job_count++;
    return PI0_OK;
}

/* ---- making pieces ----------------------------------------------------------------------------------------------- */

/* float32 values[0..count) of a file's tensor from element `start` on, whatever its alignment. */
static void widen(const tensor *source, size_t start, size_t count, float *values) {
    const unsigned char *bytes = (const unsigned char *)source->data + start * tensor_dtype_size(source->dtype);
    if (source->dtype == DTYPE_F32) {
        memcpy(values, bytes, count * sizeof *values);
        return;
    }
    bool half = source->dtype == DTYPE_F16;
    uint16_t some[256];
    for (size_t i = 0; i < count; i += sizeof some / sizeof *some) {
        size_t now = count - i < sizeof some / sizeof *some ? count - i : sizeof some / sizeof *some;
        memcpy(some, bytes + i * sizeof *some, now * sizeof *some);
        if (half)
#pragma omp simd
            for (size_t j = 0; j < now; j++) values[i + j] = half_to_float(some[j]);
        else
#pragma omp simd
            for (size_t j = 0; j < now; j++) values[i + j] = bf16_to_float(some[j]);
    }
}

/* Rounds to bf16; true if that changed a value. */
static bool narrow(const tensor *source, size_t start, size_t count, bf16 *values) {
    if (source->dtype == DTYPE_BF16) { /* here only because it is not aligned */
        memcpy(values, (const unsigned char *)source->data + start * sizeof *values, count * sizeof *values);
        return false;
    }
    float wide[512];
    uint32_t lost = 0;
    for (size_t i = 0; i < count; i += sizeof wide / sizeof *wide) {
        size_t now = count - i < sizeof wide / sizeof *wide ? count - i : sizeof wide / sizeof *wide;
        widen(source, start + i, now, wide);
#pragma omp simd reduction(| : lost)
        for (size_t j = 0; j < now; j++) {
            uint32_t bits;
            memcpy(&bits, &wide[j], sizeof bits);
            values[i + j] = bf16_from_float(wide[j]);
            lost |= bits & 0xffffu;
        }
    }
    return lost != 0;
}

static void make_piece(loader *loader, const job *job, size_t start) {
    size_t count = (size_t)tensor_elements(job->source) - start;
    if (count > PIECE) count = PIECE;
    const tensor *source = job->source;
    float *floats = job->dtype == DTYPE_F32 ? (float *)job->target + start : NULL;
    bf16 *halves = job->dtype == DTYPE_BF16 ? (bf16 *)job->target + start : NULL;
    if (source->data && floats)
        widen(source, start, count, floats);
    else if (source->data) {
        if (narrow(source, start, count, halves)) {
#pragma omp atomic write
            loader->rounded = source->name;
        }
    } else if (floats)
        synthetic_float(source->key, source->amplitude, source->base, (int64_t)start, (int64_t)count, floats);
    else
        synthetic_bf16(source->key, source->amplitude, source->base, (int64_t)start, (int64_t)count, halves);
}

/* Brings a piece of the mapped file into memory: the first inference then waits for no disk, and a file that shrank
 * since it was mapped is an error here, not a fatal signal later. */
static bool prefetch_piece(const job *job, size_t start) {
    size_t bytes = job->source->bytes - start, page = (size_t)sysconf(_SC_PAGESIZE);
    if (bytes > PREFETCH) bytes = PREFETCH;
    uintptr_t begin = (uintptr_t)job->source->data + start, end = begin + bytes;
    begin -= begin % page;
#ifdef MADV_POPULATE_READ
    if (!madvise((void *)begin, end - begin, MADV_POPULATE_READ)) return true;
    if (errno == EFAULT) return false;
#endif
    madvise((void *)begin, end - begin, MADV_WILLNEED); /* older kernels: a hint, no more */
    return true;
}

static const job *job_of_piece(const loader *loader, size_t piece) {
    size_t low = 0, high = loader->job_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (loader->jobs[middle].first_piece <= piece)
            low = middle;
        else
            high = middle;
    }
    return &loader->jobs[low];
}

static void run_piece(loader *loader, size_t piece, const char *what) {
    const job *job = job_of_piece(loader, piece);
    size_t index = piece - job->first_piece;
    bool readable = true;
    if (job->target)
        make_piece(loader, job, index * PIECE);
    else
        readable = prefetch_piece(job, index * PREFETCH);
#pragma omp critical(weights_load)
    {
        loader->done++;
        if (!readable) loader->unreadable = loader->stop = true;
        const weights_options *options = loader->options;
        if (!loader->stop && options->progress &&
            options->progress(options->progress_user, what, (double)loader->done / (double)loader->piece_count))
            loader->cancelled = loader->stop = true;
    }
}

static pi0_status run_pieces(loader *loader, pi0_error *error) {
    bool synthetic = checkpoint_get_layout(loader->checkpoint) == LAYOUT_SYNTHETIC;
    const char *what = synthetic ? "generating weights" : "loading weights";
    int threads = loader->options->threads > 0 ? loader->options->threads : omp_get_max_threads();
    int64_t pieces = (int64_t)loader->piece_count;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t piece = 0; piece < pieces; piece++) {
        bool stop;
#pragma omp critical(weights_load)
        stop = loader->stop;
        if (!stop) run_piece(loader, (size_t)piece, what);
    }
    if (loader->unreadable)
        return error_set(error, PI0_ERROR_IO, "%.400s: a mapped file cannot be read (did it shrink?)",
                         checkpoint_path(loader->checkpoint));
    if (loader->cancelled) return error_set(error, PI0_ERROR_CANCELLED, "cancelled");
    if (loader->rounded)
        log_message(loader->options->log, PI0_LOG_WARNING,
                    "%s: weights were rounded to bf16 ('%s' and maybe others held values that are no bf16 numbers); "
                    "keeping float32 weights avoids that",
                    checkpoint_path(loader->checkpoint), loader->rounded);
    return PI0_OK;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static pi0_status allocate_layers(model_weights *weights, pi0_error *error) {
    const model_config *config = &weights->config;
    weights->vit.layers = memory_zeroed((size_t)config->vit.layers, sizeof *weights->vit.layers);
    weights->language_layers = memory_zeroed((size_t)config->language.layers, sizeof *weights->language_layers);
    weights->expert_layers = memory_zeroed((size_t)config->expert.layers, sizeof *weights->expert_layers);
    if (!weights->vit.layers || !weights->language_layers || !weights->expert_layers)
        return error_memory(error, (size_t)config->language.layers * sizeof(gemma_layer), "the lists of layers");
    return PI0_OK;
}

static void want_huge_pages(void *memory, size_t bytes) {
    uintptr_t begin = ((uintptr_t)memory + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    uintptr_t end = ((uintptr_t)memory + bytes) / HUGE_PAGE * HUGE_PAGE;
    if (bytes >= HUGE_MINIMUM && begin < end) madvise((void *)begin, end - begin, MADV_HUGEPAGE); /* a hint */
}

static pi0_status allocate_block(loader *loader, pi0_error *error) {
    size_t bytes = loader->arena.used, available = memory_available();
    if (bytes > available)
        return error_set(error, PI0_ERROR_MEMORY,
                         "not enough memory for the weights: expected %zu bytes, %zu available", bytes, available);
    loader->weights->memory = memory_allocate(bytes);
    loader->jobs = memory_zeroed(loader->job_count, sizeof *loader->jobs);
    if (!loader->weights->memory || !loader->jobs) return error_memory(error, bytes, "the weights");
    want_huge_pages(loader->weights->memory, bytes);
    loader->weights->owned_bytes = bytes;
    loader->arena = (arena){.base = loader->weights->memory, .capacity = bytes};
    loader->job_count = loader->piece_count = 0;
    return PI0_OK;
}

static pi0_status load(loader *loader, pi0_error *error) {
    model_weights *weights = loader->weights;
    TRY(allocate_layers(weights, error));
    TRY(weights_visit(&weights->config, weights, plan_slot, loader, error)); /* measures */
    TRY(allocate_block(loader, error));
    TRY(weights_visit(&weights->config, weights, plan_slot, loader, error)); /* lays out */
    return run_pieces(loader, error);
}

pi0_status weights_load(model_weights *weights, const checkpoint *checkpoint, const weights_options *options,
                        pi0_error *error) {
    *weights = (model_weights){.config = *checkpoint_config(checkpoint)};
    loader loader = {.checkpoint = checkpoint, .options = options, .weights = weights};
    pi0_status status = load(&loader, error);
    memory_release(loader.jobs);
    if (status != PI0_OK) weights_release(weights);
    return status;
}

void weights_release(model_weights *weights) {
    memory_release(weights->memory);
    memory_release(weights->vit.layers);
    memory_release(weights->language_layers);
    memory_release(weights->expert_layers);
    *weights = (model_weights){0};
}
