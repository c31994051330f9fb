/* Names of files. */
#ifndef PI0_BASE_PATH_H
#define PI0_BASE_PATH_H

#include "base/status.h"

/* "directory/name"; *path is the caller's, to give to memory_release. */
pi0_status path_join(char **path, const char *directory, const char *name, pi0_error *error);
/* Whether there is anything called directory/name. Fails only for want of memory. */
pi0_status path_exists(bool *exists, const char *directory, const char *name, pi0_error *error);

#endif
