/*
 * The CUDA backend through the public API, beside the CPU backend in float32: random problems, replays, batches,
 * sessions in threads, what opening and closing leaves behind, and ground that gives way.
 *
 *     check_session compare    all of it on the tiny models (the device is lost at the end)
 *     check_session full       the real size: first-seen shapes, graph against kernels, memory, time to load
 *     check_session suffix     the real size in float32 on the CPU beside the GPU, for several horizons and batches
 *     check_session load DIR   time to load a checkpoint
 */
#include <cuda_runtime.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <memory>
#include <vector>

extern "C" {
#include "base/clock.h"
#include "checkpoint/synthetic.h"
#include "pi0.h"
}

enum { SIZE = 56, A = 32, CAMERAS = 3, VOCABULARY = 512 };
static const double BOUND_STAGE = 1.2e-2, BOUND_ACTIONS = 6.5e-3; /* of `pi0 verify` in bf16 */

static uint64_t seed_state = 11;
static int failures;

static uint32_t draw(void) {
    seed_state = seed_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed_state >> 33);
}
static int between(int low, int high) { return low + (int)(draw() % (unsigned)(high - low + 1)); }
static float uniform(void) { return (float)(draw() & 0xffffff) / (float)0x800000 - 1.0f; }

static void report(bool ok, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("  %s\n", ok ? "ok" : "FAIL");
    failures += !ok;
}

static void must(pi0_status status, const pi0_error *error, const char *what) {
    if (status == PI0_OK) return;
    printf("%s: %s  FAIL\n", what, error->message);
    exit(1);
}

/* An observation with memory of its own. */
struct problem {
    std::vector<uint8_t> images[CAMERAS];
    std::vector<float> float_images[CAMERAS];
    std::vector<int32_t> tokens;
    std::vector<float> state, noise;
    pi0_observation observation;

    /* masked: bits of cameras to leave out; floats: bits of cameras that come as float32 */
    problem(int size, int vocabulary, int prompt, int horizon, int masked, int floats = 0)
        : tokens(prompt), state(A), noise((size_t)horizon * A) {
        memset(&observation, 0, sizeof observation);
        const size_t pixels = (size_t)size * size * 3;
        const uint64_t seed = draw();
        for (int c = 0; c < CAMERAS; c++) {
            if (masked >> c & 1) continue;
            if (floats >> c & 1) {
                float_images[c].resize(pixels);
                for (auto &v : float_images[c]) v = uniform();
                observation.float_images[c] = float_images[c].data();
            } else {
                images[c].resize(pixels);
                synthetic_image(c, seed, size, images[c].data());
                observation.images[c] = images[c].data();
            }
        }
        synthetic_tokens(seed, vocabulary, tokens.data(), prompt);
        synthetic_state(seed, state.data(), A);
        pi0_noise(seed, noise.data(), noise.size());
        observation.tokens = tokens.data();
        observation.token_count = prompt;
        observation.state = state.data();
        observation.noise = noise.data();
    }
    problem(const problem &) = delete;
};

/* Options of the engines that are opened on the GPU. */
struct variation {
    const char *name;
    pi0_gemm gemm;
    pi0_attention attention;
    bool fuse_qkv;
};
static const variation usual = {"usual", PI0_GEMM_AUTO, PI0_ATTENTION_AUTO, true};
static const variation variations[] = {
    {"own products", PI0_GEMM_OWN, PI0_ATTENTION_AUTO, true},
    {"cuBLASLt", PI0_GEMM_CUBLASLT, PI0_ATTENTION_AUTO, true},
    {"naive attention", PI0_GEMM_AUTO, PI0_ATTENTION_NAIVE, true},
    {"separate products", PI0_GEMM_AUTO, PI0_ATTENTION_AUTO, false},
};
static variation varied = usual;

static pi0_engine *open_engine(pi0_model model, pi0_backend backend, pi0_kernels kernels = PI0_KERNELS_AUTO,
                               pi0_rope rope = PI0_ROPE_EXACT, int seed = 5, int threads = 2) {
    pi0_engine_options o;
    pi0_engine_options_default(&o);
    char checkpoint[32];
    snprintf(checkpoint, sizeof checkpoint, "synthetic:%d", seed);
    o.checkpoint = checkpoint;
    o.model = model;
    o.backend = backend;
    o.kernels = kernels;
    o.rope = rope;
    if (backend == PI0_BACKEND_CUDA) {
        o.gemm = varied.gemm;
        o.attention = varied.attention;
        o.fuse_qkv = varied.fuse_qkv;
    }
    o.precision = backend == PI0_BACKEND_CPU ? PI0_PRECISION_F32 : PI0_PRECISION_AUTO;
    o.threads = threads;
    pi0_engine *engine = NULL;
    pi0_error error = {};
    must(pi0_engine_open(&engine, &o, &error), &error, "engine");
    return engine;
}

static pi0_session_options session_options(int batch, int prompt, int horizon, int steps) {
    pi0_session_options o;
    pi0_session_options_default(&o, NULL);
    o.max_batch = batch;
    o.max_prompt_tokens = prompt;
    o.horizon = horizon;
    o.num_steps = steps;
    return o;
}

static pi0_session *open_session(pi0_engine *engine, const pi0_session_options *o) {
    pi0_session *session = NULL;
    pi0_error error = {};
    must(pi0_session_open(&session, engine, o, &error), &error, "session");
    return session;
}

typedef std::vector<float> values;

static values infer(pi0_session *session, const pi0_session_options &o, const std::vector<pi0_observation> &batch) {
    values actions(batch.size() * o.horizon * A, NAN);
    pi0_error error = {};
    must(pi0_session_infer(session, batch.data(), (int)batch.size(), actions.data(), &error), &error, "inference");
    return actions;
}

static values read_stage(pi0_session *session, const char *name) {
    size_t count = 0;
    pi0_error error = {};
    must(pi0_session_read(session, name, 0, NULL, 0, &count, &error), &error, name);
    values v(count);
    must(pi0_session_read(session, name, 0, v.data(), count, &count, &error), &error, name);
    return v;
}

static double distance(const float *a, const float *b, size_t count) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(a[i])) return INFINITY;
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(difference / (norm + 1e-30));
}
static double distance(const values &a, const values &b) {
    return a.size() == b.size() ? distance(a.data(), b.data(), a.size()) : INFINITY;
}
static bool same(const values &a, const values &b) {
    return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/* ---- problems ---- */

static const char *const stages[] = {"prefix_embeddings", "prefix_keys", "prefix_values", "x", "v"};

/* Every stage of random problems against the CPU; graph, kernels one by one and profiled ones give the same bits. */
static void random_problems(pi0_model model, pi0_kernels kernels, int count) {
    enum { STAGES = 5, ACTIONS = STAGES };
    pi0_engine *gpu = NULL, *cpu = NULL;
    double worst[STAGES + 1] = {};
    char where[STAGES + 1][80] = {};
    int different = 0;
    for (int i = 0; i < count; i++) {
        if (i % 8 == 0) {
            pi0_engine_close(&gpu);
            pi0_engine_close(&cpu);
            gpu = open_engine(model, PI0_BACKEND_CUDA, kernels, PI0_ROPE_EXACT, i);
            cpu = open_engine(model, PI0_BACKEND_CPU, PI0_KERNELS_AUTO, PI0_ROPE_EXACT, i);
        }
        static const int horizons[] = {1, 2, 7, 8, 10, 15, 16, 17, 31, 32, 33, 50, 63, 64};
        const int horizon = horizons[i % 14], prompt = i % 5 == 0 ? 200 : i % 7 == 0 ? 0 : between(1, 199);
        const int steps = i % 9 == 4 ? 100 : between(1, 12), masked = i % 3 == 0 ? 0 : between(0, prompt ? 7 : 6);
        const int floats = i % 4 == 3 ? between(0, 7) : 0;
        pi0_session_options o = session_options(1, prompt, horizon, steps);
        o.record = true;
        o.skip_masked_images = i % 2 == 0;
        problem p(SIZE, VOCABULARY, prompt, horizon, masked, floats);
        const std::vector<pi0_observation> batch(1, p.observation);
        pi0_session *theirs = open_session(cpu, &o), *ours = open_session(gpu, &o);
        const values want = infer(theirs, o, batch), got = infer(ours, o, batch);
        for (int s = 0; s <= STAGES; s++) {
            /* rows of masked cameras that were computed all the same: whatever they hold, nothing reads them */
            if (s < 3 && !o.skip_masked_images && masked) continue;
            const double error = s == ACTIONS ? distance(got, want)
                                              : distance(read_stage(ours, stages[s]), read_stage(theirs, stages[s]));
            if (!(error > worst[s])) continue;
            worst[s] = error;
            snprintf(where[s], sizeof where[s], "seed %d prompt %d horizon %d steps %d masked %d floats %d%s",
                     i / 8 * 8, prompt, horizon, steps, masked, floats, o.skip_masked_images ? "" : " computed");
        }
        const values again = infer(ours, o, batch);
        o.graph = false;
        pi0_session *one_by_one = open_session(gpu, &o);
        const values launched = infer(one_by_one, o, batch);
        o.profile = true;
        o.record = false;
        pi0_session *profiled = open_session(gpu, &o);
        const values timed = infer(profiled, o, batch);
        different += !same(got, again) + !same(got, launched) + !same(got, timed);
        pi0_session_close(&theirs);
        pi0_session_close(&ours);
        pi0_session_close(&one_by_one);
        pi0_session_close(&profiled);
    }
    for (int s = 0; s <= STAGES; s++)
        report(worst[s] <= (s == 3 || s == ACTIONS ? BOUND_ACTIONS : BOUND_STAGE),
               "%d problems, %-17s at most %.1e (%s)", count, s == ACTIONS ? "actions" : stages[s], worst[s], where[s]);
    report(different == 0, "replays, graph, single launches, profile: %d answers differ in a bit", different);
    pi0_engine_close(&gpu);
    pi0_engine_close(&cpu);
}

/* Ragged batches against each observation alone on the CPU. */
static void batches(pi0_model model, pi0_kernels kernels) {
    pi0_engine *gpu = open_engine(model, PI0_BACKEND_CUDA, kernels), *cpu = open_engine(model, PI0_BACKEND_CPU);
    for (int skip = 0; skip < 2; skip++) {
        pi0_session_options o = session_options(64, 60, skip ? 10 : 19, 4), one = session_options(1, 60, o.horizon, 4);
        o.skip_masked_images = skip;
        pi0_session *many = open_session(gpu, &o), *theirs = open_session(cpu, &one), *alone = open_session(gpu, &one);
        double worst = 0, apart = 0;
        int different = 0;
        for (int size : {1, 2, 3, 5, 8, 16, 33, 64}) {
            std::vector<problem *> problems;
            std::vector<pi0_observation> batch;
            for (int n = 0; n < size; n++) {
                const int prompt = between(0, 60);
                problems.push_back(
                    new problem(SIZE, VOCABULARY, prompt, o.horizon, between(0, prompt ? 7 : 6), n % 7 ? 0 : 2));
                batch.push_back(problems.back()->observation);
            }
            const values all = infer(many, o, batch), again = infer(many, o, batch);
            different += !same(all, again);
            for (int n = 0; n < size; n++) {
                const std::vector<pi0_observation> single(1, batch[n]);
                const values want = infer(theirs, one, single), own = infer(alone, one, single);
                const float *part = all.data() + (size_t)n * o.horizon * A;
                worst = fmax(worst, distance(part, want.data(), want.size()));
                apart = fmax(apart, distance(part, own.data(), own.size()));
            }
            for (auto p : problems) delete p;
        }
        report(worst <= BOUND_ACTIONS && apart <= BOUND_ACTIONS && !different,
               "batches of 1 to 64%s: worst error %.1e, from the single answer %.1e, replays that differ %d",
               skip ? "" : ", masked cameras computed", worst, apart, different);
        pi0_session_close(&many);
        pi0_session_close(&theirs);
        pi0_session_close(&alone);
    }
    pi0_engine_close(&gpu);
    pi0_engine_close(&cpu);
}

static void rope_option(void) {
    pi0_engine *gpu = open_engine(PI0_MODEL_TINY_PI0, PI0_BACKEND_CUDA, PI0_KERNELS_AUTO, PI0_ROPE_OPENPI_TORCH_BF16),
               *cpu = open_engine(PI0_MODEL_TINY_PI0, PI0_BACKEND_CPU, PI0_KERNELS_AUTO, PI0_ROPE_OPENPI_TORCH_BF16),
               *exact = open_engine(PI0_MODEL_TINY_PI0, PI0_BACKEND_CPU);
    pi0_session_options o = session_options(1, 200, 10, 3);
    problem p(SIZE, VOCABULARY, 200, 10, 0);
    const std::vector<pi0_observation> batch(1, p.observation);
    o.record = true;
    pi0_session *ours = open_session(gpu, &o), *theirs = open_session(cpu, &o), *other = open_session(exact, &o);
    const double actions = distance(infer(ours, o, batch), infer(theirs, o, batch));
    infer(other, o, batch);
    const double keys = distance(read_stage(ours, "prefix_keys"), read_stage(theirs, "prefix_keys"));
    const double away = distance(read_stage(other, "prefix_keys"), read_stage(theirs, "prefix_keys"));
    report(actions <= BOUND_ACTIONS && keys <= BOUND_STAGE && away > 2 * keys,
           "rounded RoPE frequencies: keys %.1e, actions %.1e; exact ones are %.1e away", keys, actions, away);
    pi0_session_close(&ours);
    pi0_session_close(&theirs);
    pi0_session_close(&other);
    pi0_engine_close(&gpu);
    pi0_engine_close(&cpu);
    pi0_engine_close(&exact);
}

/* ---- threads ---- */

struct worker {
    pi0_engine *engine;
    pi0_session_options options;
    std::vector<problem *> problems;
    std::vector<values> want;
    int rounds, different;
    pthread_t thread;
};

static void *work(void *argument) {
    worker *w = (worker *)argument;
    pi0_session *session = open_session(w->engine, &w->options);
    for (int i = 0; i < w->rounds; i++) {
        const size_t n = i % w->problems.size();
        const std::vector<pi0_observation> batch(1, w->problems[n]->observation);
        w->different += !same(infer(session, w->options, batch), w->want[n]);
        if (i % 16 == 15) {
            pi0_session_close(&session);
            session = open_session(w->engine, &w->options);
        }
    }
    pi0_session_close(&session);
    return NULL;
}

/* Two engines, eight threads with a session each: the bits of a quiet machine. */
static void threads(pi0_kernels kernels) {
    enum { WORKERS = 8, PROBLEMS = 5 };
    pi0_engine *engines[2] = {open_engine(PI0_MODEL_TINY_PI0, PI0_BACKEND_CUDA, kernels),
                              open_engine(PI0_MODEL_TINY_PI05, PI0_BACKEND_CUDA, kernels)};
    std::vector<worker> workers(WORKERS);
    for (int i = 0; i < WORKERS; i++) {
        worker &w = workers[i];
        w.engine = engines[i % 2];
        w.options = session_options(1, 200, 1 + i * 7, 1 + i);
        w.options.graph = i != 5;
        w.rounds = 80;
        w.different = 0;
        pi0_session *session = open_session(w.engine, &w.options);
        for (int n = 0; n < PROBLEMS; n++) {
            w.problems.push_back(new problem(SIZE, VOCABULARY, between(1, 200), w.options.horizon, between(0, 7)));
            w.want.push_back(
                infer(session, w.options, std::vector<pi0_observation>(1, w.problems.back()->observation)));
        }
        pi0_session_close(&session);
    }
    int different = 0;
    for (auto &w : workers)
        if (pthread_create(&w.thread, NULL, work, &w)) exit(1);
    for (auto &w : workers) {
        pthread_join(w.thread, NULL);
        different += w.different;
        for (auto p : w.problems) delete p;
    }
    report(different == 0, "8 threads, 2 engines, %d inferences: %d answers differ in a bit", WORKERS * 80, different);
    pi0_engine_close(&engines[0]);
    pi0_engine_close(&engines[1]);
}

/* ---- what stays behind ---- */

static size_t device_free(void) {
    size_t available = 0, all = 0;
    cudaMemGetInfo(&available, &all);
    return available;
}
static long resident_kb(void) {
    char line[200];
    long kb = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file)) sscanf(line, "VmRSS: %ld", &kb);
    if (file) fclose(file);
    return kb;
}

static void rounds(int sessions, int engines) {
    pi0_engine *engine = open_engine(PI0_MODEL_TINY_PI05, PI0_BACKEND_CUDA);
    problem p(SIZE, VOCABULARY, 20, 10, 0);
    const std::vector<pi0_observation> batch(1, p.observation);
    size_t before = 0;
    long kb = 0;
    const double begin = clock_ms();
    for (int i = 0; i < sessions; i++) {
        pi0_session_options o = session_options(1 + i % 3, 20 + i % 50, 10, 2);
        o.record = i % 2;
        o.profile = i % 5 == 4;
        pi0_session *session = open_session(engine, &o);
        if (i % 4 == 0) infer(session, o, batch);
        pi0_session_close(&session);
        if (i == sessions / 5) before = device_free(), kb = resident_kb();
    }
    const double each = (clock_ms() - begin) / sessions;
    const long lost = ((long)before - (long)device_free()) >> 10, grown = resident_kb() - kb;
    report(lost <= 0 && grown < 2048,
           "%d sessions opened and closed, %.1f ms each: device memory lost %ld KB, "
           "host memory grew by %ld KB",
           sessions, each, lost, grown);
    pi0_engine_close(&engine);
    for (int i = 0; i < engines; i++) {
        engine = open_engine(i % 2 ? PI0_MODEL_TINY_PI05 : PI0_MODEL_TINY_PI0, PI0_BACKEND_CUDA);
        pi0_engine_close(&engine);
        if (i == engines / 5) before = device_free(), kb = resident_kb();
    }
    const long lost_too = ((long)before - (long)device_free()) >> 10, grown_too = resident_kb() - kb;
    report(lost_too <= 0 && grown_too < 2048,
           "%d engines opened and closed: device memory lost %ld KB, host memory "
           "grew by %ld KB",
           engines, lost_too, grown_too);
}

/* What a shape costs when it is seen for the first time, and that graphs do not pile up. */
static void first_seen(pi0_model model, int size, int vocabulary, int batch, int steps) {
    pi0_engine *engine = open_engine(model, PI0_BACKEND_CUDA);
    const pi0_session_options o = session_options(batch, 200, 10, steps);
    const double begin = clock_ms();
    pi0_session *session = open_session(engine, &o);
    const double opened = clock_ms() - begin;
    double first = 0, worst = 0, extra = 0, usual = 0;
    size_t before = 0;
    const int count = 64;
    for (int i = 0; i < count; i++) {
        problem p(size, vocabulary, 3 * i + 1, 10, i % 5 == 4 ? 1 + i % 6 : 0);
        const std::vector<pi0_observation> all(1 + i % batch, p.observation);
        double ms[2];
        for (double &m : ms) {
            const double start = clock_ms();
            infer(session, o, all);
            m = clock_ms() - start;
        }
        if (i == 0) first = ms[0] - ms[1];
        worst = fmax(worst, ms[0]);
        if (i) extra = fmax(extra, ms[0] - ms[1]);
        usual += ms[1] / count;
        if (i == 40) before = device_free();
    }
    const long grown = ((long)before - (long)device_free()) >> 10;
    report(first <= 30 && extra <= 30 && grown <= 4096,
           "batch to %d, %d steps: opened in %.1f ms; the first inference costs %.1f ms more than its repeat, a new "
           "shape at most %.1f (inference %.2f); graphs of shapes 41 to 64 took %ld KB",
           batch, steps, opened, first, extra, usual, grown);
    pi0_session_close(&session);
    pi0_engine_close(&engine);
}

/* ---- bad ground ---- */

static bool cpu_works(void) {
    pi0_engine *cpu = open_engine(PI0_MODEL_TINY_PI0, PI0_BACKEND_CPU);
    const pi0_session_options o = session_options(1, 20, 10, 2);
    pi0_session *session = open_session(cpu, &o);
    problem p(SIZE, VOCABULARY, 20, 10, 0);
    const values actions = infer(session, o, std::vector<pi0_observation>(1, p.observation));
    pi0_session_close(&session);
    pi0_engine_close(&cpu);
    bool finite = true;
    for (float v : actions) finite = finite && isfinite(v);
    return finite;
}

static int progress_calls(void *user, const char *, double) {
    ++*(int *)user;
    return 0;
}

/* All but `leave` bytes of the device are somebody else's. */
static void little_memory(size_t leave) {
    std::vector<void *> taken;
    for (size_t piece = (size_t)8 << 30; piece >= (size_t)1 << 20;) {
        void *memory = NULL;
        if (device_free() > leave + piece && cudaMalloc(&memory, piece) == cudaSuccess)
            taken.push_back(memory);
        else
            piece /= 2;
        cudaGetLastError();
    }
    pi0_engine_options o;
    pi0_engine_options_default(&o);
    o.model = PI0_MODEL_PI0;
    o.backend = PI0_BACKEND_CUDA;
    int called = 0;
    o.progress = progress_calls;
    o.progress_user = &called;
    pi0_engine *engine = NULL;
    pi0_error error = {};
    const pi0_status status = pi0_engine_open(&engine, &o, &error);
    report(status == PI0_ERROR_MEMORY && !engine && !called, "with %zu MB free: %s", device_free() >> 20,
           status == PI0_OK ? "opened" : error.message);
    pi0_engine_close(&engine);
    for (void *memory : taken) cudaFree(memory);
}

__global__ void fault_kernel(int *nowhere) { *nowhere = 1; }

/* Another part of the process breaks the device while a session is in use. */
static void lost_device(void) {
    pi0_engine *engine = open_engine(PI0_MODEL_TINY_PI0, PI0_BACKEND_CUDA);
    const pi0_session_options o = session_options(1, 20, 10, 10);
    pi0_session *session = open_session(engine, &o);
    problem p(SIZE, VOCABULARY, 20, 10, 0);
    infer(session, o, std::vector<pi0_observation>(1, p.observation));
    fault_kernel<<<1, 1>>>((int *)0x10);
    values actions(10 * A, 7.0f);
    pi0_error error = {};
    pi0_status status = PI0_OK;
    for (int i = 0; i < 3 && status == PI0_OK; i++)
        status = pi0_session_infer(session, &p.observation, 1, actions.data(), &error);
    report(status == PI0_ERROR_DEVICE, "device lost: %s", status == PI0_OK ? "nothing said" : error.message);
    pi0_session *another = NULL;
    status = pi0_session_open(&another, engine, &o, &error);
    report(status == PI0_ERROR_DEVICE && !another, "session after it: %s", error.message);
    pi0_session_close(&session);
    pi0_engine_close(&engine);
    pi0_engine_options e;
    pi0_engine_options_default(&e);
    e.model = PI0_MODEL_TINY_PI0;
    e.backend = PI0_BACKEND_CUDA;
    status = pi0_engine_open(&engine, &e, &error);
    report(status == PI0_ERROR_DEVICE && !engine, "engine after it: %s", error.message);
    report(cpu_works(), "the CPU backend afterwards");
}

/* Whether this machine has what `varied` asks for. */
static bool variation_there(void) {
    pi0_engine_options o;
    pi0_engine_options_default(&o);
    o.model = PI0_MODEL_TINY_PI0;
    o.backend = PI0_BACKEND_CUDA;
    o.gemm = varied.gemm;
    pi0_engine *engine = NULL;
    pi0_error error = {};
    const pi0_status status = pi0_engine_open(&engine, &o, &error);
    pi0_engine_close(&engine);
    if (status == PI0_ERROR_UNSUPPORTED) printf("%s: left out, %s\n", varied.name, error.message);
    return status != PI0_ERROR_UNSUPPORTED;
}

/* Other products and attention give the same answer but for rounding. */
static void real_variations(void) {
    problem p(224, 257152, 20, 10, 0);
    const std::vector<pi0_observation> batch(1, p.observation);
    const pi0_session_options o = session_options(1, 20, 10, 10);
    values want;
    varied = usual;
    for (int i = -1; i < (int)(sizeof variations / sizeof *variations); i++) {
        if (i >= 0) varied = variations[i];
        if (!variation_there()) continue;
        pi0_engine *engine = open_engine(PI0_MODEL_PI0, PI0_BACKEND_CUDA);
        pi0_session *session = open_session(engine, &o);
        const values actions = infer(session, o, batch);
        if (i < 0) want = actions;
        const double apart = distance(actions, want);
        if (i >= 0) report(apart <= BOUND_ACTIONS, "%s: actions %.1e from the usual ones", varied.name, apart);
        pi0_session_close(&session);
        pi0_engine_close(&engine);
    }
    varied = usual;
}

/* Rows of suffixes that other kernels take than those of the benchmark: long horizons, batches, state rows in a tile
 * of their own. */
static void real_suffixes(pi0_model model) {
    static const struct {
        int batch, horizon, steps, prompt;
    } shapes[] = {{1, 50, 10, 20}, {1, 17, 3, 200}, {1, 64, 2, 5}, {2, 10, 3, 20}, {3, 50, 2, 33}, {8, 8, 2, 7}};
    pi0_engine *gpu = open_engine(model, PI0_BACKEND_CUDA),
               *cpu = open_engine(model, PI0_BACKEND_CPU, PI0_KERNELS_AUTO, PI0_ROPE_EXACT, 5, 0);
    for (const auto &shape : shapes) {
        pi0_session_options o = session_options(shape.batch, shape.prompt, shape.horizon, shape.steps);
        o.record = true;
        std::vector<std::unique_ptr<problem>> problems;
        std::vector<pi0_observation> batch;
        for (int b = 0; b < shape.batch; b++) {
            /* few cameras and unequal prompts: the prefix is not what is tried here */
            problems.emplace_back(new problem(224, 257152, shape.prompt - b % 3, shape.horizon, b % 2 ? 5 : 6));
            batch.push_back(problems.back()->observation);
        }
        pi0_session *theirs = open_session(cpu, &o), *ours = open_session(gpu, &o);
        const values want = infer(theirs, o, batch), got = infer(ours, o, batch);
        const double v = distance(read_stage(ours, "v"), read_stage(theirs, "v")), actions = distance(got, want);
        report(v <= BOUND_STAGE && actions <= BOUND_ACTIONS && same(got, infer(ours, o, batch)),
               "%s, batch %d, horizon %d, %d steps: v %.1e actions %.1e", model == PI0_MODEL_PI0 ? "pi0" : "pi0.5",
               shape.batch, shape.horizon, shape.steps, v, actions);
        pi0_session_close(&theirs);
        pi0_session_close(&ours);
    }
    pi0_engine_close(&gpu);
    pi0_engine_close(&cpu);
}

static void real_size(void) {
    for (pi0_model model : {PI0_MODEL_PI0, PI0_MODEL_PI05}) {
        const size_t before = device_free();
        double begin = clock_ms();
        pi0_engine *engine = open_engine(model, PI0_BACKEND_CUDA);
        const double loaded = clock_ms() - begin;
        pi0_session_options o = session_options(1, 200, 50, 10);
        pi0_session *session = open_session(engine, &o);
        problem p(224, 257152, 20, 50, 0);
        const std::vector<pi0_observation> batch(1, p.observation);
        const values first = infer(session, o, batch);
        int different = 0;
        for (int i = 0; i < 5; i++) different += !same(first, infer(session, o, batch));
        o.graph = false;
        pi0_session *plain = open_session(engine, &o);
        different += !same(first, infer(plain, o, batch));
        report(loaded < 3000 && !different,
               "%s: synthetic weights ready in %.2f s; device memory %zu MB; %d replays "
               "differ",
               model == PI0_MODEL_PI0 ? "pi0" : "pi0.5", loaded * 1e-3, (before - device_free()) >> 20, different);
        pi0_session_close(&session);
        pi0_session_close(&plain);
        pi0_engine_close(&engine);
    }
    real_variations();
    first_seen(PI0_MODEL_PI0, 224, 257152, 1, 10);
    first_seen(PI0_MODEL_PI0, 224, 257152, 4, 10);
}

static int load(const char *checkpoint) {
    for (int i = 0; i < 2; i++) {
        pi0_engine_options o;
        pi0_engine_options_default(&o);
        o.checkpoint = checkpoint;
        o.backend = PI0_BACKEND_CUDA;
        pi0_engine *engine = NULL;
        pi0_error error = {};
        const double begin = clock_ms();
        must(pi0_engine_open(&engine, &o, &error), &error, checkpoint);
        const double ms = clock_ms() - begin;
        report(ms < 5000, "%s: ready in %.2f s", i ? "again, in the same process" : "first", ms * 1e-3);
        pi0_engine_close(&engine);
    }
    return failures != 0;
}

int main(int argc, char **argv) {
    pi0_device_info devices[8] = {};
    for (auto &d : devices) d.struct_size = sizeof d;
    int count = 0;
    bool usable = false;
    pi0_devices(devices, 8, &count, NULL);
    for (int i = 0; i < count && i < 8; i++)
        usable = usable || (devices[i].backend == PI0_BACKEND_CUDA && devices[i].usable);
    if (!usable) {
        printf("no CUDA device: nothing to check\n");
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 1 && !strcmp(argv[1], "full")) {
        real_size();
        printf("%d failures\n", failures);
        return failures != 0;
    }
    if (argc > 1 && !strcmp(argv[1], "suffix")) {
        real_suffixes(PI0_MODEL_PI0);
        real_suffixes(PI0_MODEL_PI05);
        return failures != 0;
    }
    if (argc > 2 && !strcmp(argv[1], "load")) return load(argv[2]);
    /* a few problems, for tools that slow everything down */
    const bool few = argc > 1 && !strcmp(argv[1], "few");
    for (pi0_kernels kernels : {PI0_KERNELS_AUTO, PI0_KERNELS_PORTABLE})
        for (pi0_model model : {PI0_MODEL_TINY_PI0, PI0_MODEL_TINY_PI05}) {
            printf("%s%s\n", model == PI0_MODEL_TINY_PI0 ? "tiny pi0" : "tiny pi0.5",
                   kernels == PI0_KERNELS_AUTO ? "" : ", portable kernels");
            random_problems(model, kernels, few ? 2 : 168);
            if (!few) batches(model, kernels);
        }
    for (const variation &v : variations) {
        varied = v;
        if (few || !variation_there()) continue;
        printf("%s\n", v.name);
        random_problems(PI0_MODEL_TINY_PI0, PI0_KERNELS_AUTO, 16);
        random_problems(PI0_MODEL_TINY_PI05, PI0_KERNELS_PORTABLE, 16);
        batches(PI0_MODEL_TINY_PI0, PI0_KERNELS_AUTO);
    }
    varied = usual;
    if (!few) {
        rope_option();
        threads(PI0_KERNELS_AUTO);
        threads(PI0_KERNELS_PORTABLE);
        rounds(1000, 60);
        first_seen(PI0_MODEL_TINY_PI0, SIZE, VOCABULARY, 1, 10);
        first_seen(PI0_MODEL_TINY_PI05, SIZE, VOCABULARY, 64, 100);
        little_memory((size_t)900 << 20);
        lost_device();
    }
    printf("%d failures\n", failures);
    return failures != 0;
}
