/* Host memory: every allocation of the library goes through the hook of pi0_set_allocator. */
#ifndef PI0_BASE_MEMORY_H
#define PI0_BASE_MEMORY_H

#include <stddef.h>

/* NULL when there is no memory. Contents undefined; 64-byte aligned. memory_allocate(0) returns a unique pointer. */
void *memory_allocate(size_t bytes);
/* count * size bytes of zeros; NULL on overflow or no memory. */
void *memory_zeroed(size_t count, size_t size);
/* Grows or shrinks: copies min(old_bytes, new_bytes). On failure returns NULL and leaves the old block alone. */
void *memory_resize(void *memory, size_t old_bytes, size_t new_bytes);
/* A copy of a string or of its first `length` bytes, NUL-terminated. */
char *memory_string(const char *text);
char *memory_string_n(const char *text, size_t length);
/* NULL is a no-op. */
void memory_release(void *memory);

/* Bytes of RAM this process can still take, to refuse before taking: MemAvailable, the limits of control groups (both
 * versions) and of the address space. SIZE_MAX where nothing tells. */
size_t memory_available(void);

/*
 * An arena: one block, handed out in 64-byte aligned pieces, freed at once. The two-pass habit: run the layout code
 * once with `base` NULL to learn `used`, allocate, run it again to get pointers.
 */
typedef struct arena {
    unsigned char *base; /* NULL: only measuring */
    size_t used;
    size_t capacity;
} arena;

/* NULL while measuring; otherwise a 64-byte aligned piece. The second pass must ask for what the first one did. */
void *arena_take(arena *arena, size_t count, size_t size);

#endif
