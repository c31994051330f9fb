#include "base/memory.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pi0.h"

enum { ALIGNMENT = 64 };

static void *default_allocate(void *user, size_t bytes, size_t alignment) {
    (void)user;
    size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    return rounded < bytes ? NULL : aligned_alloc(alignment, rounded ? rounded : alignment);
}

static void default_release(void *user, void *memory) {
    (void)user;
    free(memory);
}

/* The one piece of file-scope mutable state in the library: a hook that must reach every allocation has to be global.
 */
static pi0_allocator hook = {default_allocate, default_release, NULL};

void pi0_set_allocator(const pi0_allocator *allocator) {
    hook = allocator ? *allocator : (pi0_allocator){default_allocate, default_release, NULL};
}

void *memory_allocate(size_t bytes) { return hook.allocate(hook.user, bytes ? bytes : 1, ALIGNMENT); }

void *memory_zeroed(size_t count, size_t size) {
    if (size && count > SIZE_MAX / size) return NULL;
    void *memory = memory_allocate(count * size);
    if (memory) memset(memory, 0, count * size);
    return memory;
}

void *memory_resize(void *memory, size_t old_bytes, size_t new_bytes) {
    void *grown = memory_allocate(new_bytes);
    if (!grown) return NULL;
    if (memory) memcpy(grown, memory, old_bytes < new_bytes ? old_bytes : new_bytes);
    memory_release(memory);
    return grown;
}

char *memory_string_n(const char *text, size_t length) {
    char *copy = memory_allocate(length + 1);
    if (copy) {
        memcpy(copy, text, length);
        copy[length] = 0;
    }
    return copy;
}

char *memory_string(const char *text) { return memory_string_n(text, strlen(text)); }

void memory_release(void *memory) {
    if (memory) hook.release(hook.user, memory);
}

/* The number in the first line of `path` that matches `format`; SIZE_MAX without one (cgroup's "max": no limit). */
static size_t read_field(const char *path, const char *format) {
    FILE *file = fopen(path, "r");
    if (!file) return SIZE_MAX;
    char line[256];
    unsigned long long value;
    size_t result = SIZE_MAX;
    while (result == SIZE_MAX && fgets(line, sizeof line, file))
        if (sscanf(line, format, &value) == 1) result = (size_t)value;
    fclose(file);
    return result;
}

size_t memory_available(void) {
    size_t available = SIZE_MAX;
    size_t kib = read_field("/proc/meminfo", "MemAvailable: %llu kB");
    if (kib != SIZE_MAX) available = kib << 10;
    size_t limit = read_field("/sys/fs/cgroup/memory.max", "%llu");
    size_t current = read_field("/sys/fs/cgroup/memory.current", "%llu");
    if (limit != SIZE_MAX && current != SIZE_MAX) {
        size_t cache = read_field("/sys/fs/cgroup/memory.stat", "file %llu"); /* counted, but given back on demand */
        size_t used = cache != SIZE_MAX && cache < current ? current - cache : current;
        size_t left = limit > used ? limit - used : 0;
        if (left < available) available = left;
    }
    return available;
}

void *arena_take(arena *arena, size_t count, size_t size) {
    size_t bytes = (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *piece = arena->base ? arena->base + arena->used : NULL;
    arena->used += bytes;
    return piece;
}
