/* Structs of the API that begin with `size_t struct_size` and may grow at the end. */
#ifndef PI0_BASE_STRUCT_H
#define PI0_BASE_STRUCT_H

#include "base/status.h"

/* Copies what the caller's header knew over the defaults in `merged`, which has `size` bytes; fields it knew and we do
 * not must not exist. `what` names the struct in errors. */
pi0_status struct_merge(void *merged, size_t size, const void *given, const char *what, pi0_error *error);

/* Copies as much of an info struct of `size` bytes as the caller's header has room for. */
pi0_status struct_hand_out(void *to, const void *from, size_t size, const char *what, pi0_error *error);

#endif
