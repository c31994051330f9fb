#include "base/memory.h"

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

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

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* What one control group leaves, by its files' names in version 1 or 2 of the interface; SIZE_MAX without a limit. */
typedef struct group_files {
    const char *limit, *used, *cache; /* cache: a line of memory.stat, counted as used but given back on demand */
} group_files;

static size_t group_left(const char *folder, const group_files *files) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", folder, files->limit) >= (int)sizeof path) return SIZE_MAX;
    size_t limit = read_field(path, "%llu");
    if (limit == SIZE_MAX || snprintf(path, sizeof path, "%s/%s", folder, files->used) >= (int)sizeof path)
        return SIZE_MAX;
    size_t used = read_field(path, "%llu");
    if (used == SIZE_MAX || snprintf(path, sizeof path, "%s/memory.stat", folder) >= (int)sizeof path) return SIZE_MAX;
    size_t cache = read_field(path, files->cache);
    if (cache != SIZE_MAX) used -= smaller(cache, used);
    return limit > used ? limit - used : 0;
}

/* The least that this process's group and those around it leave. Inside a container the path may be that of the host:
 * what is not there is passed over, up to the root. */
static size_t groups_left(const char *root, const char *group, const group_files *files) {
    char folder[PATH_MAX];
    size_t left = SIZE_MAX, root_length = strlen(root);
    if (snprintf(folder, sizeof folder, "%s%s", root, group) >= (int)sizeof folder) return SIZE_MAX;
    for (;;) {
        left = smaller(left, group_left(folder, files));
        char *slash = strrchr(folder + root_length, '/');
        if (!slash) return left;
        *slash = 0;
    }
}

static size_t control_groups_left(void) {
    static const group_files first = {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache %llu"};
    static const group_files second = {"memory.max", "memory.current", "file %llu"};
    FILE *file = fopen("/proc/self/cgroup", "r");
    if (!file) return SIZE_MAX;
    char line[PATH_MAX];
    size_t left = SIZE_MAX;
    while (fgets(line, sizeof line, file)) { /* number:controllers:/group */
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        if (!controllers[1]) {
            left = smaller(left, groups_left("/sys/fs/cgroup", group, &second));
            left = smaller(left, groups_left("/sys/fs/cgroup/unified", group, &second));
        } else if (strstr(controllers, "memory")) {
            left = smaller(left, groups_left("/sys/fs/cgroup/memory", group, &first));
        }
    }
    fclose(file);
    return left;
}

/* `ulimit -v` */
static size_t address_space_left(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY) return SIZE_MAX;
    size_t pages = read_field("/proc/self/statm", "%llu");
    size_t used = pages == SIZE_MAX ? 0 : pages * (size_t)sysconf(_SC_PAGESIZE);
    return limit.rlim_cur > used ? limit.rlim_cur - used : 0;
}

size_t memory_available(void) {
    size_t available = SIZE_MAX, kib = read_field("/proc/meminfo", "MemAvailable: %llu kB");
    if (kib != SIZE_MAX) available = kib << 10;
    return smaller(smaller(available, control_groups_left()), address_space_left());
}

void *arena_take(arena *arena, size_t count, size_t size) {
    size_t bytes = (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *piece = arena->base ? arena->base + arena->used : NULL;
    arena->used += bytes;
    return piece;
}
