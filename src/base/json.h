/* JSON texts through Jansson: duplicate keys are refused, NUL is allowed in strings. */
#ifndef PI0_BASE_JSON_H
#define PI0_BASE_JSON_H

#include <jansson.h>

#include "base/status.h"

/* On success *root is the caller's, to give to json_decref. `flags`: Jansson's, in addition. `name` (the file) stands
 * in errors, which also tell line, column and, inside an object, the key. NaN and Infinity are no JSON and refused. */
pi0_status json_parse(json_t **root, const char *text, size_t size, size_t flags, const char *name, pi0_error *error);
pi0_status json_open(json_t **root, const char *path, size_t flags, pi0_error *error);

/* "an object", "a string", ...: what was found, for errors. NULL: "nothing". */
const char *json_kind_name(const json_t *value);

#endif
