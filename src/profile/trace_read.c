/* The streaming reader: one growing window over the bytes, one event at a time inside it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "profile/trace.h"
#include "profile/trace_scan.h"

enum {
    WINDOW_BYTES = 1 << 20,
    MAX_WINDOW_BYTES = 16 << 20, /* an event, a key or a name larger than this is left out */
    MAX_NAME_BYTES = 32 << 10,
    MAX_SHAPE_BYTES = 512,
};

/* A kernel or a call beyond an hour is a clock gone wrong. */
#define MAX_EVENT_US 3.6e9
/* Beyond it doubles cannot tell microseconds apart. */
#define MAX_TIME_US 9e15

typedef struct reader {
    trace_source *source;
    trace *trace;
    char *window;
    size_t capacity, start, size; /* bytes [start, size) are not read yet */
    uint64_t consumed;            /* bytes of the trace before window[0] */
    bool ended;                   /* the source has no more */
    pi0_error *error;
    char scratch[MAX_NAME_BYTES];
} reader;

/* The fields of one event that matter, as they stand in the window. */
typedef struct event {
    scan_slice phase, category, name, grid, shapes, stream, process, thread;
    double start_us, duration_us, external;
    bool has_duration;
} event;

/* Moves what is not read yet to the front and reads more. *more false: the end, or the window cannot grow. */
static pi0_status fill(reader *reader, bool *more) {
    *more = false;
    if (reader->start > 0) {
        memmove(reader->window, reader->window + reader->start, reader->size - reader->start);
        reader->consumed += reader->start;
        reader->size -= reader->start;
        reader->start = 0;
    }
    if (reader->ended) return PI0_OK;
    if (reader->size == reader->capacity) {
        if (reader->capacity >= MAX_WINDOW_BYTES) return PI0_OK;
        char *larger = memory_resize(reader->window, reader->size, reader->capacity * 2);
        if (!larger) return error_memory(reader->error, reader->capacity * 2, "one event of a trace");
        reader->window = larger;
        reader->capacity *= 2;
    }
    size_t got;
    TRY(trace_source_read(reader->source, reader->window + reader->size, reader->capacity - reader->size, &got,
                          reader->error));
    reader->size += got;
    reader->ended = got == 0;
    *more = got > 0;
    return PI0_OK;
}

static scan_cursor cursor_here(const reader *reader) {
    return (scan_cursor){reader->window + reader->start, reader->window + reader->size};
}

static void advance(reader *reader, scan_cursor cursor) { reader->start = (size_t)(cursor.at - reader->window); }

/* The next byte that is no white space, or -1 at the end; it is not taken. */
static pi0_status peek(reader *reader, int *byte) {
    for (;;) {
        scan_cursor cursor = cursor_here(reader);
        bool found = scan_space(&cursor);
        advance(reader, cursor);
        if (found) {
            *byte = (unsigned char)*cursor.at;
            return PI0_OK;
        }
        bool more;
        TRY(fill(reader, &more));
        if (!more) {
            *byte = -1;
            return PI0_OK;
        }
    }
}

static void note_cut_off(reader *reader) { reader->trace->cut_off = true; }

static void note_damage(reader *reader, const char *what) {
    if (!reader->trace->damage[0])
        snprintf(reader->trace->damage, sizeof reader->trace->damage, "%s at byte %llu", what,
                 (unsigned long long)(reader->consumed + reader->start));
}

/* ---- values that may be larger than the window ------------------------------------------------------------------- */

typedef struct long_skip {
    uint64_t depth;
    bool in_string, escape, scalar;
} long_skip;

/* Takes bytes of a value of any size; true when it ended. Nesting is counted, not checked. */
static bool skip_bytes(long_skip *state, scan_cursor *cursor) {
    for (; cursor->at < cursor->end; cursor->at++) {
        char c = *cursor->at;
        if (state->in_string) {
            if (state->escape)
                state->escape = false;
            else if (c == '\\')
                state->escape = true;
            else if (c == '"') {
                state->in_string = false;
                if (state->depth == 0) {
                    cursor->at++;
                    return true;
                }
            }
        } else if (c == '"') {
            state->in_string = true;
        } else if (c == '{' || c == '[') {
            state->depth++;
        } else if (c == '}' || c == ']') {
            if (state->depth == 0) return true; /* ends a scalar; belongs to what is around it */
            if (--state->depth == 0) {
                cursor->at++;
                return true;
            }
        } else if (state->depth == 0 && c == ',') {
            return true;
        }
    }
    return false;
}

/* Skips the value at the window's start, however large. *whole false: the trace ends inside. */
static pi0_status skip_value(reader *reader, bool *whole) {
    long_skip state = {0};
    for (*whole = true;;) {
        scan_cursor cursor = cursor_here(reader);
        bool done = skip_bytes(&state, &cursor);
        advance(reader, cursor);
        if (done) return PI0_OK;
        bool more;
        TRY(fill(reader, &more));
        if (!more) {
            *whole = false;
            return PI0_OK;
        }
    }
}

/* ---- one event --------------------------------------------------------------------------------------------------- */

static bool slice_is(scan_slice slice, const char *text) {
    return slice.length == strlen(text) && memcmp(slice.text, text, slice.length) == 0;
}

/* ASCII letters compare equal in either case; `text` is in lower case. */
static bool slice_is_folded(scan_slice slice, const char *text) {
    size_t length = strlen(text);
    if (slice.length != length) return false;
    for (size_t i = 0; i < length; i++) {
        char c = slice.text[i];
        if (c >= 'A' && c <= 'Z') c = (char)(c + 32);
        if (c != text[i]) return false;
    }
    return true;
}

static bool slice_starts(scan_slice slice, const char *text) {
    size_t length = strlen(text);
    return slice.length >= length && memcmp(slice.text, text, length) == 0;
}

/* The text of any value: inside of a string, or the value as written. */
static scan_result value_text(scan_cursor *cursor, scan_slice *slice) {
    if (cursor->at < cursor->end && *cursor->at == '"') return scan_string(cursor, slice);
    const char *start = cursor->at;
    scan_result result = scan_skip(cursor);
    if (result == SCAN_TAKEN) *slice = (scan_slice){start, (size_t)(cursor->at - start), false};
    return result;
}

/* Walks an object: on SCAN_TAKEN either *done, or the cursor stands at the value of *key. */
static scan_result next_key(scan_cursor *cursor, bool *first, scan_slice *key, bool *done) {
    *done = false;
    if (!scan_space(cursor)) return SCAN_MORE;
    if (*first) {
        if (*cursor->at != '{') return SCAN_BAD;
        cursor->at++;
        if (!scan_space(cursor)) return SCAN_MORE;
    }
    if (*cursor->at == '}') {
        cursor->at++;
        *done = true;
        return SCAN_TAKEN;
    }
    if (!*first) {
        if (*cursor->at != ',') return SCAN_BAD;
        cursor->at++;
        if (!scan_space(cursor)) return SCAN_MORE;
    }
    *first = false;
    scan_result result = scan_string(cursor, key);
    if (result != SCAN_TAKEN) return result;
    if (!scan_space(cursor)) return SCAN_MORE;
    if (*cursor->at != ':') return SCAN_BAD;
    cursor->at++;
    return scan_space(cursor) ? SCAN_TAKEN : SCAN_MORE;
}

static scan_result scan_arguments(scan_cursor *cursor, event *event) {
    if (cursor->at < cursor->end && *cursor->at != '{') return scan_skip(cursor);
    scan_slice key;
    bool done;
    for (bool first = true;;) {
        scan_result result = next_key(cursor, &first, &key, &done);
        if (result != SCAN_TAKEN || done) return result;
        if (slice_is_folded(key, "external id"))
            result = scan_double(cursor, &event->external);
        else if (slice_is(key, "grid"))
            result = value_text(cursor, &event->grid);
        else if (slice_is(key, "stream"))
            result = value_text(cursor, &event->stream);
        else if (slice_is(key, "Input Dims") || slice_is(key, "Input dims"))
            result = value_text(cursor, &event->shapes);
        else
            result = scan_skip(cursor);
        if (result != SCAN_TAKEN) return result;
    }
}

static scan_result scan_event(scan_cursor *cursor, event *event) {
    *event = (struct event){.start_us = (double)NAN, .duration_us = (double)NAN, .external = (double)NAN};
    scan_slice key;
    bool done;
    for (bool first = true;;) {
        scan_result result = next_key(cursor, &first, &key, &done);
        if (result != SCAN_TAKEN || done) return result;
        if (slice_is(key, "ph"))
            result = value_text(cursor, &event->phase);
        else if (slice_is(key, "cat"))
            result = value_text(cursor, &event->category);
        else if (slice_is(key, "name"))
            result = value_text(cursor, &event->name);
        else if (slice_is(key, "ts"))
            result = scan_double(cursor, &event->start_us);
        else if (slice_is(key, "dur"))
            result = scan_double(cursor, &event->duration_us);
        else if (slice_is(key, "pid"))
            result = value_text(cursor, &event->process);
        else if (slice_is(key, "tid"))
            result = value_text(cursor, &event->thread);
        else if (slice_is(key, "args"))
            result = scan_arguments(cursor, event);
        else
            result = scan_skip(cursor);
        if (result != SCAN_TAKEN) return result;
    }
}

/* ---- what an event adds ------------------------------------------------------------------------------------------ */

static pi0_status out_of_memory(reader *reader) {
    return error_memory(reader->error, TRACE_CHUNK * sizeof(trace_kernel), "a trace's events");
}

/* Interns a slice, escapes decoded. */
static pi0_status intern(reader *reader, trace_names *names, scan_slice slice, size_t limit, uint32_t *id) {
    if (slice.escaped) {
        size_t length = scan_unescape(&slice, reader->scratch, limit < MAX_NAME_BYTES ? limit : MAX_NAME_BYTES);
        slice = (scan_slice){reader->scratch, length, false};
    } else if (slice.length > limit) {
        slice.length = limit;
    }
    *id = trace_names_add(names, slice.text ? slice.text : "", slice.length);
    return *id == TRACE_NO_NAME ? out_of_memory(reader) : PI0_OK;
}

/* Makes room for one more element of a growing array. */
static pi0_status reserve(reader *reader, void **elements, uint32_t count, uint32_t *capacity, size_t size) {
    if (count < *capacity) return PI0_OK;
    uint32_t larger_capacity = *capacity ? *capacity * 2 : 256;
    void *larger = memory_resize(*elements, count * size, larger_capacity * size);
    if (!larger) return out_of_memory(reader);
    *elements = larger;
    *capacity = larger_capacity;
    return PI0_OK;
}

static void drop_records(trace *trace) {
    for (uint32_t i = 0; i < trace->chunk_count; i++) memory_release(trace->chunks[i]);
    memory_release(trace->chunks);
    trace->chunks = NULL;
    trace->chunk_count = trace->chunk_capacity = 0;
    trace->record_count = 0;
}

static pi0_status keep_record(reader *reader, trace_kernel record) {
    trace *trace = reader->trace;
    if (trace->records_dropped) return PI0_OK;
    if (trace->record_count >= TRACE_MAX_KERNELS) {
        trace->records_dropped = true;
        drop_records(trace);
        return PI0_OK;
    }
    if (trace->record_count == trace->chunk_count * (uint32_t)TRACE_CHUNK) {
        void *chunks = trace->chunks;
        TRY(reserve(reader, &chunks, trace->chunk_count, &trace->chunk_capacity, sizeof *trace->chunks));
        trace->chunks = chunks;
        trace_kernel *chunk = memory_allocate(TRACE_CHUNK * sizeof *chunk);
        if (!chunk) return out_of_memory(reader);
        trace->chunks[trace->chunk_count++] = chunk;
    }
    *trace_record(trace, trace->record_count++) = record;
    return PI0_OK;
}

static bool possible(const event *event) {
    return event->duration_us >= 0 && event->duration_us <= MAX_EVENT_US && event->start_us >= -MAX_TIME_US &&
           event->start_us <= MAX_TIME_US;
}

/* Appends at most 60 bytes of a slice. */
static size_t put_part(char *text, size_t at, scan_slice slice) {
    size_t length = slice.length < 60 ? slice.length : 60;
    if (length) memcpy(text + at, slice.text, length);
    return at + length;
}

static pi0_status add_kernel(reader *reader, const event *event) {
    trace *trace = reader->trace;
    trace_kernel record = {.start_us = event->start_us, .us = (float)event->duration_us};
    TRY(intern(reader, &trace->kernels, event->name, MAX_NAME_BYTES, &record.name));
    trace_names_count(&trace->kernels, record.name, event->duration_us);
    trace_sum(&trace->kernel_us, &trace->kernel_low_us, event->duration_us);
    double end = event->start_us + event->duration_us;
    if (!trace->kernel_count || event->start_us < trace->first_us) trace->first_us = event->start_us;
    if (!trace->kernel_count || end > trace->last_us) trace->last_us = end;
    trace->kernel_count++;
    if (trace->records_dropped) return PI0_OK;

    if (event->external > 0 && event->external < UINT32_MAX) record.external = (uint32_t)event->external;
    uint32_t id;
    if (event->grid.length && !slice_is(event->grid, "null")) {
        TRY(intern(reader, &trace->grids, event->grid, 100, &id));
        record.grid = (uint16_t)(id < UINT16_MAX - 1 ? id + 1 : UINT16_MAX);
    }
    /* the device's process and the stream, or the thread where no stream is told */
    scan_slice lane = event->stream.length ? event->stream : event->thread;
    char queue[128];
    size_t length = put_part(queue, 0, event->process);
    queue[length++] = '\n';
    length = put_part(queue, length, lane);
    TRY(intern(reader, &trace->queues, (scan_slice){queue, length, false}, sizeof queue, &id));
    record.queue = (uint16_t)(id < UINT16_MAX ? id : UINT16_MAX);
    return keep_record(reader, record);
}

static pi0_status add_op(reader *reader, const event *event) {
    trace *trace = reader->trace;
    trace->op_event_count++;
    if (!(event->external > 0 && event->external < UINT32_MAX) || trace->ops_dropped) return PI0_OK;
    if (trace->op_count >= TRACE_MAX_OPS) {
        trace->ops_dropped = true;
        return PI0_OK;
    }
    trace_op op = {.external = (uint32_t)event->external, .shapes = TRACE_NO_NAME};
    TRY(intern(reader, &trace->ops, event->name, MAX_NAME_BYTES, &op.name));
    if (event->shapes.length && event->shapes.length <= MAX_SHAPE_BYTES)
        TRY(intern(reader, &trace->shapes, event->shapes, MAX_SHAPE_BYTES, &op.shapes));
    void *ops = trace->op_events;
    TRY(reserve(reader, &ops, trace->op_count, &trace->op_capacity, sizeof op));
    trace->op_events = ops;
    trace->op_events[trace->op_count++] = op;
    return PI0_OK;
}

/* PI0_STAGE_* that a range's name means, or -1. */
static int stage_of_name(scan_slice name) {
    static const struct {
        const char *name;
        int stage;
    } words[] = {
        {"vit", PI0_STAGE_VIT},           {"llm prefill", PI0_STAGE_PREFILL}, {"prefill", PI0_STAGE_PREFILL},
        {"diffusion", PI0_STAGE_DENOISE}, {"denoise", PI0_STAGE_DENOISE},     {"other", PI0_STAGE_OTHER},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (slice_is_folded(name, words[i].name)) return words[i].stage;
    return -1;
}

static pi0_status add_range(reader *reader, const event *event, trace_range_kind kind, int stage) {
    trace *trace = reader->trace;
    if (trace->range_count >= TRACE_MAX_RANGES || !possible(event)) return PI0_OK;
    void *ranges = trace->ranges;
    TRY(reserve(reader, &ranges, trace->range_count, &trace->range_capacity, sizeof *trace->ranges));
    trace->ranges = ranges;
    trace->ranges[trace->range_count++] =
        (trace_range){event->start_us, event->start_us + event->duration_us, kind, stage};
    return PI0_OK;
}

typedef enum category {
    CATEGORY_NONE,
    CATEGORY_KERNEL,
    CATEGORY_COPY,
    CATEGORY_RUNTIME,
    CATEGORY_OP,
    CATEGORY_STAGE,
    CATEGORY_STEP,
    CATEGORY_LAYER,
    CATEGORY_INFERENCE,
} category;

/* "cat" may list several, separated by commas: the first one that means something counts. */
static category category_of(const event *event) {
    static const struct {
        const char *name;
        category category;
    } words[] = {
        {"kernel", CATEGORY_KERNEL},     {"gpu", CATEGORY_KERNEL},          {"gpu_memcpy", CATEGORY_COPY},
        {"gpu_memset", CATEGORY_COPY},   {"memcpy", CATEGORY_COPY},         {"memset", CATEGORY_COPY},
        {"cpu_op", CATEGORY_OP},         {"operator", CATEGORY_OP},         {"cuda_runtime", CATEGORY_RUNTIME},
        {"runtime", CATEGORY_RUNTIME},   {"hip_runtime", CATEGORY_RUNTIME}, {"hip_api", CATEGORY_RUNTIME},
        {"host_call", CATEGORY_RUNTIME}, {"stage", CATEGORY_STAGE},         {"step", CATEGORY_STEP},
        {"layer", CATEGORY_LAYER},       {"inference", CATEGORY_INFERENCE}, {"gpu_user_annotation", CATEGORY_STAGE},
    };
    scan_slice rest = event->category;
    while (rest.length) {
        const char *comma = memchr(rest.text, ',', rest.length);
        scan_slice word = {rest.text, comma ? (size_t)(comma - rest.text) : rest.length, false};
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (slice_is_folded(word, words[i].name)) return words[i].category;
        size_t taken = word.length + (comma != NULL);
        rest = (scan_slice){rest.text + taken, rest.length - taken, false};
    }
    return CATEGORY_NONE;
}

/* In extracts where everything on the device is "gpu", copies are told by their name. */
static bool is_copy_name(scan_slice name) {
    static const char *const starts[] = {"Memcpy", "Memset", "memcpy ", "memset ", "[CUDA mem", "Copy", "hipMem"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (slice_starts(name, starts[i])) return true;
    return false;
}

static pi0_status add_event(reader *reader, const event *event) {
    trace *trace = reader->trace;
    trace->event_count++;
    if (!slice_is(event->phase, "X")) return PI0_OK;
    category category = category_of(event);
    if (category == CATEGORY_NONE) return PI0_OK;
    if (category == CATEGORY_OP) return add_op(reader, event);
    if (category == CATEGORY_STAGE) {
        int stage = stage_of_name(event->name);
        return stage < 0 ? PI0_OK : add_range(reader, event, TRACE_RANGE_STAGE, stage);
    }
    if (category == CATEGORY_STEP) return add_range(reader, event, TRACE_RANGE_STEP, -1);
    if (category == CATEGORY_LAYER) return add_range(reader, event, TRACE_RANGE_LAYER, -1);
    if (category == CATEGORY_INFERENCE) return add_range(reader, event, TRACE_RANGE_INFERENCE, -1);
    if (!possible(event)) {
        trace->impossible_count++;
        return PI0_OK;
    }
    if (category == CATEGORY_KERNEL && slice_is_folded(event->category, "gpu") && is_copy_name(event->name))
        category = CATEGORY_COPY;
    if (category == CATEGORY_KERNEL) return add_kernel(reader, event);
    if (category == CATEGORY_COPY) {
        trace->copy_count++;
        trace_sum(&trace->copy_us, &trace->copy_low_us, event->duration_us);
        return PI0_OK;
    }
    uint32_t name;
    TRY(intern(reader, &trace->runtime, event->name, MAX_NAME_BYTES, &name));
    trace_names_count(&trace->runtime, name, event->duration_us);
    trace_sum(&trace->runtime_us, &trace->runtime_low_us, event->duration_us);
    trace->runtime_count++;
    return PI0_OK;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

/* One event at the window's start. *go_on false: the trace ends or breaks inside it. */
static pi0_status read_event(reader *reader, bool *go_on) {
    *go_on = true;
    for (;;) {
        scan_cursor cursor = cursor_here(reader);
        event event;
        scan_result result = scan_event(&cursor, &event);
        if (result == SCAN_TAKEN) {
            TRY(add_event(reader, &event));
            advance(reader, cursor);
            return PI0_OK;
        }
        if (result == SCAN_BAD) {
            advance(reader, cursor);
            note_damage(reader, "not JSON, or nested too deep,");
            *go_on = false;
            return PI0_OK;
        }
        bool more;
        TRY(fill(reader, &more));
        if (more) continue;
        if (!reader->ended) { /* larger than the window may grow */
            reader->trace->oversized_count++;
            TRY(skip_value(reader, go_on));
            if (!*go_on) note_cut_off(reader);
            return PI0_OK;
        }
        note_cut_off(reader);
        *go_on = false;
        return PI0_OK;
    }
}

/* The array of events; the window stands behind its '['. *go_on false: nothing sensible can follow. */
static pi0_status read_events(reader *reader, bool *go_on) {
    for (*go_on = true; *go_on;) {
        int byte;
        TRY(peek(reader, &byte));
        switch (byte) {
        case -1:
            note_cut_off(reader);
            *go_on = false;
            break;
        case ']':
            reader->start++;
            return PI0_OK;
        case ',':
            reader->start++;
            break;
        case '{':
            TRY(read_event(reader, go_on));
            break;
        default:
            note_damage(reader, "expected an event");
            *go_on = false;
        }
    }
    return PI0_OK;
}

/* A key of the outermost object with its colon; the slice is valid until the window moves. */
static pi0_status read_key(reader *reader, scan_slice *key, bool *whole) {
    *whole = true;
    for (;;) {
        scan_cursor cursor = cursor_here(reader);
        scan_result result = scan_string(&cursor, key);
        if (result == SCAN_TAKEN && scan_space(&cursor)) {
            if (*cursor.at != ':') result = SCAN_BAD;
            if (result == SCAN_TAKEN) {
                cursor.at++;
                advance(reader, cursor);
                return PI0_OK;
            }
        }
        *whole = false;
        if (result == SCAN_BAD) {
            note_damage(reader, "not JSON");
            return PI0_OK;
        }
        bool more;
        TRY(fill(reader, &more));
        if (!more) {
            note_cut_off(reader);
            return PI0_OK;
        }
        *whole = true;
    }
}

/* "deviceProperties": [{"id": 0, "name": "NVIDIA H200", ...: the first name, where the list fits the window. */
static pi0_status read_device(reader *reader) {
    scan_cursor cursor = cursor_here(reader), element;
    for (bool more = true; scan_skip(&cursor) == SCAN_MORE && more; cursor = cursor_here(reader))
        TRY(fill(reader, &more));
    element = cursor_here(reader);
    if (element.at < element.end && *element.at == '[') element.at++;
    scan_slice key, name = {0};
    bool done = false;
    for (bool first = true; next_key(&element, &first, &key, &done) == SCAN_TAKEN && !done;) {
        if (slice_is(key, "name")) {
            if (value_text(&element, &name) != SCAN_TAKEN) name.length = 0;
            break;
        }
        if (scan_skip(&element) != SCAN_TAKEN) break;
    }
    uint32_t id;
    if (name.length == 0 || reader->trace->device) return PI0_OK;
    trace_names repaired = {0}; /* decodes escapes and repairs UTF-8 as for every other name */
    pi0_status status = intern(reader, &repaired, name, 100, &id);
    if (status == PI0_OK) {
        reader->trace->device = memory_string(repaired.names[id].text);
        if (!reader->trace->device) status = out_of_memory(reader);
    }
    trace_names_release(&repaired);
    return status;
}

static pi0_status read_object(reader *reader, bool *found_events) {
    reader->start++;
    for (bool go_on = true; go_on;) {
        int byte;
        TRY(peek(reader, &byte));
        if (byte == '}') {
            reader->start++;
            return PI0_OK;
        }
        if (byte == ',') {
            reader->start++;
            continue;
        }
        scan_slice key;
        if (byte == -1)
            note_cut_off(reader);
        else if (byte != '"')
            note_damage(reader, "not JSON");
        if (byte != '"') return PI0_OK;
        TRY(read_key(reader, &key, &go_on));
        if (!go_on) return PI0_OK;
        bool events = slice_is(key, "traceEvents"), device = slice_is(key, "deviceProperties");
        TRY(peek(reader, &byte));
        if (events && byte == '[') {
            *found_events = true;
            reader->start++;
            TRY(read_events(reader, &go_on));
            continue;
        }
        if (device) TRY(read_device(reader));
        TRY(skip_value(reader, &go_on));
        if (!go_on) note_cut_off(reader);
    }
    return PI0_OK;
}

static pi0_status read_whole(reader *reader) {
    trace *trace = reader->trace;
    int byte;
    bool found_events = false, go_on = true;
    TRY(peek(reader, &byte));
    if (byte == 0xef && reader->size - reader->start < 3) TRY(fill(reader, &go_on));
    if (byte == 0xef && reader->size - reader->start >= 3) { /* a byte order mark */
        if (memcmp(reader->window + reader->start, "\xef\xbb\xbf", 3) == 0) reader->start += 3;
        TRY(peek(reader, &byte));
    }
    if (byte == -1) return error_set(reader->error, PI0_ERROR_FORMAT, "expected a JSON trace, found an empty file");
    if (byte != '{' && byte != '[')
        return error_set(reader->error, PI0_ERROR_FORMAT,
                         "expected a JSON trace, an object or an array, found a file that begins with byte 0x%02x",
                         byte);
    if (byte == '{') {
        TRY(read_object(reader, &found_events));
    } else {
        found_events = true;
        reader->start++;
        TRY(read_events(reader, &go_on));
    }
    if (trace_source_damage(reader->source) && !trace->damage[0])
        snprintf(trace->damage, sizeof trace->damage, "%s", trace_source_damage(reader->source));
    if (trace->damage[0]) trace->cut_off = true;
    if (trace->event_count) return PI0_OK;
    if (trace->damage[0]) return error_set(reader->error, PI0_ERROR_FORMAT, "expected a JSON trace: %s", trace->damage);
    if (trace->cut_off)
        return error_set(reader->error, PI0_ERROR_FORMAT,
                         "expected a JSON trace, found a file that ends before its first event");
    return error_set(reader->error, PI0_ERROR_FORMAT,
                     found_events ? "expected trace events, found an empty list"
                                  : "expected a trace, found JSON without \"traceEvents\"");
}

pi0_status trace_read(trace *trace, trace_source *source, pi0_error *error) {
    *trace = (struct trace){0};
    reader *reader = memory_allocate(sizeof *reader);
    char *window = memory_allocate(WINDOW_BYTES);
    pi0_status status;
    if (reader && window) {
        *reader = (struct reader){
            .source = source, .trace = trace, .window = window, .capacity = WINDOW_BYTES, .error = error};
        status = read_whole(reader);
        window = reader->window;
    } else {
        status = error_memory(error, WINDOW_BYTES, "reading a trace");
    }
    memory_release(window);
    memory_release(reader);
    return status;
}

void trace_release(trace *trace) {
    drop_records(trace);
    trace_names *tables[] = {&trace->kernels, &trace->runtime, &trace->ops,
                             &trace->shapes,  &trace->grids,   &trace->queues};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) trace_names_release(tables[i]);
    memory_release(trace->device);
    memory_release(trace->op_events);
    memory_release(trace->ranges);
    *trace = (struct trace){0};
}
