/* Attention written for reading: `--attention naive`. At most 12,288 keys: their scores lie in shared memory. */
#ifndef PI0_CUDA_ATTENTION_PLAIN_H
#define PI0_CUDA_ATTENTION_PLAIN_H

#include "attention.h"
#include "denoise.h"

#ifdef __cplusplus
extern "C" {
#endif
cudaError_t attention_plain_launch(const attention_problem *problem, bool dependent, cudaStream_t stream);
/* most_keys: of any observation, suffix included. */
cudaError_t suffix_attention_plain_launch(const suffix_attention_problem *problem, int most_keys, bool dependent,
                                          cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
