/*
 * pi0 serve: the policy server. Takes the place of openpi's scripts/serve_policy.py and accepts its spelling
 * (`policy:checkpoint --policy.config NAME --policy.dir DIR`, `--env ALOHA_SIM`, underscores for dashes).
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "cli/commands.h"
#include "cli/policy_options.h"
#include "cli/terminal.h"
#ifdef PI0_WITH_SERVE
#include "serve/metadata.h"
#include "serve/server.h"
#endif

typedef struct serve_options {
    common_options common;
    model_options model;
    policy_options policy;
    int environment;
    const char *host, *tls_cert, *tls_key, *api_key_file, *record_dir;
    int port, max_clients, max_message_bytes, max_queue, batch;
    double request_timeout_ms, idle_timeout_s, drain_timeout_s, ping_interval_s, batch_window_ms;
    uint64_t seed;
    bool seeded, record, log_json, dashboard_images, checkpoint_given;
} serve_options;

#ifdef PI0_WITH_SERVE

/* ---- SIGINT, SIGTERM, SIGHUP: a thread waits for them, so that no handler needs global state ---- */

typedef struct stopper {
    pthread_mutex_t lock;
    server *server; /* NULL: not serving yet */
    bool over;      /* the server is gone: nothing is left to stop */
    sigset_t signals;
    pthread_t thread;
} stopper;

/* The first signal stops the server in good order; a second one, or one before it serves, ends the process. */
static void *wait_for_signals(void *argument) {
    stopper *stopper = argument;
    for (bool asked = false;; asked = true) {
        int number;
        if (sigwait(&stopper->signals, &number)) return NULL;
        pthread_mutex_lock(&stopper->lock);
        bool over = stopper->over;
        if (!over && (asked || !stopper->server)) _exit(EXIT_INTERRUPTED);
        if (!over) server_stop(stopper->server);
        pthread_mutex_unlock(&stopper->lock);
        if (over) return NULL;
    }
}

/* To be called before any other thread is started: they inherit the mask. */
static pi0_status stopper_start(stopper *stopper, pi0_error *error) {
    *stopper = (struct stopper){0};
    pthread_mutex_init(&stopper->lock, NULL);
    sigemptyset(&stopper->signals);
    sigaddset(&stopper->signals, SIGINT);
    sigaddset(&stopper->signals, SIGTERM);
    sigaddset(&stopper->signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &stopper->signals, NULL);
    if (pthread_create(&stopper->thread, NULL, wait_for_signals, stopper) == 0) return PI0_OK;
    return error_set(error, PI0_ERROR_MEMORY, "no thread could be started");
}

static void stopper_set(stopper *stopper, server *server, bool over) {
    pthread_mutex_lock(&stopper->lock);
    stopper->server = server;
    stopper->over = over;
    pthread_mutex_unlock(&stopper->lock);
}

static void stopper_end(stopper *stopper) {
    stopper_set(stopper, NULL, true);
    pthread_kill(stopper->thread, SIGTERM);
    pthread_join(stopper->thread, NULL);
    pthread_mutex_destroy(&stopper->lock);
}

/* ---- log ---- */

static void print_json_line(void *user, pi0_log_level level, const char *message) {
    (void)user;
    (void)level;
    flockfile(stderr);
    fputs(message, stderr);
    putc('\n', stderr);
    funlockfile(stderr);
}

/* What the library has to say, for --log-json. */
static void library_log(void *user, pi0_log_level level, const char *message) {
    event_write_message(user, level, "library", NULL, message);
}

/* ---- the parts, in the order they are opened ---- */

typedef struct service {
    const serve_options *options;
    event_log log;
    stopper stopper;
    char *api_key;
    pi0_policy *policy;
    pi0_policy_info policy_info;
    pi0_engine *engine;
    wire_buffer metadata;
    cameras *cameras;
    char about[300];
    metrics *metrics;
    handler *handler;
    scheduler *scheduler;
    server *server;
} service;

static pi0_status read_api_key(service *v, pi0_error *error) {
    const char *path = v->options->api_key_file;
    if (!path) return PI0_OK;
    void *bytes;
    size_t size;
    TRY(file_read(&bytes, &size, path, 4096, error));
    char *key = bytes;
    while (size && (key[size - 1] == '\n' || key[size - 1] == '\r' || key[size - 1] == ' ')) size--;
    key[size] = 0;
    v->api_key = key;
    for (size_t i = 0; i < size; i++)
        if (key[i] <= ' ' || key[i] == 0x7f)
            return error_set(error, PI0_ERROR_FORMAT, "%s: expected one line with a key, without blanks", path);
    if (size == 0) return error_set(error, PI0_ERROR_FORMAT, "%s: expected a key, found nothing", path);
    if (size > 512) return error_set(error, PI0_ERROR_FORMAT, "%s: expected a key of at most 512 characters", path);
    return PI0_OK;
}

/* NULL: the terminal's */
static pi0_log_function log_of(const service *v) { return v->options->log_json ? library_log : NULL; }

static pi0_status open_policy(service *v, pi0_error *error) {
    const serve_options *o = v->options;
    TRY(policy_options_open(&v->policy, &v->policy_info, &o->policy, &o->model, log_of(v), &v->log, error));
    return metadata_encode(&v->metadata, v->policy_info.metadata_json, error);
}

static pi0_status open_engine(service *v, pi0_error *error) {
    const serve_options *o = v->options;
    TRY(policy_options_open_engine(&v->engine, &v->policy_info, &o->common, &o->model, log_of(v), &v->log, error));
    pi0_engine_info info = {.struct_size = sizeof info};
    TRY(pi0_engine_describe(v->engine, &info, error));
    snprintf(v->about, sizeof v->about, "%s%s%s on %s, %s", v->policy_info.config ? v->policy_info.config : "",
             v->policy_info.config ? " " : "", info.layout, info.device_name, options_precision_name(info.precision));
    return PI0_OK;
}

static void tell_address(void *user, const char *host, int port) {
    service *v = user;
    const serve_options *o = v->options;
    bool address6 = strchr(host, ':') != NULL,
         loopback = strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0 || strncmp(host, "127.", 4) == 0;
    char url[300];
    snprintf(url, sizeof url, "%s://%s%s%s:%d", o->tls_cert ? "wss" : "ws", address6 ? "[" : "", host,
             address6 ? "]" : "", port);
    event_write(&v->log, PI0_LOG_INFO, "listening", (const event_number[]){{"port", port}, {0}}, "listening on %s",
                url);
    if (o->common.json || o->log_json) {
        printf("{\"url\":\"%s\",\"host\":\"%s\",\"port\":%d}\n", url, host, port);
    } else {
        printf("listening on %s", url);
        if (loopback) printf(" (this machine only; --host 0.0.0.0 opens it to the network)");
        putchar('\n');
    }
    fflush(stdout);
}

static pi0_status open_service(service *v, pi0_error *error) {
    const serve_options *o = v->options;
    TRY(read_api_key(v, error));
    if (o->record_dir) TRY(output_folder(o->record_dir, error));
    TRY(metrics_open(&v->metrics, error));
    TRY(open_policy(v, error));
    if (o->dashboard_images) TRY(cameras_open(&v->cameras, &v->policy_info, error));
    /* the port before the weights: what is wrong with it shows at once */
    TRY(server_open(&v->server,
                    &(server_options){.host = o->host,
                                      .port = o->port,
                                      .metadata = v->metadata.bytes,
                                      .metadata_size = v->metadata.size,
                                      .max_clients = o->max_clients,
                                      .max_message_bytes = (size_t)o->max_message_bytes,
                                      .request_timeout_ms = o->request_timeout_ms,
                                      .idle_timeout_s = o->idle_timeout_s,
                                      .drain_timeout_s = o->drain_timeout_s,
                                      .ping_interval_s = o->ping_interval_s,
                                      .tls_cert = o->tls_cert,
                                      .tls_key = o->tls_key,
                                      .api_key = v->api_key,
                                      .about = v->about,
                                      .cameras = v->cameras,
                                      .log = v->log,
                                      .listening = tell_address,
                                      .listening_user = v},
                    v->metrics, error));
    TRY(open_engine(v, error));
    TRY(handler_open(&v->handler,
                     &(handler_options){.engine = v->engine,
                                        .policy = v->policy,
                                        .batch = o->batch,
                                        .num_steps = o->policy.steps,
                                        .seeded = o->seeded,
                                        .seed = o->seed,
                                        .record_dir = o->record_dir,
                                        .cameras = v->cameras,
                                        .metrics = v->metrics,
                                        .log = v->log},
                     error));
    TRY(handler_warm_up(v->handler, error));
    TRY(scheduler_open(&v->scheduler,
                       &(scheduler_options){.handler = v->handler,
                                            .metrics = v->metrics,
                                            .max_queue = o->max_queue,
                                            .batch = o->batch,
                                            .window_ms = o->batch_window_ms,
                                            .wake = server_wake,
                                            .wake_user = v->server},
                       error));
    server_attach(v->server, v->scheduler);
    return PI0_OK;
}

static void close_service(service *v) {
    scheduler_close(&v->scheduler);
    server_close(&v->server);
    handler_close(&v->handler);
    pi0_engine_close(&v->engine);
    pi0_policy_close(&v->policy);
    metrics_close(&v->metrics);
    cameras_close(&v->cameras);
    memory_release(v->metadata.bytes);
    memory_release(v->api_key);
}

static int serve(const serve_options *o) {
    pi0_error error;
    service v = {.options = o, .log = {.json = o->log_json}};
    v.log.sink.function = o->log_json ? print_json_line : terminal_log;
    pi0_status status = stopper_start(&v.stopper, &error);
    if (status != PI0_OK) return terminal_fail(&error);
    if (!o->checkpoint_given)
        event_write(&v.log, PI0_LOG_WARNING, "checkpoint", NULL,
                    "no --checkpoint: the weights are made up (%s) and the actions mean nothing", o->model.checkpoint);
    status = open_service(&v, &error);
    if (status == PI0_OK) {
        terminal_progress_end();
        stopper_set(&v.stopper, v.server, false);
        status = server_run(v.server, &error);
    }
    if (status == PI0_ERROR_CANCELLED) {
        /* an inference runs longer than there is time for: nothing here can wait for its end */
        terminal_fail(&error);
        fflush(stdout);
        _exit(EXIT_FAILED);
    }
    stopper_end(&v.stopper);
    close_service(&v);
    return status == PI0_OK ? EXIT_DONE : terminal_fail(&error);
}

#else

static int serve(const serve_options *o) {
    (void)o;
    terminal_error("this build has no server: it was configured without PI0_SERVE or libwebsockets");
    return EXIT_FAILED;
}

#endif

/* ---- usage ---- */

/* What openpi's server is called with, in our words; the result is the caller's to release. NULL: no memory. Words of
 * the new list point into argv or into *spelled, which the caller releases too. */
static char **translate(int *argc, char **argv, char **spelled) {
    size_t bytes = 0;
    for (int i = 0; i < *argc; i++) bytes += strlen(argv[i]) + 16;
    char **words = memory_allocate(((size_t)*argc + 1) * sizeof *words), *at = memory_allocate(bytes + 1);
    *spelled = at;
    if (!words || !at) {
        memory_release(words);
        return NULL;
    }
    static const struct {
        const char *theirs, *ours;
    } names[] = {{"--policy.config", "--config"}, {"--policy.dir", "--checkpoint"}};
    int count = 0;
    for (int i = 0; i < *argc; i++) {
        if (strcmp(argv[i], "policy:checkpoint") == 0 || strcmp(argv[i], "policy:default") == 0) continue;
        if (strncmp(argv[i], "--", 2) != 0) {
            words[count++] = argv[i];
            continue;
        }
        size_t length = strcspn(argv[i], "=");
        char *word = at;
        snprintf(word, length + 1, "%s", argv[i]);
        for (char *c = word + 2; *c; c++)
            if (*c == '_') *c = '-';
        for (size_t k = 0; k < sizeof names / sizeof *names; k++)
            if (strcmp(word, names[k].theirs) == 0) memcpy(word, names[k].ours, strlen(names[k].ours) + 1);
        memcpy(word + strlen(word), argv[i] + length, strlen(argv[i] + length) + 1);
        at = word + strlen(word) + 1;
        words[count++] = word;
    }
    words[count] = NULL;
    *argc = count;
    return words;
}

/* openpi's environments and the configs they stand for. */
static const char *const environment_configs[] = {NULL, "pi05_aloha", "pi0_aloha_sim", "pi05_droid", "pi05_libero"};
static const char environment_words[] = "ALOHA|ALOHA_SIM|DROID|LIBERO";

/* Completes the options; 0 when they make sense. */
static int check_usage(serve_options *o) {
    static const char name[] = "serve";
    if (o->policy.config && o->environment) return options_refuse(name, "--config and --env: expected one of them");
    if (o->environment) o->policy.config = environment_configs[o->environment];
    if (strncmp(o->model.checkpoint, "gs://", 5) == 0)
        return options_refuse(name, "--checkpoint %s: expected a directory of this machine; download it first",
                              o->model.checkpoint);
    if (!o->tls_cert != !o->tls_key) return options_refuse(name, "--tls-cert and --tls-key: expected both or neither");
    if (o->batch_window_ms > 0 && o->batch == 1)
        return options_refuse(name, "--batch-window-ms needs --batch N with N above 1");
    if (o->record && !o->record_dir) o->record_dir = "policy_records";
    return 0;
}

int command_serve(int argc, char **argv) {
    serve_options o = {.common = common_options_default(),
                       .model = model_options_default(),
                       .host = "127.0.0.1",
                       .port = 8000,
                       .max_clients = 128,
                       .max_message_bytes = 64 << 20,
                       .max_queue = 128,
                       .batch = 1,
                       .request_timeout_ms = 60000,
                       .drain_timeout_s = 30,
                       .ping_interval_s = 20};
    bool record_off = false;
    option model[MODEL_OPTION_COUNT + 1];
    model_options_table(model, &o.model);
    model[0].given = &o.checkpoint_given;
    option policy[POLICY_OPTION_COUNT + 1];
    policy_options_table(policy, &o.policy);
    const option fixed[] = {
        {.name = "--env",
         .kind = OPTION_CHOICE,
         .target = &o.environment,
         .value = environment_words,
         .help = "openpi's word for a config: pi05_aloha, pi0_aloha_sim, pi05_droid, pi05_libero",
         .minimum = 1},
        {.name = "--seed",
         .kind = OPTION_SEED,
         .target = &o.seed,
         .value = "N",
         .help = "the same noise for every request, that of `pi0 infer --seed N`; without it each draws its own",
         .given = &o.seeded},
        {0},
    };
    const option network[] = {
        {.name = "--host",
         .kind = OPTION_TEXT,
         .target = &o.host,
         .value = "ADDRESS",
         .help = "where to listen; 0.0.0.0 for everybody"},
        {.name = "--port",
         .kind = OPTION_INT,
         .target = &o.port,
         .value = "N",
         .help = "0: any free one, which is printed",
         .maximum = 65535},
        {.name = "--tls-cert",
         .kind = OPTION_TEXT,
         .target = &o.tls_cert,
         .value = "FILE",
         .help = "certificate chain (PEM): clients connect to wss://"},
        {.name = "--tls-key", .kind = OPTION_TEXT, .target = &o.tls_key, .value = "FILE", .help = "its key (PEM)"},
        {.name = "--api-key-file",
         .kind = OPTION_TEXT,
         .target = &o.api_key_file,
         .value = "FILE",
         .help = "one line: the key that clients must send (openpi-client's api_key)"},
        {0},
    };
    const option limits[] = {
        {.name = "--max-clients",
         .kind = OPTION_INT,
         .target = &o.max_clients,
         .value = "N",
         .help = "connections; one more is answered 503",
         .minimum = 1,
         .maximum = 65536},
        {.name = "--max-message-bytes",
         .kind = OPTION_INT,
         .target = &o.max_message_bytes,
         .value = "N",
         .help = "of one request",
         .minimum = 1,
         .maximum = 256 << 20},
        {.name = "--max-queue",
         .kind = OPTION_INT,
         .target = &o.max_queue,
         .value = "N",
         .help = "requests that wait; one more is refused (close code 1013)",
         .minimum = 1,
         .maximum = 65536},
        {.name = "--request-timeout-ms",
         .kind = OPTION_FLOAT,
         .target = &o.request_timeout_ms,
         .value = "MS",
         .help = "from a request's arrival to its answer, waiting included",
         .minimum = 1,
         .maximum = 1e9},
        {.name = "--idle-timeout-s",
         .kind = OPTION_FLOAT,
         .target = &o.idle_timeout_s,
         .value = "S",
         .help = "a client that asks nothing for so long is disconnected; 0: never",
         .maximum = 1e9},
        {.name = "--ping-interval-s",
         .kind = OPTION_FLOAT,
         .target = &o.ping_interval_s,
         .value = "S",
         .help = "clients are pinged so often; one that lets two pings go by is disconnected; 0: never",
         .maximum = 1e6},
        {.name = "--drain-timeout-s",
         .kind = OPTION_FLOAT,
         .target = &o.drain_timeout_s,
         .value = "S",
         .help = "after SIGTERM or Ctrl-C, time to answer what has been asked",
         .maximum = 1e9},
        {0},
    };
    const option batching[] = {
        {.name = "--batch",
         .kind = OPTION_INT,
         .target = &o.batch,
         .value = "N",
         .help = "requests that wait together run as one, at most N",
         .minimum = 1,
         .maximum = 256},
        {.name = "--batch-window-ms",
         .kind = OPTION_FLOAT,
         .target = &o.batch_window_ms,
         .value = "MS",
         .help = "how long the first request of a batch waits for others",
         .maximum = 60000},
        {0},
    };
    const option seeing[] = {
        {.name = "--record-dir",
         .kind = OPTION_TEXT,
         .target = &o.record_dir,
         .value = "DIR",
         .help = "keep every request (NNNNNN.msgpack) and its answer (NNNNNN.response.msgpack)"},
        {.name = "--record", .kind = OPTION_FLAG, .target = &o.record, .help = "the same, into ./policy_records"},
        {.name = "--no-record", .kind = OPTION_FLAG, .target = &record_off, .help = "keep nothing: as without both"},
        {.name = "--log-json", .kind = OPTION_FLAG, .target = &o.log_json, .help = "log as JSON lines on stderr"},
        {.name = "--dashboard-images",
         .kind = OPTION_FLAG,
         .target = &o.dashboard_images,
         .help = "show the last request's camera images on the dashboard"},
        {0},
    };
    const command_line line = {
        .name = "serve",
        .summary = "policy server: openpi's clients connect unchanged",
        .description = "Websocket with msgpack-numpy as openpi's serve_policy.py speaks it, and over HTTP /healthz, "
                       "/metrics\n(Prometheus) and a dashboard at /. openpi's own spelling works too:\n"
                       "  pi0 serve --port 8000 policy:checkpoint --policy.config pi05_droid --policy.dir DIR",
        .examples =
            "  pi0 serve --config pi05_droid --checkpoint DIR --tokenizer paligemma_tokenizer.model --host 0.0.0.0\n"
            "  pi0 serve --config pi0_aloha_sim --model tiny-pi0 --tokenizer FILE   a small model of made-up weights\n"
            "  pi0 serve --config pi0_libero --checkpoint DIR --tokenizer FILE --batch 16 --batch-window-ms 5\n"
            "  pi0 serve ... --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --api-key-file key.txt\n",
        .groups = (const option_group[]){{"model", model},
                                         {"policy", policy},
                                         {"environment and noise", fixed},
                                         {"network", network},
                                         {"limits", limits},
                                         {"batching", batching},
                                         {"seeing", seeing},
                                         {NULL, NULL}},
        .common = &o.common,
    };
    char *spelled;
    char **words = translate(&argc, argv, &spelled);
    int exit_code = EXIT_FAILED;
    if (!words) {
        terminal_error("out of memory");
    } else if (options_parse(&line, argc, words, &exit_code)) {
        if (record_off) o.record = false;
        exit_code = check_usage(&o);
        if (exit_code == EXIT_DONE) exit_code = serve(&o);
    }
    options_release(&line);
    memory_release(words);
    memory_release(spelled);
    return exit_code;
}
