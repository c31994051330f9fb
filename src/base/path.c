#include "base/path.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"

pi0_status path_join(char **path, const char *directory, const char *name, pi0_error *error) {
    size_t size = strlen(directory) + strlen(name) + 2;
    *path = memory_allocate(size);
    if (!*path) return error_memory(error, size, "a path");
    snprintf(*path, size, "%s/%s", directory, name);
    return PI0_OK;
}

pi0_status path_exists(bool *exists, const char *directory, const char *name, pi0_error *error) {
    char *path;
    TRY(path_join(&path, directory, name, error));
    struct stat information;
    *exists = stat(path, &information) == 0;
    memory_release(path);
    return PI0_OK;
}
