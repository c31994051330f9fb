/*
 * NumPy's .npy files (numpy.lib.format, versions 1 to 3) and tables as text.
 */
#ifndef PI0_BASE_NPY_H
#define PI0_BASE_NPY_H

#include "base/status.h"
#include "base/text.h"

enum { NPY_MAX_RANK = 8 };

typedef struct npy {
    char kind;      /* 'f' (2, 4, 8 bytes), 'i', 'u' (1, 2, 4, 8), 'b' (1) */
    int item_bytes; /* of one element */
    int rank;
    int64_t shape[NPY_MAX_RANK];
    size_t count;              /* elements */
    const unsigned char *data; /* C order, little-endian; inside `memory` */
    void *memory;
} npy;

/* Reads C-ordered numbers; Fortran order, big-endian, text and object arrays are refused. On success release with
 * npy_release; on failure there is nothing to release. */
pi0_status npy_open(npy *array, const char *path, pi0_error *error);
/* The same from bytes in memory, which are copied; `name` is used in errors. */
pi0_status npy_parse(npy *array, const void *bytes, size_t size, const char *name, pi0_error *error);
void npy_release(npy *array);
/* Element i, as double. */
double npy_number(const npy *array, size_t index);
/* "float32 [50, 32]" into text[size]; returns text. */
char *npy_describe(const npy *array, char *text, size_t size);

/* table: float64 [rows, columns]. as_float32: write float32 (the values are float32 numbers). */
pi0_status npy_write_table(const char *path, const double *table, int rows, int columns, bool as_float32,
                           pi0_error *error);
/* Rows of comma-separated numbers that read back as the same doubles. */
pi0_status csv_write_table(const char *path, const double *table, int rows, int columns, pi0_error *error);
/* Appends [[..],[..]]: numbers that read back as the same doubles, null for what is not finite. */
void text_put_json_table(text_buffer *text, const double *table, int rows, int columns);

#endif
