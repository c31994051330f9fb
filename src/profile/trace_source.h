/* Bytes of a trace: a file, standard input or memory; gzip is recognised by its first two bytes and unpacked. */
#ifndef PI0_PROFILE_TRACE_SOURCE_H
#define PI0_PROFILE_TRACE_SOURCE_H

#include "base/status.h"

typedef struct trace_source trace_source;

/* path "-" is standard input. On success *source is the caller's to close. PI0_ERROR_IO when it cannot be opened. */
pi0_status trace_source_open(trace_source **source, const char *path, pi0_error *error);
/* The bytes are borrowed until close. */
pi0_status trace_source_memory(trace_source **source, const void *bytes, size_t size, pi0_error *error);
/*
 * Up to `capacity` bytes; *got 0 only at the end. gzip that breaks off or is damaged ends where its last good byte
 * is: trace_source_damage then says what happened.
 */
pi0_status trace_source_read(trace_source *source, char *bytes, size_t capacity, size_t *got, pi0_error *error);
/* Static text, or NULL when nothing was wrong so far. */
const char *trace_source_damage(const trace_source *source);
void trace_source_close(trace_source **source);

#endif
