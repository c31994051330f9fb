/*
 * A client's life: metadata first, then one response per request. A failed request is answered by a text frame with the
 * reason and close code 1011, as openpi's server does; a full queue by a text frame and 1013.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "serve/internal.h"

enum {
    CLOSE_GOING_AWAY = 1001,
    CLOSE_POLICY = 1008,
    CLOSE_TOO_LARGE = 1009,
    CLOSE_ERROR = 1011,
    CLOSE_TRY_LATER = 1013
};
enum {
    MESSAGE_MS =
        30000, /* a message has to be complete after that; this and the next: less where requests have less time */
    SENDING_MS = 10000, /* a client that does not read for so long is cut off */
    DISCARD_MS = 2000,  /* the rest of a refused message is read for so long: who still sends does not see the reason */
    CLOSING_MS = 4000,  /* a client that does not answer our goodbye is cut off */
    RESERVE_BYTES = 1 << 20 /* taken at once for a message that announces so much; more only as it comes in */
};

static const char *close_text(int code) {
    switch (code) {
    case CLOSE_ERROR:
        return "Internal server error. Traceback included in previous frame.";
    case CLOSE_TRY_LATER:
        return "The queue is full: try again later.";
    case CLOSE_TOO_LARGE:
        return "The message is too large.";
    case CLOSE_GOING_AWAY:
        return "The server is going away.";
    default:
        return "Refused.";
    }
}

static void close_with(client *c, int code) {
    if (c->close_code) return;
    c->close_code = code;
    c->close_text = close_text(code);
    c->closing_since_ms = clock_ms();
    lws_callback_on_writable(c->wsi);
}

static void send_frame(client *c, const void *bytes, size_t size, bool text) {
    frame *made = memory_allocate(sizeof *made + LWS_PRE + size);
    if (!made) {
        close_with(c, CLOSE_ERROR);
        return;
    }
    made->next = NULL;
    made->size = size;
    made->text = text;
    memcpy(made->bytes + LWS_PRE, bytes, size);
    if (c->last_out)
        c->last_out->next = made;
    else
        c->first_out = made;
    c->last_out = made;
    if (!c->sending_since_ms) c->sending_since_ms = clock_ms();
    lws_callback_on_writable(c->wsi);
}

static void abandon_pending(server *s, client *c) {
    if (c->pending) scheduler_abandon(s->scheduler, c->pending);
    c->pending = NULL;
}

/* A text frame with the reason, then the close code; no further request of this client is looked at. */
static void refuse(server *s, client *c, metric_counter kind, const char *message, int code) {
    char line[1100] = "pi0: ";
    if (c->close_code) return;
    event_clean(line + 5, sizeof line - 5, message);
    metrics_count(s->metrics, kind);
    if (kind != METRIC_IDLE) metrics_error(s->metrics, line + 5);
    const event_number numbers[] = {{"client", (double)c->id}, {"code", code}, {0}};
    event_write(&s->options.log, kind == METRIC_IDLE ? PI0_LOG_INFO : PI0_LOG_WARNING, "refused", numbers,
                "client %llu: %s", (unsigned long long)c->id, line + 5);
    abandon_pending(s, c);
    job_free(c->queued);
    c->queued = NULL;
    memory_release(c->message);
    c->message = NULL;
    c->size = c->capacity = 0;
    send_frame(c, line, strlen(line), true);
    close_with(c, code);
}

/* ---- receiving ---- */

static void submit(server *s, client *c, job *j) {
    j->connection = c->id;
    j->prev_total_ms = c->prev_total_ms;
    j->deadline_ms = j->received_ms + s->options.request_timeout_ms;
    if (s->draining) {
        job_free(j);
        refuse(s, c, METRIC_REFUSED_DRAINING, "the server is shutting down", CLOSE_GOING_AWAY);
    } else if (!scheduler_submit(s->scheduler, j)) {
        job_free(j);
        refuse(s, c, METRIC_ERRORS_QUEUE_FULL, "the queue is full: try again later", CLOSE_TRY_LATER);
    } else {
        c->pending = j;
    }
}

/* A whole message has come in. */
static void receive_message(server *s, client *c) {
    c->message_since_ms = 0;
    if (!c->binary) {
        refuse(s, c, METRIC_ERRORS_REQUEST, "a text frame: expected a binary msgpack request", CLOSE_ERROR);
        return;
    }
    if (!c->size) {
        refuse(s, c, METRIC_ERRORS_REQUEST, "an empty message: expected a msgpack request", CLOSE_ERROR);
        return;
    }
    if (c->queued) { /* reading had stopped; what still came in was on its way */
        refuse(s, c, METRIC_ERRORS_REQUEST, "too many requests at once: expected one at a time", CLOSE_ERROR);
        return;
    }
    job *j = job_new(c->message, c->size);
    if (!j) {
        refuse(s, c, METRIC_ERRORS_REQUEST, "out of memory", CLOSE_ERROR);
        return;
    }
    c->message = NULL;
    c->size = c->capacity = 0;
    j->received_ms = clock_ms();
    if (c->pending || c->first_out) {
        c->queued = j;
        lws_rx_flow_control(c->wsi, 0);
    } else {
        submit(s, c, j);
    }
}

/* Room for `size` bytes of the `announced` ones that are on their way (within the limit, but maybe never sent). */
static bool make_room(client *c, size_t size, size_t announced) {
    if (c->size + size <= c->capacity) return true;
    size_t capacity = c->size + announced;
    if (capacity > RESERVE_BYTES) {
        capacity = c->capacity > RESERVE_BYTES ? c->capacity : RESERVE_BYTES;
        while (capacity < c->size + size) capacity *= 2;
    }
    unsigned char *grown = memory_resize(c->message, c->size, capacity);
    if (!grown) return false;
    c->message = grown;
    c->capacity = capacity;
    return true;
}

static void discard(client *c) {
    c->discarding = lws_remaining_packet_payload(c->wsi) || !lws_is_final_fragment(c->wsi);
    if (!c->discarding) lws_callback_on_writable(c->wsi);
}

static void receive(server *s, client *c, const void *bytes, size_t size) {
    if (c->close_code) return; /* the rest is of no interest */
    if (!c->message_since_ms) c->message_since_ms = clock_ms();
    if (lws_is_first_fragment(c->wsi)) c->binary = lws_frame_is_binary(c->wsi);
    size_t remaining = lws_remaining_packet_payload(c->wsi), announced = size + remaining;
    if (announced > s->options.max_message_bytes - c->size) {
        char message[128];
        snprintf(message, sizeof message, "a message of more than %zu bytes", s->options.max_message_bytes);
        refuse(s, c, METRIC_ERRORS_TOO_LARGE, message, CLOSE_TOO_LARGE);
        return;
    }
    if (!make_room(c, size, announced)) {
        refuse(s, c, METRIC_ERRORS_REQUEST, "out of memory", CLOSE_ERROR);
        return;
    }
    if (size) memcpy(c->message + c->size, bytes, size);
    c->size += size;
    if (lws_is_final_fragment(c->wsi) && !remaining) receive_message(s, c);
}

/* ---- sending ---- */

/* The next request of a client that did not wait for its answer. */
static void submit_queued(server *s, client *c) {
    job *next = c->queued;
    if (!next || c->pending || c->first_out || c->close_code) return;
    c->queued = NULL;
    submit(s, c, next);
    if (!c->close_code) lws_rx_flow_control(c->wsi, 1);
}

/* Ours, not libwebsockets': its own pings overwrite the payload of a client's ping that it has not answered yet. Not
 * empty: it does not tell of an empty pong. */
static int send_ping(client *c) {
    unsigned char bytes[LWS_PRE + 4] = {0};
    c->ping_due = false;
    c->pinged_ms = clock_ms();
    if (lws_write(c->wsi, bytes + LWS_PRE, 4, LWS_WRITE_PING) < 0) return -1;
    lws_callback_on_writable(c->wsi); /* there may be more to send */
    return 0;
}

static int writeable(server *s, client *c) {
    frame *out = c->first_out;
    if (c->ping_due && !c->close_code) return send_ping(c);
    if (!out) {
        if (!c->close_code || (c->discarding && clock_ms() - c->closing_since_ms < DISCARD_MS)) return 0;
        lws_close_reason(c->wsi, (enum lws_close_status)c->close_code, (unsigned char *)(uintptr_t)c->close_text,
                         strlen(c->close_text));
        return -1;
    }
    c->first_out = out->next;
    if (!c->first_out) c->last_out = NULL;
    int written = lws_write(c->wsi, out->bytes + LWS_PRE, out->size, out->text ? LWS_WRITE_TEXT : LWS_WRITE_BINARY);
    bool taken = written >= (int)out->size; /* what the socket does not take, libwebsockets keeps */
    memory_release(out);
    if (!taken) return -1;
    if (c->first_out || c->close_code)
        lws_callback_on_writable(c->wsi);
    else
        submit_queued(s, c);
    return 0;
}

/* ---- begin and end ---- */

static void establish(server *s, struct lws *wsi, client *c) {
    memset(c, 0, sizeof *c);
    c->wsi = wsi;
    c->id = ++s->next_client;
    c->prev_total_ms = -1;
    c->waiting_since_ms = c->heard_ms = c->pinged_ms = clock_ms();
    c->next = s->clients;
    s->clients = c;
    s->client_count++;
    metrics_count(s->metrics, METRIC_CONNECTIONS);
    metrics_set(s->metrics, METRIC_CLIENTS, s->client_count);
    const event_number numbers[] = {{"client", (double)c->id}, {"clients", s->client_count}, {0}};
    event_write(&s->options.log, PI0_LOG_INFO, "connected", numbers, "client %llu: connected",
                (unsigned long long)c->id);
    send_frame(c, s->options.metadata, s->options.metadata_size, false);
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
    abandon_pending(s, c);
    job_free(c->queued);
    memory_release(c->message);
    for (frame *out; (out = c->first_out);) {
        c->first_out = out->next;
        memory_release(out);
    }
    metrics_set(s->metrics, METRIC_CLIENTS, s->client_count);
    const event_number numbers[] = {{"client", (double)c->id}, {"clients", s->client_count}, {0}};
    event_write(&s->options.log, PI0_LOG_INFO, "disconnected", numbers, "client %llu: gone", (unsigned long long)c->id);
    memset(c, 0, sizeof *c);
}

int connection_event(server *s, struct lws *wsi, enum lws_callback_reasons reason, client *c, void *in, size_t size) {
    switch ((int)reason) {
    case LWS_CALLBACK_ESTABLISHED:
        establish(s, wsi, c);
        return 0;
    case LWS_CALLBACK_RECEIVE_PONG:
        c->heard_ms = clock_ms();
        return 0;
    case LWS_CALLBACK_RECEIVE:
        c->heard_ms = clock_ms();
        receive(s, c, in, size);
        if (c->close_code) discard(c);
        return 0;
    case LWS_CALLBACK_SERVER_WRITEABLE:
        return writeable(s, c);
    case LWS_CALLBACK_CLOSED:
        closed(s, c);
        return 0;
    default:
        return 0;
    }
}

/* ---- answers ---- */

static void answer(server *s, client *c, job *j) {
    c->pending = NULL;
    double now = clock_ms(), total_ms = now - j->received_ms;
    if (j->failed) {
        refuse(s, c, j->engine_failed ? METRIC_ERRORS_ENGINE : METRIC_ERRORS_REQUEST, j->error.message, CLOSE_ERROR);
        return;
    }
    if (!j->response.size) { /* it was not run, because its deadline passed in the queue */
        refuse(s, c, METRIC_ERRORS_TIMEOUT, "the request's time is up", CLOSE_ERROR);
        return;
    }
    metrics_count(s->metrics, METRIC_REQUESTS);
    metrics_observe(s->metrics, METRIC_TOTAL, total_ms / 1000);
    const event_number numbers[] = {{"client", (double)c->id}, {"total_ms", total_ms}, {"prepare_ms", j->prepare_ms},
                                    {"infer_ms", j->infer_ms}, {"batch", j->batch},    {0}};
    event_write(&s->options.log, PI0_LOG_INFO, "answered", numbers,
                "client %llu: answered in %.2f ms (model %.2f ms, batch of %d)", (unsigned long long)c->id, total_ms,
                j->infer_ms, j->batch);
    send_frame(c, j->response.bytes, j->response.size, false);
    c->prev_total_ms = now - c->waiting_since_ms;
    c->waiting_since_ms = now;
}

void connection_deliver(server *s) {
    for (job *j; (j = scheduler_take(s->scheduler));) {
        for (client *c = s->clients; c; c = c->next)
            if (c->pending == j) {
                answer(s, c, j);
                break;
            }
        job_free(j);
    }
}

/* ---- time ---- */

static void cut_off(server *s, client *c, const char *why) {
    event_write(&s->options.log, PI0_LOG_WARNING, "cut_off", (const event_number[]){{"client", (double)c->id}, {0}},
                "client %llu: cut off: %s", (unsigned long long)c->id, why);
    lws_set_timeout(c->wsi, PENDING_TIMEOUT_CLOSE_SEND, LWS_TO_KILL_ASYNC);
}

/* A ping every interval, as the reference does; who has let two go by without a sign of life is gone. */
static void check_alive(server *s, client *c, double now) {
    double interval_ms = s->options.ping_interval_s * 1000;
    if (interval_ms <= 0) return;
    if (now - c->heard_ms > 2 * interval_ms) {
        close_with(c, CLOSE_POLICY);
        cut_off(s, c, "it answers no pings");
    } else if (!c->ping_due && now - c->pinged_ms > interval_ms) {
        c->ping_due = true;
        lws_callback_on_writable(c->wsi);
    }
}

static void check_times(server *s, client *c, double now) {
    double timeout_ms = s->options.request_timeout_ms, idle_ms = s->options.idle_timeout_s * 1000;
    double message_ms = timeout_ms < MESSAGE_MS ? timeout_ms : MESSAGE_MS;
    double sending_ms = timeout_ms < SENDING_MS ? timeout_ms : SENDING_MS;
    if (!c->first_out && !lws_partial_buffered(c->wsi)) c->sending_since_ms = 0;
    if (c->close_code) {
        if (c->discarding && now - c->closing_since_ms >= DISCARD_MS) lws_callback_on_writable(c->wsi);
        if (now - c->closing_since_ms > CLOSING_MS) cut_off(s, c, "it does not take its leave");
    } else if (c->sending_since_ms && now - c->sending_since_ms > sending_ms) {
        close_with(c, CLOSE_POLICY);
        cut_off(s, c, "it does not read");
    } else if (c->pending && now > c->pending->deadline_ms) {
        refuse(s, c, METRIC_ERRORS_TIMEOUT, "the request's time is up", CLOSE_ERROR);
    } else if (c->message_since_ms && now - c->message_since_ms > message_ms) {
        refuse(s, c, METRIC_ERRORS_TIMEOUT, "the message did not come to its end in time", CLOSE_POLICY);
    } else if (idle_ms > 0 && !c->pending && !c->queued && !c->message_since_ms && !c->sending_since_ms &&
               now - c->waiting_since_ms > idle_ms) {
        refuse(s, c, METRIC_IDLE, "no request for a long time", CLOSE_GOING_AWAY);
    } else {
        check_alive(s, c, now);
    }
}

void connection_check_times(server *s) {
    double now = clock_ms();
    for (client *c = s->clients; c; c = c->next) check_times(s, c, now);
}

bool connection_all_sent(const server *s) {
    for (const client *c = s->clients; c; c = c->next)
        if (c->first_out || c->pending || c->queued || lws_partial_buffered(c->wsi)) return false;
    return true;
}

void connection_close_all(server *s) {
    for (client *c = s->clients; c; c = c->next) close_with(c, CLOSE_GOING_AWAY);
}
