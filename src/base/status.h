/* Status and error text: how every fallible call in the library reports. */
#ifndef PI0_BASE_STATUS_H
#define PI0_BASE_STATUS_H

#include "pi0.h"

/* Writes status and a printf-style message to *error (may be NULL) and returns status, so that callers can
 * `return error_set(error, PI0_ERROR_FORMAT, "...")`. */
__attribute__((format(printf, 3, 4))) pi0_status error_set(pi0_error *error, pi0_status status, const char *format,
                                                           ...);

/* Puts "context: " in front of the message already in *error and returns status. For callers that know the file name:
 * `return error_prefix(error, status, "%s", path)`. */
__attribute__((format(printf, 3, 4))) pi0_status error_prefix(pi0_error *error, pi0_status status, const char *format,
                                                              ...);

/* error_set with "out of memory: <bytes> bytes for <what>". */
pi0_status error_memory(pi0_error *error, size_t bytes, const char *what);

/* Returns from the calling function with the status of a failed call. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        pi0_status try_status_ = (call);                                                                               \
        if (try_status_ != PI0_OK) return try_status_;                                                                 \
    } while (0)

/* Where warnings and notes of one engine or policy go. */
typedef struct log_sink {
    pi0_log_function function;
    void *user;
} log_sink;

/* printf-style; does nothing when the sink is NULL or empty. */
__attribute__((format(printf, 3, 4))) void log_message(const log_sink *sink, pi0_log_level level, const char *format,
                                                       ...);

#endif
