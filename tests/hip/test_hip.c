/*
 * The HIP backend's host side over a stand-in for libamdhip64 (standin.h): no kernel runs, so answers mean nothing, but
 * every allocation, copy, launch, capture and error passes through the same code as on a GPU.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "checkpoint/synthetic.h"
#include "pi0.h"
#include "standin.h"

enum { SIZE = 56, A = 32, H = 10, TOKENS = 12 };

typedef struct problem {
    uint8_t images[3][SIZE * SIZE * 3];
    int32_t tokens[TOKENS];
    float state[A], noise[H * A];
    pi0_observation observation;
} problem;

static problem make_problem(void) {
    problem p = {0};
    synthetic_tokens(5, 512, p.tokens, TOKENS);
    synthetic_state(5, p.state, A);
    pi0_noise(5, p.noise, H * A);
    for (int i = 0; i < 3; i++) synthetic_image(i, 5, SIZE, p.images[i]);
    return p;
}

/* Pointers into a problem that stays where it is. */
static const pi0_observation *observe(problem *p, int images, int tokens) {
    p->observation =
        (pi0_observation){.tokens = p->tokens, .token_count = tokens, .state = p->state, .noise = p->noise};
    for (int i = 0; i < images; i++) p->observation.images[i] = p->images[i];
    return &p->observation;
}

static pi0_gemm gemm_choice = PI0_GEMM_AUTO; /* of the engines to come */

static pi0_status open_engine(pi0_engine **engine, pi0_model model, const char *checkpoint, pi0_error *error) {
    pi0_engine_options o;
    pi0_engine_options_default(&o);
    o.gemm = gemm_choice;
    o.checkpoint = checkpoint;
    o.model = model;
    o.backend = PI0_BACKEND_HIP;
    return pi0_engine_open(engine, &o, error);
}

static pi0_status open_session(pi0_session **session, pi0_engine *engine, bool graph, bool profile, pi0_error *error) {
    pi0_session_options o;
    pi0_session_options_default(&o, engine);
    o.horizon = H;
    o.num_steps = 2;
    o.max_prompt_tokens = TOKENS;
    o.graph = graph;
    o.profile = profile;
    o.record = true;
    return pi0_session_open(session, engine, &o, error);
}

static void well(void) {
    if (standin()->misuse[0]) fail_msg("%s", standin()->misuse);
}
static void must(pi0_status status, const pi0_error *error) {
    if (status != PI0_OK) fail_msg("%s", error->message);
    well();
}

static void test_devices(void **unused) {
    (void)unused;
    pi0_device_info devices[8];
    int count = 0, found = 0;
    memset(devices, 0, sizeof devices);
    for (int i = 0; i < 8; i++) devices[i].struct_size = sizeof *devices;
    assert_int_equal(pi0_devices(devices, 8, &count, NULL), PI0_OK);
    for (int i = 0; i < count; i++) {
        if (devices[i].backend != PI0_BACKEND_HIP) continue;
        found++;
        assert_true(devices[i].usable);
        assert_string_equal(devices[i].name, "Stand-in 0");
        assert_string_equal(devices[i].arch, "gfx942");
        assert_int_equal(devices[i].units, 304);
    }
    assert_int_equal(found, 1);
    assert_int_equal(standin()->live, 0);
}

static void run_policy(pi0_model model, const char *checkpoint) {
    problem p = make_problem();
    pi0_engine *engine = NULL;
    pi0_session *session = NULL;
    pi0_error error = {0};
    float actions[H * A];
    standin_reset();
    must(open_engine(&engine, model, checkpoint, &error), &error);
    assert_true(standin()->launches > 50); /* packing */
    pi0_engine_info info = {.struct_size = sizeof info};
    must(pi0_engine_describe(engine, &info, &error), &error);
    assert_int_equal(info.backend, PI0_BACKEND_HIP);
    assert_string_equal(info.device_arch, "gfx942");

    /* launched one by one */
    must(open_session(&session, engine, false, false, &error), &error);
    const long before = standin()->launches;
    must(pi0_session_infer(session, observe(&p, 3, TOKENS), 1, actions, &error), &error);
    const long direct = standin()->launches - before;
    assert_true(direct > 30);
    assert_int_equal(standin()->captures, 0);
    pi0_session_close(&session);

    /* one graph a shape: the same kernels */
    must(open_session(&session, engine, true, false, &error), &error);
    for (int round = 0; round < 2; round++) {
        const long earlier = standin()->launches;
        must(pi0_session_infer(session, observe(&p, 3, TOKENS), 1, actions, &error), &error);
        assert_int_equal(standin()->launches - earlier, direct);
        assert_int_equal(standin()->captures, 1);
        assert_int_equal(standin()->graph_launches, round + 1);
    }
    must(pi0_session_infer(session, observe(&p, 2, TOKENS - 3), 1, actions, &error), &error);
    assert_int_equal(standin()->captures, 2);
    pi0_timings timings = {.struct_size = sizeof timings};
    must(pi0_session_timings(session, &timings, &error), &error);
    assert_true(timings.device_ms > 0 && timings.stage_ms[0] > 0);
    size_t count = 0;
    must(pi0_session_read(session, "prefix_keys", 0, NULL, 0, &count, &error), &error);
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    must(pi0_session_read(session, "prefix_keys", 0, values, count, &count, &error), &error);
    free(values);
    pi0_session_close(&session);

    /* with an event after every launch */
    must(open_session(&session, engine, true, true, &error), &error);
    must(pi0_session_infer(session, observe(&p, 3, TOKENS), 1, actions, &error), &error);
    must(pi0_session_timings(session, &timings, &error), &error);
    int64_t calls = 0;
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++)
        for (int op = 0; op < PI0_OP_COUNT; op++) calls += timings.op_calls[stage][op];
    assert_true(calls >= direct);
    pi0_session_close(&session);
    pi0_engine_close(&engine);
    assert_int_equal(standin()->live, 0);
    assert_true(standin()->most_shared_bytes <= 65536);
    well();
}

static void test_pi0(void **unused) {
    (void)unused;
    run_policy(PI0_MODEL_TINY_PI0, "synthetic:3");
}
static void test_pi05(void **unused) {
    (void)unused;
    run_policy(PI0_MODEL_TINY_PI05, "synthetic:3");
}
/* Weights out of files go through pinned memory. */
static void test_checkpoint(void **unused) {
    (void)unused;
    char path[500];
    snprintf(path, sizeof path, "%s/golden/tiny_pi0_checkpoint", getenv("PI0_TEST_DATA"));
    run_policy(PI0_MODEL_AUTO, path);
}

/* Two engines and sessions share a device's kernels. */
static void test_shared(void **unused) {
    (void)unused;
    problem p = make_problem();
    pi0_engine *engines[2] = {NULL, NULL};
    pi0_session *session = NULL;
    pi0_error error = {0};
    float actions[H * A];
    standin_reset();
    must(open_engine(&engines[0], PI0_MODEL_TINY_PI0, "synthetic:3", &error), &error);
    must(open_engine(&engines[1], PI0_MODEL_TINY_PI05, "synthetic:3", &error), &error);
    pi0_engine_close(&engines[0]);
    must(open_session(&session, engines[1], true, false, &error), &error);
    must(pi0_session_infer(session, observe(&p, 3, TOKENS), 1, actions, &error), &error);
    pi0_session_close(&session);
    pi0_engine_close(&engines[1]);
    assert_int_equal(standin()->live, 0);
    well();
}

/* Engine, session, inference with the k-th call failing: an error with a message, and nothing left behind. */
static bool attempt(int k, pi0_model model, const char *checkpoint) {
    problem p = make_problem();
    pi0_engine *engine = NULL;
    pi0_session *session = NULL;
    pi0_error error = {0};
    float actions[H * A];
    standin_reset();
    standin()->fail_at = k;
    pi0_status status = open_engine(&engine, model, checkpoint, &error);
    if (status == PI0_OK) status = open_session(&session, engine, true, false, &error);
    if (status == PI0_OK) status = pi0_session_infer(session, observe(&p, 3, TOKENS), 1, actions, &error);
    const bool reported = standin()->failed, reached = reported || standin()->failed_giving;
    const int calls = standin()->calls;
    standin()->fail_at = 0;
    pi0_session_close(&session);
    pi0_engine_close(&engine);
    if (reported && status == PI0_OK) fail_msg("call %d of %d failed and nobody said so", k, calls);
    if (status != PI0_OK && !error.message[0]) fail_msg("call %d failed without a message", k);
    if (standin()->live) fail_msg("call %d failed: %d objects were left", k, standin()->live);
    well();
    return reached;
}

static void test_failing_calls(void **unused) {
    (void)unused;
    int k = 1;
    char path[500];
    snprintf(path, sizeof path, "%s/golden/tiny_pi0_checkpoint", getenv("PI0_TEST_DATA"));
    while (attempt(k, PI0_MODEL_AUTO, path)) k += k < 120 ? 1 : 3;
    assert_true(k > 300);
    k = 1;
    while (attempt(k, PI0_MODEL_TINY_PI05, "synthetic:3")) k += k < 120 ? 1 : 3;
    assert_true(k > 300);
    k = 1;
    gemm_choice = PI0_GEMM_CUBLASLT;
    while (attempt(k, PI0_MODEL_TINY_PI0, "synthetic:3")) k += k < 120 ? 1 : 7;
    gemm_choice = PI0_GEMM_AUTO;
    assert_true(k > 300);
}

/* Products of the ViT and the prefix by hipBLASLt. */
static void test_hipblaslt(void **unused) {
    (void)unused;
    problem p = make_problem();
    pi0_engine *engine = NULL;
    pi0_session *session = NULL;
    pi0_error error = {0};
    float actions[H * A];
    standin_reset();
    gemm_choice = PI0_GEMM_CUBLASLT;
    must(open_engine(&engine, PI0_MODEL_TINY_PI0, "synthetic:3", &error), &error);
    gemm_choice = PI0_GEMM_AUTO;
    must(open_session(&session, engine, true, false, &error), &error);
    must(pi0_session_infer(session, observe(&p, 3, TOKENS), 1, actions, &error), &error);
    assert_true(standin()->products > 10);
    pi0_session_close(&session);
    pi0_engine_close(&engine);
    assert_int_equal(standin()->live, 0);
    well();
}

/* ---- libraries that cannot be used: the command's one line ---- */

static void expect_line(const char *setting, const char *command, const char *line) {
    char text[1000], answer[2000] = "";
    snprintf(text, sizeof text, "%s '%s' %s 2>&1", setting, getenv("PI0"), command);
    FILE *pipe = popen(text, "r");
    assert_non_null(pipe);
    const size_t size = fread(answer, 1, sizeof answer - 1, pipe);
    answer[size] = 0;
    pclose(pipe);
    if (!strstr(answer, line)) fail_msg("%s: expected \"%s\" in \"%s\"", text, line, answer);
}

static void test_refusals(void **unused) {
    (void)unused;
    char setting[600];
    const char *folder = getenv("STANDIN_FOLDER"), *infer = "bench --model tiny-pi0 --backend hip --iterations 1";
    expect_line("LD_LIBRARY_PATH=/nowhere", "devices", "ROCm was not found (no libamdhip64)");
    expect_line("LD_LIBRARY_PATH=/nowhere", infer, "pi0: backend hip: ROCm was not found (no libamdhip64)\n");
    snprintf(setting, sizeof setting, "LD_LIBRARY_PATH='%s/lacking'", folder);
    expect_line(setting, "devices", "libamdhip64 has no hipGraphLaunch: ROCm 6 or newer is needed");
    expect_line(setting, infer, "pi0: backend hip: libamdhip64 has no hipGraphLaunch: ROCm 6 or newer is needed\n");
    snprintf(setting, sizeof setting, "STANDIN_DEVICES=0 LD_LIBRARY_PATH='%s'", folder);
    expect_line(setting, "devices", "no AMD GPU is visible (no ROCm-capable device is detected)");
    expect_line(setting, infer, "pi0: backend hip: no AMD GPU is visible");
    snprintf(setting, sizeof setting, "STANDIN_INIT_FAILS=1 LD_LIBRARY_PATH='%s'", folder);
    expect_line(setting, infer, "pi0: backend hip: no AMD GPU can be used");
    snprintf(setting, sizeof setting, "STANDIN_ARCH=gfx90a LD_LIBRARY_PATH='%s'", folder);
    expect_line(setting, infer, "gfx90a: kernels are built for gfx942 and gfx950\n");
    snprintf(setting, sizeof setting, "STANDIN_ARCH=gfx950 LD_LIBRARY_PATH='%s'", folder);
    expect_line(setting, infer, "gfx950");
    snprintf(setting, sizeof setting, "LD_LIBRARY_PATH='%s'", folder);
    expect_line(setting, "devices", "Stand-in 0");
    snprintf(setting, sizeof setting, "LD_LIBRARY_PATH='%s/alone'", folder);
    expect_line(setting, "bench --model tiny-pi0 --backend hip --gemm cublaslt --iterations 1",
                "hipBLASLt: libhipblaslt is not on this machine\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_devices),    cmocka_unit_test(test_pi0),      cmocka_unit_test(test_pi05),
        cmocka_unit_test(test_checkpoint), cmocka_unit_test(test_shared),   cmocka_unit_test(test_failing_calls),
        cmocka_unit_test(test_hipblaslt),  cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
