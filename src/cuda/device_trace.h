/*
 * Records what the GPU did in an inference, by CUPTI, which is opened at run time and only when a session asks for a
 * trace. One session of a process records at a time, because CUPTI has no more than one reader.
 */
#ifndef PI0_CUDA_DEVICE_TRACE_H
#define PI0_CUDA_DEVICE_TRACE_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/status.h"
#include "model/launch_trace.h"

typedef struct device_trace device_trace;

#ifdef PI0_HIP
#define DEVICE_TRACE_CHOICE 0
static inline pi0_status device_trace_open(device_trace **trace, pi0_error *error) {
    *trace = NULL;
    return error_set(error, PI0_ERROR_UNSUPPORTED, "this backend records no traces");
}
static inline void device_trace_close(device_trace **trace) { *trace = NULL; }
static inline void device_trace_begin(device_trace *) {}
static inline pi0_status device_trace_end(device_trace *, const launch_note *, int, pi0_trace_function, void *,
                                          pi0_error *) {
    return PI0_OK;
}
static inline void device_trace_launch(device_trace *, int) {}
static inline void device_trace_launched(device_trace *) {}
static inline int device_trace_nodes(cudaStream_t) { return 0; }
#else
#define DEVICE_TRACE_CHOICE PI0_CHOICE_TRACE
/* PI0_ERROR_UNSUPPORTED when there is no CUPTI, it is not permitted, or something else records. On success *trace is
 * the caller's to close. */
pi0_status device_trace_open(device_trace **trace, pi0_error *error);
void device_trace_close(device_trace **trace);
/* Around an inference; what came before is forgotten. end: after the stream is idle. */
void device_trace_begin(device_trace *trace);
pi0_status device_trace_end(device_trace *trace, const launch_note *notes, int note_count, pi0_trace_function function,
                            void *user, pi0_error *error);
/* Around each launch, when it is no graph. */
void device_trace_launch(device_trace *trace, int note);
void device_trace_launched(device_trace *trace);
/* Nodes of the graph that is being captured from the stream; 0: none is. */
int device_trace_nodes(cudaStream_t stream);
#endif

#ifdef __cplusplus
}
#endif
#endif
