/* Writing safetensors files: the header, then the data in pieces that all threads make and write side by side. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/synthetic.h"

enum { PIECE_BYTES = 4 << 20 }; /* fits in the L2 cache of one core or so, and a stop request is seen at once */

typedef struct output {
    int descriptor;
    off_t data_start;       /* bytes of length word and header */
    const tensor **tensors; /* [count] in file order */
    size_t *offsets;        /* [count] into the data */
    size_t *first_piece;    /* [count + 1] */
    size_t count, data_bytes;
} output;

static int write_fully(int descriptor, const void *bytes, size_t size, off_t offset) {
    const char *next = bytes;
    while (size) {
        ssize_t written = pwrite(descriptor, next, size, offset);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return written < 0 ? errno : ENOSPC;
        next += written;
        offset += written;
        size -= (size_t)written;
    }
    return 0;
}

/* Larger elements first, so that every tensor is aligned to its own elements (the header's length is a multiple of 8);
 * within a type the caller's order. */
static void order_tensors(output *output, const tensor *tensors, size_t count) {
    for (size_t size = 8; size; size /= 2)
        for (size_t i = 0; i < count; i++)
            if (tensor_dtype_size(tensors[i].dtype) == size) output->tensors[output->count++] = &tensors[i];
    for (size_t i = 0; i < count; i++) {
        output->offsets[i] = output->data_bytes;
        output->data_bytes += output->tensors[i]->bytes;
        output->first_piece[i + 1] =
            output->first_piece[i] + (output->tensors[i]->bytes + PIECE_BYTES - 1) / PIECE_BYTES;
    }
}

static json_t *describe_tensor(const tensor *tensor, size_t offset) {
    json_t *shape = json_array();
    for (int i = 0; i < tensor->rank; i++) json_array_append_new(shape, json_integer(tensor->shape[i]));
    return json_pack("{s:s, s:o, s:[I,I]}", "dtype", tensor_dtype_name(tensor->dtype), "shape", shape, "data_offsets",
                     (json_int_t)offset, (json_int_t)(offset + tensor->bytes));
}

/* The header's text, to be freed with free; NULL without memory. */
static char *make_header(const output *output, const safetensors_pair *metadata, size_t metadata_count) {
    json_t *header = json_object();
    bool failed = !header;
    if (metadata_count) {
        json_t *pairs = json_object();
        for (size_t i = 0; i < metadata_count; i++)
            failed |= json_object_set_new(pairs, metadata[i].key, json_string(metadata[i].value)) != 0;
        failed |= json_object_set_new(header, "__metadata__", pairs) != 0;
    }
    for (size_t i = 0; i < output->count && !failed; i++)
        failed |= json_object_set_new(header, output->tensors[i]->name,
                                      describe_tensor(output->tensors[i], output->offsets[i])) != 0;
    char *text = failed ? NULL : json_dumps(header, JSON_COMPACT);
    json_decref(header);
    return text;
}

static pi0_status write_header(output *output, const safetensors_pair *metadata, size_t metadata_count,
                               pi0_error *error) {
    char *text = make_header(output, metadata, metadata_count);
    if (!text) return error_memory(error, 0, "the header");
    size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    char *header = memory_allocate(8 + padded);
    if (!header) {
        free(text);
        return error_memory(error, 8 + padded, "the header");
    }
    for (int i = 0; i < 8; i++) header[i] = (char)(padded >> (8 * i));
    memcpy(header + 8, text, length);
    memset(header + 8 + length, ' ', padded - length);
    free(text);
    int problem = write_fully(output->descriptor, header, 8 + padded, 0);
    memory_release(header);
    if (problem) return error_set(error, PI0_ERROR_IO, "%s", strerror(problem));
    output->data_start = (off_t)(8 + padded);
    return PI0_OK;
}

/* Makes and writes one piece; `buffer` has PIECE_BYTES. Returns 0 or an errno. */
static int write_piece(const output *output, size_t piece, void *buffer) {
    size_t low = 0, high = output->count; /* the tensor whose pieces contain this one */
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (output->first_piece[middle] <= piece)
            low = middle;
        else
            high = middle;
    }
    const tensor *tensor = output->tensors[low];
    size_t start = (piece - output->first_piece[low]) * PIECE_BYTES, size = tensor->bytes - start;
    if (size > PIECE_BYTES) size = PIECE_BYTES;
    const void *bytes = (const char *)tensor->data + start;
    if (!tensor->data) {
        synthetic_bf16(tensor->key, tensor->amplitude, tensor->base, (int64_t)(start / sizeof(bf16)),
                       (int64_t)(size / sizeof(bf16)), buffer);
        bytes = buffer;
    }
    return write_fully(output->descriptor, bytes, size, output->data_start + (off_t)(output->offsets[low] + start));
}

static pi0_status write_data(const output *output, pi0_progress_function progress, void *progress_user,
                             pi0_error *error) {
    int64_t pieces = (int64_t)output->first_piece[output->count], done = 0;
    bool no_memory = false, cancelled = false;
    int problem = 0;
#pragma omp parallel
    {
        void *buffer = memory_allocate(PIECE_BYTES);
        if (!buffer) {
#pragma omp critical(safetensors_write)
            no_memory = true;
        }
#pragma omp for schedule(dynamic)
        for (int64_t piece = 0; piece < pieces; piece++) {
            bool stop;
#pragma omp critical(safetensors_write)
            stop = no_memory || cancelled || problem;
            if (stop || !buffer) continue;
            int failed = write_piece(output, (size_t)piece, buffer);
#pragma omp critical(safetensors_write)
            {
                done++;
                if (failed)
                    problem = failed;
                else if (progress && progress(progress_user, "writing", (double)done / (double)pieces))
                    cancelled = true;
            }
        }
        memory_release(buffer);
    }
    if (no_memory) return error_memory(error, PIECE_BYTES, "a piece of the file");
    if (problem) return error_set(error, PI0_ERROR_IO, "%s", strerror(problem));
    if (cancelled) return error_set(error, PI0_ERROR_CANCELLED, "cancelled");
    return PI0_OK;
}

static pi0_status write_file(output *output, const char *path, const char *temporary, const safetensors_pair *metadata,
                             size_t metadata_count, pi0_progress_function progress, void *progress_user,
                             pi0_error *error) {
    output->descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (output->descriptor < 0) return error_set(error, PI0_ERROR_IO, "%s", strerror(errno));
    pi0_status status = write_header(output, metadata, metadata_count, error);
    if (status == PI0_OK) status = write_data(output, progress, progress_user, error);
    if (close(output->descriptor) && status == PI0_OK) status = error_set(error, PI0_ERROR_IO, "%s", strerror(errno));
    if (status == PI0_OK && rename(temporary, path)) status = error_set(error, PI0_ERROR_IO, "%s", strerror(errno));
    if (status != PI0_OK) unlink(temporary);
    return status;
}

pi0_status safetensors_write(const char *path, const tensor *tensors, size_t count, const safetensors_pair *metadata,
                             size_t metadata_count, pi0_progress_function progress, void *progress_user,
                             pi0_error *error) {
    size_t path_bytes = strlen(path);
    char *temporary = memory_allocate(path_bytes + sizeof ".tmp");
    output output = {.tensors = memory_zeroed(count, sizeof *output.tensors),
                     .offsets = memory_zeroed(count, sizeof *output.offsets),
                     .first_piece = memory_zeroed(count + 1, sizeof *output.first_piece)};
    pi0_status status;
    if (!temporary || !output.tensors || !output.offsets || !output.first_piece) {
        status = error_memory(error, count * 3 * sizeof(size_t), "the list of tensors");
    } else {
        memcpy(temporary, path, path_bytes);
        memcpy(temporary + path_bytes, ".tmp", sizeof ".tmp");
        order_tensors(&output, tensors, count);
        status = write_file(&output, path, temporary, metadata, metadata_count, progress, progress_user, error);
        if (status != PI0_OK && status != PI0_ERROR_MEMORY) error_prefix(error, status, "cannot write %.400s", path);
    }
    memory_release(output.first_piece);
    memory_release(output.offsets);
    memory_release(output.tensors);
    memory_release(temporary);
    return status;
}
