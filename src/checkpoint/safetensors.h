/*
 * safetensors files: u64 little-endian header length, JSON header, raw data
 * (https://github.com/huggingface/safetensors). Reading maps the file; nothing is copied. Every claim of the header is
 * checked against the file before it is believed.
 */
#ifndef PI0_CHECKPOINT_SAFETENSORS_H
#define PI0_CHECKPOINT_SAFETENSORS_H

#include "base/status.h"
#include "checkpoint/tensor.h"

typedef struct safetensors safetensors;

/* *file is the caller's to close; tensors and strings handed out live until then. */
pi0_status safetensors_open(safetensors **file, const char *path, pi0_error *error);
/* The same over bytes in memory (borrowed until close): for tests, fuzzing and messages. `name` is used in errors. */
pi0_status safetensors_parse(safetensors **file, const void *bytes, size_t size, const char *name, pi0_error *error);
void safetensors_close(safetensors **file);

size_t safetensors_count(const safetensors *file);
const tensor *safetensors_at(const safetensors *file, size_t index);        /* in file order of data offsets */
const tensor *safetensors_find(const safetensors *file, const char *name);  /* NULL if absent */
const char *safetensors_metadata(const safetensors *file, const char *key); /* NULL if absent */
size_t safetensors_metadata_count(const safetensors *file);
void safetensors_metadata_at(const safetensors *file, size_t index, const char **key, const char **value);

/* Metadata of a file to write: pairs of strings. */
typedef struct safetensors_pair {
    const char *key, *value;
} safetensors_pair;

/* Writes name.tmp beside it and renames when complete, so that a failed or interrupted write leaves nothing under
 * `path`. Synthetic tensors (data NULL) are generated in pieces. progress may be NULL. */
pi0_status safetensors_write(const char *path, const tensor *tensors, size_t count, const safetensors_pair *metadata,
                             size_t metadata_count, pi0_progress_function progress, void *progress_user,
                             pi0_error *error);

#endif
