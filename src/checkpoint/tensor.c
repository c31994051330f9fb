#include "checkpoint/tensor.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[DTYPE_COUNT] = {
    [DTYPE_BF16] = {"BF16", 2}, [DTYPE_F16] = {"F16", 2},         [DTYPE_F32] = {"F32", 4},
    [DTYPE_F64] = {"F64", 8},   [DTYPE_I8] = {"I8", 1},           [DTYPE_I16] = {"I16", 2},
    [DTYPE_I32] = {"I32", 4},   [DTYPE_I64] = {"I64", 8},         [DTYPE_U8] = {"U8", 1},
    [DTYPE_U16] = {"U16", 2},   [DTYPE_U32] = {"U32", 4},         [DTYPE_U64] = {"U64", 8},
    [DTYPE_BOOL] = {"BOOL", 1}, [DTYPE_F8_E4M3] = {"F8_E4M3", 1}, [DTYPE_F8_E5M2] = {"F8_E5M2", 1},
};

const char *tensor_dtype_name(tensor_dtype dtype) { return dtypes[dtype].name; }

size_t tensor_dtype_size(tensor_dtype dtype) { return dtypes[dtype].size; }

bool tensor_dtype_from_name(const char *name, tensor_dtype *dtype) {
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(dtypes[i].name, name)) continue;
        *dtype = (tensor_dtype)i;
        return true;
    }
    return false;
}

int64_t tensor_elements(const tensor *tensor) {
    int64_t count = 1;
    for (int i = 0; i < tensor->rank; i++) count *= tensor->shape[i];
    return count;
}

char *tensor_shape_text(const tensor *tensor, char *text, size_t size) {
    return shape_text(tensor->rank, tensor->shape, text, size);
}

char *shape_text(int rank, const int64_t *shape, char *text, size_t size) {
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i <= rank && used < size; i++) {
        if (i == rank)
            snprintf(text + used, size - used, rank ? "]" : "[]");
        else
            used += (size_t)snprintf(text + used, size - used, i ? ", %lld" : "[%lld", (long long)shape[i]);
    }
    return text;
}
