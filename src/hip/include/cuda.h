/* Of CUDA's driver interface src/cuda needs one type, for the plans of Hopper's kernels; no AMD kernel has any. */
#ifndef PI0_HIP_CUDA_H
#define PI0_HIP_CUDA_H

#include "cuda_runtime.h"

typedef struct CUtensorMap {
    char unused;
} CUtensorMap;
#endif
