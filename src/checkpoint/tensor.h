/* A tensor as a file or a generator holds it. */
#ifndef PI0_CHECKPOINT_TENSOR_H
#define PI0_CHECKPOINT_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pi0.h"

typedef enum tensor_dtype {
    DTYPE_BF16,
    DTYPE_F16,
    DTYPE_F32,
    DTYPE_F64,
    DTYPE_I8,
    DTYPE_I16,
    DTYPE_I32,
    DTYPE_I64,
    DTYPE_U8,
    DTYPE_U16,
    DTYPE_U32,
    DTYPE_U64,
    DTYPE_BOOL,
    DTYPE_F8_E4M3,
    DTYPE_F8_E5M2,
    DTYPE_COUNT,
} tensor_dtype;

enum { TENSOR_MAX_RANK = 8 };

typedef struct tensor {
    const char *name;
    tensor_dtype dtype;
    int rank;
    int64_t shape[TENSOR_MAX_RANK];
    size_t bytes;
    const void *data; /* row-major, little-endian, maybe unaligned; NULL: synthetic, generate it (synthetic.h) */
    /* Only where data is NULL: value(i) = base + amplitude * unit(key, i), rounded to bf16. */
    uint64_t key;
    float amplitude, base;
} tensor;

/* "BF16", as safetensors spells it: static string. */
const char *tensor_dtype_name(tensor_dtype dtype);
/* The inverse; false for a name that is none of ours. */
bool tensor_dtype_from_name(const char *name, tensor_dtype *dtype);
/* Bytes of one element. */
size_t tensor_dtype_size(tensor_dtype dtype);
int64_t tensor_elements(const tensor *tensor);
/* "[1152, 3, 14, 14]" into text[size]; returns text. */
char *tensor_shape_text(const tensor *tensor, char *text, size_t size);
char *shape_text(int rank, const int64_t *shape, char *text, size_t size);

#endif
