/* Products of gemm_rows.cuh, as gemm_hopper.cu's table of variants sees them. */
#ifndef PI0_CUDA_GEMM_ROWS_H
#define PI0_CUDA_GEMM_ROWS_H

#include "gemm.h"

int gemm_rows_count(gemm_epilogue epilogue);
void gemm_rows_text(gemm_epilogue epilogue, int variant, char *text, size_t size);
/* Features per row sum that a variant writes. */
int gemm_rows_slab(gemm_epilogue epilogue, int variant);
/* Microseconds on `multiprocessors`, infinity where the variant does not do such a problem. */
double gemm_rows_estimate(gemm_epilogue epilogue, int variant, const gemm_problem *problem, int multiprocessors);
cudaError_t gemm_rows_setup(void);
cudaError_t gemm_rows_plan(gemm_plan *plan, gemm_epilogue epilogue, int variant, void *encode);
cudaError_t gemm_rows_launch(gemm_epilogue epilogue, int variant, const gemm_plan *plan, bool dependent,
                             cudaStream_t stream);
#endif
