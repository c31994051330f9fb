/* What the files of `pi0 inspect` share. */
#ifndef PI0_CLI_INSPECT_H
#define PI0_CLI_INSPECT_H

#include <jansson.h>

#include "checkpoint/checkpoint.h"

/* All statistics of a checkpoint directory: {asset id: content of its norm_stats.json}, or for lerobot {state file of
 * the processors: {tensor: numbers}}. A file that cannot be read is null and reported on stderr; *failures counts
 * them. NULL: no memory. */
json_t *inspect_statistics(const checkpoint *checkpoint, int *failures);

#endif
