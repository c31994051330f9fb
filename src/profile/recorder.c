#include "profile/recorder.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { FIRST_EVENTS = 16384, MAX_EVENTS = 50000000, MAX_LANES = 16, LANE_DEPTH = 32 };

/* ---- taking ---- */

static bool reserve(void **elements, uint32_t count, uint32_t more, uint32_t *capacity, size_t size) {
    if (more <= *capacity - count) return true;
    uint32_t larger_capacity = *capacity ? *capacity * 2 : FIRST_EVENTS;
    if (larger_capacity > MAX_EVENTS || larger_capacity - count < more) return false;
    void *larger = memory_resize(*elements, count * size, larger_capacity * size);
    if (!larger) return false;
    *elements = larger;
    *capacity = larger_capacity;
    return true;
}

static bool intern(recorder *recorder, const char *text, uint32_t *id) {
    *id = TRACE_NO_NAME;
    if (!text) return true;
    *id = trace_names_add(&recorder->strings, text, strlen(text));
    return *id != TRACE_NO_NAME;
}

static bool add(recorder *recorder, const pi0_trace_event *event) {
    recorder_event kept = {.start_us = event->start_us,
                           .duration_us = event->duration_us,
                           .flow = event->flow,
                           .first_value = recorder->value_count,
                           .value_count = (uint16_t)event->value_count,
                           .kind = (uint8_t)event->kind,
                           .track = event->track};
    void *events = recorder->events, *values = recorder->values;
    bool room = reserve(&events, recorder->event_count, 1, &recorder->event_capacity, sizeof *recorder->events);
    recorder->events = events;
    room = room && reserve(&values, recorder->value_count, (uint32_t)event->value_count, &recorder->value_capacity,
                           sizeof *recorder->values);
    recorder->values = values;
    if (!room || !intern(recorder, event->name, &kept.name) || !intern(recorder, event->category, &kept.category))
        return false;
    for (int i = 0; i < event->value_count; i++) {
        recorder_value value = {.number = event->values[i].number};
        if (!intern(recorder, event->values[i].name, &value.name) ||
            !intern(recorder, event->values[i].text, &value.text))
            return false;
        recorder->values[recorder->value_count++] = value;
    }
    recorder->events[recorder->event_count++] = kept;
    return true;
}

void recorder_event_add(void *user, const pi0_trace_event *event) {
    recorder *recorder = user;
    if (!recorder->failed && !add(recorder, event)) recorder->failed = true;
}

void recorder_clear(recorder *recorder) { recorder->event_count = recorder->value_count = recorder->failed = 0; }

void recorder_release(recorder *recorder) {
    trace_names_release(&recorder->strings);
    memory_release(recorder->events);
    memory_release(recorder->values);
    *recorder = (struct recorder){0};
}

/* ---- order and lanes ---- */

/* The group of tracks that a kind is shown in: the device's, copies and kernels included; host; CPU threads. */
static int group_of(int kind) { return kind == PI0_TRACE_API ? 1 : kind == PI0_TRACE_THREAD ? 2 : 0; }

static int compare_numbers(double a, double b) { return a < b ? -1 : a > b; }

static int by_track_and_time(const void *a, const void *b) {
    const recorder_event *left = a, *right = b;
    int groups = group_of(left->kind) - group_of(right->kind);
    if (groups) return groups;
    if (left->track != right->track) return left->track < right->track ? -1 : 1;
    int starts = compare_numbers(left->start_us, right->start_us);
    if (starts) return starts;
    int ends = compare_numbers(right->duration_us, left->duration_us);
    return ends ? ends : left->kind - right->kind;
}

static int by_time(const void *a, const void *b) {
    const recorder_event *left = a, *right = b;
    int starts = compare_numbers(left->start_us, right->start_us);
    if (starts) return starts;
    int ends = compare_numbers(right->duration_us, left->duration_us);
    return ends ? ends : left->kind - right->kind;
}

/* The ends of the events that are open on a lane, outermost first. */
typedef struct lane {
    double ends[LANE_DEPTH];
    int depth;
} lane;

static bool lane_takes(lane *lane, const recorder_event *event) {
    const double clock_us = 1e-3; /* times are nanoseconds: what touches does not overlap */
    double end = event->start_us + event->duration_us;
    while (lane->depth && lane->ends[lane->depth - 1] <= event->start_us + clock_us) lane->depth--;
    if (lane->depth == LANE_DEPTH || (lane->depth && end > lane->ends[lane->depth - 1] + clock_us)) return false;
    lane->ends[lane->depth++] = end;
    return true;
}

static void give_lanes(recorder_event *events, uint32_t count) {
    lane lanes[MAX_LANES];
    for (uint32_t i = 0; i < count; i++) {
        recorder_event *event = &events[i];
        if (i == 0 || group_of(event->kind) != group_of(events[i - 1].kind) || event->track != events[i - 1].track)
            memset(lanes, 0, sizeof lanes);
        int lane = 0;
        while (lane < MAX_LANES - 1 && !lane_takes(&lanes[lane], event)) lane++;
        event->lane = (uint8_t)lane;
    }
}

pi0_status recorder_sort(recorder *recorder, pi0_error *error) {
    if (recorder->failed)
        return error_set(error, PI0_ERROR_MEMORY, "out of memory: a trace of more than %u events",
                         recorder->event_count);
    if (!recorder->event_count) return PI0_OK;
    qsort(recorder->events, recorder->event_count, sizeof *recorder->events, by_track_and_time);
    give_lanes(recorder->events, recorder->event_count);
    qsort(recorder->events, recorder->event_count, sizeof *recorder->events, by_time);
    return PI0_OK;
}

/* ---- figures ---- */

double recorder_number(const recorder *recorder, const recorder_event *event, const char *name, double fallback) {
    for (uint32_t i = 0; i < event->value_count; i++) {
        const recorder_value *value = &recorder->values[event->first_value + i];
        if (value->text == TRACE_NO_NAME && strcmp(recorder_string(recorder, value->name), name) == 0)
            return value->number;
    }
    return fallback;
}

double recorder_kind_ms(const recorder *recorder, pi0_trace_kind kind) {
    double us = 0;
    for (uint32_t i = 0; i < recorder->event_count; i++)
        if (recorder->events[i].kind == kind) us += recorder->events[i].duration_us;
    return us * 1e-3;
}
