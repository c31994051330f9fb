/* A libhipblaslt for the same tests: looks at one product's descriptions and memory, computes nothing. Numbers are
 * those of ROCm's hipblas-common.h and hipblaslt.h. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

enum { OK, FAILED = 1, COMPUTE_32F = 2, R_32F = 0, R_16BF = 14, OP_T = 112, DESC_TRANSA = 0, PREF_WORKSPACE = 1 };

typedef struct object {
    int type, transposed_a;
    uint64_t rows, columns, workspace;
    int64_t stride;
} object;

static int make(object **to, object value) {
    *to = NULL;
    if (standin_fails()) return FAILED;
    *to = malloc(sizeof **to);
    if (!*to) return FAILED;
    **to = value;
    standin_live(1);
    return OK;
}
static int give(object *it) {
    const int status = standin_fails_giving() ? FAILED : OK;
    free(it);
    standin_live(-1);
    return status;
}

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) standin_misuse("hipBLASLt: expected %s", #condition);                                        \
    } while (0)

int hipblasLtCreate(object **handle);
int hipblasLtDestroy(object *handle);
int hipblasLtMatmulDescCreate(object **description, int compute, int scale);
int hipblasLtMatmulDescSetAttribute(object *description, int attribute, const void *value, size_t bytes);
int hipblasLtMatmulDescDestroy(object *description);
int hipblasLtMatrixLayoutCreate(object **layout, int type, uint64_t rows, uint64_t columns, int64_t stride);
int hipblasLtMatrixLayoutDestroy(object *layout);
int hipblasLtMatmulPreferenceCreate(object **preference);
int hipblasLtMatmulPreferenceSetAttribute(object *preference, int attribute, const void *value, size_t bytes);
int hipblasLtMatmulPreferenceDestroy(object *preference);
int hipblasLtMatmulAlgoGetHeuristic(object *handle, object *description, object *a, object *b, object *c, object *d,
                                    object *preference, int asked, void *results, int *count);
int hipblasLtMatmul(object *handle, object *description, const float *alpha, const uint16_t *a, object *layout_a,
                    const uint16_t *b, object *layout_b, const float *beta, const float *c, object *layout_c, float *d,
                    object *layout_d, const void *algorithm, void *workspace, size_t workspace_bytes, void *stream);

int hipblasLtCreate(object **handle) { return make(handle, (object){0}); }
int hipblasLtDestroy(object *handle) { return give(handle); }
int hipblasLtMatmulDescCreate(object **description, int compute, int scale) {
    EXPECT(compute == COMPUTE_32F && scale == R_32F);
    return make(description, (object){0});
}
int hipblasLtMatmulDescSetAttribute(object *description, int attribute, const void *value, size_t bytes) {
    if (standin_fails()) return FAILED;
    EXPECT(attribute == DESC_TRANSA && bytes == 4);
    memcpy(&description->transposed_a, value, 4);
    return OK;
}
int hipblasLtMatmulDescDestroy(object *description) { return give(description); }
int hipblasLtMatrixLayoutCreate(object **layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    return make(layout, (object){.type = type, .rows = rows, .columns = columns, .stride = stride});
}
int hipblasLtMatrixLayoutDestroy(object *layout) { return give(layout); }
int hipblasLtMatmulPreferenceCreate(object **preference) { return make(preference, (object){0}); }
int hipblasLtMatmulPreferenceSetAttribute(object *preference, int attribute, const void *value, size_t bytes) {
    if (standin_fails()) return FAILED;
    EXPECT(attribute == PREF_WORKSPACE && bytes == 8);
    memcpy(&preference->workspace, value, 8);
    return OK;
}
int hipblasLtMatmulPreferenceDestroy(object *preference) { return give(preference); }

/* The result: an algorithm of 24 bytes, workspace, status, waves, four reserved numbers. */
int hipblasLtMatmulAlgoGetHeuristic(object *handle, object *description, object *a, object *b, object *c, object *d,
                                    object *preference, int asked, void *results, int *count) {
    (void)handle, (void)description, (void)a, (void)b, (void)c, (void)d, (void)preference;
    *count = 0;
    if (standin_fails()) return FAILED;
    EXPECT(asked == 1);
    memset(results, 0, 56);
    memcpy(results, "algorithm", 9);
    *count = 1;
    return OK;
}

int hipblasLtMatmul(object *handle, object *description, const float *alpha, const uint16_t *a, object *layout_a,
                    const uint16_t *b, object *layout_b, const float *beta, const float *c, object *layout_c, float *d,
                    object *layout_d, const void *algorithm, void *workspace, size_t workspace_bytes, void *stream) {
    const object *x = layout_a, *y = layout_b, *out = layout_d;
    if (standin_fails()) return FAILED;
    EXPECT(handle && stream && *alpha == 1 && *beta == 0 && c == d && layout_c == layout_d);
    EXPECT(description->transposed_a == OP_T && memcmp(algorithm, "algorithm", 9) == 0);
    EXPECT(x->type == R_16BF && y->type == R_16BF && out->type == R_32F);
    EXPECT(x->rows == y->rows && out->rows == x->columns && out->columns == y->columns);
    EXPECT(standin_on_device(a, ((x->columns - 1) * x->stride + x->rows) * 2));
    EXPECT(standin_on_device(b, ((y->columns - 1) * y->stride + y->rows) * 2));
    EXPECT(standin_on_device(d, ((out->columns - 1) * out->stride + out->rows) * 4));
    EXPECT(standin_on_device(workspace, workspace_bytes));
    standin()->products++;
    return OK;
}
