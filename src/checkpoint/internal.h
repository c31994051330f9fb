/* What the files of src/checkpoint share: a checkpoint's inside, in the order in which opening fills it. */
#ifndef PI0_CHECKPOINT_INTERNAL_H
#define PI0_CHECKPOINT_INTERNAL_H

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"

typedef struct checkpoint_entry {
    const tensor *tensor;
    const char *canonical; /* "": stands for nothing (an lm_head beside embed_tokens) */
    bool used;             /* inference reads it */
} checkpoint_entry;

struct checkpoint {
    checkpoint_layout layout;
    char *path;
    uint64_t seed;

    safetensors **shards; /* [shard_count]; none in a synthetic checkpoint */
    size_t shard_count;
    tensor *synthetic; /* [count], or NULL */
    char *synthetic_names;

    checkpoint_entry *entries; /* [count], in the order of the files */
    size_t count;
    checkpoint_entry **by_name; /* [named], by strcmp of the canonical names */
    size_t named;

    model_config config;
    int64_t parameters;
    char **missing; /* [missing_count] */
    size_t missing_count, missing_capacity;
    unfit_tensor *unfit; /* [unfit_count] */
    size_t unfit_count, unfit_capacity;
    const char **unused; /* [unused_count] */
    size_t unused_count;
};

#define CHECKPOINT_EMBED_TOKENS "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"

/* files.c: maps the weight files of a directory and lists their tensors in entries (canonical names still empty). */
pi0_status checkpoint_map_files(checkpoint *checkpoint, const log_sink *log, pi0_error *error);

/* names.c: gives every entry its canonical name and fills by_name. */
pi0_status checkpoint_resolve_names(checkpoint *checkpoint, pi0_error *error);

/* sizes.c: the model's configuration out of tensor shapes. `lenient`: what cannot be known is taken from the full-size
 * model. */
pi0_status checkpoint_find_sizes(checkpoint *checkpoint, bool lenient, pi0_error *error);

#endif
