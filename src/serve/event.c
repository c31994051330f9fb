#include "serve/event.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/text.h"
#include "base/utf8.h"

/* "2026-01-31T23:59:59.123Z" */
static void put_time(text_buffer *text) {
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    text_put_format(text, "\"%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ\"", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday,
                    utc.tm_hour, utc.tm_min, utc.tm_sec, now.tv_nsec / 1000000);
}

void event_clean(char *clean, size_t size, const char *message) {
    size_t used = 0, left = strlen(message);
    while (left) {
        uint32_t point;
        size_t length = utf8_read(message, left, &point), taken = length ? length : 1;
        if (used + taken >= size) break;
        memcpy(clean + used, length ? message : "?", taken);
        used += taken;
        message += taken;
        left -= taken;
    }
    clean[used] = 0;
}

void event_write_message(const event_log *log, pi0_log_level level, const char *event, const event_number *numbers,
                         const char *message) {
    static const char *const levels[] = {"error", "warning", "info", "debug"};
    if (!log->sink.function) return;
    if (!log->json) {
        log->sink.function(log->sink.user, level, message);
        return;
    }
    char clean[1200];
    event_clean(clean, sizeof clean, message);
    text_buffer text = {0};
    text_put(&text, "{\"time\":");
    put_time(&text);
    text_put_format(&text, ",\"level\":\"%s\",\"event\":\"%s\"", levels[level], event);
    for (; numbers && numbers->name; numbers++) {
        text_put_format(&text, ",\"%s\":", numbers->name);
        text_put_number(&text, numbers->value);
    }
    text_put(&text, ",\"message\":");
    text_put_json_string(&text, clean, strlen(clean));
    text_put(&text, "}");
    if (!text.failed) log->sink.function(log->sink.user, level, text.bytes);
    memory_release(text.bytes);
}

void event_write(const event_log *log, pi0_log_level level, const char *event, const event_number *numbers,
                 const char *format, ...) {
    char message[1200];
    va_list arguments;
    if (!log->sink.function) return;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    event_write_message(log, level, event, numbers, message);
}
