/* A GPU's profile of an inference, made up, becomes nested ranges, kernels that add up, and arrows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/launch_trace.h"

enum { MOST = 64 };

typedef struct told {
    pi0_trace_kind kind;
    char name[64];
    double start, end, flops, early;
    char function[64], times[64];
    uint64_t flow;
} told;

typedef struct told_list {
    told list[MOST];
    int count;
} told_list;

static void take(void *user, const pi0_trace_event *event) {
    told_list *all = user;
    assert_true(all->count < MOST);
    told *t = &all->list[all->count++];
    *t = (told){.kind = event->kind,
                .start = event->start_us,
                .end = event->start_us + event->duration_us,
                .flow = event->flow};
    snprintf(t->name, sizeof t->name, "%s", event->name);
    for (int i = 0; i < event->value_count; i++) {
        const pi0_trace_value *v = &event->values[i];
        if (strcmp(v->name, "flops") == 0) t->flops = v->number;
        if (strcmp(v->name, "early_us") == 0) t->early = v->number;
        if (strcmp(v->name, "function") == 0) snprintf(t->function, sizeof t->function, "%s", v->text);
        if (strcmp(v->name, "times") == 0) snprintf(t->times, sizeof t->times, "%s", v->text);
    }
}

static const told *find(const told_list *all, pi0_trace_kind kind, const char *name) {
    for (int i = 0; i < all->count; i++)
        if (all->list[i].kind == kind && strcmp(all->list[i].name, name) == 0) return &all->list[i];
    return NULL;
}

static int count(const told_list *all, pi0_trace_kind kind) {
    int n = 0;
    for (int i = 0; i < all->count; i++) n += all->list[i].kind == kind;
    return n;
}

static const launch_note notes[] = {
    {.name = "input", .stage = PI0_STAGE_OTHER, .step = -1, .layer = -1, .records = 1},
    {.name = "qkv", .stage = PI0_STAGE_VIT, .step = -1, .layer = 0, .records = 1, .flops = 100, .rows = 3},
    {.name = "fc1", .stage = PI0_STAGE_VIT, .step = -1, .layer = 0, .records = 2, .flops = 200},
    {.name = "qkv", .stage = PI0_STAGE_VIT, .step = -1, .layer = 1, .records = 1, .flops = 300},
    {.name = "steps", .stage = PI0_STAGE_DENOISE, .step = -1, .layer = -1, .records = 1, .parts = 4, .flops = 400},
};
enum { NOTES = sizeof notes / sizeof *notes, RECORDS = 7 };

#define BASE UINT64_C(1700000000000000000)

/* Out of order; the third kernel is resident before the second ends. */
static void fill(launch_record *r, bool graph) {
    const struct {
        launch_record_kind kind;
        uint64_t start, end;
        int note;
    } plan[RECORDS] = {{LAUNCH_KERNEL, 5000, 9000, 4}, {LAUNCH_COPY, 1000, 1500, 0},   {LAUNCH_KERNEL, 2000, 3000, 1},
                       {LAUNCH_CALL, 900, 950, -1},    {LAUNCH_KERNEL, 2500, 3500, 2}, {LAUNCH_KERNEL, 3600, 3700, 2},
                       {LAUNCH_KERNEL, 3700, 4700, 3}};
    memset(r, 0, RECORDS * sizeof *r);
    for (int i = 0; i < RECORDS; i++) {
        r[i].kind = plan[i].kind;
        r[i].start_ns = BASE + plan[i].start;
        r[i].end_ns = BASE + plan[i].end;
        r[i].note = graph ? -1 : plan[i].note;
        r[i].correlation = graph ? 7 : (uint32_t)(plan[i].note < 0 ? 1 : plan[i].note + 1);
        r[i].name = plan[i].kind == LAUNCH_CALL ? "cudaGraphLaunch" : "product<128>";
    }
}

static pi0_status run(told_list *all, launch_record *records, int record_count, pi0_error *error) {
    launch_trace trace = {.records = records,
                          .record_count = record_count,
                          .notes = notes,
                          .note_count = NOTES,
                          .begin_ns = BASE + 800,
                          .end_ns = BASE + 9500,
                          .base_ns = BASE,
                          .function = take,
                          .user = all};
    all->count = 0;
    return launch_trace_tell(&trace, error);
}

static void check_ranges(bool graph) {
    launch_record records[RECORDS];
    told_list all;
    pi0_error error;
    fill(records, graph);
    assert_int_equal(run(&all, records, RECORDS, &error), PI0_OK);
    const told *vit = find(&all, PI0_TRACE_STAGE, "ViT"), *layer = find(&all, PI0_TRACE_LAYER, "layer 0");
    const told *kernel = find(&all, PI0_TRACE_KERNEL, "vit_fc1"), *op = find(&all, PI0_TRACE_OP, "fc1");
    assert_non_null(vit);
    assert_non_null(layer);
    assert_non_null(kernel);
    assert_non_null(op);
    assert_float_equal(vit->start, 2.0, 1e-9);
    assert_float_equal(vit->end, 4.7, 1e-9);
    assert_float_equal(layer->start, 2.0, 1e-9);
    assert_float_equal(layer->end, 3.7, 1e-9);
    assert_float_equal(kernel->start, 3.0, 1e-9); /* from where its predecessor ends */
    assert_float_equal(kernel->early, 0.5, 1e-9);
    assert_float_equal(kernel->flops, 200, 0);
    assert_string_equal(kernel->function, "product<128>");
    assert_float_equal(op->start, 3.0, 1e-9);
    assert_float_equal(op->end, 3.7, 1e-9); /* both of its kernels */
    assert_int_equal(count(&all, PI0_TRACE_KERNEL), 5);
    assert_int_equal(count(&all, PI0_TRACE_COPY), 1);
    assert_int_equal(count(&all, PI0_TRACE_LAYER), 2);
    assert_int_equal(count(&all, PI0_TRACE_STAGE), 3);
    assert_int_equal(count(&all, PI0_TRACE_STEP), 4);
    assert_float_equal(find(&all, PI0_TRACE_STEP, "step 1")->start, 6.0, 1e-9);
    assert_true(strstr(find(&all, PI0_TRACE_STEP, "step 1")->times, "not measured") != NULL);
    double flops = 0, kernel_us = 0;
    for (int i = 0; i < all.count; i++) {
        flops += all.list[i].flops;
        if (all.list[i].kind == PI0_TRACE_KERNEL) kernel_us += all.list[i].end - all.list[i].start;
    }
    assert_float_equal(flops, 1000, 0); /* each launch's once */
    assert_float_equal(kernel_us, 1.0 + 0.5 + 0.1 + 1.0 + 4.0, 1e-9);
    const told *call = find(&all, PI0_TRACE_API, "cudaGraphLaunch");
    assert_non_null(call);
    assert_int_equal(call->flow, graph ? 7 : 1);
    assert_int_equal(find(&all, PI0_TRACE_KERNEL, "vit_qkv")->flow, graph ? 7 : 2);
}

static void test_launches(void **state) {
    (void)state;
    check_ranges(false);
}

static void test_graph(void **state) {
    (void)state;
    check_ranges(true);
}

/* Never a wrong name: what does not fit is refused before anything is told. */
static void test_records_that_do_not_fit(void **state) {
    (void)state;
    launch_record records[RECORDS];
    told_list all;
    pi0_error error;
    for (int left = 0; left < RECORDS; left++) {
        fill(records, true);
        assert_int_equal(run(&all, records, left, &error), PI0_ERROR_DEVICE);
        assert_int_equal(all.count, 0);
    }
    fill(records, false);
    records[0].note = NOTES;
    assert_int_equal(run(&all, records, RECORDS, &error), PI0_ERROR_DEVICE);
    assert_int_equal(all.count, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_launches),
        cmocka_unit_test(test_graph),
        cmocka_unit_test(test_records_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
