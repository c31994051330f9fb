/*
 * Writes what a recorder holds as a Chrome trace ("Trace Event Format", Google, 2016: an object with traceEvents, times
 * in microseconds), which Perfetto, chrome://tracing and `pi0 analyze` read. Written as a stream, event by event.
 *
 *     process 1   the device: inference > stage > step > layer > op > kernel on a track for each stream
 *     process 2   the host: API calls
 *     process 3   CPU threads: each one's part of the kernels
 *
 * Arrows go from API calls to what they started, and from kernels to the threads that worked on them.
 */
#ifndef PI0_PROFILE_TRACE_WRITER_H
#define PI0_PROFILE_TRACE_WRITER_H

#include "profile/recorder.h"

typedef struct trace_about {
    const char *device;       /* "NVIDIA H200" */
    const char *stream;       /* what a device's track is called: "stream" */
    const char *const *pairs; /* names and values in turn, ending with NULL: kept in the trace as otherData */
} trace_about;

/*
 * The recorder must be sorted. A path that ends in ".gz" is compressed (PI0_ERROR_UNSUPPORTED in a build without zlib).
 * An older file stays as it is when writing fails.
 */
pi0_status trace_write(const recorder *recorder, const trace_about *about, const char *path, pi0_error *error);

#endif
