/*
 * pi0 bench: how fast is the model on this machine, where does the time go, and how far is that from what the machine
 * could do. The observation is synthetic; what is timed is pi0_session_infer, from host images to host actions.
 */
#include "cli/bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "checkpoint/synthetic.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "cpu/ops.h"
#include "profile/memory_use.h"

enum { MAX_PROMPT = 4096, MAX_HORIZON = 4096, MAX_STEPS = 1000, MAX_BATCH = 1024, MAX_ROUNDS = 1000000 };
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

/* What a series of inferences gave. */
typedef struct series {
    double *wall_ms, *device_ms; /* [iterations] */
    int warmup, iterations;      /* that ran */
    bool cut_short;
    pi0_timings sum; /* of stage and op times and calls */
} series;

static void series_release(series *s) {
    memory_release(s->wall_ms);
    memory_release(s->device_ms);
    *s = (series){0};
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

/* Warm-up, then timed inferences until there are enough or the time is up; at least one is timed. */
static pi0_status run_series(series *s, pi0_session *session, bench_input *input, int batch, int warmup, int iterations,
                             double max_seconds, memory_use *memory, pi0_error *error) {
    *s = (series){.wall_ms = memory_zeroed((size_t)iterations, sizeof *s->wall_ms),
                  .device_ms = memory_zeroed((size_t)iterations, sizeof *s->device_ms)};
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
        TRY(pi0_session_infer(session, input->observations, batch, input->actions, error));
        double ms = clock_ms() - before;
        if (ms > longest) longest = ms;
        TRY(pi0_session_timings(session, &timings, error));
        memory_use_sample(memory);
        if (!timed) {
            s->warmup++;
            continue;
        }
        s->wall_ms[s->iterations] = ms;
        s->device_ms[s->iterations++] = timings.device_ms;
        add_timings(&s->sum, &timings);
    }
    terminal_progress_end();
    return PI0_OK;
}

/* ---- the whole benchmark ---- */

typedef struct bench {
    const bench_options *options;
    bench_report report;
    memory_use memory;
    pi0_engine *engine;
} bench;

static int progress(void *user, const char *what, double fraction) {
    bench *b = user;
    memory_use_sample(&b->memory);
    return terminal_progress(NULL, what, fraction);
}

static bool on_cpu(const bench *b) { return b->report.engine.backend == PI0_BACKEND_CPU; }

static pi0_status open_session(pi0_session **session, const bench *b, int batch, bool profile, pi0_error *error) {
    const bench_options *o = b->options;
    pi0_session_options options;
    pi0_session_options_default(&options, b->engine);
    options.cameras = o->cameras;
    options.max_batch = batch;
    options.max_prompt_tokens = o->prompt_tokens;
    options.horizon = o->horizon;
    options.num_steps = o->num_steps;
    options.skip_masked_images = o->skip_masked_images;
    options.graph = o->graph && !profile;
    options.profile = profile;
    return pi0_session_open(session, b->engine, &options, error);
}

/* Opens what a series needs, runs it, closes it again. The caller releases the series. */
static pi0_status measure(series *s, bench *b, int batch, bool profile, int warmup, int iterations, pi0_error *error) {
    pi0_session *session = NULL;
    bench_input input = {0};
    *s = (series){0};
    pi0_status status = input_make(&input, b->options, &b->report.engine, batch, error);
    if (status == PI0_OK) status = open_session(&session, b, batch, profile, error);
    if (status == PI0_OK)
        status = run_series(s, session, &input, batch, warmup, iterations, b->options->max_seconds, &b->memory, error);
    memory_use_sample(&b->memory);
    pi0_session_close(&session);
    input_release(&input);
    return status;
}

static void take_stages(bench_report *r, const series *s) {
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) r->stages[stage].ms = s->sum.stage_ms[stage] / s->iterations;
}

static void take_ops(bench_report *r, const series *s) {
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++)
        for (int op = 0; op < PI0_OP_COUNT; op++) {
            r->stages[stage].op_ms[op] = s->sum.op_ms[stage][op] / s->iterations;
            r->stages[stage].op_calls[op] = (double)s->sum.op_calls[stage][op] / s->iterations;
        }
}

/* A CPU's op times cost nothing and are taken along; a GPU's need launches of their own, without a graph. */
static pi0_status measure_latency(bench *b, pi0_error *error) {
    const bench_options *o = b->options;
    bench_report *r = &b->report;
    series s;
    pi0_status status = measure(&s, b, o->batch_size, on_cpu(b), o->warmup, o->iterations, error);
    if (status == PI0_OK) {
        r->warmup = s.warmup;
        r->iterations = s.iterations;
        r->cut_short = s.cut_short;
        r->workspace_bytes = s.sum.workspace_bytes;
        take_stages(r, &s);
        take_ops(r, &s);
        r->wall = latency_of(s.wall_ms, (size_t)s.iterations);
        if (s.device_ms[0] > 0) r->device = latency_of(s.device_ms, (size_t)s.iterations);
    }
    series_release(&s);
    if (status != PI0_OK || on_cpu(b)) return status;
    status = measure(&s, b, o->batch_size, true, 1, 3, error);
    if (status == PI0_OK) take_ops(r, &s);
    series_release(&s);
    return status;
}

static pi0_status measure_sweep(bench *b, pi0_error *error) {
    const bench_options *o = b->options;
    for (int i = 0; i < o->batch_sweep.count; i++) {
        series s;
        pi0_status status = measure(&s, b, o->batch_sweep.values[i], false, o->warmup, o->iterations, error);
        if (status == PI0_OK)
            b->report.sweep[b->report.sweep_count++] =
                (bench_sweep_row){o->batch_sweep.values[i], latency_of(s.wall_ms, (size_t)s.iterations).p50};
        series_release(&s);
        if (status != PI0_OK) return error_prefix(error, status, "batch size %d", o->batch_sweep.values[i]);
    }
    return PI0_OK;
}

/* After the engine is closed: the product to time takes memory of its own. */
static pi0_status measure_ceilings(bench *b, pi0_error *error) {
    bench_report *r = &b->report;
    r->host_peak_bytes = memory_use_peak_bytes(&b->memory);
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) r->stages[stage].floor_ms = NAN;
    if (!on_cpu(b)) return PI0_OK;
    ceilings_options options = ceilings_options_default(&r->config);
    options.bf16 = r->engine.precision == PI0_PRECISION_BF16 && cpu_isa_best() >= CPU_ISA_AVX512_BF16;
    options.threads = b->options->common.threads;
    terminal_progress(NULL, "measuring this machine's ceilings", 0);
    TRY(ceilings_measure(&r->ceilings, &options, error));
    terminal_progress_end();
    r->has_ceilings = true;
    int bytes = r->engine.weights_bytes > 3 * r->engine.parameters ? 4 : 2; /* float32 or bf16, for the most part */
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++)
        r->stages[stage].floor_ms = ceilings_floor_ms(&r->ceilings, work_of_stage(&r->config, &r->shape, stage), bytes);
    return PI0_OK;
}

/* Options that only a GPU has a meaning for are refused where they would be ignored. */
static pi0_status check_backend(const bench *b, pi0_error *error) {
    const bench_options *o = b->options;
    if (!on_cpu(b)) return PI0_OK;
    if (o->timing && o->timing_asked)
        return error_set(error, PI0_ERROR_UNSUPPORTED, "--timing device: the cpu backend has no device timer");
    if (o->gemm != PI0_GEMM_AUTO || o->attention != PI0_ATTENTION_AUTO || !o->fuse_qkv)
        return error_set(error, PI0_ERROR_UNSUPPORTED,
                         "--gemm, --attention and --no-fuse-qkv choose between GPU kernels: the cpu backend has none");
    return PI0_OK;
}

static void backend_defaults(bench *b, bench_options *o) {
    bool cpu = on_cpu(b);
    if (o->warmup < 0) o->warmup = cpu ? 1 : 10;
    if (o->iterations < 0) o->iterations = cpu ? 3 : 30;
    if (o->max_seconds < 0) o->max_seconds = cpu ? 180 : 0;
}

static pi0_status bench_run(bench *b, bench_options *o, pi0_error *error) {
    bench_report *r = &b->report;
    pi0_engine_options options = options_engine(&o->common, &o->model);
    options.gemm = (pi0_gemm)o->gemm;
    options.attention = (pi0_attention)o->attention;
    options.fuse_qkv = o->fuse_qkv;
    options.progress = progress;
    options.progress_user = b;
    TRY(pi0_engine_open(&b->engine, &options, error));
    memory_use_sample(&b->memory);
    r->engine = (pi0_engine_info){.struct_size = sizeof r->engine};
    TRY(pi0_engine_describe(b->engine, &r->engine, error));
    TRY(check_backend(b, error));
    backend_defaults(b, o);
    r->options = o;
    r->graph = o->graph && !on_cpu(b);
    bool tiny = r->engine.image_size == model_config_tiny(r->engine.family).vit.image_size;
    r->config = tiny ? model_config_tiny(r->engine.family) : model_config_full(r->engine.family);
    r->shape = (work_shape){.batch = o->batch_size,
                            .cameras = o->cameras - (o->skip_masked_images ? o->masked_images : 0),
                            .prompt_tokens = o->prompt_tokens,
                            .horizon = o->horizon,
                            .steps = o->num_steps};
    TRY(measure_latency(b, error));
    TRY(measure_sweep(b, error));
    pi0_engine_close(&b->engine);
    return measure_ceilings(b, error);
}

/* ---- usage ---- */

/* The report's script picks pi0.5 by this variable. */
static int model_from_environment(bench_options *o, bool model_given) {
    const char *text = getenv("OPENPI_PI05");
    if (!text || !*text || model_given) return EXIT_DONE;
    bool on = strcmp(text, "1") == 0 || strcmp(text, "true") == 0;
    if (!on && strcmp(text, "0") != 0 && strcmp(text, "false") != 0)
        return options_refuse("bench", "the environment's OPENPI_PI05: expected 0 or 1, found '%s'", text);
    if (on) o->model.model = PI0_MODEL_PI05;
    return EXIT_DONE;
}

static int check_usage(const bench_options *o) {
    if (o->masked_images > o->cameras)
        return options_refuse("bench", "--masked-images %d: expected at most --cameras, %d", o->masked_images,
                              o->cameras);
    if (o->masked_images == o->cameras && o->prompt_tokens == 0)
        return options_refuse("bench", "every camera is masked and the prompt is empty: nothing to compute");
    if (o->batch_sweep.count > BENCH_MAX_SWEEP)
        return options_refuse("bench", "--batch-sweep: expected at most %d sizes", BENCH_MAX_SWEEP);
    return EXIT_DONE;
}

static int bench_and_tell(bench_options *o) {
    bench *b = memory_zeroed(1, sizeof *b);
    if (!b) {
        terminal_error("out of memory");
        return EXIT_FAILED;
    }
    pi0_error error;
    b->options = o;
    pi0_status status = o->csv ? output_check(o->csv, &error) : PI0_OK;
    if (status == PI0_OK) status = bench_run(b, o, &error);
    pi0_engine_close(&b->engine);
    if (status == PI0_OK && o->csv) status = bench_write_csv(&b->report, o->csv, &error);
    int exit_code = EXIT_DONE;
    if (status != PI0_OK)
        exit_code = terminal_fail(&error);
    else if (o->common.json)
        exit_code = bench_print_json(&b->report);
    else
        bench_print_text(&b->report);
    memory_release(b);
    return exit_code;
}

int command_bench(int argc, char **argv) {
    bench_options o = {.common = common_options_default(),
                       .model = model_options_default(),
                       .batch_size = 1,
                       .warmup = -1,
                       .iterations = -1,
                       .max_seconds = -1,
                       .num_steps = 10,
                       .horizon = 10,
                       .prompt_tokens = 20,
                       .cameras = 3,
                       .skip_masked_images = true,
                       .graph = true,
                       .fuse_qkv = true};
    bool model_given = false, timing_given = false;
    option model[MODEL_OPTION_COUNT + 1];
    model_options_table(model, &o.model);
    model[1].given = &model_given;
    model[1].help = "which synthetic model; a checkpoint on disk says itself what it is (default pi0; pi05 where the "
                    "environment has OPENPI_PI05=1)";
    const option shape[] = {
        {.name = "--batch-size",
         .kind = OPTION_INT,
         .target = &o.batch_size,
         .value = "N",
         .help = "observations in one inference",
         .minimum = 1,
         .maximum = MAX_BATCH,
         .environment = "OPENPI_BATCH_SIZE"},
        {.name = "--num-steps|--steps",
         .kind = OPTION_INT,
         .target = &o.num_steps,
         .value = "N",
         .help = "Euler steps",
         .minimum = 1,
         .maximum = MAX_STEPS,
         .environment = "NUM_STEPS"},
        {.name = "--horizon",
         .kind = OPTION_INT,
         .target = &o.horizon,
         .value = "N",
         .help = "rows of actions",
         .minimum = 1,
         .maximum = MAX_HORIZON,
         .environment = "OPENPI_ACTION_HORIZON"},
        {.name = "--prompt-tokens",
         .kind = OPTION_INT,
         .target = &o.prompt_tokens,
         .value = "N",
         .help = "tokens of the prompt",
         .maximum = MAX_PROMPT},
        {.name = "--cameras",
         .kind = OPTION_INT,
         .target = &o.cameras,
         .value = "N",
         .help = "camera slots",
         .minimum = 1,
         .maximum = PI0_MAX_CAMERAS},
        {.name = "--masked-images",
         .kind = OPTION_INT,
         .target = &o.masked_images,
         .value = "N",
         .help = "so many of the last slots have no image",
         .maximum = PI0_MAX_CAMERAS},
        {.name = "--no-skip-masked-images",
         .kind = OPTION_UNFLAG,
         .target = &o.skip_masked_images,
         .help = "compute masked slots all the same, as openpi does (skipping changes no result)"},
        {0},
    };
    const option rounds[] = {
        {.name = "--warmup",
         .kind = OPTION_INT,
         .target = &o.warmup,
         .value = "N",
         .help = "inferences before timing (default: 1 on a CPU, 10 on a GPU)",
         .maximum = MAX_ROUNDS,
         .environment = "WARMUP"},
        {.name = "--iterations",
         .kind = OPTION_INT,
         .target = &o.iterations,
         .value = "N",
         .help = "timed inferences (default: 3 on a CPU, 30 on a GPU)",
         .minimum = 1,
         .maximum = MAX_ROUNDS,
         .environment = "ITERATIONS"},
        {.name = "--max-seconds",
         .kind = OPTION_FLOAT,
         .target = &o.max_seconds,
         .value = "X",
         .help = "begin no round that would end later than this; 0: no limit (default: 180 on a CPU, 0 on a GPU)",
         .maximum = 1e9},
        {.name = "--timing",
         .kind = OPTION_CHOICE,
         .target = &o.timing,
         .value = "wall|device|cuda_event",
         .help = "whose clock the headline shows: the host's, or the device's events",
         .environment = "OPENPI_TIMING",
         .given = &timing_given},
        {.name = "--batch-sweep",
         .kind = OPTION_INTS,
         .target = &o.batch_sweep,
         .value = "1,2,4,..",
         .help = "measure these batch sizes as well",
         .minimum = 1,
         .maximum = MAX_BATCH},
        {.name = "--csv",
         .kind = OPTION_TEXT,
         .target = &o.csv,
         .value = "FILE",
         .help = "write every figure as a row of a table"},
        {0},
    };
    const option kernels[] = {
        {.name = "--no-graph",
         .kind = OPTION_UNFLAG,
         .target = &o.graph,
         .help = "GPU: launch every kernel from the host instead of one graph"},
        {.name = "--gemm",
         .kind = OPTION_CHOICE,
         .target = &o.gemm,
         .value = "auto|cublaslt|own",
         .help = "GPU: whose matrix products"},
        {.name = "--attention",
         .kind = OPTION_CHOICE,
         .target = &o.attention,
         .value = "auto|naive",
         .help = "GPU: fused attention, or products and softmax one by one"},
        {.name = "--no-fuse-qkv",
         .kind = OPTION_UNFLAG,
         .target = &o.fuse_qkv,
         .help = "GPU: query, key and value projections as three products"},
        {0},
    };
    const command_line line = {
        .name = "bench",
        .summary = "latency and stage breakdown on this machine",
        .description =
            "Times whole inferences, from host images to host actions, and tells where the time goes: by stage and by "
            "kind of\noperation, beside the floor that this machine's own product rate and read bandwidth, "
            "measured in the same run, allow.",
        .examples = "  pi0 bench                                 pi0 at full size with synthetic weights\n"
                    "  pi0 bench --model pi05 --horizon 15 --prompt-tokens 200\n"
                    "  pi0 bench --masked-images 1               what leaving out an absent camera saves\n"
                    "  pi0 bench --batch-sweep 1,2,4,8 --json    for scripts\n"
                    "  pi0 bench --model tiny-pi0                a look at the report in a moment\n",
        .groups =
            (const option_group[]){
                {"model", model}, {"problem", shape}, {"measurement", rounds}, {"GPU kernels", kernels}, {NULL, NULL}},
        .common = &o.common,
    };
    int exit_code;
    if (options_parse(&line, argc, argv, &exit_code)) {
        exit_code = model_from_environment(&o, model_given);
        if (exit_code == EXIT_DONE) exit_code = check_usage(&o);
        o.timing_asked = timing_given;
        if (exit_code == EXIT_DONE) exit_code = bench_and_tell(&o);
    }
    options_release(&line);
    return exit_code;
}
