#include "profile/trace_writer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef PI0_WITH_ZLIB
#include <zlib.h>
#endif

#include "base/clock.h"
#include "base/memory.h"
#include "base/text.h"

enum { FLUSH_BYTES = 1 << 18, LANE_STRIDE = 100000 };
enum { PROCESS_DEVICE = 1, PROCESS_HOST, PROCESS_THREADS };

/* ---- the file ---- */

typedef struct sink {
    FILE *file;
#ifdef PI0_WITH_ZLIB
    gzFile gzip;
#endif
    text_buffer text; /* not yet written */
    int failure;      /* errno, or 0 */
} sink;

static bool is_gzip(const char *path) {
    size_t length = strlen(path);
    return length >= 3 && strcmp(path + length - 3, ".gz") == 0;
}

static pi0_status sink_open(sink *sink, const char *path, bool gzip, pi0_error *error) {
    *sink = (struct sink){0};
    if (gzip) {
#ifdef PI0_WITH_ZLIB
        sink->gzip = gzopen(path, "wb6");
        if (!sink->gzip) return error_set(error, PI0_ERROR_IO, "cannot write %s: %s", path, strerror(errno));
        return PI0_OK;
#else
        return error_set(error, PI0_ERROR_UNSUPPORTED, "cannot write %s: this build has no gzip", path);
#endif
    }
    sink->file = fopen(path, "wbe");
    return sink->file ? PI0_OK : error_set(error, PI0_ERROR_IO, "cannot write %s: %s", path, strerror(errno));
}

static void flush(sink *sink) {
    errno = 0;
    bool written = true;
    if (sink->text.size) {
        if (sink->file) written = fwrite(sink->text.bytes, 1, sink->text.size, sink->file) == sink->text.size;
#ifdef PI0_WITH_ZLIB
        if (sink->gzip) written = gzwrite(sink->gzip, sink->text.bytes, (unsigned)sink->text.size) > 0;
#endif
    }
    if (!written && !sink->failure) sink->failure = errno ? errno : EIO;
    sink->text.size = 0;
}

static void sink_close(sink *sink) {
    flush(sink);
    errno = 0;
    bool closed = true;
    if (sink->file) closed = fclose(sink->file) == 0;
#ifdef PI0_WITH_ZLIB
    if (sink->gzip) closed = gzclose(sink->gzip) == Z_OK;
#endif
    if (!closed && !sink->failure) sink->failure = errno ? errno : EIO;
    if (sink->text.failed && !sink->failure) sink->failure = ENOMEM;
    memory_release(sink->text.bytes);
}

/* ---- events ---- */

typedef struct writer {
    sink sink;
    const recorder *recorder;
    const trace_about *about;
    double base_us; /* the first event's start: times in the file count from there */
    bool first;
} writer;

static void next_event(writer *w) {
    text_put(&w->sink.text, w->first ? "\n" : ",\n");
    w->first = false;
    if (w->sink.text.size > FLUSH_BYTES) flush(&w->sink);
}

static void put_string(writer *w, const char *text) { text_put_json_string(&w->sink.text, text, strlen(text)); }

static const char *category_of(const recorder_event *event) {
    static const char *const names[PI0_TRACE_KIND_COUNT] = {
        [PI0_TRACE_INFERENCE] = "inference", [PI0_TRACE_STAGE] = "stage",   [PI0_TRACE_STEP] = "step",
        [PI0_TRACE_LAYER] = "layer",         [PI0_TRACE_OP] = "op",         [PI0_TRACE_KERNEL] = "kernel",
        [PI0_TRACE_COPY] = "gpu_memcpy",     [PI0_TRACE_API] = "host_call", [PI0_TRACE_THREAD] = "cpu_thread",
    };
    return names[event->kind];
}

static int process_of(const recorder_event *event) {
    if (event->kind == PI0_TRACE_API) return PROCESS_HOST;
    return event->kind == PI0_TRACE_THREAD ? PROCESS_THREADS : PROCESS_DEVICE;
}

static int thread_of(const recorder_event *event) { return event->track + event->lane * LANE_STRIDE; }

/* Nanoseconds since the first event. Start and end are rounded each by itself, so that what nests still nests. */
static int64_t nanoseconds(const writer *w, double us) { return (int64_t)llround((us - w->base_us) * 1e3); }

static void put_us(writer *w, int64_t ns) {
    text_put_format(&w->sink.text, "%s%lld.%03d", ns < 0 ? "-" : "", (long long)(llabs(ns) / 1000),
                    (int)(llabs(ns) % 1000));
}

static void put_values(writer *w, const recorder_event *event) {
    if (!event->value_count) return;
    text_put(&w->sink.text, ",\"args\":{");
    for (uint32_t i = 0; i < event->value_count; i++) {
        const recorder_value *value = &w->recorder->values[event->first_value + i];
        if (i) text_put(&w->sink.text, ",");
        put_string(w, recorder_string(w->recorder, value->name));
        text_put(&w->sink.text, ":");
        if (value->text != TRACE_NO_NAME)
            put_string(w, recorder_string(w->recorder, value->text));
        else if (isfinite(value->number))
            text_put_number(&w->sink.text, value->number);
        else
            text_put(&w->sink.text, "null");
    }
    text_put(&w->sink.text, "}");
}

static void put_place(writer *w, const recorder_event *event) {
    text_put_format(&w->sink.text, ",\"pid\":%d,\"tid\":%d", process_of(event), thread_of(event));
}

static void put_event(writer *w, const recorder_event *event) {
    int64_t start = nanoseconds(w, event->start_us), end = nanoseconds(w, event->start_us + event->duration_us);
    next_event(w);
    text_put(&w->sink.text, "{\"ph\":\"X\",\"cat\":");
    put_string(w,
               event->category == TRACE_NO_NAME ? category_of(event) : recorder_string(w->recorder, event->category));
    text_put(&w->sink.text, ",\"name\":");
    put_string(w, recorder_string(w->recorder, event->name));
    put_place(w, event);
    text_put(&w->sink.text, ",\"ts\":");
    put_us(w, start);
    text_put(&w->sink.text, ",\"dur\":");
    put_us(w, end - start);
    put_values(w, event);
    text_put(&w->sink.text, "}");
}

/* One end of an arrow: s where it starts, f where it points to; both bind to the event that begins there. */
static void put_arrow_end(writer *w, const recorder_event *event, const char *phase, uint64_t id) {
    next_event(w);
    text_put_format(&w->sink.text, "{\"ph\":\"%s\",\"bp\":\"e\",\"cat\":\"flow\",\"name\":\"flow\",\"id\":%llu", phase,
                    (unsigned long long)id);
    put_place(w, event);
    text_put(&w->sink.text, ",\"ts\":");
    put_us(w, nanoseconds(w, event->start_us));
    text_put(&w->sink.text, "}");
}

static int by_flow(const void *a, const void *b) {
    const recorder_event *left = *(const recorder_event *const *)a, *right = *(const recorder_event *const *)b;
    if (left->flow != right->flow) return left->flow < right->flow ? -1 : 1;
    return left < right ? -1 : left > right; /* they are sorted by time */
}

/* The first event of a flow points to each other one. */
static pi0_status put_arrows(writer *w, pi0_error *error) {
    uint32_t count = w->recorder->event_count, used = 0;
    const recorder_event **order = memory_allocate(((size_t)count + 1) * sizeof *order);
    if (!order) return error_memory(error, count * sizeof *order, "a trace's arrows");
    for (uint32_t i = 0; i < count; i++)
        if (w->recorder->events[i].flow) order[used++] = &w->recorder->events[i];
    if (used) qsort(order, used, sizeof *order, by_flow);
    uint64_t id = 0;
    for (uint32_t i = 0, source = 0; i < used; i++) {
        if (order[i]->flow != order[source]->flow) source = i;
        if (i == source) continue;
        put_arrow_end(w, order[source], "s", ++id);
        put_arrow_end(w, order[i], "f", id);
    }
    memory_release(order);
    return PI0_OK;
}

/* ---- names of processes and threads ---- */

static void put_name(writer *w, const char *what, int process, int thread, const char *name) {
    next_event(w);
    text_put_format(&w->sink.text, "{\"ph\":\"M\",\"name\":\"%s\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":", what,
                    process, thread);
    put_string(w, name);
    text_put(&w->sink.text, "}}");
}

static void put_process(writer *w, int process, const char *name) {
    put_name(w, "process_name", process, 0, name);
    next_event(w);
    text_put_format(&w->sink.text,
                    "{\"ph\":\"M\",\"name\":\"process_sort_index\",\"pid\":%d,\"tid\":0,\"args\":{\"sort_index\":%d}}",
                    process, process);
}

static int by_place(const void *a, const void *b) {
    const recorder_event *left = *(const recorder_event *const *)a, *right = *(const recorder_event *const *)b;
    int processes = process_of(left) - process_of(right);
    if (processes) return processes;
    return thread_of(left) < thread_of(right) ? -1 : thread_of(left) > thread_of(right);
}

static pi0_status put_names(writer *w, pi0_error *error) {
    const char *const processes[] = {"", w->about->device, "host", "CPU threads"};
    const char *const threads[] = {"", w->about->stream, "calling thread", "thread"};
    uint32_t count = w->recorder->event_count;
    const recorder_event **order = memory_allocate(((size_t)count + 1) * sizeof *order);
    if (!order) return error_memory(error, count * sizeof *order, "a trace's tracks");
    for (uint32_t i = 0; i < count; i++) order[i] = &w->recorder->events[i];
    if (count) qsort(order, count, sizeof *order, by_place);
    for (uint32_t i = 0; i < count; i++) {
        if (i && by_place(&order[i - 1], &order[i]) == 0) continue;
        int process = process_of(order[i]);
        if (!i || process != process_of(order[i - 1])) put_process(w, process, processes[process]);
        char name[160];
        snprintf(name, sizeof name, order[i]->lane ? "%s %d (overlapping, %d)" : "%s %d", threads[process],
                 order[i]->track, order[i]->lane);
        put_name(w, "thread_name", process, thread_of(order[i]), name);
    }
    memory_release(order);
    return PI0_OK;
}

/* ---- the whole ---- */

static pi0_status put_everything(writer *w, pi0_error *error) {
    text_put(&w->sink.text, "{\"displayTimeUnit\":\"ms\",\"deviceProperties\":[{\"id\":0,\"name\":");
    put_string(w, w->about->device);
    text_put(&w->sink.text, "}],\"otherData\":{\"producer\":");
    put_string(w, "pi0.c " PI0_VERSION_STRING);
    for (const char *const *pair = w->about->pairs; pair && *pair; pair += 2) {
        text_put(&w->sink.text, ",");
        put_string(w, pair[0]);
        text_put(&w->sink.text, ":");
        put_string(w, pair[1]);
    }
    text_put(&w->sink.text, "},\"traceEvents\":[");
    TRY(put_names(w, error));
    for (uint32_t i = 0; i < w->recorder->event_count; i++) put_event(w, &w->recorder->events[i]);
    TRY(put_arrows(w, error));
    text_put(&w->sink.text, "\n]}\n");
    return PI0_OK;
}

pi0_status trace_write(const recorder *recorder, const trace_about *about, const char *path, pi0_error *error) {
    char temporary[4096];
    int length = snprintf(temporary, sizeof temporary, "%s.%d-%lld.tmp", path, (int)getpid(), (long long)clock_ns());
    if (length >= (int)sizeof temporary)
        return error_set(error, PI0_ERROR_IO, "cannot write: path of %zu bytes is too long", strlen(path));
    writer w = {.recorder = recorder, .about = about, .first = true};
    if (recorder->event_count) w.base_us = recorder->events[0].start_us;
    TRY(sink_open(&w.sink, temporary, is_gzip(path), error));
    pi0_status status = put_everything(&w, error);
    sink_close(&w.sink);
    if (status == PI0_OK && !w.sink.failure && rename(temporary, path)) w.sink.failure = errno;
    if (status == PI0_OK && w.sink.failure)
        status = error_set(error, PI0_ERROR_IO, "cannot write %s: %s", path, strerror(w.sink.failure));
    if (status != PI0_OK) unlink(temporary);
    return status;
}
