/* The recorder and the trace writer: order, lanes, arrows, files plain and compressed, memory that runs out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "allocator.h"
#include "profile/recorder.h"
#include "profile/trace_report.h"
#include "profile/trace_writer.h"

static void add(recorder *recorder, pi0_trace_kind kind, const char *name, int track, double start_us, double us,
                uint64_t flow) {
    pi0_trace_value values[] = {{.name = "rows", .number = 16},
                                {.name = "grid", .text = "[1, 2, 3]"},
                                {.name = "odd", .number = (double)INFINITY}};
    recorder_event_add(recorder, &(pi0_trace_event){.struct_size = sizeof(pi0_trace_event),
                                                    .kind = kind,
                                                    .name = name,
                                                    .track = track,
                                                    .start_us = start_us,
                                                    .duration_us = us,
                                                    .flow = flow,
                                                    .values = values,
                                                    .value_count = kind == PI0_TRACE_KERNEL ? 3 : 0});
}

/* As a backend tells it: what contains after what is contained; two kernels overlap. */
static void fill(recorder *recorder) {
    const double base = 5e9;
    add(recorder, PI0_TRACE_KERNEL, "vit_gemm", 0, base + 10, 10, 7);
    add(recorder, PI0_TRACE_KERNEL, "vit_\"norm\"\n", 0, base + 18, 10, 0);
    add(recorder, PI0_TRACE_STAGE, "ViT", 0, base + 5, 40, 0);
    add(recorder, PI0_TRACE_KERNEL, "prefill_gemm", 0, base + 50, 10, 0);
    add(recorder, PI0_TRACE_STAGE, "LLM prefill", 0, base + 45, 20, 0);
    add(recorder, PI0_TRACE_KERNEL, "denoise_gemm", 0, base + 70, 10, 0);
    add(recorder, PI0_TRACE_STAGE, "Diffusion", 0, base + 65, 30, 0);
    add(recorder, PI0_TRACE_INFERENCE, "inference", 0, base + 1, 99, 0);
    add(recorder, PI0_TRACE_API, "launch", 0, base, 3, 7);
    add(recorder, PI0_TRACE_THREAD, "vit_gemm", 1, base + 11, 4, 7);
}

static const trace_about about = {
    .device = "A \"device\"", .stream = "stream", .pairs = (const char *const[]){"precision", "bf16", NULL}};

static void test_order_and_lanes(void **state) {
    (void)state;
    recorder recorder = {0};
    fill(&recorder);
    assert_int_equal(recorder_sort(&recorder, NULL), PI0_OK);
    assert_int_equal(recorder.event_count, 10);
    const char *const order[] = {"launch",         "inference",   "ViT",          "vit_gemm",  "vit_gemm",
                                 "vit_\"norm\"\n", "LLM prefill", "prefill_gemm", "Diffusion", "denoise_gemm"};
    for (uint32_t i = 0; i < 10; i++) {
        assert_string_equal(recorder_string(&recorder, recorder.events[i].name), order[i]);
        assert_int_equal(recorder.events[i].lane, i == 5 ? 1 : 0);
    }
    assert_true(fabs(recorder_kind_ms(&recorder, PI0_TRACE_KERNEL) - 0.040) < 1e-9);
    assert_true(recorder_number(&recorder, &recorder.events[3], "rows", -1) == 16);
    assert_true(recorder_number(&recorder, &recorder.events[3], "grid", -1) == -1);
    recorder_clear(&recorder);
    assert_int_equal(recorder_sort(&recorder, NULL), PI0_OK);
    recorder_release(&recorder);
}

static const char *path_of(char path[64], const char *ending) {
    snprintf(path, 64, "/tmp/pi0_test_recorder_%d%s", (int)getpid(), ending);
    return path;
}

static json_t *find(json_t *events, const char *phase, size_t index) {
    size_t i;
    json_t *event;
    json_array_foreach(events, i, event) {
        if (strcmp(json_string_value(json_object_get(event, "ph")), phase) == 0 && index-- == 0) return event;
    }
    return NULL;
}

static void test_file(void **state) {
    (void)state;
    char path[64];
    recorder recorder = {0};
    fill(&recorder);
    assert_int_equal(recorder_sort(&recorder, NULL), PI0_OK);
    assert_int_equal(trace_write(&recorder, &about, path_of(path, ".json"), NULL), PI0_OK);
    json_error_t json_error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &json_error);
    assert_non_null(root);
    json_t *events = json_object_get(root, "traceEvents"), *kernel = find(events, "X", 3);
    assert_string_equal(json_string_value(json_object_get(kernel, "name")), "vit_gemm");
    assert_string_equal(json_string_value(json_object_get(kernel, "cat")), "kernel");
    assert_true(json_number_value(json_object_get(kernel, "ts")) == 10.0);
    assert_true(json_number_value(json_object_get(kernel, "dur")) == 10.0);
    json_t *args = json_object_get(kernel, "args");
    assert_true(json_number_value(json_object_get(args, "rows")) == 16);
    assert_string_equal(json_string_value(json_object_get(args, "grid")), "[1, 2, 3]");
    assert_true(json_is_null(json_object_get(args, "odd")));
    /* the launch points to the kernel and to the thread's part of it */
    for (size_t arrow = 0; arrow < 2; arrow++) {
        json_t *from = find(events, "s", arrow), *to = find(events, "f", arrow);
        assert_true(json_equal(json_object_get(from, "id"), json_object_get(to, "id")));
        assert_true(json_number_value(json_object_get(from, "ts")) == 0);
        assert_true(json_number_value(json_object_get(to, "ts")) == (arrow ? 11 : 10));
    }
    assert_null(find(events, "s", 2));
    json_decref(root);
    remove(path);
    recorder_release(&recorder);
}

static void test_the_analyzer_reads_it(void **state) {
    (void)state;
    recorder recorder = {0};
    fill(&recorder);
    assert_int_equal(recorder_sort(&recorder, NULL), PI0_OK);
    const char *const endings[] = {".json",
#ifdef PI0_WITH_ZLIB
                                   ".json.gz"
#endif
    };
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        char path[64];
        assert_int_equal(trace_write(&recorder, &about, path_of(path, endings[i]), NULL), PI0_OK);
        trace_report report;
        assert_int_equal(trace_report_open(&report, path, NULL), PI0_OK);
        assert_int_equal(report.split.inference_count, 1);
        assert_string_equal(report.split.source, "ranges");
        assert_string_equal(report.trace.device, about.device);
        const double ms[] = {0.020, 0.010, 0.010};
        for (int stage = 0; stage < 3; stage++) assert_true(fabs(report.stages[stage].ms - ms[stage]) < 1e-7);
        trace_report_release(&report);
        remove(path);
    }
    recorder_release(&recorder);
}

static void test_places_that_cannot_be_written(void **state) {
    (void)state;
    recorder recorder = {0};
    pi0_error error;
    assert_int_equal(trace_write(&recorder, &about, "/nonexistent/trace.json", &error), PI0_ERROR_IO);
    assert_non_null(strstr(error.message, "/nonexistent/trace.json"));
    assert_int_equal(trace_write(&recorder, &about, "/dev/full/trace.json.gz", &error),
#ifdef PI0_WITH_ZLIB
                     PI0_ERROR_IO
#else
                     PI0_ERROR_UNSUPPORTED
#endif
    );
}

/* Each allocation fails once: an error, or everything is there; nothing is left behind. */
static void test_memory_that_runs_out(void **state) {
    (void)state;
    char path[64];
    path_of(path, ".oom.json");
    pi0_status status = PI0_ERROR_MEMORY;
    for (int allowed = 0; status != PI0_OK; allowed++) {
        assert_true(allowed < 1000);
        allocator_log log;
        recorder recorder = {0};
        allocator_begin(&log, allowed);
        fill(&recorder);
        status = recorder_sort(&recorder, NULL);
        if (status == PI0_OK) status = trace_write(&recorder, &about, path, NULL);
        recorder_release(&recorder);
        allocator_end();
        assert_int_equal(access(path, F_OK), status == PI0_OK ? 0 : -1);
    }
    remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_lanes),       cmocka_unit_test(test_file),
        cmocka_unit_test(test_the_analyzer_reads_it), cmocka_unit_test(test_places_that_cannot_be_written),
        cmocka_unit_test(test_memory_that_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
