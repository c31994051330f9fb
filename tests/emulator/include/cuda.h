/* CUDA's driver interface, as little of it as src/hip needs. */
#include "hip/include/cuda.h"
