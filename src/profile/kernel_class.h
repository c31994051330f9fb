/*
 * What a kernel does and whose it is, from its name: cuBLAS and nvjet, CUTLASS, Triton as Inductor names it,
 * hipBLASLt (Cijk_), aiter, Composable Kernel, flash attention, cuDNN, PyTorch's own, and this project's.
 */
#ifndef PI0_PROFILE_KERNEL_CLASS_H
#define PI0_PROFILE_KERNEL_CLASS_H

#include <stddef.h>

typedef enum kernel_library {
    LIBRARY_OWN,
    LIBRARY_CUBLAS,
    LIBRARY_CUTLASS,
    LIBRARY_TRITON,
    LIBRARY_HIPBLASLT,
    LIBRARY_AITER,
    LIBRARY_CK,
    LIBRARY_FLASH,
    LIBRARY_CUDNN,
    LIBRARY_PYTORCH,
    LIBRARY_OTHER,
    LIBRARY_COUNT,
} kernel_library;

typedef struct kernel_class {
    int op;    /* PI0_OP_* */
    int stage; /* PI0_STAGE_* that an own kernel's name tells, or -1 */
    kernel_library library;
} kernel_class;

kernel_class kernel_classify(const char *name, size_t length);
/* "cuBLAS/nvjet": static string. */
const char *kernel_library_name(kernel_library library);

#endif
