/*
 * A stand-in for CUDA's run-time library, for what no test machine has: old drivers, old cards, a device that is lost,
 * a call that fails. Memory is the host's, copies happen, kernels do nothing. What is taken and given back is counted.
 */
#ifndef PI0_TESTS_STANDIN_CUDART_H
#define PI0_TESTS_STANDIN_CUDART_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct standin_state {
    int driver;       /* cudaDriverGetVersion: 13000 */
    int count_status; /* of cudaGetDeviceCount and every call that would start a device; 0: there is one */
    int major, minor;
    size_t free_bytes, all_bytes;
    int fail_call;         /* the call with that number (from 1) fails */
    int fail_status;       /* with this */
    bool fail_stays;       /* and from then on every call does: the device is lost */
    const char *fail_name; /* or: every call of this function fails */

    int calls; /* that may fail, so far */
    int live;  /* allocations, streams, events, graphs */
    size_t live_bytes, most_bytes;
    const char *last_failed;
} standin_state;

extern standin_state standin;

/* A healthy H200 with nothing on it. */
void standin_reset(void);

#ifdef __cplusplus
}
#endif
#endif
