/* How much host memory this process has taken at its peak, mapped file pages apart. */
#ifndef PI0_PROFILE_MEMORY_USE_H
#define PI0_PROFILE_MEMORY_USE_H

#include <stdint.h>

typedef struct memory_use {
    int64_t anonymous_peak_bytes; /* of the samples taken */
    int64_t file_peak_bytes;
} memory_use;

/* Looks now; call it wherever memory may be at its peak. */
void memory_use_sample(memory_use *use);
/* The kernel's own peak less the most mapped pages seen, or the largest sample, whichever is more: the kernel counts
 * mapped pages into its peak and does not say how many there were. */
int64_t memory_use_peak_bytes(const memory_use *use);

#endif
