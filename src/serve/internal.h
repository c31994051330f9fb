/* What the files of the network thread share. Everything here is touched by that thread only, unless said otherwise. */
#ifndef PI0_SERVE_INTERNAL_H
#define PI0_SERVE_INTERNAL_H

#include <libwebsockets.h>
#include <stdatomic.h>

#include "serve/server.h"

/* One websocket message on its way out. */
typedef struct frame {
    struct frame *next;
    size_t size;
    bool text;
    unsigned char bytes[]; /* LWS_PRE bytes for the header, then [size] */
} frame;

/* One websocket connection. Lives in libwebsockets' per-session memory. Times are of the monotonic clock; 0: not so. */
typedef struct client {
    struct client *next; /* in server.clients */
    struct lws *wsi;
    uint64_t id;
    unsigned char *message; /* being received: [capacity], size so far */
    size_t size, capacity;
    bool binary;     /* of the message that is being received */
    bool discarding; /* refused, and the rest of its message is still coming in */
    job *queued;     /* received while another request of this client was at work; no more is read until its turn */
    job *pending;    /* borrowed: with the scheduler */
    frame *first_out, *last_out;
    int close_code; /* once everything is sent; 0: stay open */
    const char *close_text;
    double message_since_ms; /* a message has begun and is not complete */
    double sending_since_ms; /* something waits to be sent */
    double closing_since_ms; /* close_code was set */
    double heard_ms;         /* something came in last: data or a pong */
    double pinged_ms;        /* our last ping went out, or the connection came up */
    bool ping_due;
    double waiting_since_ms; /* the last response went out, or the connection came up */
    double prev_total_ms;    /* negative before the first response */
} client;

struct server {
    server_options options;
    metrics *metrics;
    scheduler *scheduler;
    struct lws_context *context;
    lws_sorted_usec_list_t tick;
    client *clients;
    int client_count;
    uint64_t next_client;
    atomic_bool stopping; /* set by server_stop, from any thread */
    bool draining;        /* refuses what is new */
};

/* ---- connection.c: the websocket side of the one protocol's callback ---- */

int connection_event(server *server, struct lws *wsi, enum lws_callback_reasons reason, client *client, void *in,
                     size_t size);
/* Hands out what the scheduler has finished. */
void connection_deliver(server *server);
/* Ends what has lasted too long: requests, messages that do not end, peers that do not read, silence. */
void connection_check_times(server *server);
/* Every connection has got what it is owed. */
bool connection_all_sent(const server *server);
/* Says goodbye to all (close code 1001). */
void connection_close_all(server *server);

/* ---- http.c ---- */

/* May this upgrade go on? 0: yes; else the answer has been sent: what the callback has to return. */
int http_confirm_upgrade(server *server, struct lws *wsi);
/* One request that is no upgrade. */
int http_request(server *server, struct lws *wsi, const char *path);

#endif
