/*
 * The policy server: openpi's websocket protocol (spec/serving; openpi serving/websocket_policy_server.py) over
 * libwebsockets. The network has a thread of its own, so pings and health checks are answered while a request runs.
 */
#ifndef PI0_SERVE_SERVER_H
#define PI0_SERVE_SERVER_H

#include "serve/scheduler.h"

typedef struct server_options {
    const char *host;     /* "127.0.0.1", "0.0.0.0", "::1" */
    int port;             /* 0: any free one */
    const void *metadata; /* msgpack map sent to every client first; borrowed */
    size_t metadata_size;
    int max_clients;
    size_t max_message_bytes;
    double request_timeout_ms;
    double idle_timeout_s; /* 0: none */
    double drain_timeout_s;
    double ping_interval_s;         /* 0: clients are not pinged */
    const char *tls_cert, *tls_key; /* PEM files, or NULL both: plain TCP */
    const char *api_key;            /* asked for as `Authorization: Api-Key KEY`; NULL: nobody is asked */
    const char *about;              /* "pi0_aloha_sim, cpu, bf16": for the dashboard; borrowed */
    cameras *cameras;               /* what the dashboard shows of them, or NULL; borrowed */
    event_log log;
    void (*listening)(void *user, const char *host, int port); /* once clients can connect; or NULL */
    void *listening_user;
} server_options;

typedef struct server server;

/* Binds the port. Scheduler and metrics come with server_attach, because the scheduler needs the server to wake it. */
pi0_status server_open(server **server, const server_options *options, metrics *metrics, pi0_error *error);
void server_close(server **server);
void server_attach(server *server, scheduler *scheduler);
/* Serves until server_stop; then refuses what is new, finishes what runs, and returns PI0_OK, or PI0_ERROR_CANCELLED
 * when the drain time ran out before that. */
pi0_status server_run(server *server, pi0_error *error);
/* From any thread. */
void server_stop(server *server);
/* From any thread: scheduler_take has something. Has the type of scheduler_options.wake. */
void server_wake(void *server);

#endif
