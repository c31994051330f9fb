/* The kernels for AVX2 with FMA and F16C. */
#define KERNELS kernels_avx2
#include "cpu/product_simd.h"
#include "cpu/rows_simd.h"

#include "cpu/kernels_table.h"
