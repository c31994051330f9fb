/*
 * bf16 products through oneDNN, for CPUs that multiply bf16 (AVX-512-bf16, AMX). Weights are used where they lie,
 * [out, in] row-major. What oneDNN does not do or is worse at (few rows, float32 inputs, float32 weights) goes to the
 * float32 kernels, and so does any product that oneDNN refuses.
 */
#ifndef PI0_CPU_ONEDNN_H
#define PI0_CPU_ONEDNN_H

#include "cpu/context.h"

#ifdef PI0_WITH_ONEDNN
/* Gives the context its oneDNN engine and the members of its table. */
pi0_status onednn_open(ops *context, pi0_error *error);
void onednn_close(ops *context);
size_t onednn_bytes(const ops *context); /* memory it holds */
#endif

#endif
