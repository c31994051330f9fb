/* Whole files in and out. */
#ifndef PI0_BASE_FILE_H
#define PI0_BASE_FILE_H

#include "base/status.h"

/* Reads a regular file of at most max_bytes. *bytes is the caller's, to give to memory_release; a NUL follows it. */
pi0_status file_read(void **bytes, size_t *size, const char *path, size_t max_bytes, pi0_error *error);

/* Writes a temporary file beside `path` and renames it, so that a failed write leaves an older file as it was and
 * nothing new behind. */
pi0_status file_write(const char *path, const void *bytes, size_t size, pi0_error *error);

#endif
