/* The kernels on each device; see modules.c. Statuses as in runtime.h. */
#ifndef PI0_HIP_MODULES_H
#define PI0_HIP_MODULES_H

#include <stdbool.h>

/* Whether this build has a code object for an architecture ("gfx942", with or without ":features"). */
bool hip_modules_built(const char *architecture);
/* Loads the code object of the device's architecture, unless it is loaded. Counted: each success asks for one
 * hip_modules_close. The device must be current. */
int hip_modules_open(int device, const char *architecture);
void hip_modules_close(int device);
/* The kernel (a hipFunction_t) that host code knows by `address`; NULL: the device has none. */
void *hip_kernel_find(int device, const void *address);
#endif
