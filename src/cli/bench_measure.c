/* Series of inferences on synthetic observations, timed: what every part of `pi0 bench` is made of. */
#include <math.h>

#include "base/clock.h"
#include "base/memory.h"
#include "checkpoint/synthetic.h"
#include "cli/bench.h"
#include "cli/terminal.h"

enum { OBSERVATION_SEED = 1 };

/* ---- the observation ---- */

/* A batch of synthetic observations, each with images, tokens, state and noise of its own. */
typedef struct bench_input {
    pi0_observation *observations; /* [batch] */
    uint8_t *images;               /* uint8 [batch, cameras, R, R, 3] */
    int32_t *tokens;               /* int32 [batch, prompt] */
    float *state, *noise, *actions;
} bench_input;

static void input_release(bench_input *input) {
    memory_release(input->observations);
    memory_release(input->images);
    memory_release(input->tokens);
    memory_release(input->state);
    memory_release(input->noise);
    memory_release(input->actions);
    *input = (bench_input){0};
}

static void fill_observation(bench_input *input, const bench_options *o, const pi0_engine_info *engine, int n) {
    pi0_observation *observation = &input->observations[n];
    uint64_t seed = OBSERVATION_SEED + (uint64_t)n;
    size_t image = (size_t)engine->image_size * (size_t)engine->image_size * 3;
    size_t width = (size_t)engine->action_dim, actions = (size_t)o->horizon * width;
    for (int camera = 0; camera < o->cameras - o->masked_images; camera++) {
        uint8_t *pixels = input->images + ((size_t)n * (size_t)o->cameras + (size_t)camera) * image;
        synthetic_image(camera % 3, seed + (uint64_t)(camera / 3), engine->image_size, pixels);
        observation->images[camera] = pixels;
    }
    int32_t *tokens = input->tokens + (size_t)n * (size_t)o->prompt_tokens;
    synthetic_tokens(seed, engine->vocabulary, tokens, o->prompt_tokens);
    synthetic_state(seed, input->state + (size_t)n * width, engine->action_dim);
    pi0_noise(seed, input->noise + (size_t)n * actions, actions);
    observation->tokens = tokens;
    observation->token_count = o->prompt_tokens;
    observation->state = input->state + (size_t)n * width;
    observation->noise = input->noise + (size_t)n * actions;
}

static pi0_status input_make(bench_input *input, const bench_options *o, const pi0_engine_info *engine, int batch,
                             pi0_error *error) {
    size_t image = (size_t)engine->image_size * (size_t)engine->image_size * 3, count = (size_t)batch;
    size_t width = (size_t)engine->action_dim, actions = (size_t)o->horizon * width;
    *input = (bench_input){
        .observations = memory_zeroed(count, sizeof *input->observations),
        .images = memory_zeroed(count * (size_t)o->cameras, image),
        .tokens = memory_zeroed(count * (size_t)o->prompt_tokens, sizeof *input->tokens),
        .state = memory_zeroed(count, width * sizeof *input->state),
        .noise = memory_zeroed(count, actions * sizeof *input->noise),
        .actions = memory_zeroed(count, actions * sizeof *input->actions),
    };
    if (!input->observations || !input->images || !input->tokens || !input->state || !input->noise || !input->actions) {
        input_release(input);
        return error_memory(error, count * (size_t)o->cameras * image, "the observations");
    }
    for (int n = 0; n < batch; n++) fill_observation(input, o, engine, n);
    return PI0_OK;
}

/* ---- rounds ---- */

void bench_series_release(bench_series *s) {
    memory_release(s->wall_ms);
    memory_release(s->device_ms);
    *s = (bench_series){0};
}

static void add_timings(pi0_timings *sum, const pi0_timings *one) {
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) {
        sum->stage_ms[stage] += one->stage_ms[stage];
        for (int op = 0; op < PI0_OP_COUNT; op++) {
            sum->op_ms[stage][op] += one->op_ms[stage][op];
            sum->op_calls[stage][op] += one->op_calls[stage][op];
        }
    }
    sum->workspace_bytes = one->workspace_bytes;
}

/* A series that runs: what it runs on and whom it tells. */
typedef struct run {
    bench *b;
    const bench_settings *settings;
    pi0_session *session;
    bench_input input;
    bench_after after;
    void *user;
} run;

/* Warm-up, then timed inferences until there are enough or the time is up; at least one is timed. */
static pi0_status run_series(bench_series *s, run *run, pi0_error *error) {
    int warmup = run->settings->warmup, iterations = run->settings->iterations;
    double max_seconds = run->b->options->max_seconds;
    s->wall_ms = memory_zeroed((size_t)iterations, sizeof *s->wall_ms);
    s->device_ms = memory_zeroed((size_t)iterations, sizeof *s->device_ms);
    if (!s->wall_ms || !s->device_ms) return error_memory(error, (size_t)iterations * 16, "the measurements");
    double start = clock_ms(), limit_ms = max_seconds > 0 ? max_seconds * 1e3 : INFINITY, longest = 0;
    for (int round = 0; round < warmup + iterations; round++) {
        bool timed = round >= warmup;
        /* a round that would end after the time is up is not begun; the first timed one always is */
        if ((!timed || s->iterations > 0) && clock_ms() - start + longest > limit_ms) {
            s->cut_short = true;
            if (timed) break;
            round = warmup - 1;
            continue;
        }
        terminal_progress(NULL, timed ? "timing" : "warm-up", (double)round / (double)(warmup + iterations));
        pi0_timings timings = {.struct_size = sizeof timings};
        double before = clock_ms();
        TRY(pi0_session_infer(run->session, run->input.observations, run->settings->batch, run->input.actions, error));
        double ms = clock_ms() - before;
        if (ms > longest) longest = ms;
        TRY(pi0_session_timings(run->session, &timings, error));
        memory_use_sample(&run->b->memory);
        bool enough = run->after && run->after(run->user, timed, &timings);
        if (!timed) {
            s->warmup++;
            continue;
        }
        s->wall_ms[s->iterations] = ms;
        s->device_ms[s->iterations++] = timings.device_ms;
        add_timings(&s->sum, &timings);
        if (enough) break;
    }
    terminal_progress_end();
    return PI0_OK;
}

static pi0_status open_session(pi0_session **session, const bench *b, const bench_settings *settings,
                               pi0_error *error) {
    const bench_options *o = b->options;
    pi0_session_options options;
    pi0_session_options_default(&options, b->engine);
    options.cameras = o->cameras;
    options.max_batch = settings->batch;
    options.max_prompt_tokens = o->prompt_tokens;
    options.horizon = o->horizon;
    options.num_steps = o->num_steps;
    options.skip_masked_images = settings->skip_masked_images;
    options.graph = settings->graph;
    options.profile = settings->profile;
    options.trace = settings->trace;
    options.trace_user = settings->trace_user;
    return pi0_session_open(session, b->engine, &options, error);
}

bench_settings bench_settings_default(const bench *b, int batch) {
    const bench_options *o = b->options;
    return (bench_settings){.batch = batch,
                            .warmup = o->warmup,
                            .iterations = o->iterations,
                            .graph = o->graph,
                            .skip_masked_images = o->skip_masked_images};
}

pi0_status bench_measure(bench_series *series, bench *b, const bench_settings *settings, bench_after after, void *user,
                         pi0_error *error) {
    run run = {.b = b, .settings = settings, .after = after, .user = user};
    *series = (bench_series){0};
    pi0_status status = input_make(&run.input, b->options, &b->report.engine, settings->batch, error);
    if (status == PI0_OK) status = open_session(&run.session, b, settings, error);
    if (status == PI0_OK) status = run_series(series, &run, error);
    memory_use_sample(&b->memory);
    pi0_session_close(&run.session);
    input_release(&run.input);
    return status;
}

/* ---- the engine ---- */

static int progress(void *user, const char *what, double fraction) {
    bench *b = user;
    memory_use_sample(&b->memory);
    return terminal_progress(NULL, what, fraction);
}

pi0_engine_options bench_engine_options(bench *b) {
    const bench_options *o = b->options;
    pi0_engine_options options = options_engine(&o->common, &o->model);
    options.gemm = (pi0_gemm)o->gemm;
    options.attention = (pi0_attention)o->attention;
    options.fuse_qkv = o->fuse_qkv;
    options.progress = progress;
    options.progress_user = b;
    return options;
}

pi0_status bench_open_engine(bench *b, const pi0_engine_options *options, pi0_error *error) {
    pi0_engine_close(&b->engine); /* first: two would not fit into memory */
    TRY(pi0_engine_open(&b->engine, options, error));
    memory_use_sample(&b->memory);
    return PI0_OK;
}
