/*
 * cuBLASLt without linking it: the few functions and constants of its C interface (cublasLt.h of CUDA 12 and 13) that
 * one plain product needs. AMD's hipBLASLt (hipblaslt.h of ROCm 6 and 7) has the same functions under other names, with
 * other numbers.
 */
#include "cublaslt.h"

#include <dlfcn.h>
#ifndef PI0_HIP
#include <library_types.h>
#endif

extern "C" {
#include "base/memory.h"
#include "base/status.h"
}

#ifdef PI0_HIP
#define BLAS_TITLE   "hipBLASLt"
#define BLAS(name)   "hipblasLt" name
#define BLAS_NAMES   "libhipblaslt.so.1", "libhipblaslt.so.0", "libhipblaslt.so", "/opt/rocm/lib/libhipblaslt.so"
#define BLAS_MISSING "libhipblaslt is not on this machine"
enum { COMPUTE_F32 = 2, OPERATION_TRANSPOSED = 112, DESCRIPTION_TRANSPOSE_A = 0, PREFERENCE_WORKSPACE_BYTES = 1 };
enum { TYPE_F32 = 0, TYPE_BF16 = 14 };
#else
#define BLAS_TITLE   "cuBLASLt"
#define BLAS(name)   "cublasLt" name
#define BLAS_NAMES   "libcublasLt.so.13", "libcublasLt.so", "/usr/local/cuda/lib64/libcublasLt.so.13"
#define BLAS_MISSING "libcublasLt.so.13 is not on this machine"
enum { COMPUTE_F32 = 68, OPERATION_TRANSPOSED = 1, DESCRIPTION_TRANSPOSE_A = 3, PREFERENCE_WORKSPACE_BYTES = 1 };
enum { TYPE_F32 = CUDA_R_32F, TYPE_BF16 = CUDA_R_16BF };
#endif

/* Only the algorithm is read, which comes first; hipBLASLt's is shorter, in a shorter result. */
typedef struct heuristic_result {
    uint64_t algorithm[8];
    size_t workspace_bytes;
    int status;
    float waves;
    int reserved[4];
} heuristic_result;

struct cublaslt {
    void *file, *handle;
    int (*create)(void **);
    int (*destroy)(void *);
    int (*description_create)(void **, int, int);
    int (*description_set)(void *, int, const void *, size_t);
    int (*description_destroy)(void *);
    int (*layout_create)(void **, int, uint64_t, uint64_t, int64_t);
    int (*layout_destroy)(void *);
    int (*preference_create)(void **);
    int (*preference_set)(void *, int, const void *, size_t);
    int (*preference_destroy)(void *);
    int (*heuristic)(void *, void *, void *, void *, void *, void *, void *, int, heuristic_result *, int *);
    int (*multiply)(void *, void *, const void *, const void *, void *, const void *, void *, const void *,
                    const void *, void *, void *, void *, const void *, void *, size_t, cudaStream_t);
};

extern "C" pi0_status cublaslt_open(cublaslt **library, pi0_error *error) {
    static const char *const names[] = {BLAS_NAMES};
    *library = NULL;
    cublaslt *l = (cublaslt *)memory_zeroed(1, sizeof *l);
    if (!l) return error_memory(error, sizeof *l, BLAS_TITLE);
    for (size_t i = 0; i < sizeof names / sizeof *names && !l->file; i++) l->file = dlopen(names[i], RTLD_NOW);
    const struct {
        const char *name;
        void **to;
    } functions[] = {
        {BLAS("Create"), (void **)&l->create},
        {BLAS("Destroy"), (void **)&l->destroy},
        {BLAS("MatmulDescCreate"), (void **)&l->description_create},
        {BLAS("MatmulDescSetAttribute"), (void **)&l->description_set},
        {BLAS("MatmulDescDestroy"), (void **)&l->description_destroy},
        {BLAS("MatrixLayoutCreate"), (void **)&l->layout_create},
        {BLAS("MatrixLayoutDestroy"), (void **)&l->layout_destroy},
        {BLAS("MatmulPreferenceCreate"), (void **)&l->preference_create},
        {BLAS("MatmulPreferenceSetAttribute"), (void **)&l->preference_set},
        {BLAS("MatmulPreferenceDestroy"), (void **)&l->preference_destroy},
        {BLAS("MatmulAlgoGetHeuristic"), (void **)&l->heuristic},
        {BLAS("Matmul"), (void **)&l->multiply},
    };
    const char *missing = l->file ? NULL : BLAS_MISSING;
    for (size_t i = 0; i < sizeof functions / sizeof *functions && !missing; i++)
        if (!(*functions[i].to = dlsym(l->file, functions[i].name))) missing = functions[i].name;
    if (!missing && l->create(&l->handle)) missing = "it does not start on this device";
    if (missing) {
        cublaslt_close(&l);
        return error_set(error, PI0_ERROR_UNSUPPORTED, BLAS_TITLE ": %s", missing);
    }
    *library = l;
    return PI0_OK;
}

extern "C" void cublaslt_close(cublaslt **library) {
    cublaslt *l = *library;
    if (!l) return;
    if (l->handle) l->destroy(l->handle);
    if (l->file) dlclose(l->file);
    memory_release(l);
    *library = NULL;
}

extern "C" pi0_status cublaslt_run(const cublaslt *l, const cublaslt_shape *s, const void *weights, const void *input,
                                   void *output, void *workspace, cudaStream_t stream, pi0_error *error) {
    /* the library's matrices are column-major: ours, transposed */
    const size_t bytes = CUBLASLT_WORKSPACE_BYTES;
    const int transposed = OPERATION_TRANSPOSED;
    const int type = s->float_output ? TYPE_F32 : TYPE_BF16;
    const float one = 1.0f, zero = 0.0f;
    void *description = NULL, *a = NULL, *b = NULL, *d = NULL, *preference = NULL;
    heuristic_result found = {};
    int count = 0, status = l->description_create(&description, COMPUTE_F32, TYPE_F32);
    if (!status) status = l->description_set(description, DESCRIPTION_TRANSPOSE_A, &transposed, sizeof transposed);
    if (!status) status = l->layout_create(&a, TYPE_BF16, s->k, s->features, s->weights_stride);
    if (!status) status = l->layout_create(&b, TYPE_BF16, s->k, s->tokens, s->input_stride);
    if (!status) status = l->layout_create(&d, type, s->features, s->tokens, s->output_stride);
    if (!status) status = l->preference_create(&preference);
    if (!status) status = l->preference_set(preference, PREFERENCE_WORKSPACE_BYTES, &bytes, sizeof bytes);
    if (!status) status = l->heuristic(l->handle, description, a, b, d, d, preference, 1, &found, &count);
    if (!status && !count) status = -1;
    if (!status)
        status = l->multiply(l->handle, description, &one, weights, a, input, b, &zero, output, d, output, d,
                             found.algorithm, workspace, bytes, stream);
    if (preference) l->preference_destroy(preference);
    if (d) l->layout_destroy(d);
    if (b) l->layout_destroy(b);
    if (a) l->layout_destroy(a);
    if (description) l->description_destroy(description);
    if (!status) return PI0_OK;
    return error_set(error, PI0_ERROR_DEVICE, BLAS_TITLE ": status %d for a product of %d x %d x %d", status,
                     s->features, s->tokens, s->k);
}
