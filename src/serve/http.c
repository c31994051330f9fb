/* Plain HTTP beside the websocket: who may upgrade, /healthz as openpi's server answers it, /metrics. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "serve/internal.h"

/* Copies a header's value; false: absent or too long. */
static bool header(struct lws *wsi, enum lws_token_indexes token, char *value, size_t size) {
    int length = lws_hdr_total_length(wsi, token);
    return length > 0 && (size_t)length < size && lws_hdr_copy(wsi, value, (int)size, token) == length;
}

/* Compares in a time that depends on the given text's length only. */
static bool authorized(const server *s, struct lws *wsi) {
    char given[1024] = {0};
    if (!s->options.api_key) return true;
    if (!header(wsi, WSI_TOKEN_HTTP_AUTHORIZATION, given, sizeof given) || strncmp(given, "Api-Key ", 8) != 0)
        return false;
    size_t expected = strlen(s->options.api_key), length = strlen(given + 8), different = expected ^ length;
    for (size_t i = 0; i < length; i++)
        different |= (unsigned char)given[8 + i] ^ (unsigned char)s->options.api_key[expected ? i % expected : 0];
    return different == 0 && expected > 0;
}

/* A browser says which page opened the connection: only pages of this host may. Robots send no Origin. */
static bool origin_allowed(struct lws *wsi) {
    char origin[512], host[512];
    if (!lws_hdr_total_length(wsi, WSI_TOKEN_ORIGIN)) return true;
    if (!header(wsi, WSI_TOKEN_ORIGIN, origin, sizeof origin) || !header(wsi, WSI_TOKEN_HOST, host, sizeof host))
        return false;
    const char *authority = strstr(origin, "://");
    return authority && strcmp(authority + 3, host) == 0;
}

static int reject(server *s, struct lws *wsi, metric_counter counter, unsigned code, const char *why) {
    metrics_count(s->metrics, counter);
    log_message(&s->options.log, PI0_LOG_WARNING, "a connection was refused: %s", why);
    return lws_return_http_status(wsi, code, NULL) ? -1 : 1;
}

int http_confirm_upgrade(server *s, struct lws *wsi) {
    if (!authorized(s, wsi)) return reject(s, wsi, METRIC_REJECTED_AUTH, HTTP_STATUS_UNAUTHORIZED, "no valid API key");
    if (!origin_allowed(wsi))
        return reject(s, wsi, METRIC_REJECTED_ORIGIN, HTTP_STATUS_FORBIDDEN, "a page of another origin");
    if (s->draining) return reject(s, wsi, METRIC_REJECTED_CLIENTS, HTTP_STATUS_SERVICE_UNAVAILABLE, "shutting down");
    if (s->client_count >= s->options.max_clients)
        return reject(s, wsi, METRIC_REJECTED_CLIENTS, HTTP_STATUS_SERVICE_UNAVAILABLE, "too many clients");
    return 0;
}

/* One whole response; the connection ends with it. */
static int respond(struct lws *wsi, unsigned code, const char *type, const char *body, size_t size) {
    unsigned char head[LWS_PRE + 1024], *start = head + LWS_PRE, *at = start, *end = head + sizeof head - 1;
    char length[32];
    int digits = snprintf(length, sizeof length, "%zu", size);
    if (lws_add_http_header_status(wsi, code, &at, end) ||
        lws_add_http_header_by_token(wsi, WSI_TOKEN_HTTP_CONTENT_TYPE, (const unsigned char *)type, (int)strlen(type),
                                     &at, end) ||
        lws_add_http_header_by_token(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH, (const unsigned char *)length, digits, &at,
                                     end) ||
        lws_add_http_header_by_token(wsi, WSI_TOKEN_CONNECTION, (const unsigned char *)"close", 5, &at, end) ||
        lws_finalize_write_http_header(wsi, start, &at, end))
        return -1;
    unsigned char *copy = memory_allocate(LWS_PRE + size);
    if (!copy) return -1;
    if (size) memcpy(copy + LWS_PRE, body, size);
    lws_write(wsi, copy + LWS_PRE, size, LWS_WRITE_HTTP_FINAL);
    memory_release(copy);
    return -1;
}

int http_request(server *s, struct lws *wsi, const char *path) {
    static const char plain[] = "text/plain; charset=utf-8";
    if (strcmp(path, "/healthz") == 0) return respond(wsi, HTTP_STATUS_OK, plain, "OK\n", 3);
    if (strcmp(path, "/metrics") != 0) return respond(wsi, HTTP_STATUS_NOT_FOUND, plain, "not found\n", 10);
    if (!authorized(s, wsi)) return respond(wsi, HTTP_STATUS_UNAUTHORIZED, plain, "no valid API key\n", 17);
    text_buffer text = {0};
    metrics_prometheus(s->metrics, &text);
    int result = text.failed
                     ? -1
                     : respond(wsi, HTTP_STATUS_OK, "text/plain; version=0.0.4; charset=utf-8", text.bytes, text.size);
    memory_release(text.bytes);
    return result;
}
