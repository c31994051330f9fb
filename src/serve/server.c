/* The network thread: libwebsockets' context, its loop, and a quiet end. */
#include "serve/server.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "serve/internal.h"

enum { TICK_MS = 50, GOODBYE_MS = 500 };

static int callback(struct lws *wsi, enum lws_callback_reasons reason, void *session, void *in, size_t size) {
    server *s = lws_context_user(lws_get_context(wsi));
    if (!s) return 0;
    switch ((int)reason) {
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
        /* "h2c" and the like are not for us */
        return in && strcmp(in, "websocket") == 0 ? http_confirm_upgrade(s, wsi) : -1;
    case LWS_CALLBACK_HTTP:
        return http_request(s, wsi, in);
    case LWS_CALLBACK_EVENT_WAIT_CANCELLED:
        if (s->scheduler) connection_deliver(s);
        return 0;
    case LWS_CALLBACK_ESTABLISHED:
    case LWS_CALLBACK_RECEIVE:
    case LWS_CALLBACK_RECEIVE_PONG:
    case LWS_CALLBACK_SERVER_WRITEABLE:
    case LWS_CALLBACK_CLOSED:
        return connection_event(s, wsi, reason, session, in, size);
    default:
        return lws_callback_http_dummy(wsi, reason, session, in, size);
    }
}

/* libwebsockets would only say "failed": binds once by hand to have the system's reason. */
static pi0_status check_address(const server_options *o, pi0_error *error) {
    char port[16];
    snprintf(port, sizeof port, "%d", o->port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
    int lookup = getaddrinfo(o->host, port, &hints, &found);
    if (lookup)
        return error_set(error, PI0_ERROR_ARGUMENT, "host %s: expected an address of this machine: %s", o->host,
                         gai_strerror(lookup));
    int socket_ = socket(found->ai_family, found->ai_socktype, 0), one = 1, reason = 0;
    if (socket_ < 0)
        reason = errno;
    else {
        setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(socket_, found->ai_addr, found->ai_addrlen) || listen(socket_, 1)) reason = errno;
        close(socket_);
    }
    freeaddrinfo(found);
    if (!reason) return PI0_OK;
    return error_set(error, PI0_ERROR_IO, "cannot listen on %s port %d: %s", o->host, o->port, strerror(reason));
}

static pi0_status check_tls(const server_options *o, pi0_error *error) {
    if (!o->tls_cert && !o->tls_key) return PI0_OK;
    if (!o->tls_cert || !o->tls_key)
        return error_set(error, PI0_ERROR_ARGUMENT, "TLS: expected a certificate and a key, one is missing");
    const char *files[] = {o->tls_cert, o->tls_key};
    for (int i = 0; i < 2; i++)
        if (access(files[i], R_OK)) return error_set(error, PI0_ERROR_IO, "TLS file %s: %s", files[i], strerror(errno));
    return PI0_OK;
}

pi0_status server_open(server **result, const server_options *options, metrics *metrics, pi0_error *error) {
    /* connection.c does the pinging; this is as late as it goes */
    static const lws_retry_bo_t liveness = {.secs_since_valid_ping = 65000, .secs_since_valid_hangup = 65500};
    static const struct lws_protocols protocols[] = {
        {.name = "pi0", .callback = callback, .per_session_data_size = sizeof(client), .rx_buffer_size = 256 << 10},
        {0}};
    *result = NULL;
    TRY(check_tls(options, error));
    TRY(check_address(options, error));
    server *s = memory_zeroed(1, sizeof *s);
    if (!s) return error_memory(error, sizeof *s, "the server");
    s->options = *options;
    s->metrics = metrics;
    struct lws_context_creation_info info = {
        .port = options->port,
        .iface = options->host,
        .protocols = protocols,
        .user = s,
        .gid = (gid_t)-1,
        .uid = (uid_t)-1,
        .pt_serv_buf_size = 256 << 10,
        .retry_and_idle_policy = &liveness,
        .timeout_secs = 10,
        .keepalive_timeout = 5,
        .server_string = "pi0",
        .vhost_name = "pi0",
        .alpn = "http/1.1",
        .options = LWS_SERVER_OPTION_FAIL_UPON_UNABLE_TO_BIND | LWS_SERVER_OPTION_DISABLE_IPV6,
    };
    if (strchr(options->host, ':')) info.options &= ~(uint64_t)LWS_SERVER_OPTION_DISABLE_IPV6;
    if (options->tls_cert) {
        info.options |= LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
        info.ssl_cert_filepath = options->tls_cert;
        info.ssl_private_key_filepath = options->tls_key;
    }
    lws_set_log_level(0, NULL);
    s->context = lws_create_context(&info);
    if (!s->context) {
        memory_release(s);
        return error_set(error, PI0_ERROR_IO, "cannot serve on %s port %d%s", options->host, options->port,
                         options->tls_cert ? ": is the certificate's key the right one?" : "");
    }
    *result = s;
    return PI0_OK;
}

void server_close(server **server) {
    if (!*server) return;
    lws_sul_cancel(&(*server)->tick);
    lws_context_destroy((*server)->context);
    memory_release(*server);
    *server = NULL;
}

void server_attach(server *s, scheduler *scheduler) { s->scheduler = scheduler; }

void server_stop(server *s) {
    atomic_store(&s->stopping, true);
    lws_cancel_service(s->context);
}

void server_wake(void *s) { lws_cancel_service(((server *)s)->context); }

/* libwebsockets sleeps until something happens: this happens often enough for every deadline. */
static void tick(lws_sorted_usec_list_t *sul) {
    server *s = lws_container_of(sul, server, tick);
    connection_check_times(s);
    lws_sul_schedule(s->context, 0, sul, tick, TICK_MS * LWS_US_PER_MS);
}

static pi0_status serve(server *s, pi0_error *error) {
    if (lws_service(s->context, 0) >= 0) return PI0_OK;
    return error_set(error, PI0_ERROR_IO, "the network loop failed");
}

/* Answers what was asked before, refuses the rest, says goodbye. */
static pi0_status drain(server *s, pi0_error *error) {
    double drain_ms = s->options.drain_timeout_s * 1000, begin_ms = clock_ms();
    s->draining = true;
    const event_number numbers[] = {{"clients", s->client_count}, {0}};
    event_write(&s->options.log, PI0_LOG_INFO, "stopping", numbers, "stopping: %d clients, finishing what runs",
                s->client_count);
    while (!scheduler_idle(s->scheduler) || !connection_all_sent(s)) {
        if (clock_ms() - begin_ms > drain_ms)
            return error_set(error, PI0_ERROR_CANCELLED, "the drain time of %g s ran out with requests unanswered",
                             s->options.drain_timeout_s);
        TRY(serve(s, error));
    }
    double goodbye_ms = clock_ms() + GOODBYE_MS;
    connection_close_all(s);
    while (s->client_count && clock_ms() < goodbye_ms) TRY(serve(s, error));
    return PI0_OK;
}

pi0_status server_run(server *s, pi0_error *error) {
    if (s->options.listening) {
        struct lws_vhost *vhost = lws_get_vhost_by_name(s->context, "pi0");
        s->options.listening(s->options.listening_user, s->options.host,
                             vhost ? lws_get_vhost_listen_port(vhost) : s->options.port);
    }
    lws_sul_schedule(s->context, 0, &s->tick, tick, TICK_MS * LWS_US_PER_MS);
    while (!atomic_load(&s->stopping)) TRY(serve(s, error));
    return drain(s, error);
}
