/*
 * The JSON of a checkpoint directory, config.json and the index of shards, and the header of a shard: the first byte
 * says which of them the rest is; the others are sound. Opening must refuse or succeed, strictly and leniently.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {"config.json", "model.safetensors.index.json", "a.safetensors"};
enum { NAMES = sizeof names / sizeof *names };
static char directory[] = "/tmp/pi0-fuzz-XXXXXX";

static void path_of(char path[100], const char *name) { snprintf(path, 100, "%s/%s", directory, name); }

static void clean(void) {
    for (int i = 0; i < NAMES; i++) {
        char path[100];
        path_of(path, names[i]);
        unlink(path);
    }
    rmdir(directory);
}

static void write_file(const char *name, const void *bytes, size_t size) {
    char path[100];
    path_of(path, name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file)) abort();
}

static void write_shard(const void *header, size_t size) {
    static unsigned char bytes[1 << 16];
    uint64_t length = size < sizeof bytes - 80 ? size : sizeof bytes - 80;
    memset(bytes, 0, sizeof bytes);
    memcpy(bytes, &length, sizeof length);
    memcpy(bytes + 8, header, length);
    write_file("a.safetensors", bytes, 8 + length + 64); /* 64 bytes of data */
}

static void open_and_read(void) {
    checkpoint *opened;
    pi0_error error;
    if (checkpoint_open(&opened, directory, PI0_MODEL_AUTO, NULL, &error) == PI0_OK) checkpoint_close(&opened);
    if (checkpoint_open_lenient(&opened, directory, PI0_MODEL_AUTO, NULL, &error) != PI0_OK) return;
    for (size_t i = 0; i < checkpoint_missing_count(opened); i++)
        if (checkpoint_find(opened, checkpoint_missing(opened, i))) abort();
    for (size_t i = 0; i < checkpoint_unused_count(opened); i++)
        if (!*checkpoint_unused(opened, i) && !checkpoint_count(opened)) abort();
    checkpoint_close(&opened);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char config[] = "{\"type\":\"pi0\"}";
    static const char index[] = "{\"weight_map\":{\"model.action_in_proj.weight\":\"a.safetensors\"}}";
    static const char header[] =
        "{\"model.action_in_proj.weight\":{\"dtype\":\"BF16\",\"shape\":[4,8],\"data_offsets\":[0,64]}}";
    static int ready;
    if (!size) return 0;
    if (!ready) {
        if (!mkdtemp(directory)) abort();
        atexit(clean);
        ready = 1;
    }
    int which = data[0] % NAMES;
    write_file(names[0], which == 0 ? (const void *)(data + 1) : config, which == 0 ? size - 1 : sizeof config - 1);
    write_file(names[1], which == 1 ? (const void *)(data + 1) : index, which == 1 ? size - 1 : sizeof index - 1);
    write_shard(which == 2 ? (const void *)(data + 1) : header, which == 2 ? size - 1 : sizeof header - 1);
    open_and_read();
    return 0;
}
