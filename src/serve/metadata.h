/* What a server tells every client first: a configuration's JSON object as a msgpack map. */
#ifndef PI0_SERVE_METADATA_H
#define PI0_SERVE_METADATA_H

#include "policy/value.h"

/* Appends the message to *out (release its bytes with memory_release, after a failure too). */
pi0_status metadata_encode(wire_buffer *out, const char *json, pi0_error *error);

#endif
