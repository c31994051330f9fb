/*
 * Runs a fuzz target over files and folders of files, once each: what a build without libFuzzer does with the corpus,
 * so that every input that once broke something stays a regression test.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        return 1;
    }
    size_t size = 0, capacity = 4096;
    uint8_t *data = malloc(capacity);
    for (size_t got; data && (got = fread(data + size, 1, capacity - size, file)) > 0;) {
        size += got;
        if (size < capacity) continue;
        uint8_t *larger = realloc(data, capacity *= 2);
        if (!larger) free(data);
        data = larger;
    }
    fclose(file);
    if (!data) return 1;
    /* exactly as many bytes as the file has, so that a sanitizer sees a read past the end */
    uint8_t *exact = malloc(size ? size : 1);
    if (exact) {
        memcpy(exact, data, size);
        LLVMFuzzerTestOneInput(exact, size);
    }
    free(exact);
    free(data);
    return exact ? 0 : 1;
}

int main(int argc, char **argv) {
    int runs = 0, failures = 0;
    for (int i = 1; i < argc; i++) {
        struct stat info;
        if (stat(argv[i], &info) != 0) {
            perror(argv[i]);
            return 1;
        }
        if (!S_ISDIR(info.st_mode)) {
            failures += run_file(argv[i]);
            runs++;
            continue;
        }
        struct dirent **entries;
        int count = scandir(argv[i], &entries, NULL, alphasort);
        for (int k = 0; k < count; k++) {
            if (entries[k]->d_name[0] != '.') {
                char path[4096];
                snprintf(path, sizeof path, "%s/%s", argv[i], entries[k]->d_name);
                failures += run_file(path);
                runs++;
            }
            free(entries[k]);
        }
        if (count >= 0) free(entries);
    }
    printf("%d inputs ran\n", runs);
    if (runs == 0) fprintf(stderr, "no input: a corpus of at least one file was expected\n");
    return failures || runs == 0;
}
