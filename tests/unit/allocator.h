/* Allocators for unit tests: count what is taken, fail from the k-th allocation on. */
#ifndef PI0_TESTS_UNIT_ALLOCATOR_H
#define PI0_TESTS_UNIT_ALLOCATOR_H

#include <limits.h>
#include <stdlib.h>

#include "pi0.h"

typedef struct allocator_log {
    size_t bytes; /* taken in all */
    int left;     /* allocations that still succeed */
} allocator_log;

static inline void *allocator_take(void *user, size_t bytes, size_t alignment) {
    allocator_log *log = user;
    if (log->left-- <= 0) return NULL;
    log->bytes += bytes;
    return aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

static inline void allocator_release(void *user, void *memory) {
    (void)user;
    free(memory);
}

/* From now on the library's memory is counted in *log; its first `allocations` succeed, then none does. */
static inline void allocator_begin(allocator_log *log, int allocations) {
    *log = (allocator_log){0, allocations};
    pi0_set_allocator(&(pi0_allocator){allocator_take, allocator_release, log});
}

/* Back to the default. What was taken in between may be released after it. */
static inline void allocator_end(void) { pi0_set_allocator(NULL); }

#endif
