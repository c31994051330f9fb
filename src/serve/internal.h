/* What the files of the network thread share. Everything here is touched by that thread only, unless said otherwise. */
#ifndef PI0_SERVE_INTERNAL_H
#define PI0_SERVE_INTERNAL_H

#include <libwebsockets.h>

#include "serve/server.h"

/* One websocket connection. Lives in libwebsockets' per-session memory, zeroed when it is established. */
typedef struct client {
    struct client *next; /* in server.clients */
    struct lws *wsi;
    uint64_t id;
    unsigned char *message; /* being received: [capacity], size so far */
    size_t size, capacity;
    bool binary;        /* of the frame that is being received */
    job *queued;        /* received while another request of this client runs */
    job *pending;       /* borrowed: with the scheduler */
    unsigned char *out; /* to be sent: LWS_PRE bytes, then [out_size]; NULL: nothing */
    size_t out_size;
    bool out_text;
    int close_code; /* after `out` is sent; 0: stay open */
    const char *close_text;
    double waiting_since_ms; /* since the last response went out, or the connection came up */
    double prev_total_ms;    /* negative before the first response */
} client;

struct server {
    server_options options;
    metrics *metrics;
    scheduler *scheduler;
    struct lws_context *context;
    client *clients;
    int client_count;
    uint64_t next_client, next_record;
    volatile sig_atomic_t stopping; /* set by server_stop */
    bool draining;
};

/* connection.c: the websocket side of the one protocol's callback. */
int connection_event(server *server, struct lws *wsi, enum lws_callback_reasons reason, client *client, void *in,
                     size_t size);
/* Hands out what the scheduler has finished. */
void connection_deliver(server *server);
/* http.c: may this upgrade go on? 0: yes; else the answer has been sent. */
int http_confirm_upgrade(server *server, struct lws *wsi);
/* http.c: one GET. */
int http_request(server *server, struct lws *wsi, const char *path);

#endif
