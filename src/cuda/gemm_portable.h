/* The portable product's tile shapes: gemm.h's choice names them by negative variants. */
#ifndef PI0_CUDA_GEMM_PORTABLE_H
#define PI0_CUDA_GEMM_PORTABLE_H

#include "gemm.h"

#ifdef __cplusplus
extern "C" {
#endif
int gemm_portable_variants(void);
void gemm_portable_text(int variant, char *text, size_t size);
/* Whether that variant runs on the current device, with the problem's k cut into `split` pieces. */
bool gemm_portable_fits(gemm_epilogue epilogue, const gemm_problem *problem, int variant, int split);
/* variant < 0: the one with the least estimated time, and its split. */
cudaError_t gemm_portable_launch(gemm_epilogue epilogue, const gemm_problem *problem, int variant, int split,
                                 int multiprocessors, bool dependent, cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
