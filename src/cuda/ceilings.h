/* What a CUDA device can do, measured: see profile/ceilings.h. */
#ifndef PI0_CUDA_CEILINGS_H
#define PI0_CUDA_CEILINGS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/status.h"

/* Product [rows, columns] x [outputs, columns]^T of bf16 by cuBLASLt, in FLOP per second, and the rate of reading
 * `bytes` of device memory, in bytes per second; the best of several rounds. PI0_ERROR_UNSUPPORTED without cuBLASLt. */
pi0_status cuda_ceilings(int device, int rows, int columns, int outputs, size_t bytes, double *product_flops,
                         double *read_bytes, pi0_error *error);
#ifdef __cplusplus
}
#endif
#endif
