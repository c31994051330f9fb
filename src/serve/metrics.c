#include "serve/metrics.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "profile/latency.h"

enum { BUCKETS = 16, RECENT = 1024 };

/* Upper bounds of the histograms' buckets: a GPU answers in 10 ms, a small CPU in a minute. */
static const double second_bounds[BUCKETS] = {0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025,
                                              0.05,   0.1,   0.25,   0.5,   1,      5,    15,    60};
static const double batch_bounds[BUCKETS] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 1024};

typedef struct histogram {
    uint64_t buckets[BUCKETS + 1]; /* the last: above every bound */
    uint64_t count;
    double sum;
    double recent[RECENT]; /* a ring: the last values, for percentiles */
} histogram;

struct metrics {
    pthread_mutex_t lock;
    double started_ms;
    uint64_t counters[METRIC_COUNTERS];
    int64_t gauges[METRIC_GAUGES];
    histogram histograms[METRIC_HISTOGRAMS];
    char last_error[256];
};

static const struct {
    const char *name, *labels, *help;
} counter_names[METRIC_COUNTERS] = {
    [METRIC_REQUESTS] = {"pi0_requests_total", "", "Requests answered with actions."},
    [METRIC_ERRORS_REQUEST] = {"pi0_errors_total", "{kind=\"request\"}", "Requests that failed, by kind."},
    [METRIC_ERRORS_ENGINE] = {"pi0_errors_total", "{kind=\"engine\"}", NULL},
    [METRIC_ERRORS_TIMEOUT] = {"pi0_errors_total", "{kind=\"timeout\"}", NULL},
    [METRIC_ERRORS_QUEUE_FULL] = {"pi0_errors_total", "{kind=\"queue_full\"}", NULL},
    [METRIC_ERRORS_TOO_LARGE] = {"pi0_errors_total", "{kind=\"too_large\"}", NULL},
    [METRIC_REFUSED_DRAINING] = {"pi0_errors_total", "{kind=\"shutting_down\"}", NULL},
    [METRIC_ABANDONED] = {"pi0_abandoned_requests_total", "", "Requests whose client left before the answer."},
    [METRIC_CONNECTIONS] = {"pi0_connections_total", "", "Connections accepted."},
    [METRIC_IDLE] = {"pi0_idle_disconnects_total", "", "Connections closed after a long silence."},
    [METRIC_REJECTED_CLIENTS] = {"pi0_rejected_connections_total", "{reason=\"clients\"}",
                                 "Connections refused, by reason."},
    [METRIC_REJECTED_AUTH] = {"pi0_rejected_connections_total", "{reason=\"auth\"}", NULL},
    [METRIC_REJECTED_ORIGIN] = {"pi0_rejected_connections_total", "{reason=\"origin\"}", NULL},
    [METRIC_RECORD_ERRORS] = {"pi0_record_errors_total", "", "Requests or responses that could not be recorded."},
};
static const struct {
    const char *name, *help;
} gauge_names[METRIC_GAUGES] = {
    [METRIC_CLIENTS] = {"pi0_clients", "Connected clients."},
    [METRIC_QUEUE] = {"pi0_queue_length", "Requests that wait."},
    [METRIC_RUNNING] = {"pi0_running_requests", "Requests of the inference that runs now."},
};
static const struct {
    const char *name, *labels, *help;
} histogram_names[METRIC_HISTOGRAMS] = {
    [METRIC_TOTAL] = {"pi0_request_seconds", "", "From the last byte of a request to its answer."},
    [METRIC_WAIT] = {"pi0_wait_seconds", "", "Waiting for its turn, preparing left out."},
    [METRIC_PREPARE] = {"pi0_prepare_seconds", "", "Decoding, images and tokens of a request."},
    [METRIC_INFER] = {"pi0_inference_seconds", "", "The model, all stages."},
    [METRIC_VIT] = {"pi0_stage_seconds", "stage=\"vit\"", "Stages of the model."},
    [METRIC_PREFILL] = {"pi0_stage_seconds", "stage=\"prefill\"", NULL},
    [METRIC_DENOISE] = {"pi0_stage_seconds", "stage=\"denoise\"", NULL},
    [METRIC_BATCH_SIZE] = {"pi0_batch_size", "", "Requests that ran as one inference."},
};

pi0_status metrics_open(metrics **result, pi0_error *error) {
    metrics *m = memory_zeroed(1, sizeof *m);
    *result = m;
    if (!m) return error_memory(error, sizeof *m, "the metrics");
    pthread_mutex_init(&m->lock, NULL);
    m->started_ms = clock_ms();
    return PI0_OK;
}

void metrics_close(metrics **metrics) {
    if (!*metrics) return;
    pthread_mutex_destroy(&(*metrics)->lock);
    memory_release(*metrics);
    *metrics = NULL;
}

void metrics_count(metrics *m, metric_counter counter) {
    pthread_mutex_lock(&m->lock);
    m->counters[counter]++;
    pthread_mutex_unlock(&m->lock);
}

void metrics_set(metrics *m, metric_gauge gauge, int64_t value) {
    pthread_mutex_lock(&m->lock);
    m->gauges[gauge] = value;
    pthread_mutex_unlock(&m->lock);
}

static void observe(metrics *m, metric_histogram which, double value) {
    histogram *h = &m->histograms[which];
    const double *bounds = which == METRIC_BATCH_SIZE ? batch_bounds : second_bounds;
    int bucket = 0;
    while (bucket < BUCKETS && value > bounds[bucket]) bucket++;
    h->buckets[bucket]++;
    h->recent[h->count % RECENT] = value;
    h->count++;
    h->sum += value;
}

void metrics_observe(metrics *m, metric_histogram which, double value) {
    pthread_mutex_lock(&m->lock);
    observe(m, which, value);
    pthread_mutex_unlock(&m->lock);
}

void metrics_inference(metrics *m, const pi0_timings *timings, int batch) {
    pthread_mutex_lock(&m->lock);
    observe(m, METRIC_INFER, timings->total_ms / 1000);
    observe(m, METRIC_VIT, timings->stage_ms[PI0_STAGE_VIT] / 1000);
    observe(m, METRIC_PREFILL, timings->stage_ms[PI0_STAGE_PREFILL] / 1000);
    observe(m, METRIC_DENOISE, timings->stage_ms[PI0_STAGE_DENOISE] / 1000);
    observe(m, METRIC_BATCH_SIZE, batch);
    pthread_mutex_unlock(&m->lock);
}

void metrics_error(metrics *m, const char *message) {
    pthread_mutex_lock(&m->lock);
    snprintf(m->last_error, sizeof m->last_error, "%s", message);
    pthread_mutex_unlock(&m->lock);
}

/* Pages of /proc/self/statm: resident size in bytes. */
static int64_t resident_bytes(void) {
    long long size, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%lld %lld", &size, &resident) != 2) resident = 0;
    fclose(file);
    return (int64_t)resident * sysconf(_SC_PAGESIZE);
}

/* A metric that several rows share is introduced by its first row, the one with a help text. */
static void put_heading(text_buffer *text, const char *name, const char *help, const char *type) {
    if (help) text_put_format(text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_histogram(const metrics *m, metric_histogram which, text_buffer *text) {
    const histogram *h = &m->histograms[which];
    const double *bounds = which == METRIC_BATCH_SIZE ? batch_bounds : second_bounds;
    const char *name = histogram_names[which].name, *labels = histogram_names[which].labels;
    const char *comma = *labels ? "," : "";
    uint64_t below = 0;
    put_heading(text, name, histogram_names[which].help, "histogram");
    for (int i = 0; i < BUCKETS; i++) {
        below += h->buckets[i];
        text_put_format(text, "%s_bucket{%s%sle=\"", name, labels, comma);
        text_put_number(text, bounds[i]);
        text_put_format(text, "\"} %llu\n", (unsigned long long)below);
    }
    text_put_format(text, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, comma, (unsigned long long)h->count);
    const char *open = *labels ? "{" : "", *close = *labels ? "}" : "";
    text_put_format(text, "%s_sum%s%s%s ", name, open, labels, close);
    text_put_number(text, h->sum);
    text_put_format(text, "\n%s_count%s%s%s %llu\n", name, open, labels, close, (unsigned long long)h->count);
}

void metrics_prometheus(metrics *m, text_buffer *text) {
    int64_t resident = resident_bytes();
    pthread_mutex_lock(&m->lock);
    for (int i = 0; i < METRIC_COUNTERS; i++) {
        put_heading(text, counter_names[i].name, counter_names[i].help, "counter");
        text_put_format(text, "%s%s %llu\n", counter_names[i].name, counter_names[i].labels,
                        (unsigned long long)m->counters[i]);
    }
    for (int i = 0; i < METRIC_GAUGES; i++) {
        put_heading(text, gauge_names[i].name, gauge_names[i].help, "gauge");
        text_put_format(text, "%s %lld\n", gauge_names[i].name, (long long)m->gauges[i]);
    }
    put_heading(text, "pi0_resident_bytes", "Resident memory of the process.", "gauge");
    text_put_format(text, "pi0_resident_bytes %lld\n", (long long)resident);
    put_heading(text, "pi0_uptime_seconds", "Since the server started.", "gauge");
    text_put_format(text, "pi0_uptime_seconds %.3f\n", (clock_ms() - m->started_ms) / 1000);
    for (int i = 0; i < METRIC_HISTOGRAMS; i++) put_histogram(m, (metric_histogram)i, text);
    pthread_mutex_unlock(&m->lock);
}

/* "name":{"count":..,"mean_ms":..,"p50_ms":..,"p90_ms":..,"p99_ms":..} of the last values */
static void put_percentiles(const metrics *m, metric_histogram which, const char *name, text_buffer *text) {
    const histogram *h = &m->histograms[which];
    size_t count = h->count < RECENT ? (size_t)h->count : RECENT;
    double values[RECENT];
    text_put_format(text, "\"%s\":{\"count\":%llu", name, (unsigned long long)h->count);
    if (count) {
        for (size_t i = 0; i < count; i++) values[i] = 1000 * h->recent[i];
        latency l = latency_of(values, count);
        text_put_format(text, ",\"mean_ms\":%.4f,\"p50_ms\":%.4f,\"p90_ms\":%.4f,\"p99_ms\":%.4f", l.mean, l.p50, l.p90,
                        l.p99);
    }
    text_put(text, "}");
}

void metrics_json(metrics *m, text_buffer *text) {
    static const struct {
        metric_histogram which;
        const char *name;
    } shown[] = {{METRIC_TOTAL, "total"},    {METRIC_WAIT, "wait"}, {METRIC_PREPARE, "prepare"},
                 {METRIC_INFER, "infer"},    {METRIC_VIT, "vit"},   {METRIC_PREFILL, "prefill"},
                 {METRIC_DENOISE, "denoise"}};
    int64_t resident = resident_bytes();
    pthread_mutex_lock(&m->lock);
    uint64_t errors = 0;
    for (int i = METRIC_ERRORS_REQUEST; i <= METRIC_ERRORS_TOO_LARGE; i++) errors += m->counters[i];
    text_put_format(text, "\"uptime_s\":%.1f,\"resident_bytes\":%lld,\"clients\":%lld,\"queue\":%lld,\"running\":%lld,",
                    (clock_ms() - m->started_ms) / 1000, (long long)resident, (long long)m->gauges[METRIC_CLIENTS],
                    (long long)m->gauges[METRIC_QUEUE], (long long)m->gauges[METRIC_RUNNING]);
    text_put_format(text, "\"requests\":%llu,\"errors\":%llu,\"abandoned\":%llu,\"last_error\":",
                    (unsigned long long)m->counters[METRIC_REQUESTS], (unsigned long long)errors,
                    (unsigned long long)m->counters[METRIC_ABANDONED]);
    text_put_json_string(text, m->last_error, strlen(m->last_error));
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        text_put(text, ",");
        put_percentiles(m, shown[i].which, shown[i].name, text);
    }
    const histogram *batches = &m->histograms[METRIC_BATCH_SIZE];
    text_put_format(text, ",\"batch\":{\"count\":%llu", (unsigned long long)batches->count);
    if (batches->count) text_put_format(text, ",\"mean\":%.3f", batches->sum / (double)batches->count);
    text_put(text, "}");
    pthread_mutex_unlock(&m->lock);
}
