/* The kernels for AVX-512 (F, BW, DQ, VL). */
#define KERNELS kernels_avx512
#include "cpu/product_simd.h"
#include "cpu/rows_simd.h"

#include "cpu/kernels_table.h"
