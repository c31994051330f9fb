/* Files of tests/data for unit tests: found by PI0_TEST_DATA, which CTest sets. Failures end the test. */
#ifndef PI0_TESTS_UNIT_DATA_H
#define PI0_TESTS_UNIT_DATA_H

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

static inline const char *data_path(char *path, size_t size, const char *folder, const char *name) {
    const char *root = getenv("PI0_TEST_DATA");
    snprintf(path, size, "%s/%s/%s", root ? root : "tests/data", folder, name);
    return path;
}

/* All bytes of a file, from malloc. */
static inline void *data_read(const char *folder, const char *name, size_t *size) {
    char path[1024];
    FILE *file = fopen(data_path(path, sizeof path, folder, name), "rb");
    if (!file) fail_msg("cannot open %s", path);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    void *bytes = malloc(*size + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

static inline json_t *data_json(const char *folder, const char *name) {
    char path[1024];
    json_error_t error;
    json_t *json = json_load_file(data_path(path, sizeof path, folder, name), JSON_ALLOW_NUL, &error);
    if (!json) fail_msg("%s: %s", path, error.text);
    return json;
}

/* Calls `each` for every file of the folder whose name ends in `suffix`, with the name less the suffix; returns how
 * many. */
static inline int data_each(const char *folder, const char *suffix,
                            void (*each)(const char *folder, const char *name)) {
    char path[1024];
    DIR *directory = opendir(data_path(path, sizeof path, folder, ""));
    if (!directory) fail_msg("cannot open %s", path);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        size_t length = strlen(entry->d_name), tail = strlen(suffix);
        if (length <= tail || strcmp(entry->d_name + length - tail, suffix)) continue;
        char name[256];
        snprintf(name, sizeof name, "%.*s", (int)(length - tail), entry->d_name);
        each(folder, name);
        count++;
    }
    closedir(directory);
    return count;
}

/* 64-bit FNV-1a, as the golden files use it. */
static inline uint64_t data_hash(const void *bytes, size_t size) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) hash = (hash ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3u;
    return hash;
}

#endif
