#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *pi0_status_text(pi0_status status) {
    switch (status) {
    case PI0_OK:
        return "ok";
    case PI0_ERROR_ARGUMENT:
        return "invalid argument";
    case PI0_ERROR_IO:
        return "input/output error";
    case PI0_ERROR_FORMAT:
        return "malformed data";
    case PI0_ERROR_MEMORY:
        return "out of memory";
    case PI0_ERROR_UNSUPPORTED:
        return "not supported";
    case PI0_ERROR_DEVICE:
        return "device error";
    case PI0_ERROR_CANCELLED:
        return "cancelled";
    }
    return "unknown status";
}

pi0_status error_set(pi0_error *error, pi0_status status, const char *format, ...) {
    if (error) {
        error->status = status;
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
    }
    return status;
}

pi0_status error_prefix(pi0_error *error, pi0_status status, const char *format, ...) {
    if (!error) return status;
    char before[sizeof error->message];
    memcpy(before, error->message, sizeof before);
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    if (length < 0) length = 0;
    if ((size_t)length < sizeof error->message)
        snprintf(error->message + length, sizeof error->message - (size_t)length, ": %s", before);
    return status;
}

pi0_status error_memory(pi0_error *error, size_t bytes, const char *what) {
    return error_set(error, PI0_ERROR_MEMORY, "out of memory: %zu bytes for %s", bytes, what);
}

void log_message(const log_sink *sink, pi0_log_level level, const char *format, ...) {
    if (!sink || !sink->function) return;
    char line[1000];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    sink->function(sink->user, level, line);
}
