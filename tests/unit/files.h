/* Temporary directories and files for unit tests. Failures end the test. */
#ifndef PI0_TESTS_UNIT_FILES_H
#define PI0_TESTS_UNIT_FILES_H

#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data.h"

/* cmocka setup: *state becomes the path of a new directory. */
static inline int files_setup(void **state) {
    char *path = strdup("/tmp/pi0-test-XXXXXX");
    *state = path;
    return path && mkdtemp(path) ? 0 : -1;
}

static inline int files_remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where) {
    (void)info, (void)kind, (void)where;
    return remove(path);
}

/* cmocka teardown: removes the directory with everything in it. */
static inline int files_teardown(void **state) {
    nftw(*state, files_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return 0;
}

static inline const char *files_path(char path[1024], const char *directory, const char *name) {
    snprintf(path, 1024, "%.500s/%.500s", directory, name);
    return path;
}

static inline void files_write(const char *directory, const char *name, const void *bytes, size_t size) {
    char path[1024];
    FILE *file = fopen(files_path(path, directory, name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static inline void *files_read(const char *directory, const char *name, size_t *size) {
    char path[1024];
    FILE *file = fopen(files_path(path, directory, name), "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    void *bytes = malloc(*size + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

/* How many entries a directory has. */
static inline int files_count(const char *directory) {
    DIR *entries = opendir(directory);
    assert_non_null(entries);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(entries));) count += entry->d_name[0] != '.';
    closedir(entries);
    return count;
}

#endif
