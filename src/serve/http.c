/*
 * Plain HTTP beside the websocket: who may upgrade, /healthz as openpi's server answers it, /metrics for Prometheus,
 * the dashboard.
 * With an API key everything but /healthz asks for it; a browser, which can send no such header, may give the key as
 * the password of HTTP's basic authentication.
 */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "serve/internal.h"

/* dashboard.html, from the build */
extern const unsigned char dashboard_page[];
extern const size_t dashboard_page_bytes;

static const char plain_text[] = "text/plain; charset=utf-8";

/* Copies a header's value; false: absent or too long. */
static bool header(struct lws *wsi, enum lws_token_indexes token, char *value, size_t size) {
    int length = lws_hdr_total_length(wsi, token);
    return length > 0 && (size_t)length < size && lws_hdr_copy(wsi, value, (int)size, token) == length;
}

/* Takes a time that depends on the given text's length only. */
static bool key_matches(const char *key, const char *given) {
    size_t expected = strlen(key), length = strlen(given), different = expected ^ length;
    for (size_t i = 0; i < length; i++)
        different |= (unsigned char)given[i] ^ (unsigned char)key[expected ? i % expected : 0];
    return different == 0 && expected > 0;
}

static bool authorized(const server *s, struct lws *wsi) {
    char given[1024], decoded[1024];
    if (!s->options.api_key) return true;
    if (!header(wsi, WSI_TOKEN_HTTP_AUTHORIZATION, given, sizeof given)) return false;
    if (strncmp(given, "Api-Key ", 8) == 0) return key_matches(s->options.api_key, given + 8);
    if (strncmp(given, "Basic ", 6) != 0) return false;
    int length = lws_b64_decode_string(given + 6, decoded, (int)sizeof decoded);
    if (length < 0 || length >= (int)sizeof decoded) return false;
    decoded[length] = 0;
    const char *colon = strchr(decoded, ':');
    return colon && key_matches(s->options.api_key, colon + 1);
}

/* The name in "name:port" or "[address]:port", without port and brackets. */
static void host_name(const char *authority, char *name, size_t size) {
    bool bracket = *authority == '[';
    snprintf(name, size, "%.*s", (int)strcspn(authority + bracket, bracket ? "]" : ":"), authority + bracket);
}

/* A name that only a DNS server of somebody else could have brought here (rebinding) is refused: addresses, localhost
 * and the name the server was told to listen on are ours. A certificate proves the name otherwise. */
static bool host_ours(const server *s, const char *host) {
    char name[256];
    host_name(host, name, sizeof name);
    bool address = name[strspn(name, "0123456789.")] == 0 || strchr(name, ':') || *host == '[';
    return address || s->options.tls_cert || strcmp(name, "localhost") == 0 || strcmp(name, s->options.host) == 0;
}

/* A browser says which page opened the connection: only our own may. Robots send no Origin. */
static bool origin_allowed(const server *s, struct lws *wsi) {
    char origin[512], host[512];
    if (!lws_hdr_total_length(wsi, WSI_TOKEN_ORIGIN)) return true;
    if (!header(wsi, WSI_TOKEN_ORIGIN, origin, sizeof origin) || !header(wsi, WSI_TOKEN_HOST, host, sizeof host))
        return false;
    const char *authority = strstr(origin, "://");
    return authority && strcmp(authority + 3, host) == 0 && host_ours(s, host);
}

typedef struct reply {
    unsigned code;
    const char *type, *body;
    size_t size;
    const char *headers; /* more of them: "Name: value\r\n"; or NULL */
    bool head;           /* no body */
} reply;

static const char *reason_of(unsigned code) {
    switch (code) {
    case HTTP_STATUS_OK:
        return "OK";
    case HTTP_STATUS_UNAUTHORIZED:
        return "Unauthorized";
    case HTTP_STATUS_FORBIDDEN:
        return "Forbidden";
    case HTTP_STATUS_NOT_FOUND:
        return "Not Found";
    case HTTP_STATUS_METHOD_NOT_ALLOWED:
        return "Method Not Allowed";
    default:
        return "Service Unavailable";
    }
}

/* One whole response, after which the connection ends: returns what the callback has to return. The head is put
 * together here because libwebsockets would answer a refused upgrade as HTTP/1.0, which websocket clients reject. */
static int respond(struct lws *wsi, const reply *r) {
    text_buffer text = {0};
    static const char room[LWS_PRE];
    text_put_n(&text, room, sizeof room);
    text_put_format(&text,
                    "HTTP/1.1 %u %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n"
                    "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n%s\r\n",
                    r->code, reason_of(r->code), r->type, r->size, r->headers ? r->headers : "");
    if (!r->head) text_put_n(&text, r->body, r->size);
    if (!text.failed) lws_write(wsi, (unsigned char *)text.bytes + LWS_PRE, text.size - LWS_PRE, LWS_WRITE_HTTP_FINAL);
    memory_release(text.bytes);
    return -1; /* libwebsockets sends what is left before it closes */
}

static int respond_text(struct lws *wsi, unsigned code, const char *text) {
    return respond(wsi, &(reply){.code = code, .type = plain_text, .body = text, .size = strlen(text)});
}

static int ask_for_key(struct lws *wsi) {
    static const char text[] = "no valid API key\n";
    return respond(wsi, &(reply){.code = HTTP_STATUS_UNAUTHORIZED,
                                 .type = plain_text,
                                 .body = text,
                                 .size = strlen(text),
                                 .headers = "WWW-Authenticate: Basic realm=\"pi0\", charset=\"UTF-8\"\r\n"});
}

/* A connection that is turned away before it becomes a websocket. */
static void note_refusal(server *s, metric_counter counter, const char *why) {
    metrics_count(s->metrics, counter);
    event_write(&s->options.log, PI0_LOG_WARNING, "rejected", NULL, "a connection was refused: %s", why);
}

int http_confirm_upgrade(server *s, struct lws *wsi) {
    if (!authorized(s, wsi)) {
        note_refusal(s, METRIC_REJECTED_AUTH, "no valid API key");
        return ask_for_key(wsi);
    }
    if (!origin_allowed(s, wsi)) {
        note_refusal(s, METRIC_REJECTED_ORIGIN, "a page of another origin");
        return respond_text(wsi, HTTP_STATUS_FORBIDDEN, "pages of another origin may not connect\n");
    }
    bool full = s->client_count >= s->options.max_clients;
    if (!full && !s->draining) return 0;
    const char *why = full ? "too many clients\n" : "shutting down\n";
    note_refusal(s, METRIC_REJECTED_CLIENTS, full ? "too many clients" : "shutting down");
    return respond_text(wsi, HTTP_STATUS_SERVICE_UNAVAILABLE, why);
}

/* Answers with text that was put together, and frees it. */
static int respond_buffer(struct lws *wsi, text_buffer *text, const char *type, bool head) {
    int result =
        text->failed
            ? respond_text(wsi, HTTP_STATUS_SERVICE_UNAVAILABLE, "out of memory\n")
            : respond(wsi,
                      &(reply){
                          .code = HTTP_STATUS_OK, .type = type, .body = text->bytes, .size = text->size, .head = head});
    memory_release(text->bytes);
    return result;
}

static int dashboard(struct lws *wsi, bool head) {
    return respond(wsi, &(reply){.code = HTTP_STATUS_OK,
                                 .type = "text/html; charset=utf-8",
                                 .body = (const char *)dashboard_page,
                                 .size = dashboard_page_bytes,
                                 .headers = "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; "
                                            "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
                                            "frame-ancestors 'none'; base-uri 'none'; form-action 'none'\r\n",
                                 .head = head});
}

static int status_json(server *s, struct lws *wsi, bool head) {
    text_buffer text = {0};
    const char *about = s->options.about ? s->options.about : "";
    text_put(&text, "{\"about\":");
    text_put_json_string(&text, about, strlen(about));
    text_put(&text, ",");
    metrics_json(s->metrics, &text);
    if (s->options.cameras) {
        text_put(&text, ",\"cameras\":");
        cameras_json(s->options.cameras, &text);
    }
    text_put(&text, "}\n");
    return respond_buffer(wsi, &text, "application/json", head);
}

static int camera_pixels(server *s, struct lws *wsi, const char *slot, bool head) {
    text_buffer bytes = {0};
    bool digit = slot[0] >= '0' && slot[0] <= '9' && !slot[1];
    if (s->options.cameras && digit && cameras_pixels(s->options.cameras, slot[0] - '0', &bytes))
        return respond_buffer(wsi, &bytes, "application/octet-stream", head);
    return respond_text(wsi, HTTP_STATUS_NOT_FOUND, "not found\n");
}

/* What a browser shows: only under a name of ours, so that no other page can read it. */
static int page(server *s, struct lws *wsi, const char *path, bool head) {
    char host[512];
    if (!header(wsi, WSI_TOKEN_HOST, host, sizeof host) || !host_ours(s, host))
        return respond_text(wsi, HTTP_STATUS_FORBIDDEN, "expected an address or the server's own name\n");
    if (strcmp(path, "/") == 0) return dashboard(wsi, head);
    if (strcmp(path, "/status.json") == 0) return status_json(s, wsi, head);
    if (strncmp(path, "/camera/", 8) == 0) return camera_pixels(s, wsi, path + 8, head);
    return respond_text(wsi, HTTP_STATUS_NOT_FOUND, "not found\n");
}

int http_request(server *s, struct lws *wsi, const char *path) {
    bool head = lws_hdr_total_length(wsi, WSI_TOKEN_HEAD_URI) > 0;
    if (!head && !lws_hdr_total_length(wsi, WSI_TOKEN_GET_URI))
        return respond_text(wsi, HTTP_STATUS_METHOD_NOT_ALLOWED, "GET and HEAD only\n");
    if (strcmp(path, "/healthz") == 0) {
        if (s->draining) return respond_text(wsi, HTTP_STATUS_SERVICE_UNAVAILABLE, "shutting down\n");
        return respond(wsi,
                       &(reply){.code = HTTP_STATUS_OK, .type = plain_text, .body = "OK\n", .size = 3, .head = head});
    }
    if (!authorized(s, wsi)) {
        metrics_count(s->metrics, METRIC_REJECTED_AUTH);
        return ask_for_key(wsi);
    }
    if (strcmp(path, "/metrics") == 0) {
        text_buffer text = {0};
        metrics_prometheus(s->metrics, &text);
        return respond_buffer(wsi, &text, "text/plain; version=0.0.4; charset=utf-8", head);
    }
    return page(s, wsi, path, head);
}
