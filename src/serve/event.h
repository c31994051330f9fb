/* What happens in the server, a line each: text, or one JSON object with time, level, event and numbers. */
#ifndef PI0_SERVE_EVENT_H
#define PI0_SERVE_EVENT_H

#include "base/status.h"

typedef struct event_log {
    log_sink sink;
    bool json;
} event_log;

/* One named number of an event; name NULL ends the list. */
typedef struct event_number {
    const char *name;
    double value;
} event_number;

/* `event`: one word ("connected"); numbers may be NULL. In text the numbers are left out: the message says it all. */
__attribute__((format(printf, 5, 6))) void event_write(const event_log *log, pi0_log_level level, const char *event,
                                                       const event_number *numbers, const char *format, ...);
/* The same for a finished message: what libraries hand to a pi0_log_function. */
void event_write_message(const event_log *log, pi0_log_level level, const char *event, const event_number *numbers,
                         const char *message);

/* Copies a message, cut to fit, with '?' for bytes that are no UTF-8: error texts may quote what a client sent. */
void event_clean(char *clean, size_t size, const char *message);

#endif
