/* The public API over the tiny model: options, refusals, threads, batches, memory. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "checkpoint/synthetic.h"
#include "pi0.h"

enum { SIZE = 56, A = 32, MAX_TOKENS = 200, MAX_H = 128 };

/* One synthetic observation with memory of its own. */
typedef struct problem {
    uint8_t images[3][SIZE * SIZE * 3];
    int32_t tokens[MAX_TOKENS];
    float state[A];
    float noise[MAX_H * A];
    pi0_observation observation;
} problem;

static problem *make_problem(uint64_t seed, int cameras, int tokens, int horizon) {
    problem *p = calloc(1, sizeof *p);
    for (int camera = 0; camera < cameras; camera++) {
        synthetic_image(camera, seed, SIZE, p->images[camera]);
        p->observation.images[camera] = p->images[camera];
    }
    synthetic_tokens(seed, 512, p->tokens, tokens);
    synthetic_state(seed, p->state, A);
    pi0_noise(seed, p->noise, (size_t)horizon * A);
    p->observation.tokens = p->tokens;
    p->observation.token_count = tokens;
    p->observation.state = p->state;
    p->observation.noise = p->noise;
    return p;
}

static pi0_engine *open_engine(pi0_model model, pi0_precision precision) {
    pi0_engine_options o;
    pi0_engine_options_default(&o);
    o.checkpoint = "synthetic:3";
    o.model = model;
    o.backend = PI0_BACKEND_CPU;
    o.precision = precision;
    o.threads = 2;
    pi0_engine *engine = NULL;
    pi0_error error = {0};
    if (pi0_engine_open(&engine, &o, &error) != PI0_OK) fail_msg("%s", error.message);
    return engine;
}

static pi0_session *open_session(pi0_engine *engine, const pi0_session_options *o) {
    pi0_session *session = NULL;
    pi0_error error = {0};
    if (pi0_session_open(&session, engine, o, &error) != PI0_OK) fail_msg("%s", error.message);
    return session;
}

static void infer(pi0_session *session, const pi0_observation *observations, int batch, float *actions) {
    pi0_error error = {0};
    if (pi0_session_infer(session, observations, batch, actions, &error) != PI0_OK) fail_msg("%s", error.message);
}

static double distance(const float *a, const float *b, size_t count) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(difference / norm);
}

static void test_version(void **state) {
    (void)state;
    assert_int_equal(pi0_abi(), PI0_ABI);
    assert_string_equal(pi0_version(), PI0_VERSION_STRING);
    assert_string_equal(pi0_stage_name(PI0_STAGE_PREFILL), "LLM prefill");
    assert_null(pi0_stage_name(PI0_STAGE_COUNT));
    assert_string_equal(pi0_op_name(PI0_OP_ROPE), "RoPE");
    assert_null(pi0_op_name(-1));
}

static void test_engine_refuses(void **state) {
    (void)state;
    pi0_engine *engine = (pi0_engine *)1;
    pi0_error error = {0};
    pi0_engine_options o;

    assert_int_equal(pi0_engine_open(NULL, NULL, &error), PI0_ERROR_ARGUMENT);
    pi0_engine_options_default(&o);
    o.struct_size = sizeof o + 8;
    assert_int_equal(pi0_engine_open(&engine, &o, &error), PI0_ERROR_ARGUMENT);
    assert_null(engine);
    assert_non_null(strstr(error.message, "struct_size"));

    pi0_engine_options_default(&o);
    o.checkpoint = "/nonexistent/checkpoint";
    o.backend = PI0_BACKEND_CPU;
    assert_int_not_equal(pi0_engine_open(&engine, &o, &error), PI0_OK);
    assert_non_null(strstr(error.message, "/nonexistent/checkpoint"));
    o.checkpoint = "synthetic:nonsense";
    assert_int_not_equal(pi0_engine_open(&engine, &o, &error), PI0_OK);
    o.checkpoint = "synthetic:1";
    o.model = PI0_MODEL_TINY_PI0;
    o.precision = PI0_PRECISION_FP8;
    assert_int_equal(pi0_engine_open(&engine, &o, &error), PI0_ERROR_UNSUPPORTED);
    o.precision = PI0_PRECISION_F32;
    o.device = 7;
    assert_int_equal(pi0_engine_open(&engine, &o, &error), PI0_ERROR_ARGUMENT);
    o.device = 0;
    o.threads = -1;
    assert_int_equal(pi0_engine_open(&engine, &o, &error), PI0_ERROR_ARGUMENT);
    assert_int_equal(pi0_engine_open(&engine, &o, NULL), PI0_ERROR_ARGUMENT); /* nobody asked for the text */
    pi0_engine_close(&engine);
    pi0_engine_close(NULL);
}

static void test_describe(void **state) {
    (void)state;
    pi0_engine *engine = open_engine(PI0_MODEL_TINY_PI05, PI0_PRECISION_BF16);
    pi0_engine_info info = {.struct_size = sizeof info};
    assert_int_equal(pi0_engine_describe(engine, &info, NULL), PI0_OK);
    assert_int_equal(info.family, PI0_FAMILY_PI05);
    assert_int_equal(info.image_size, SIZE);
    assert_int_equal(info.tokens_per_image, 16);
    assert_int_equal(info.vocabulary, 512);
    assert_int_equal(info.precision, PI0_PRECISION_BF16);
    assert_int_equal(info.backend, PI0_BACKEND_CPU);
    assert_string_equal(info.layout, "synthetic");
    assert_true(info.parameters > 100000 && info.weights_bytes >= 2 * info.parameters);
    info.struct_size = 1;
    assert_int_equal(pi0_engine_describe(engine, &info, NULL), PI0_ERROR_ARGUMENT);
    pi0_engine_close(&engine);
    assert_null(engine);
}

static void test_session_refuses(void **state) {
    (void)state;
    pi0_engine *engine = open_engine(PI0_MODEL_TINY_PI0, PI0_PRECISION_F32);
    pi0_session *session = NULL;
    pi0_error error = {0};
    pi0_session_options good, o;
    pi0_session_options_default(&good, engine);
    int *const fields[] = {&o.cameras, &o.max_batch, &o.horizon, &o.num_steps};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        o = good;
        *fields[i] = 0;
        assert_int_equal(pi0_session_open(&session, engine, &o, &error), PI0_ERROR_ARGUMENT);
        *fields[i] = 1 << 30;
        assert_int_equal(pi0_session_open(&session, engine, &o, &error), PI0_ERROR_ARGUMENT);
        assert_null(session);
    }
    o = good;
    o.max_batch = 1024;
    o.horizon = 4096;
    o.max_prompt_tokens = 4096;
    o.num_steps = 1000;
    o.record = true; /* 1024 * 4096 * 32 * 1000 floats twice: more than there is, and said before it is taken */
    assert_int_equal(pi0_session_open(&session, engine, &o, &error), PI0_ERROR_MEMORY);

    o = good;
    o.cameras = 2;
    o.max_prompt_tokens = 8;
    session = open_session(engine, &o);
    float actions[10 * A];
    problem *p = make_problem(1, 2, 8, 10);
    pi0_observation bad = p->observation;
    infer(session, &bad, 1, actions);
    assert_int_equal(pi0_session_infer(session, &bad, 2, actions, &error), PI0_ERROR_ARGUMENT);
    assert_int_equal(pi0_session_infer(session, &bad, 0, actions, &error), PI0_ERROR_ARGUMENT);
    assert_int_equal(pi0_session_infer(session, NULL, 1, actions, &error), PI0_ERROR_ARGUMENT);
    bad.images[2] = p->images[2];
    assert_int_equal(pi0_session_infer(session, &bad, 1, actions, &error), PI0_ERROR_ARGUMENT);
    bad = p->observation;
    bad.token_count = 9;
    assert_int_equal(pi0_session_infer(session, &bad, 1, actions, &error), PI0_ERROR_ARGUMENT);
    bad.token_count = -1;
    assert_int_equal(pi0_session_infer(session, &bad, 1, actions, &error), PI0_ERROR_ARGUMENT);
    bad = p->observation;
    p->tokens[3] = 512;
    assert_int_equal(pi0_session_infer(session, &bad, 1, actions, &error), PI0_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "512"));
    p->tokens[3] = -1;
    assert_int_equal(pi0_session_infer(session, &bad, 1, actions, &error), PI0_ERROR_ARGUMENT);
    p->tokens[3] = 0;
    bad.noise = NULL;
    assert_int_equal(pi0_session_infer(session, &bad, 1, actions, &error), PI0_ERROR_ARGUMENT);
    bad = p->observation;
    bad.state = NULL;
    assert_int_equal(pi0_session_infer(session, &bad, 1, actions, &error), PI0_ERROR_ARGUMENT);
    bad = p->observation;
    bad.images[0] = bad.images[1] = NULL;
    bad.token_count = 0;
    assert_int_equal(pi0_session_infer(session, &bad, 1, actions, &error), PI0_ERROR_ARGUMENT);
    size_t count;
    assert_int_equal(pi0_session_read(session, "x", 0, NULL, 0, &count, &error),
                     PI0_ERROR_ARGUMENT); /* does not record */
    free(p);
    pi0_session_close(&session);
    pi0_engine_close(&engine);
}

/* Shapes at the ends of their ranges run, give finite numbers, and give them again. */
static void test_shapes(void **state) {
    (void)state;
    static const struct {
        int cameras, tokens, horizon, steps;
    } shapes[] = {{1, 0, 1, 1}, {3, 200, 64, 2}, {3, 1, 128, 1}, {2, 20, 10, 100}, {0, 5, 3, 2}};
    for (int family = 0; family < 2; family++) {
        pi0_engine *engine = open_engine(family ? PI0_MODEL_TINY_PI05 : PI0_MODEL_TINY_PI0, PI0_PRECISION_F32);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            pi0_session_options o;
            pi0_session_options_default(&o, engine);
            o.horizon = shapes[i].horizon;
            o.num_steps = shapes[i].steps;
            pi0_session *session = open_session(engine, &o);
            problem *p = make_problem(i + 10, shapes[i].cameras, shapes[i].tokens, o.horizon);
            static float once[MAX_H * A], again[MAX_H * A];
            infer(session, &p->observation, 1, once);
            infer(session, &p->observation, 1, again);
            size_t count = (size_t)o.horizon * A;
            for (size_t k = 0; k < count; k++) assert_true(isfinite(once[k]));
            assert_memory_equal(once, again, count * sizeof(float));
            free(p);
            pi0_session_close(&session);
        }
        pi0_engine_close(&engine);
    }
}

/* A batch of observations with different cameras and prompt lengths answers as each alone. */
static void test_batch(void **state) {
    (void)state;
    enum { N = 5, H = 7 };
    static const int cameras[N] = {3, 1, 2, 3, 0}, tokens[N] = {20, 0, 31, 200, 4};
    for (int precision = 0; precision < 2; precision++) {
        pi0_engine *engine = open_engine(precision ? PI0_MODEL_TINY_PI05 : PI0_MODEL_TINY_PI0,
                                         precision ? PI0_PRECISION_BF16 : PI0_PRECISION_F32);
        pi0_session_options o;
        pi0_session_options_default(&o, engine);
        o.horizon = H;
        o.max_batch = N;
        pi0_session *session = open_session(engine, &o);
        problem *p[N];
        pi0_observation all[N];
        float together[N * H * A], alone[H * A];
        for (int n = 0; n < N; n++) {
            p[n] = make_problem((uint64_t)n + 1, cameras[n], tokens[n], H);
            all[n] = p[n]->observation;
        }
        all[3].images[1] = NULL; /* a hole in the middle */
        infer(session, all, N, together);
        for (int n = 0; n < N; n++) {
            infer(session, &all[n], 1, alone);
            assert_true(distance(together + n * H * A, alone, H * A) < (precision ? 6.5e-3 : 2e-5));
            free(p[n]);
        }
        pi0_session_close(&session);
        pi0_engine_close(&engine);
    }
}

/* Skipping masked cameras and padding changes nothing that is compared; nor do the ids of masked tokens. */
static void test_skipping(void **state) {
    (void)state;
    enum { H = 10 };
    pi0_engine *engine = open_engine(PI0_MODEL_TINY_PI0, PI0_PRECISION_F32);
    pi0_session_options o;
    pi0_session_options_default(&o, engine);
    o.record = true;
    pi0_session *skips = open_session(engine, &o);
    o.skip_masked_images = false;
    pi0_session *computes = open_session(engine, &o);
    problem *p = make_problem(4, 3, 20, H);
    pi0_observation masked = p->observation;
    masked.images[1] = NULL;
    float a[H * A], b[H * A], c[H * A];
    infer(skips, &masked, 1, a);
    infer(computes, &masked, 1, b);
    assert_true(distance(b, a, H * A) < 2e-5);
    size_t count;
    assert_int_equal(pi0_session_read(skips, "prefix_keys", 0, NULL, 0, &count, NULL), PI0_OK);
    assert_int_equal(count, 3 * 52 * 16);
    assert_int_equal(pi0_session_read(computes, "prefix_keys", 0, NULL, 0, &count, NULL), PI0_OK);
    assert_int_equal(count, 3 * 68 * 16);

    bool valid[20];
    for (int i = 0; i < 20; i++) valid[i] = i < 12;
    masked.token_mask = valid;
    infer(skips, &masked, 1, a);
    p->tokens[15] = 0;
    infer(skips, &masked, 1, b);
    masked.token_mask = NULL;
    masked.token_count = 12;
    infer(skips, &masked, 1, c);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_equal(a, c, sizeof a);
    pi0_session_close(&skips);
    pi0_session_close(&computes);
    pi0_engine_close(&engine);
    free(p);
}

static void test_read(void **state) {
    (void)state;
    enum { H = 4, STEPS = 3 };
    pi0_engine *engine = open_engine(PI0_MODEL_TINY_PI0, PI0_PRECISION_F32);
    pi0_session_options o;
    pi0_session_options_default(&o, engine);
    o.record = true;
    o.horizon = H;
    o.num_steps = STEPS;
    pi0_session *session = open_session(engine, &o);
    problem *p = make_problem(4, 3, 5, H);
    float actions[H * A], x[STEPS * H * A], v[STEPS * H * A], few[2] = {0, 7};
    infer(session, &p->observation, 1, actions);
    size_t count;
    pi0_error error;
    assert_int_equal(pi0_session_read(session, "x", 0, x, STEPS * H * A, &count, &error), PI0_OK);
    assert_int_equal(count, STEPS * H * A);
    assert_memory_equal(x, p->noise, H * A * sizeof(float));
    assert_int_equal(pi0_session_read(session, "v", 0, v, STEPS * H * A, &count, &error), PI0_OK);
    float dt = (float)(-1.0 / STEPS);
    for (int i = 0; i < H * A; i++) {
        volatile float product = dt * v[(STEPS - 1) * H * A + i];
        assert_true(actions[i] == x[(STEPS - 1) * H * A + i] + product);
    }
    assert_int_equal(pi0_session_read(session, "prefix_embeddings", 0, few, 1, &count, &error), PI0_OK);
    assert_int_equal(count, (48 + 5) * 64);
    assert_true(few[1] == 7.0f);
    assert_int_equal(pi0_session_read(session, "nothing", 0, x, 1, &count, &error), PI0_ERROR_ARGUMENT);
    assert_int_equal(pi0_session_read(session, "x", 1, x, 1, &count, &error), PI0_ERROR_ARGUMENT);

    pi0_timings timings = {.struct_size = sizeof timings};
    assert_int_equal(pi0_session_timings(session, &timings, &error), PI0_OK);
    double sum = 0;
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) sum += timings.stage_ms[stage];
    assert_true(timings.total_ms > 0 && fabs(sum - timings.total_ms) < 1e-6 + 1e-9 * timings.total_ms);
    assert_true(timings.workspace_bytes > 0);
    free(p);
    pi0_session_close(&session);
    pi0_engine_close(&engine);
}

/* ---- threads ---- */

typedef struct worker {
    pi0_engine *engine;
    problem *problem;
    float actions[10 * A];
    bool ok;
} worker;

static void *work(void *argument) {
    worker *w = argument;
    pi0_session *session = NULL;
    w->ok = pi0_session_open(&session, w->engine, NULL, NULL) == PI0_OK;
    for (int round = 0; w->ok && round < 5; round++)
        w->ok = pi0_session_infer(session, &w->problem->observation, 1, w->actions, NULL) == PI0_OK;
    pi0_session_close(&session);
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    enum { N = 3 };
    pi0_engine *engine = open_engine(PI0_MODEL_TINY_PI05, PI0_PRECISION_F32);
    worker workers[N];
    pthread_t threads[N];
    for (int n = 0; n < N; n++) {
        workers[n] = (worker){.engine = engine, .problem = make_problem((uint64_t)n, 3, 10 + n, 10)};
        assert_int_equal(pthread_create(&threads[n], NULL, work, &workers[n]), 0);
    }
    for (int n = 0; n < N; n++) pthread_join(threads[n], NULL);
    pi0_session *session = open_session(engine, NULL);
    for (int n = 0; n < N; n++) {
        float alone[10 * A];
        assert_true(workers[n].ok);
        infer(session, &workers[n].problem->observation, 1, alone);
        assert_memory_equal(workers[n].actions, alone, sizeof alone);
        free(workers[n].problem);
    }
    pi0_session_close(&session);
    pi0_engine_close(&engine);
}

/* ---- memory ---- */

typedef struct ledger {
    atomic_long calls, live;
    long fail_at; /* the call that gets NULL; 0: none */
} ledger;

static void *ledger_allocate(void *user, size_t bytes, size_t alignment) {
    ledger *l = user;
    if (atomic_fetch_add(&l->calls, 1) + 1 == l->fail_at) return NULL;
    void *memory = aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (memory) atomic_fetch_add(&l->live, 1);
    return memory;
}

static void ledger_release(void *user, void *memory) {
    atomic_fetch_sub(&((ledger *)user)->live, 1);
    free(memory);
}

static void test_no_allocation_per_inference(void **state) {
    (void)state;
    ledger l = {0};
    pi0_set_allocator(&(pi0_allocator){ledger_allocate, ledger_release, &l});
    for (int precision = PI0_PRECISION_F32; precision <= PI0_PRECISION_BF16; precision++) {
        pi0_engine *engine = open_engine(PI0_MODEL_TINY_PI0, (pi0_precision)precision);
        pi0_session *session = open_session(engine, NULL);
        problem *p = make_problem(9, 3, 20, 10);
        float actions[10 * A];
        long before = l.calls;
        for (int round = 0; round < 3; round++) infer(session, &p->observation, 1, actions);
        p->observation.token_count = 11; /* another shape */
        p->observation.images[2] = NULL;
        infer(session, &p->observation, 1, actions);
        assert_int_equal(l.calls, before);
        free(p);
        pi0_session_close(&session);
        pi0_engine_close(&engine);
    }
    assert_int_equal(l.live, 0);
    pi0_set_allocator(NULL);
}

/* Every allocation fails once, in turn: always an error, never a crash, nothing left behind. */
static void test_failing_allocation(void **state) {
    (void)state;
    ledger l = {0};
    pi0_set_allocator(&(pi0_allocator){ledger_allocate, ledger_release, &l});
    bool done = false;
    long k = 0;
    while (!done) {
        l.calls = 0;
        l.fail_at = ++k;
        pi0_engine_options o;
        pi0_engine_options_default(&o);
        o.model = PI0_MODEL_TINY_PI0;
        o.backend = PI0_BACKEND_CPU;
        pi0_engine *engine = NULL;
        pi0_session *session = NULL;
        pi0_error error = {0};
        pi0_status status = pi0_engine_open(&engine, &o, &error);
        if (status == PI0_OK) status = pi0_session_open(&session, engine, NULL, &error);
        done = status == PI0_OK && l.calls < l.fail_at;
        if (!done && status != PI0_OK) {
            assert_int_equal(status, PI0_ERROR_MEMORY);
            assert_true(error.message[0] != 0);
        }
        pi0_session_close(&session);
        pi0_engine_close(&engine);
        assert_int_equal(l.live, 0);
        assert_true(k < 100000);
    }
    assert_true(k > 5);
    pi0_set_allocator(NULL);
}

static void test_devices(void **state) {
    (void)state;
    pi0_device_info devices[8];
    memset(devices, 0, sizeof devices);
    for (int i = 0; i < 8; i++) devices[i].struct_size = sizeof devices[i];
    int count = 0, cpus = 0, explained = 0;
    assert_int_equal(pi0_devices(devices, 8, &count, NULL), PI0_OK);
    for (int i = 0; i < count && i < 8; i++) {
        cpus += devices[i].backend == PI0_BACKEND_CPU && devices[i].usable && devices[i].name[0];
        explained += devices[i].usable || devices[i].reason[0];
    }
    assert_int_equal(cpus, 1);
    assert_int_equal(explained, count);
    assert_int_equal(pi0_devices(NULL, 0, &count, NULL), PI0_OK);
    assert_int_equal(pi0_devices(NULL, 0, NULL, NULL), PI0_ERROR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version),
        cmocka_unit_test(test_engine_refuses),
        cmocka_unit_test(test_describe),
        cmocka_unit_test(test_session_refuses),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_skipping),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_no_allocation_per_inference),
        cmocka_unit_test(test_failing_allocation),
        cmocka_unit_test(test_devices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
