/*
 * A checkpoint: an openpi directory, a lerobot directory or a synthetic model, behind one set of canonical tensor names
 * (openpi's PyTorch names, spec/checkpoints 2). Sharded files, the "model." prefix and the tied embedding are resolved
 * here.
 */
#ifndef PI0_CHECKPOINT_CHECKPOINT_H
#define PI0_CHECKPOINT_CHECKPOINT_H

#include "base/status.h"
#include "checkpoint/tensor.h"
#include "model/config.h"

typedef enum checkpoint_layout { LAYOUT_OPENPI, LAYOUT_LEROBOT, LAYOUT_SYNTHETIC } checkpoint_layout;

typedef struct checkpoint checkpoint;

/* The canonical name of the token embedding in synthetic streams and files openpi writes. */
#define CHECKPOINT_EMBEDDING "paligemma_with_expert.paligemma.lm_head.weight"

/* path: a directory or "synthetic[:SEED]"; model: which synthetic one (AUTO: pi0). Maps files, checks every tensor that
 * inference needs for presence, dtype and shape, and works out the configuration. Unused tensors are noted, not
 * refused. */
pi0_status checkpoint_open(checkpoint **checkpoint, const char *path, pi0_model model, const log_sink *log,
                           pi0_error *error);
/* The same, but missing or unfit tensors are no error (for `inspect`): see checkpoint_missing, checkpoint_unfit. */
pi0_status checkpoint_open_lenient(checkpoint **checkpoint, const char *path, pi0_model model, const log_sink *log,
                                   pi0_error *error);
void checkpoint_close(checkpoint **checkpoint);

/* What `path` is, without its weights: *layout; *family for lerobot (else pi0: an openpi directory tells it by its
 * tensors only); *seed of a synthetic one, else 0. */
pi0_status checkpoint_detect(const char *path, checkpoint_layout *layout, pi0_family *family, uint64_t *seed,
                             pi0_error *error);

checkpoint_layout checkpoint_get_layout(const checkpoint *checkpoint);
const char *checkpoint_layout_name(checkpoint_layout layout);
const model_config *checkpoint_config(const checkpoint *checkpoint);
uint64_t checkpoint_seed(const checkpoint *checkpoint); /* synthetic only, else 0 */
const char *checkpoint_path(const checkpoint *checkpoint);
int64_t checkpoint_parameters(const checkpoint *checkpoint); /* that inference reads */

/* The tensor with this canonical name, or NULL. The embedding answers to CHECKPOINT_EMBEDDING whatever the file calls
 * it. */
const tensor *checkpoint_find(const checkpoint *checkpoint, const char *canonical_name);

/* All tensors of the files, under the files' own names, and what inference misses or leaves unused. */
size_t checkpoint_count(const checkpoint *checkpoint);
const tensor *checkpoint_at(const checkpoint *checkpoint, size_t index);
size_t checkpoint_missing_count(const checkpoint *checkpoint);
const char *checkpoint_missing(const checkpoint *checkpoint, size_t index);
/* Tensors of another shape or dtype than inference takes; none where checkpoint_open succeeded. */
typedef struct unfit_tensor {
    const char *name; /* the file's */
    char expected[100], found[100];
} unfit_tensor;
size_t checkpoint_unfit_count(const checkpoint *checkpoint);
const unfit_tensor *checkpoint_unfit(const checkpoint *checkpoint, size_t index);
size_t checkpoint_unused_count(const checkpoint *checkpoint);
const char *checkpoint_unused(const checkpoint *checkpoint, size_t index);

#endif
