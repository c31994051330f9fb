/* What the server counts: written by its threads, read by /metrics (Prometheus text), the dashboard and the log. */
#ifndef PI0_SERVE_METRICS_H
#define PI0_SERVE_METRICS_H

#include "base/text.h"
#include "pi0.h"

typedef struct metrics metrics;

typedef enum metric_counter {
    METRIC_REQUESTS,       /* answered with actions */
    METRIC_ERRORS_REQUEST, /* the request was refused: wrong keys, shapes, bytes */
    METRIC_ERRORS_ENGINE,  /* the engine failed */
    METRIC_ERRORS_TIMEOUT, /* the deadline passed */
    METRIC_ERRORS_QUEUE_FULL,
    METRIC_ERRORS_TOO_LARGE, /* message over the limit */
    METRIC_REFUSED_DRAINING, /* came while the server was shutting down */
    METRIC_ABANDONED,        /* the client left before its answer */
    METRIC_CONNECTIONS,      /* accepted in all */
    METRIC_IDLE,             /* connections closed because nothing was asked for a long time */
    METRIC_REJECTED_CLIENTS, /* too many clients */
    METRIC_REJECTED_AUTH,    /* wrong or no API key */
    METRIC_REJECTED_ORIGIN,  /* a browser's page from elsewhere */
    METRIC_RECORD_ERRORS,    /* requests or responses that could not be recorded */
    METRIC_COUNTERS
} metric_counter;

typedef enum metric_gauge { METRIC_CLIENTS, METRIC_QUEUE, METRIC_RUNNING, METRIC_GAUGES } metric_gauge;

/* Histograms in seconds, but for the batch size. */
typedef enum metric_histogram {
    METRIC_TOTAL,   /* received to answered */
    METRIC_WAIT,    /* received to started, less the preparing */
    METRIC_PREPARE, /* decoding, images, tokens */
    METRIC_INFER,   /* the model */
    METRIC_VIT,
    METRIC_PREFILL,
    METRIC_DENOISE,
    METRIC_BATCH_SIZE,
    METRIC_HISTOGRAMS
} metric_histogram;

pi0_status metrics_open(metrics **metrics, pi0_error *error);
void metrics_close(metrics **metrics);

void metrics_count(metrics *metrics, metric_counter counter);
void metrics_set(metrics *metrics, metric_gauge gauge, int64_t value);
void metrics_observe(metrics *metrics, metric_histogram histogram, double value);
/* One inference of `batch` requests: stage times and batch size. */
void metrics_inference(metrics *metrics, const pi0_timings *timings, int batch);
/* The last error's text, for the dashboard. */
void metrics_error(metrics *metrics, const char *message);

/* Prometheus text exposition format 0.0.4. */
void metrics_prometheus(metrics *metrics, text_buffer *text);
/* Members of a JSON object, for the dashboard: counters, gauges, percentiles of the last 1,024 requests, stage means.
 */
void metrics_json(metrics *metrics, text_buffer *text);

#endif
