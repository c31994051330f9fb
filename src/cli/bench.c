/*
 * pi0 bench: how fast is the model on this machine, where does the time go, and how far is that from what the machine
 * could do. The observation is synthetic; what is timed is pi0_session_infer, from host images to host actions.
 */
#include "cli/bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cli/commands.h"
#include "cli/json.h"
#include "cli/terminal.h"
#include "cpu/ops.h"

enum { MAX_PROMPT = 4096, MAX_HORIZON = 4096, MAX_STEPS = 1000, MAX_BATCH = 1024, MAX_ROUNDS = 1000000 };

/* ---- measuring ---- */

static void take_stages(bench_report *r, const bench_series *s) {
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) r->stages[stage].ms = s->sum.stage_ms[stage] / s->iterations;
}

static void take_ops(bench_report *r, const bench_series *s) {
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++)
        for (int op = 0; op < PI0_OP_COUNT; op++) {
            r->stages[stage].op_ms[op] = s->sum.op_ms[stage][op] / s->iterations;
            r->stages[stage].op_calls[op] = (double)s->sum.op_calls[stage][op] / s->iterations;
        }
}

/* A CPU's op times cost nothing and are taken along; a GPU's need launches of their own, without a graph. */
static pi0_status measure_latency(bench *b, pi0_error *error) {
    bench_report *r = &b->report;
    bench_series s;
    bench_settings settings = bench_settings_default(b, b->options->batch_size);
    settings.profile = bench_on_cpu(b);
    pi0_status status = bench_measure(&s, b, &settings, NULL, NULL, error);
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
    bench_series_release(&s);
    if (status != PI0_OK || bench_on_cpu(b)) return status;
    settings.profile = true;
    settings.graph = false;
    settings.warmup = 1;
    settings.iterations = 3;
    status = bench_measure(&s, b, &settings, NULL, NULL, error);
    if (status == PI0_OK) take_ops(r, &s);
    bench_series_release(&s);
    return status;
}

static pi0_status measure_sweep(bench *b, pi0_error *error) {
    const bench_options *o = b->options;
    for (int i = 0; i < o->batch_sweep.count; i++) {
        bench_series s;
        bench_settings settings = bench_settings_default(b, o->batch_sweep.values[i]);
        pi0_status status = bench_measure(&s, b, &settings, NULL, NULL, error);
        if (status == PI0_OK)
            b->report.sweep[b->report.sweep_count++] =
                (bench_sweep_row){o->batch_sweep.values[i], latency_of(s.wall_ms, (size_t)s.iterations).p50};
        bench_series_release(&s);
        if (status != PI0_OK) return error_prefix(error, status, "batch size %d", o->batch_sweep.values[i]);
    }
    return PI0_OK;
}

/* After the engine is closed: the product to time takes memory of its own. */
static pi0_status measure_ceilings(bench *b, pi0_error *error) {
    bench_report *r = &b->report;
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) r->stages[stage].floor_ms = NAN;
    ceilings_options options = ceilings_options_default(&r->config);
    options.backend = r->engine.backend;
    options.device = b->options->common.device;
    options.bf16 = r->engine.precision == PI0_PRECISION_BF16 && cpu_isa_best() >= CPU_ISA_AVX512_BF16;
    options.threads = b->options->common.threads;
    terminal_progress(NULL, "measuring this machine's ceilings", 0);
    pi0_error why;
    pi0_status status = ceilings_measure(&r->ceilings, &options, &why);
    terminal_progress_end();
    if (status != PI0_OK && !bench_on_cpu(b)) { /* a GPU without cuBLASLt: figures without floors */
        terminal_warning("no floors: %s", why.message);
        return PI0_OK;
    }
    if (status != PI0_OK) {
        if (error) *error = why;
        return status;
    }
    r->has_ceilings = true;
    int bytes = r->engine.weights_bytes > 3 * r->engine.parameters ? 4 : 2; /* float32 or bf16, for the most part */
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++)
        r->stages[stage].floor_ms = ceilings_floor_ms(&r->ceilings, work_of_stage(&r->config, &r->shape, stage), bytes);
    return PI0_OK;
}

/* Options that the backend has no choice for are refused where they would be ignored. */
static pi0_status check_backend(const bench *b, pi0_error *error) {
    const bench_options *o = b->options;
    const char *backend = options_backend_name(b->report.engine.backend);
    unsigned choices = b->report.engine.choices;
    if (bench_on_cpu(b) && o->timing && o->timing_asked)
        return error_set(error, PI0_ERROR_UNSUPPORTED, "--timing device: the %s backend has no device timer", backend);
    if (o->no_graph_asked && !(choices & PI0_CHOICE_GRAPH))
        return error_set(error, PI0_ERROR_UNSUPPORTED,
                         "--no-graph: the %s backend launches no graph that could be left out", backend);
    if (o->profile && !(choices & PI0_CHOICE_TRACE))
        return error_set(error, PI0_ERROR_UNSUPPORTED, "--profile: the %s backend records no traces", backend);
    return PI0_OK;
}

static void backend_defaults(const bench *b, bench_options *o) {
    bool cpu = bench_on_cpu(b);
    if (o->warmup < 0) o->warmup = cpu ? 1 : 10;
    if (o->iterations < 0) o->iterations = cpu ? 3 : 30;
    if (o->max_seconds < 0) o->max_seconds = cpu ? 180 : 0;
    if (!(b->report.engine.choices & PI0_CHOICE_GRAPH)) o->graph = false;
}

/* The library names its options as C does; the message names the command line's. */
static pi0_status open_engine(bench *b, pi0_error *error) {
    const bench_options *o = b->options;
    pi0_engine_options options = bench_engine_options(b);
    pi0_status status = bench_open_engine(b, &options, error);
    if (status != PI0_ERROR_UNSUPPORTED) return status;
    if (o->gemm != PI0_GEMM_AUTO || o->attention != PI0_ATTENTION_AUTO || !o->fuse_qkv)
        return error_prefix(error, status, "%s%s%s", o->gemm != PI0_GEMM_AUTO ? "--gemm " : "",
                            o->attention != PI0_ATTENTION_AUTO ? "--attention " : "",
                            o->fuse_qkv ? "" : "--no-fuse-qkv ");
    return status;
}

static pi0_status bench_run(bench *b, pi0_error *error) {
    bench_report *r = &b->report;
    bench_options *o = b->options;
    TRY(open_engine(b, error));
    r->engine = (pi0_engine_info){.struct_size = sizeof r->engine};
    TRY(pi0_engine_describe(b->engine, &r->engine, error));
    TRY(check_backend(b, error));
    backend_defaults(b, o);
    r->options = o;
    r->graph = o->graph;
    bool tiny = r->engine.image_size == model_config_tiny(r->engine.family).vit.image_size;
    r->config = tiny ? model_config_tiny(r->engine.family) : model_config_full(r->engine.family);
    r->shape = (work_shape){.batch = o->batch_size,
                            .cameras = o->cameras - (o->skip_masked_images ? o->masked_images : 0),
                            .prompt_tokens = o->prompt_tokens,
                            .horizon = o->horizon,
                            .steps = o->num_steps};
    TRY(measure_latency(b, error));
    if (o->profile) TRY(bench_trace_run(b, error));
    if (!o->profile && o->html && r->engine.choices & PI0_CHOICE_TRACE) {
        pi0_error why;
        pi0_status status = bench_trace_run(b, &why);
        if (status != PI0_OK) terminal_warning("the page has no timeline: %s", why.message);
    }
    TRY(measure_sweep(b, error));
    r->host_peak_bytes = memory_use_peak_bytes(&b->memory);
    if (o->ladder) TRY(bench_ladder_run(b, error));
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

/* Places that cannot be written to are refused before the work. */
static pi0_status check_outputs(const bench_options *o, pi0_error *error) {
    if (o->csv) TRY(output_check(o->csv, error));
    if (o->html) TRY(output_check(o->html, error));
    return o->profile ? output_folder(o->profile_dir, error) : PI0_OK;
}

static int bench_and_tell(bench_options *o) {
    bench *b = memory_zeroed(1, sizeof *b);
    if (!b) {
        terminal_error("out of memory");
        return EXIT_FAILED;
    }
    pi0_error error;
    b->options = o;
    pi0_status status = check_outputs(o, &error);
    if (status == PI0_OK) status = bench_run(b, &error);
    pi0_engine_close(&b->engine);
    if (status == PI0_OK && o->csv) status = bench_write_csv(&b->report, o->csv, &error);
    if (status == PI0_OK && o->html) status = bench_write_page(&b->report, o->html, &error);
    int exit_code = EXIT_DONE;
    if (status != PI0_OK)
        exit_code = terminal_fail(&error);
    else if (o->common.json)
        exit_code = json_print(bench_report_json(&b->report));
    else
        bench_print_text(&b->report);
    recorder_release(&b->report.recorder);
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
                       .fuse_qkv = true,
                       .profile_dir = "traces"};
    bool model_given = false;
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
         .given = &o.timing_asked},
        {.name = "--batch-sweep",
         .kind = OPTION_INTS,
         .target = &o.batch_sweep,
         .value = "1,2,4,..",
         .help = "measure these batch sizes as well",
         .minimum = 1,
         .maximum = MAX_BATCH},
        {.name = "--ladder",
         .kind = OPTION_FLAG,
         .target = &o.ladder,
         .help = "measure what each feature is worth: from everything off to everything on, one more each row"},
        {0},
    };
    const option outputs[] = {
        {.name = "--profile",
         .kind = OPTION_FLAG,
         .target = &o.profile,
         .help = "write a Chrome trace of one inference; on a GPU one without a graph and one with",
         .environment = "PROFILE"},
        {.name = "--profile-dir",
         .kind = OPTION_TEXT,
         .target = &o.profile_dir,
         .value = "DIR",
         .help = "where --profile puts its files",
         .environment = "PROFILE_DIR"},
        {.name = "--profile-gzip",
         .kind = OPTION_FLAG,
         .target = &o.profile_gzip,
         .help = "compress them (.json.gz), which Perfetto and `pi0 analyze` read as well"},
        {.name = "--html",
         .kind = OPTION_TEXT,
         .target = &o.html,
         .value = "FILE",
         .help = "write everything as one page, with charts and a timeline of one inference"},
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
         .help = "GPU: launch every kernel from the host instead of one graph",
         .given = &o.no_graph_asked},
        {.name = "--gemm",
         .kind = OPTION_CHOICE,
         .target = &o.gemm,
         .value = "auto|cublaslt|own",
         .help = "GPU: whose matrix products"},
        {.name = "--attention",
         .kind = OPTION_CHOICE,
         .target = &o.attention,
         .value = "auto|naive",
         .help = "auto: the fast kernels; naive: GPU: products and softmax one by one, CPU: plain C"},
        {.name = "--no-fuse-qkv",
         .kind = OPTION_UNFLAG,
         .target = &o.fuse_qkv,
         .help = "query, key and value projections as three products instead of one"},
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
                    "  pi0 bench --profile --profile-dir traces  a trace for Perfetto and `pi0 analyze`\n"
                    "  pi0 bench --ladder --html report.html     what each feature is worth, as a page\n"
                    "  pi0 bench --model tiny-pi0                a look at the report in a moment\n",
        .groups = (const option_group[]){{"model", model},
                                         {"problem", shape},
                                         {"measurement", rounds},
                                         {"output", outputs},
                                         {"kernels", kernels},
                                         {NULL, NULL}},
        .common = &o.common,
    };
    int exit_code;
    if (options_parse(&line, argc, argv, &exit_code)) {
        exit_code = model_from_environment(&o, model_given);
        if (exit_code == EXIT_DONE) exit_code = check_usage(&o);
        if (exit_code == EXIT_DONE) exit_code = bench_and_tell(&o);
    }
    options_release(&line);
    return exit_code;
}
