/* Counters, histograms and percentiles, as Prometheus text and as JSON; log lines; a server's metadata. */
#include "data.h"

#include "base/json.h"
#include "base/memory.h"
#include "serve/event.h"
#include "serve/metadata.h"
#include "serve/metrics.h"

static metrics *open_metrics(void) {
    metrics *m;
    assert_int_equal(metrics_open(&m, NULL), PI0_OK);
    return m;
}

static void assert_line(const text_buffer *text, const char *line) {
    char whole[200];
    snprintf(whole, sizeof whole, "\n%s\n", line);
    if (!strstr(text->bytes, whole)) fail_msg("expected the line '%s' in:\n%s", line, text->bytes);
}

static void test_prometheus_text(void **state) {
    (void)state;
    metrics *m = open_metrics();
    metrics_count(m, METRIC_REQUESTS);
    metrics_count(m, METRIC_REQUESTS);
    metrics_count(m, METRIC_ERRORS_TIMEOUT);
    metrics_set(m, METRIC_CLIENTS, 7);
    pi0_timings timings = {.struct_size = sizeof timings, .total_ms = 20, .stage_ms = {1, 2, 17, 0}};
    metrics_inference(m, &timings, 3);
    metrics_observe(m, METRIC_INFER, 0.1);  /* on a bound: counts below it */
    metrics_observe(m, METRIC_INFER, 1000); /* above every bound */
    text_buffer text = {0};
    metrics_prometheus(m, &text);
    assert_line(&text, "pi0_requests_total 2");
    assert_line(&text, "pi0_errors_total{kind=\"timeout\"} 1");
    assert_line(&text, "pi0_errors_total{kind=\"engine\"} 0");
    assert_line(&text, "pi0_clients 7");
    assert_line(&text, "pi0_inference_seconds_bucket{le=\"0.015\"} 0");
    assert_line(&text, "pi0_inference_seconds_bucket{le=\"0.025\"} 1");
    assert_line(&text, "pi0_inference_seconds_bucket{le=\"0.1\"} 2");
    assert_line(&text, "pi0_inference_seconds_bucket{le=\"60\"} 2");
    assert_line(&text, "pi0_inference_seconds_bucket{le=\"+Inf\"} 3");
    assert_line(&text, "pi0_inference_seconds_count 3");
    assert_line(&text, "pi0_stage_seconds_sum{stage=\"denoise\"} 0.017");
    assert_line(&text, "pi0_batch_size_bucket{le=\"3\"} 1");
    assert_line(&text, "pi0_batch_size_bucket{le=\"2\"} 0");
    memory_release(text.bytes);
    metrics_close(&m);
}

/* The members that metrics_json writes, as an object. */
static json_t *status_of(metrics *m) {
    text_buffer text = {0};
    text_put(&text, "{");
    metrics_json(m, &text);
    text_put(&text, "}");
    json_t *root = json_loads(text.bytes, 0, NULL);
    memory_release(text.bytes);
    assert_non_null(root);
    return root;
}

static double number_at(json_t *root, const char *group, const char *name) {
    return json_number_value(json_object_get(json_object_get(root, group), name));
}

static void test_percentiles(void **state) {
    (void)state;
    metrics *m = open_metrics();
    json_t *root = status_of(m);
    assert_null(json_object_get(json_object_get(root, "total"), "p50_ms"));
    json_decref(root);
    for (int i = 0; i < 5000; i++) metrics_observe(m, METRIC_TOTAL, 9); /* forgotten: 1,024 are kept */
    for (int i = 1; i <= 1024; i++) metrics_observe(m, METRIC_TOTAL, i / 1000.0);
    metrics_error(m, "a \"quoted\"\nline");
    root = status_of(m);
    assert_int_equal((int)number_at(root, "total", "count"), 6024);
    assert_true(number_at(root, "total", "p50_ms") == 512.5);
    assert_true(number_at(root, "total", "p99_ms") > 1013 && number_at(root, "total", "p99_ms") < 1014);
    assert_string_equal(json_string_value(json_object_get(root, "last_error")), "a \"quoted\"\nline");
    json_decref(root);
    metrics_close(&m);
}

static void keep_line(void *user, pi0_log_level level, const char *message) {
    assert_int_equal(level, PI0_LOG_WARNING);
    snprintf(user, 2000, "%s", message);
}

static void test_json_lines(void **state) {
    (void)state;
    char line[2000];
    event_log log = {.sink = {keep_line, line}, .json = true};
    event_write(&log, PI0_LOG_WARNING, "refused", (const event_number[]){{"client", 3}, {"ms", 1.5}, {0}},
                "bad \xff bytes \xc3\xa9 and a\nbreak");
    assert_null(strchr(line, '\n'));
    json_t *root = json_loads(line, 0, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "message")), "bad ? bytes \xc3\xa9 and a\nbreak");
    assert_string_equal(json_string_value(json_object_get(root, "level")), "warning");
    assert_true(json_number_value(json_object_get(root, "ms")) == 1.5);
    assert_int_equal(strlen(json_string_value(json_object_get(root, "time"))), 24);
    json_decref(root);
    log.json = false;
    event_write(&log, PI0_LOG_WARNING, "refused", NULL, "plain %d", 7);
    assert_string_equal(line, "plain 7");
}

static void test_clean_text_is_cut_between_characters(void **state) {
    (void)state;
    char clean[6];
    event_clean(clean, sizeof clean, "abcd\xc3\xa9");
    assert_string_equal(clean, "abcd");
    event_clean(clean, sizeof clean, "abc\xc3\xa9");
    assert_string_equal(clean, "abc\xc3\xa9");
}

static void test_metadata(void **state) {
    (void)state;
    size_t size;
    void *expected = data_read("golden/wire", "metadata_aloha.msgpack", &size);
    wire_buffer out = {0};
    assert_int_equal(metadata_encode(&out, "{\"reset_pose\": [0, -1.5, 1.5, 0, 0, 0]}", NULL), PI0_OK);
    assert_int_equal(out.size, size);
    assert_memory_equal(out.bytes, expected, size);
    memory_release(out.bytes);
    free(expected);
    out = (wire_buffer){0};
    pi0_error error;
    assert_int_equal(metadata_encode(&out, "{\"a\": tru}", &error), PI0_ERROR_FORMAT);
    memory_release(out.bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prometheus_text), cmocka_unit_test(test_percentiles),
        cmocka_unit_test(test_json_lines),      cmocka_unit_test(test_clean_text_is_cut_between_characters),
        cmocka_unit_test(test_metadata),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
