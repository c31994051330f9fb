/*
 * Bad ground under the CUDA backend, on a machine without a GPU: the run-time library is a stand-in (cudart.h) that has
 * whatever the test wants, and fails wherever it wants. Nothing may leak, each error must be told, and the CPU backend
 * must work afterwards.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pi0.h"
#include "standin/cudart.h"
#include "unit/allocator.h"
#include "unit/data.h"

/* cudaError_t values, as CUDA's header has them */
enum {
    OUT_OF_MEMORY = 2,
    INSUFFICIENT_DRIVER = 35,
    NO_DEVICE = 100,
    ILLEGAL_ADDRESS = 700,
    CAPTURE_INVALIDATED = 901,
    UNKNOWN = 999
};
enum { SIZE = 56, A = 32, H = 10 };

static uint8_t image[SIZE * SIZE * 3];
static int32_t tokens[] = {5, 7, 11};
static float state_values[A], noise[2 * H * A], actions[2 * H * A];

static pi0_observation observation(int token_count) {
    return (pi0_observation){
        .images = {image}, .tokens = tokens, .token_count = token_count, .state = state_values, .noise = noise};
}

static pi0_engine_options engine_options(pi0_backend backend) {
    pi0_engine_options o;
    pi0_engine_options_default(&o);
    o.model = PI0_MODEL_TINY_PI0;
    o.backend = backend;
    o.threads = 1;
    return o;
}

static pi0_status open_cuda(pi0_engine **engine, pi0_error *error) {
    pi0_engine_options o = engine_options(PI0_BACKEND_CUDA);
    return pi0_engine_open(engine, &o, error);
}

static void assert_cpu_works(pi0_backend backend) {
    pi0_engine_options o = engine_options(backend);
    pi0_engine *engine = NULL;
    pi0_session *session = NULL;
    pi0_error error = {0};
    pi0_engine_info info = {.struct_size = sizeof info};
    if (pi0_engine_open(&engine, &o, &error) != PI0_OK) fail_msg("%s", error.message);
    assert_int_equal(pi0_engine_describe(engine, &info, &error), PI0_OK);
    assert_int_equal(info.backend, PI0_BACKEND_CPU);
    assert_int_equal(pi0_session_open(&session, engine, NULL, &error), PI0_OK);
    pi0_observation seen = observation(3);
    actions[0] = NAN;
    assert_int_equal(pi0_session_infer(session, &seen, 1, actions, &error), PI0_OK);
    assert_true(isfinite(actions[0]) && actions[0] != 0.0f);
    pi0_session_close(&session);
    pi0_engine_close(&engine);
}

/* What pi0_devices says of the first CUDA device. */
static pi0_device_info first_device(void) {
    pi0_device_info devices[8];
    memset(devices, 0, sizeof devices);
    for (int i = 0; i < 8; i++) devices[i].struct_size = sizeof devices[i];
    int count = 0;
    assert_int_equal(pi0_devices(devices, 8, &count, NULL), PI0_OK);
    assert_true(count >= 2);
    for (int i = 0; i < count && i < 8; i++)
        if (devices[i].backend == PI0_BACKEND_CUDA) return devices[i];
    fail_msg("no CUDA device is listed");
    return devices[0];
}

/* The engine does not open, with `says` in the message and in the list of devices; `auto` takes the CPU. */
static void assert_no_ground(const char *says) {
    pi0_engine *engine = NULL;
    pi0_error error = {0};
    assert_int_equal(open_cuda(&engine, &error), PI0_ERROR_DEVICE);
    assert_null(engine);
    if (!strstr(error.message, says)) fail_msg("\"%s\" does not say \"%s\"", error.message, says);
    const pi0_device_info device = first_device();
    assert_false(device.usable);
    if (!strstr(device.reason, says)) fail_msg("\"%s\" does not say \"%s\"", device.reason, says);
    assert_int_equal(standin.live, 0);
    assert_cpu_works(PI0_BACKEND_AUTO);
}

static void test_no_driver(void **state) {
    (void)state;
    standin_reset();
    standin.driver = 0;
    standin.count_status = INSUFFICIENT_DRIVER; /* what CUDA says where libcuda is missing, too */
    assert_no_ground("no NVIDIA driver was found");
}

static void test_old_driver(void **state) {
    (void)state;
    standin_reset();
    standin.driver = 12040;
    standin.count_status = INSUFFICIENT_DRIVER;
    assert_no_ground("supports CUDA 12.4, this build needs 13.");
}

static void test_no_visible_device(void **state) {
    (void)state;
    standin_reset();
    standin.count_status = NO_DEVICE;
    assert_no_ground("no CUDA device is visible");
}

static void test_broken_device(void **state) {
    (void)state;
    standin_reset();
    standin.count_status = UNKNOWN;
    assert_no_ground("made to fail");
}

static void test_old_card(void **state) {
    (void)state;
    standin_reset();
    standin.major = 7;
    standin.minor = 5;
    assert_no_ground("compute capability 7.5, 8.0 or newer is needed");
}

static void test_device_number(void **state) {
    (void)state;
    standin_reset();
    pi0_engine_options o = engine_options(PI0_BACKEND_CUDA);
    o.device = 3;
    pi0_engine *engine = NULL;
    pi0_error error = {0};
    assert_int_equal(pi0_engine_open(&engine, &o, &error), PI0_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "device 3"));
    assert_null(engine);
}

static int count_progress(void *user, const char *what, double fraction) {
    (void)what;
    (void)fraction;
    ++*(int *)user;
    return 0;
}

/* Said before anything is loaded or taken. */
static void test_too_little_memory(void **state) {
    (void)state;
    standin_reset();
    standin.free_bytes = (size_t)4 << 30;
    pi0_engine_options o = engine_options(PI0_BACKEND_CUDA);
    o.model = PI0_MODEL_PI0;
    int calls = 0;
    o.progress = count_progress;
    o.progress_user = &calls;
    pi0_engine *engine = NULL;
    pi0_error error = {0};
    assert_int_equal(pi0_engine_open(&engine, &o, &error), PI0_ERROR_MEMORY);
    assert_non_null(strstr(error.message, "4096"));
    assert_int_equal(calls, 0);
    assert_int_equal(standin.most_bytes, 0);

    /* room for the weights, but not for a large session */
    standin_reset();
    standin.free_bytes = (size_t)300 << 20;
    assert_int_equal(open_cuda(&engine, &error), PI0_OK);
    pi0_session_options many;
    pi0_session_options_default(&many, engine);
    many.max_batch = 512;
    pi0_session *session = NULL;
    const size_t before = standin.live_bytes;
    assert_int_equal(pi0_session_open(&session, engine, &many, &error), PI0_ERROR_MEMORY);
    assert_null(session);
    assert_non_null(strstr(error.message, "batch 512"));
    assert_int_equal(standin.live_bytes, before);
    pi0_engine_close(&engine);
    assert_int_equal(standin.live, 0);
    assert_cpu_works(PI0_BACKEND_CPU);
}

static void ignore_event(void *user, const pi0_trace_event *event) {
    (void)user;
    (void)event;
}

/* Without a GPU CUPTI refuses, or is not there: a message, nothing left behind, and the engine goes on. */
static void test_no_trace(void **state) {
    (void)state;
    standin_reset();
    pi0_engine *engine = NULL;
    pi0_error error = {0};
    assert_int_equal(open_cuda(&engine, &error), PI0_OK);
    pi0_session_options o;
    pi0_session_options_default(&o, engine);
    o.num_steps = 1;
    o.trace = ignore_event;
    pi0_session *session = NULL;
    const size_t before = standin.live_bytes;
    assert_int_equal(pi0_session_open(&session, engine, &o, &error), PI0_ERROR_UNSUPPORTED);
    assert_null(session);
    assert_non_null(strstr(error.message, "no traces here"));
    assert_int_equal(standin.live_bytes, before);
    o.trace = NULL;
    assert_int_equal(pi0_session_open(&session, engine, &o, &error), PI0_OK);
    pi0_session_close(&session);
    pi0_engine_close(&engine);
    assert_int_equal(standin.live, 0);
}

static int cancel(void *user, const char *what, double fraction) {
    (void)user;
    (void)what;
    return fraction > 0.5;
}

static void test_cancelled_load(void **state) {
    (void)state;
    standin_reset();
    pi0_engine_options o = engine_options(PI0_BACKEND_CUDA);
    o.progress = cancel;
    pi0_engine *engine = NULL;
    pi0_error error = {0};
    assert_int_equal(pi0_engine_open(&engine, &o, &error), PI0_ERROR_CANCELLED);
    assert_int_equal(standin.live, 0);
}

/* ---- calls that fail ---- */

/* A whole life: engine, session, inferences of two shapes, stage results. The first status that is not OK. */
static pi0_status live_once(const pi0_engine_options *options, bool graph, pi0_error *error) {
    pi0_engine *engine = NULL;
    pi0_session *session = NULL;
    pi0_status status = pi0_engine_open(&engine, options, error);
    assert_true((status == PI0_OK) == (engine != NULL));
    if (status == PI0_OK) {
        pi0_session_options o;
        pi0_session_options_default(&o, engine);
        o.max_batch = 2;
        o.num_steps = 1;
        o.graph = graph;
        o.record = true;
        status = pi0_session_open(&session, engine, &o, error);
        assert_true((status == PI0_OK) == (session != NULL));
    }
    for (int i = 0; i < 4 && status == PI0_OK; i++) {
        const pi0_observation seen[] = {observation(i % 2), observation(3)};
        status = pi0_session_infer(session, seen, 1 + i / 2, actions, error);
        if (status != PI0_OK && !standin.fail_stays && !standin.fail_name) {
            /* one failure is forgotten with the next inference */
            pi0_error again = {0};
            if (pi0_session_infer(session, seen, 1 + i / 2, actions, &again) != PI0_OK)
                fail_msg("after \"%s\": %s", error->message, again.message);
        }
    }
    float values[64];
    size_t count;
    if (status == PI0_OK) status = pi0_session_read(session, "prefix_keys", 0, values, 64, &count, error);
    pi0_session_close(&session);
    pi0_engine_close(&engine);
    return status;
}

/* Every call in turn fails once, or from then on always. */
static void fail_everywhere(int status, bool stays, bool graph, const char *checkpoint, pi0_kernels kernels) {
    pi0_engine_options o = engine_options(PI0_BACKEND_CUDA);
    o.checkpoint = checkpoint;
    o.model = PI0_MODEL_AUTO;
    if (!strncmp(checkpoint, "synthetic", 9)) o.model = PI0_MODEL_TINY_PI05;
    o.kernels = kernels;
    pi0_error error = {0};
    standin_reset();
    if (live_once(&o, graph, &error) != PI0_OK) fail_msg("%s", error.message);
    assert_int_equal(standin.live, 0);
    const int calls = standin.calls;
    assert_true(calls > 200);
    int told = 0;
    for (int k = 1; k <= calls; k++) {
        standin_reset();
        standin.fail_call = k;
        standin.fail_status = status;
        standin.fail_stays = stays;
        error.message[0] = 0;
        const pi0_status result = live_once(&o, graph, &error);
        if (standin.live)
            fail_msg("call %d (%s) failed: %d things were not given back", k, standin.last_failed, standin.live);
        /* what fails while things are given back changes no answer, and a query may have a second way */
        if (result == PI0_OK) continue;
        told++;
        assert_true(result == PI0_ERROR_DEVICE || result == PI0_ERROR_MEMORY || result == PI0_ERROR_UNSUPPORTED);
        if (!strstr(error.message, "made to fail") && !strstr(error.message, "no CUDA device") &&
            !strstr(error.message, "TMA"))
            fail_msg("call %d (%s): \"%s\"", k, standin.last_failed, error.message);
        if (k % 50 == 0) assert_cpu_works(PI0_BACKEND_CPU);
    }
    print_message("%d of %d calls that fail are told\n", told, calls);
    assert_true(told > calls * 3 / 4);
}

static void test_failing_calls(void **state) {
    (void)state;
    fail_everywhere(OUT_OF_MEMORY, false, true, "synthetic:3", PI0_KERNELS_AUTO);
    fail_everywhere(UNKNOWN, false, false, "synthetic:3", PI0_KERNELS_PORTABLE);
}

static void test_lost_device(void **state) {
    (void)state;
    fail_everywhere(ILLEGAL_ADDRESS, true, true, "synthetic:3", PI0_KERNELS_AUTO);
    fail_everywhere(ILLEGAL_ADDRESS, true, false, "synthetic:3", PI0_KERNELS_AUTO);
}

static void test_failing_calls_while_loading_a_file(void **state) {
    (void)state;
    char path[512];
    fail_everywhere(OUT_OF_MEMORY, false, true, data_path(path, sizeof path, "golden", "tiny_pi0_checkpoint"),
                    PI0_KERNELS_AUTO);
}

/* The session tells it, and goes on once graphs can be captured again. */
static void test_graph_that_cannot_be_captured(void **state) {
    (void)state;
    static const char *const failing[] = {"cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate",
                                          "cudaGraphUpload", "cudaGraphLaunch"};
    for (size_t i = 0; i < sizeof failing / sizeof *failing; i++) {
        standin_reset();
        pi0_engine *engine = NULL;
        pi0_session *session = NULL;
        pi0_error error = {0};
        assert_int_equal(open_cuda(&engine, &error), PI0_OK);
        assert_int_equal(pi0_session_open(&session, engine, NULL, &error), PI0_OK);
        standin.fail_name = failing[i];
        standin.fail_status = CAPTURE_INVALIDATED;
        const pi0_observation seen = observation(3);
        actions[0] = 7.0f;
        for (int round = 0; round < 3; round++) {
            assert_int_equal(pi0_session_infer(session, &seen, 1, actions, &error), PI0_ERROR_DEVICE);
            assert_non_null(strstr(error.message, "made to fail"));
            assert_true(actions[0] == 7.0f);
        }
        standin.fail_name = NULL;
        assert_int_equal(pi0_session_infer(session, &seen, 1, actions, &error), PI0_OK);
        pi0_session_close(&session);
        pi0_engine_close(&engine);
        assert_int_equal(standin.live, 0);
    }
    assert_cpu_works(PI0_BACKEND_CPU);
}

/* ---- host memory, rounds ---- */

static void test_failing_host_memory(void **state) {
    (void)state;
    const pi0_engine_options o = engine_options(PI0_BACKEND_CUDA);
    for (int k = 0;; k++) {
        standin_reset();
        pi0_error error = {0};
        allocator_log log;
        allocator_begin(&log, k);
        const pi0_status status = live_once(&o, true, &error);
        allocator_end();
        assert_int_equal(standin.live, 0);
        if (status == PI0_OK) break;
        assert_int_equal(status, PI0_ERROR_MEMORY);
        assert_true(k < 1000);
    }
}

static void test_rounds(void **state) {
    (void)state;
    standin_reset();
    pi0_engine *engine = NULL;
    pi0_error error = {0};
    assert_int_equal(open_cuda(&engine, &error), PI0_OK);
    const int live = standin.live;
    const pi0_observation seen = observation(3);
    for (int i = 0; i < 1000; i++) {
        pi0_session *session = NULL;
        assert_int_equal(pi0_session_open(&session, engine, NULL, &error), PI0_OK);
        if (i % 10 == 0) assert_int_equal(pi0_session_infer(session, &seen, 1, actions, &error), PI0_OK);
        pi0_session_close(&session);
        assert_int_equal(standin.live, live);
    }
    /* graphs are kept, but not without bound */
    pi0_session_options o;
    pi0_session_options_default(&o, engine);
    pi0_session *session = NULL;
    assert_int_equal(pi0_session_open(&session, engine, &o, &error), PI0_OK);
    int32_t long_prompt[200] = {0};
    const int opened = standin.live;
    for (int length = 1; length <= 200; length++) {
        pi0_observation prompt = observation(length);
        prompt.tokens = long_prompt;
        assert_int_equal(pi0_session_infer(session, &prompt, 1, actions, &error), PI0_OK);
        assert_true(standin.live <= opened + 64);
    }
    pi0_session_close(&session);
    pi0_engine_close(&engine);
    assert_int_equal(standin.live, 0);
}

int main(void) {
    for (int i = 0; i < SIZE * SIZE * 3; i++) image[i] = (uint8_t)i;
    pi0_noise(1, noise, sizeof noise / sizeof *noise);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_driver),
        cmocka_unit_test(test_old_driver),
        cmocka_unit_test(test_no_visible_device),
        cmocka_unit_test(test_broken_device),
        cmocka_unit_test(test_old_card),
        cmocka_unit_test(test_device_number),
        cmocka_unit_test(test_too_little_memory),
        cmocka_unit_test(test_no_trace),
        cmocka_unit_test(test_cancelled_load),
        cmocka_unit_test(test_failing_calls),
        cmocka_unit_test(test_lost_device),
        cmocka_unit_test(test_failing_calls_while_loading_a_file),
        cmocka_unit_test(test_graph_that_cannot_be_captured),
        cmocka_unit_test(test_failing_host_memory),
        cmocka_unit_test(test_rounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
