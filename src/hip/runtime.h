/*
 * What the rest of the HIP backend asks of libamdhip64 besides the functions of include/cuda_runtime.h, without HIP's
 * own headers. Statuses are HIP's numbers, which are CUDA's; 0 is success.
 */
#ifndef PI0_HIP_RUNTIME_H
#define PI0_HIP_RUNTIME_H

#include <stddef.h>

typedef struct hip_device {
    char name[128], architecture[64]; /* "gfx942" */
    size_t memory_bytes;
    int units; /* compute units */
} hip_device;

#ifdef __cplusplus
extern "C" {
#endif
/* Devices there are; 0 with a reason otherwise. */
int hip_device_count(char *reason, size_t size);
int hip_device_describe(int index, hip_device *device);
#ifdef __cplusplus
}
#endif
#endif
