/*
 * A client's life: metadata first, then one response per request. A failed request is answered by a text frame with the
 * reason and close code 1011, as openpi's server does; a full queue by a text frame and 1013.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "serve/internal.h"

static const char error_close_text[] = "Internal server error. Traceback included in previous frame.";
enum {
    CLOSE_GOING_AWAY = 1001,
    CLOSE_POLICY = 1008,
    CLOSE_TOO_LARGE = 1009,
    CLOSE_ERROR = 1011,
    CLOSE_TRY_LATER = 1013
};

/* Queues one frame; the client has at most one at a time, because it waits for the answer before it asks again. */
static void send_frame(client *c, const void *bytes, size_t size, bool text) {
    memory_release(c->out);
    c->out = memory_allocate(LWS_PRE + size);
    if (!c->out) {
        c->close_code = CLOSE_ERROR;
        c->close_text = "out of memory";
    } else {
        memcpy(c->out + LWS_PRE, bytes, size);
        c->out_size = size;
        c->out_text = text;
    }
    lws_callback_on_writable(c->wsi);
}

static void forget_pending(client *c) {
    if (c->pending) atomic_store(&c->pending->abandoned, true);
    c->pending = NULL;
}

/* A text frame with the reason, then the close code; no further request of this client is looked at. */
static void refuse(server *s, client *c, metric_counter kind, const char *message, int code) {
    char line[1100];
    snprintf(line, sizeof line, "pi0: %s", message);
    metrics_count(s->metrics, kind);
    metrics_error(s->metrics, message);
    log_message(&s->options.log, PI0_LOG_WARNING, "client %llu: %s", (unsigned long long)c->id, message);
    forget_pending(c);
    c->close_code = code;
    c->close_text = code == CLOSE_ERROR ? error_close_text : "refused";
    send_frame(c, line, strlen(line), true);
}

static void submit(server *s, client *c, job *j) {
    j->connection = c->id;
    j->prev_total_ms = c->prev_total_ms;
    j->deadline_ms = j->received_ms + s->options.request_timeout_ms;
    j->record = s->next_record;
    if (s->draining) {
        job_free(j);
        refuse(s, c, METRIC_ERRORS_QUEUE_FULL, "the server is shutting down", CLOSE_GOING_AWAY);
    } else if (!scheduler_submit(s->scheduler, j)) {
        job_free(j);
        refuse(s, c, METRIC_ERRORS_QUEUE_FULL, "the queue is full: try again later", CLOSE_TRY_LATER);
    } else {
        if (s->options.record) s->next_record++;
        c->pending = j;
        lws_set_timer_usecs(c->wsi, (lws_usec_t)(s->options.request_timeout_ms * 1000));
    }
}

/* A whole message has come in. */
static void receive_message(server *s, client *c) {
    if (!c->binary) {
        refuse(s, c, METRIC_ERRORS_REQUEST, "a text frame: expected a binary msgpack request", CLOSE_ERROR);
        return;
    }
    job *j = c->message ? job_new(c->message, c->size) : NULL;
    if (!j) {
        refuse(s, c, METRIC_ERRORS_REQUEST, c->message ? "out of memory" : "an empty request", CLOSE_ERROR);
        return;
    }
    c->message = NULL;
    c->size = c->capacity = 0;
    j->received_ms = clock_ms();
    if (c->pending) {
        c->queued = j; /* the next one; until that is answered nothing more is read */
        lws_rx_flow_control(c->wsi, 0);
    } else {
        submit(s, c, j);
    }
}

static bool make_room(client *c, size_t more) {
    if (c->size + more <= c->capacity) return true;
    size_t capacity = c->capacity ? c->capacity : 64 << 10;
    while (capacity < c->size + more) capacity *= 2;
    unsigned char *grown = memory_resize(c->message, c->size, capacity);
    if (!grown) return false;
    c->message = grown;
    c->capacity = capacity;
    return true;
}

static int receive(server *s, client *c, const void *bytes, size_t size) {
    if (c->close_code) return 0; /* refused already: the rest is of no interest */
    if (lws_is_first_fragment(c->wsi)) {
        c->binary = lws_frame_is_binary(c->wsi);
        /* a sender that never ends its message is cut off too */
        if (!c->pending) lws_set_timer_usecs(c->wsi, (lws_usec_t)(s->options.request_timeout_ms * 1000));
    }
    size_t announced = size + lws_remaining_packet_payload(c->wsi);
    if (c->size + announced > s->options.max_message_bytes) {
        char message[128];
        snprintf(message, sizeof message, "a message of more than %zu bytes", s->options.max_message_bytes);
        refuse(s, c, METRIC_ERRORS_TOO_LARGE, message, CLOSE_TOO_LARGE);
        return 0;
    }
    if (!make_room(c, size)) {
        refuse(s, c, METRIC_ERRORS_REQUEST, "out of memory", CLOSE_ERROR);
        return 0;
    }
    if (size) memcpy(c->message + c->size, bytes, size);
    c->size += size;
    if (lws_is_final_fragment(c->wsi) && !lws_remaining_packet_payload(c->wsi)) receive_message(s, c);
    return 0;
}

static int writeable(server *s, client *c) {
    if (c->out) {
        int written = lws_write(c->wsi, c->out + LWS_PRE, c->out_size, c->out_text ? LWS_WRITE_TEXT : LWS_WRITE_BINARY);
        bool whole = written >= (int)c->out_size;
        memory_release(c->out);
        c->out = NULL;
        if (!whole) return -1;
        if (c->close_code) lws_callback_on_writable(c->wsi); /* close when the frame has gone out */
        return 0;
    }
    if (!c->close_code) return 0;
    (void)s;
    lws_close_reason(c->wsi, (enum lws_close_status)c->close_code, (unsigned char *)(uintptr_t)c->close_text,
                     strlen(c->close_text));
    return -1;
}

static void establish(server *s, struct lws *wsi, client *c) {
    memset(c, 0, sizeof *c);
    c->wsi = wsi;
    c->id = ++s->next_client;
    c->prev_total_ms = -1;
    c->waiting_since_ms = clock_ms();
    c->next = s->clients;
    s->clients = c;
    s->client_count++;
    metrics_count(s->metrics, METRIC_CONNECTIONS);
    metrics_set(s->metrics, METRIC_CLIENTS, s->client_count);
    log_message(&s->options.log, PI0_LOG_INFO, "client %llu: connected", (unsigned long long)c->id);
    send_frame(c, s->options.metadata, s->options.metadata_size, false);
    if (s->options.idle_timeout_s > 0) lws_set_timer_usecs(wsi, (lws_usec_t)(s->options.idle_timeout_s * 1e6));
}

static void closed(server *s, client *c) {
    if (!c->wsi) return; /* never established */
    for (client **at = &s->clients; *at; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            s->client_count--;
            break;
        }
    if (c->pending) metrics_count(s->metrics, METRIC_ABANDONED);
    forget_pending(c);
    job_free(c->queued);
    memory_release(c->message);
    memory_release(c->out);
    metrics_set(s->metrics, METRIC_CLIENTS, s->client_count);
    log_message(&s->options.log, PI0_LOG_INFO, "client %llu: gone", (unsigned long long)c->id);
    memset(c, 0, sizeof *c);
}

/* The one timer of a connection: of a running request, of a message that does not end, or of silence. */
static int timed_out(server *s, client *c) {
    if (c->close_code) return -1;
    if (c->pending)
        refuse(s, c, METRIC_ERRORS_TIMEOUT, "the request's time is up", CLOSE_ERROR);
    else if (c->size)
        refuse(s, c, METRIC_ERRORS_TIMEOUT, "the message did not come to its end in time", CLOSE_POLICY);
    else
        refuse(s, c, METRIC_ERRORS_TIMEOUT, "no request for a long time", CLOSE_GOING_AWAY);
    return 0;
}

int connection_event(server *s, struct lws *wsi, enum lws_callback_reasons reason, client *c, void *in, size_t size) {
    switch ((int)reason) {
    case LWS_CALLBACK_ESTABLISHED:
        establish(s, wsi, c);
        return 0;
    case LWS_CALLBACK_RECEIVE:
        return receive(s, c, in, size);
    case LWS_CALLBACK_SERVER_WRITEABLE:
        return writeable(s, c);
    case LWS_CALLBACK_TIMER:
        return timed_out(s, c);
    case LWS_CALLBACK_CLOSED:
        closed(s, c);
        return 0;
    default:
        return 0;
    }
}

static void answer(server *s, client *c, job *j) {
    c->pending = NULL;
    double now = clock_ms();
    if (j->failed) {
        bool engine = j->error.status == PI0_ERROR_DEVICE || j->error.status == PI0_ERROR_MEMORY;
        refuse(s, c, engine ? METRIC_ERRORS_ENGINE : METRIC_ERRORS_REQUEST, j->error.message, CLOSE_ERROR);
        return;
    }
    metrics_count(s->metrics, METRIC_REQUESTS);
    metrics_observe(s->metrics, METRIC_TOTAL, (now - j->received_ms) / 1000);
    log_message(&s->options.log, PI0_LOG_INFO, "client %llu: answered in %.2f ms (model %.2f ms, batch of %d)",
                (unsigned long long)c->id, now - j->received_ms, j->infer_ms, j->batch);
    send_frame(c, j->response.bytes, j->response.size, false);
    c->prev_total_ms = now - c->waiting_since_ms;
    c->waiting_since_ms = now;
    lws_set_timer_usecs(c->wsi, s->options.idle_timeout_s > 0 ? (lws_usec_t)(s->options.idle_timeout_s * 1e6)
                                                              : LWS_SET_TIMER_USEC_CANCEL);
    if (c->queued) {
        job *next = c->queued;
        c->queued = NULL;
        submit(s, c, next);
        lws_rx_flow_control(c->wsi, 1);
    }
}

void connection_deliver(server *s) {
    for (job *j; (j = scheduler_take(s->scheduler));) {
        for (client *c = s->clients; c; c = c->next)
            if (c->pending == j) {
                if (!j->failed && !j->response.size)
                    timed_out(s, c); /* its deadline passed in the queue */
                else
                    answer(s, c, j);
                break;
            }
        job_free(j);
    }
}
