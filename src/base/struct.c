#include "base/struct.h"

#include <string.h>

pi0_status struct_merge(void *merged, size_t size, const void *given, const char *what, pi0_error *error) {
    size_t given_size;
    memcpy(&given_size, given, sizeof given_size); /* struct_size is the first field of each */
    if (given_size < sizeof given_size || given_size > size)
        return error_set(error, PI0_ERROR_ARGUMENT,
                         "%s: struct_size is %zu, expected at most %zu: call its _default function first", what,
                         given_size, size);
    memcpy(merged, given, given_size);
    memcpy(merged, &size, sizeof size);
    return PI0_OK;
}

pi0_status struct_hand_out(void *to, const void *from, size_t size, const char *what, pi0_error *error) {
    size_t room;
    memcpy(&room, to, sizeof room);
    if (room < sizeof room || room > size)
        return error_set(error, PI0_ERROR_ARGUMENT, "%s: struct_size is %zu, expected %zu", what, room, size);
    memcpy((char *)to + sizeof room, (const char *)from + sizeof room, room - sizeof room);
    return PI0_OK;
}
