/* Any bytes as a safetensors file: refused, or every tensor and string it hands out can be read to its end. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    safetensors *file;
    pi0_error error;
    if (safetensors_parse(&file, data, size, "fuzz", &error) != PI0_OK) return 0;
    size_t covered = 0;
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const tensor *tensor = safetensors_at(file, i);
        const volatile unsigned char *bytes = tensor->data;
        if (tensor->bytes) (void)(bytes[0] + bytes[tensor->bytes - 1]);
        if ((size_t)tensor_elements(tensor) * tensor_dtype_size(tensor->dtype) != tensor->bytes) abort();
        if (safetensors_find(file, tensor->name) != tensor) abort();
        char shape[64];
        if (strlen(tensor_shape_text(tensor, shape, sizeof shape)) >= sizeof shape) abort();
        covered += tensor->bytes;
    }
    uint64_t header;
    memcpy(&header, data, sizeof header);
    if (covered != size - 8 - header) abort();
    for (size_t i = 0; i < safetensors_metadata_count(file); i++) {
        const char *key, *value;
        safetensors_metadata_at(file, i, &key, &value);
        if (safetensors_metadata(file, key) != value) abort();
    }
    safetensors_close(&file);
    return 0;
}
