/* pi0 infer: one inference; images, prompt and state in, actions out. */
#include "cli/infer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/npy.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "policy/input.h"

static const size_t MAX_REQUEST_BYTES = (size_t)256 << 20;

/* ---- policy, engine, session ---- */

pi0_status inference_prepare(inference *run, const infer_options *o, pi0_error *error) {
    *run = (inference){.options = o};
    return policy_options_open(&run->policy, &run->policy_info, &o->policy, &o->model, NULL, NULL, error);
}

/* float32 [rows, columns] of a .npy file into values. */
static pi0_status read_table(float *values, const char *path, int rows, int columns, pi0_error *error) {
    npy file;
    TRY(npy_open(&file, path, error));
    pi0_status status = PI0_OK;
    if (file.kind != 'f' || file.item_bytes != 4 || file.rank != 2 || file.shape[0] != rows ||
        file.shape[1] != columns) {
        char found[128];
        status = error_set(error, PI0_ERROR_FORMAT, "%s: expected float32 [%d, %d], found %s", path, rows, columns,
                           npy_describe(&file, found, sizeof found));
    } else {
        memcpy(values, file.data, (size_t)rows * (size_t)columns * sizeof *values);
    }
    npy_release(&file);
    return status;
}

static size_t action_count(const inference *run) {
    return (size_t)run->policy_info.horizon * (size_t)run->policy_info.action_dim;
}

/* Memory for noise, model actions and the robot's actions; the noise is filled. */
static pi0_status make_tables(inference *run, int batch, pi0_error *error) {
    const pi0_policy_info *info = &run->policy_info;
    size_t count = action_count(run), robot = (size_t)info->horizon * (size_t)info->robot_action_dim;
    run->noise = memory_zeroed(count, sizeof *run->noise);
    run->model_actions = memory_zeroed(count * (size_t)batch, sizeof *run->model_actions);
    run->actions = memory_zeroed(robot, sizeof *run->actions);
    if (!run->noise || !run->model_actions || !run->actions)
        return error_memory(error, count * (size_t)batch * sizeof(float), "the actions");
    if (!run->options->noise) {
        pi0_noise(run->options->seed, run->noise, count);
        return PI0_OK;
    }
    TRY(read_table(run->noise, run->options->noise, info->horizon, info->action_dim, error));
    for (size_t i = 0; i < count; i++)
        if (!isfinite(run->noise[i]))
            return error_set(error, PI0_ERROR_FORMAT, "%s: expected finite numbers, found %g", run->options->noise,
                             (double)run->noise[i]);
    return PI0_OK;
}

pi0_status inference_load(inference *run, int batch, int max_tokens, pi0_error *error) {
    const infer_options *o = run->options;
    TRY(make_tables(run, batch, error));
    TRY(policy_options_open_engine(&run->engine, &run->policy_info, &o->common, &o->model, NULL, NULL, error));
    pi0_session_options session;
    pi0_session_options_default(&session, run->engine);
    session.cameras = run->policy_info.cameras;
    session.max_batch = batch;
    session.max_prompt_tokens = max_tokens;
    session.horizon = run->policy_info.horizon;
    session.num_steps = o->policy.steps ? o->policy.steps : run->policy_info.num_steps;
    return pi0_session_open(&run->session, run->engine, &session, error);
}

pi0_status inference_run(inference *run, pi0_input *const *inputs, int count, infer_times *times, pi0_error *error) {
    pi0_observation *observations = memory_zeroed((size_t)count, sizeof *observations);
    if (!observations) return error_memory(error, (size_t)count * sizeof *observations, "a batch");
    for (int i = 0; i < count; i++) {
        pi0_input_observation(inputs[i], &observations[i]);
        observations[i].noise = run->noise;
    }
    terminal_busy_begin("inference");
    pi0_status status = pi0_session_infer(run->session, observations, count, run->model_actions, error);
    terminal_busy_end();
    memory_release(observations);
    TRY(status);
    pi0_timings timings = {.struct_size = sizeof timings};
    TRY(pi0_session_timings(run->session, &timings, error));
    for (int i = 0; i < PI0_STAGE_COUNT; i++) times->stages[i] = timings.stage_ms[i];
    times->total += timings.total_ms;
    return PI0_OK;
}

pi0_status inference_finish(inference *run, const pi0_input *input, int index, infer_times *times, pi0_error *error) {
    double start = clock_ms();
    TRY(pi0_policy_finish(run->policy, input, run->model_actions + (size_t)index * action_count(run), run->actions,
                          error));
    times->postprocess = clock_ms() - start;
    times->total += times->postprocess;
    return PI0_OK;
}

void inference_release(inference *run) {
    pi0_session_close(&run->session);
    pi0_engine_close(&run->engine);
    pi0_policy_close(&run->policy);
    memory_release(run->noise);
    memory_release(run->model_actions);
    memory_release(run->actions);
    *run = (inference){0};
}

/* ---- requests ---- */

int infer_token_count(const pi0_input *input) {
    pi0_observation observation;
    pi0_input_observation(input, &observation);
    int count = 0;
    for (int i = 0; i < observation.token_count; i++) count += !observation.token_mask || observation.token_mask[i];
    return count;
}

pi0_status infer_read_request(pi0_request **request, const char *path, pi0_error *error) {
    void *bytes;
    size_t size;
    TRY(file_read(&bytes, &size, path, MAX_REQUEST_BYTES, error));
    pi0_status status = pi0_request_decode(request, bytes, size, error);
    memory_release(bytes);
    return status == PI0_OK ? PI0_OK : error_prefix(error, status, "%s", path);
}

/* The request that the options spell out. */
static pi0_status build_request(pi0_request *request, const infer_options *o, pi0_error *error) {
    for (int i = 0; i < o->images.count; i++)
        TRY(pi0_request_set_image_file(request, o->images.pairs[i].key, o->images.pairs[i].value, error));
    if (o->state.values) TRY(pi0_request_set_state(request, NULL, o->state.values, o->state.count, error));
    if (o->prompt) TRY(pi0_request_set_prompt(request, o->prompt, error));
    if (o->tokens.values) TRY(pi0_request_set_tokens(request, o->tokens.values, o->tokens.count, error));
    return PI0_OK;
}

static pi0_status make_request(pi0_request **request, const infer_options *o, pi0_error *error) {
    if (o->request) return infer_read_request(request, o->request, error);
    TRY(pi0_request_new(request, error));
    return build_request(*request, o, error);
}

/* ---- telling ---- */

typedef enum out_format { OUT_NPY, OUT_CSV, OUT_JSON, OUT_UNKNOWN } out_format;

static out_format format_of(const char *path) {
    const char *dot = strrchr(path, '.');
    if (!dot) return OUT_UNKNOWN;
    if (strcmp(dot, ".npy") == 0) return OUT_NPY;
    if (strcmp(dot, ".csv") == 0) return OUT_CSV;
    return strcmp(dot, ".json") == 0 ? OUT_JSON : OUT_UNKNOWN;
}

static void put_json(text_buffer *text, const inference *run, const infer_times *times) {
    const pi0_policy_info *info = &run->policy_info;
    text_put(text, "{\"actions\": ");
    text_put_json_table(text, run->actions, info->horizon, info->robot_action_dim);
    text_put_format(text, ",\n \"shape\": [%d, %d],\n \"timing_ms\": {\"preprocess\": ", info->horizon,
                    info->robot_action_dim);
    text_put_number(text, times->preprocess);
    for (int i = 0; i < PI0_STAGE_COUNT; i++) {
        if (i == PI0_STAGE_OTHER) continue;
        text_put_format(text, ", \"%s\": ", pi0_stage_name(i));
        text_put_number(text, times->stages[i]);
    }
    text_put(text, ", \"postprocess\": ");
    text_put_number(text, times->postprocess);
    text_put(text, ", \"total\": ");
    text_put_number(text, times->total);
    text_put(text, "}}\n");
}

static pi0_status write_out(const inference *run, const infer_times *times, const char *path, pi0_error *error) {
    const pi0_policy_info *info = &run->policy_info;
    switch (format_of(path)) {
    case OUT_NPY:
        return npy_write_table(path, run->actions, info->horizon, info->robot_action_dim, info->float32_actions, error);
    case OUT_CSV:
        return csv_write_table(path, run->actions, info->horizon, info->robot_action_dim, error);
    default:
        break;
    }
    text_buffer text = {0};
    put_json(&text, run, times);
    pi0_status status = text.failed ? error_memory(error, text.capacity, "the JSON result")
                                    : file_write(path, text.bytes, text.size, error);
    memory_release(text.bytes);
    return status;
}

static pi0_status print_json(const inference *run, const infer_times *times, pi0_error *error) {
    text_buffer text = {0};
    put_json(&text, run, times);
    pi0_status status = PI0_OK;
    if (text.failed)
        status = error_memory(error, text.capacity, "the JSON result");
    else
        fwrite(text.bytes, 1, text.size, stdout);
    memory_release(text.bytes);
    return status;
}

static void print_times(const infer_times *times, bool model_ran) {
    printf("%.1f ms: preprocess %.1f", times->total, times->preprocess);
    for (int i = 0; model_ran && i < PI0_STAGE_COUNT; i++) printf(", %s %.1f", pi0_stage_name(i), times->stages[i]);
    printf(", postprocess %.1f\n", times->postprocess);
}

static void print_table(const inference *run) {
    int columns = run->policy_info.robot_action_dim;
    printf("step");
    for (int j = 0; j < columns; j++) printf("  %8s%-2d", "a", j);
    putchar('\n');
    for (int i = 0; i < run->policy_info.horizon; i++) {
        printf("%4d", i);
        for (int j = 0; j < columns; j++) printf("  %10.6f", run->actions[i * columns + j]);
        putchar('\n');
    }
}

/* --no-run: what the model would get. */
static void print_inputs(const pi0_input *input) {
    input_view view;
    input_look(input, &view);
    for (int i = 0; i < view.cameras; i++)
        printf("%-26s  %s\n", view.camera_names[i] ? view.camera_names[i] : "camera",
               view.image_mask[i] ? "image" : "masked out");
    printf("%-26s  %d valid of %d\n", "tokens", infer_token_count(input), view.token_count);
    printf("%-26s ", "state");
    for (int i = 0; i < view.state_count; i++) printf(" %.6g", view.state[i]);
    putchar('\n');
}

static pi0_status tell(const inference *run, const infer_times *times, pi0_error *error) {
    const infer_options *o = run->options;
    if (o->out) TRY(write_out(run, times, o->out, error));
    if (o->common.json) return print_json(run, times, error);
    if (!o->out) {
        print_table(run);
    } else {
        printf("%s: %d x %d actions, %s\n", o->out, run->policy_info.horizon, run->policy_info.robot_action_dim,
               run->policy_info.float32_actions ? "float32" : "float64");
    }
    print_times(times, run->engine != NULL);
    return PI0_OK;
}

/* ---- one inference ---- */

static pi0_status answer(inference *run, const pi0_request *request, pi0_input **input, pi0_error *error) {
    const infer_options *o = run->options;
    const pi0_policy_info *info = &run->policy_info;
    infer_times times = {0};
    double start = clock_ms();
    pi0_status status = pi0_policy_prepare(run->policy, request, input, error);
    if (status != PI0_OK) return o->request ? error_prefix(error, status, "%s", o->request) : status;
    times.preprocess = times.total = clock_ms() - start;
    if (o->dump_inputs) TRY(infer_dump_inputs(*input, o->dump_inputs, error));
    if (o->no_run) {
        if (!o->common.json) print_inputs(*input);
        return PI0_OK;
    }
    if (o->model_actions) {
        TRY(make_tables(run, 1, error));
        TRY(read_table(run->model_actions, o->model_actions, info->horizon, info->action_dim, error));
    } else {
        TRY(inference_load(run, 1, infer_token_count(*input), error));
        TRY(inference_run(run, input, 1, &times, error));
    }
    TRY(inference_finish(run, *input, 0, &times, error));
    return tell(run, &times, error);
}

static int infer_one(const infer_options *o) {
    pi0_error error;
    inference run = {0};
    pi0_request *request = NULL;
    pi0_input *input = NULL;
    pi0_status status = o->out ? output_check(o->out, &error) : PI0_OK;
    if (status == PI0_OK && o->dump_inputs) status = output_check(o->dump_inputs, &error);
    if (status == PI0_OK) status = make_request(&request, o, &error);
    if (status == PI0_OK) status = inference_prepare(&run, o, &error);
    if (status == PI0_OK) status = answer(&run, request, &input, &error);
    pi0_input_free(&input);
    pi0_request_free(&request);
    inference_release(&run);
    if (status == PI0_OK) return EXIT_DONE;
    int exit_code = terminal_fail(&error);
    return o->request ? EXIT_FAILED : exit_code; /* what is wrong in a file is not wrong usage */
}

/* ---- usage ---- */

/* "1/4" into index and count. */
static bool read_shard(infer_options *o) {
    int end = 0;
    if (!o->shard_text) return true;
    bool plain = strspn(o->shard_text, "0123456789/") == strlen(o->shard_text) && strlen(o->shard_text) < 16;
    return plain && sscanf(o->shard_text, "%u/%u%n", &o->shard_index, &o->shard_count, &end) == 2 &&
           !o->shard_text[end] && o->shard_index < o->shard_count;
}

/* Options that contradict each other; 0 when there are none. */
static int check_usage(const infer_options *o, bool seed_given, bool batch_size_given) {
    static const char name[] = "infer";
    bool spelled = o->images.count || o->prompt || o->tokens.values || o->state.values;
    if (o->request && o->batch) return options_refuse(name, "--request and --batch: expected one of them");
    if ((o->request || o->batch) && spelled)
        return options_refuse(name,
                              "%s brings images, prompt and state: --image, --prompt, --tokens and --state "
                              "cannot be added",
                              o->request ? "--request" : "--batch");
    if (!o->request && !o->batch && !o->images.count && !o->prompt && !o->policy.default_prompt && !o->tokens.values)
        return options_refuse(name, "no input: expected --image KEY=FILE, --prompt TEXT, --tokens LIST or --request "
                                    "FILE");
    if (o->prompt && o->tokens.values) return options_refuse(name, "--prompt and --tokens: expected one of them");
    if (o->noise && seed_given) return options_refuse(name, "--noise and --seed: expected one of them");
    if (o->no_run && o->model_actions)
        return options_refuse(name, "--no-run and --model-actions: expected one of them");
    if (o->no_run && o->out)
        return options_refuse(name, "--no-run makes no actions: --out has nothing to write (--dump-inputs writes what "
                                    "the model would get)");
    if (!o->batch) {
        if (batch_size_given) return options_refuse(name, "--batch-size needs --batch FOLDER");
        if (o->shard_text || o->resume || o->keep_going)
            return options_refuse(name, "--shard, --resume and --keep-going need --batch FOLDER");
        if (o->out && format_of(o->out) == OUT_UNKNOWN)
            return options_refuse(name, "--out %s: expected a name that ends in .npy, .csv or .json", o->out);
        return 0;
    }
    if (!o->out) return options_refuse(name, "--batch needs --out FOLDER");
    if (o->shard_text && !o->shard_count)
        return options_refuse(name, "--shard %s: expected I/N with I from 0 to N-1, such as 0/2", o->shard_text);
    if (o->no_run || o->model_actions || o->dump_inputs)
        return options_refuse(name, "--no-run, --model-actions and --dump-inputs are for one request, not for --batch");
    return 0;
}

int command_infer(int argc, char **argv) {
    infer_options o = {.common = common_options_default(), .model = model_options_default(), .batch_size = 1};
    bool seed_given = false, batch_size_given = false;
    option model[MODEL_OPTION_COUNT + 1];
    model_options_table(model, &o.model);
    option policy[POLICY_OPTION_COUNT + 1];
    policy_options_table(policy, &o.policy);
    const option request[] = {
        {.name = "--image",
         .kind = OPTION_PAIRS,
         .target = &o.images,
         .value = "KEY=FILE",
         .help = "a PNG or JPEG under the request's key (cam_high, observation/image, observation.images.top) or, "
                 "without a robot, the model's (base_0_rgb, left_wrist_0_rgb, right_wrist_0_rgb); a camera not given "
                 "is masked out"},
        {.name = "--prompt", .kind = OPTION_TEXT, .target = &o.prompt, .value = "TEXT", .help = "the task in words"},
        {.name = "--tokens",
         .kind = OPTION_INTS,
         .target = &o.tokens,
         .value = "1,2,3",
         .help = "token ids in place of a prompt",
         .maximum = 2147483647},
        {.name = "--state",
         .kind = OPTION_FLOATS,
         .target = &o.state,
         .value = "0.1,0.2,..",
         .help = "the robot's state (default: zeros)"},
        {.name = "--request",
         .kind = OPTION_TEXT,
         .target = &o.request,
         .value = "FILE",
         .help = "one openpi request as it goes over the wire (msgpack), in place of the four above"},
        {.name = "--batch",
         .kind = OPTION_TEXT,
         .target = &o.batch,
         .value = "FOLDER",
         .help = "every NNNNNN.msgpack in it, each answered as NNNNNN.npy under --out"},
        {.name = "--batch-size",
         .kind = OPTION_INT,
         .target = &o.batch_size,
         .value = "N",
         .help = "requests that run together",
         .minimum = 1,
         .maximum = 1024,
         .given = &batch_size_given},
        {.name = "--shard",
         .kind = OPTION_TEXT,
         .target = &o.shard_text,
         .value = "I/N",
         .help = "with --batch: the I-th of N equal parts, from 0: one part a process, all into one --out"},
        {.name = "--resume",
         .kind = OPTION_FLAG,
         .target = &o.resume,
         .help = "with --batch: leave out what has its answer under --out already"},
        {.name = "--keep-going",
         .kind = OPTION_FLAG,
         .target = &o.keep_going,
         .help = "with --batch: a bad request is named and left out, and the exit code is 1 in the end; without it "
                 "nothing runs"},
        {0},
    };
    const option running[] = {
        {.name = "--seed",
         .kind = OPTION_SEED,
         .target = &o.seed,
         .value = "N",
         .help = "of the noise that the flow starts from",
         .given = &seed_given},
        {.name = "--noise",
         .kind = OPTION_TEXT,
         .target = &o.noise,
         .value = "FILE.npy",
         .help = "the noise itself: float32 [horizon, 32]"},
        {.name = "--model-actions",
         .kind = OPTION_TEXT,
         .target = &o.model_actions,
         .value = "FILE.npy",
         .help = "these float32 [horizon, 32] in place of the model's; no weights are needed"},
        {.name = "--no-run",
         .kind = OPTION_FLAG,
         .target = &o.no_run,
         .help = "stop before the model; no weights are needed"},
        {.name = "--dump-inputs",
         .kind = OPTION_TEXT,
         .target = &o.dump_inputs,
         .value = "FILE",
         .help = "write what the model gets: state, image/NAME, image_mask, tokens, token_mask (safetensors)"},
        {.name = "--out",
         .kind = OPTION_TEXT,
         .target = &o.out,
         .value = "FILE",
         .help = ".npy, .csv or .json (default: a table on stdout); with --batch a folder"},
        {0},
    };
    const command_line line = {
        .name = "infer",
        .summary = "one inference; images, prompt, state in; actions out",
        .examples =
            "  pi0 infer --config pi0_aloha_sim --checkpoint DIR --tokenizer paligemma_tokenizer.model \\\n"
            "            --image cam_high=top.png --prompt 'transfer cube' --out actions.npy\n"
            "  pi0 infer --config pi05_droid --checkpoint DIR --tokenizer FILE --request 000001.msgpack --json\n"
            "  pi0 infer --checkpoint LEROBOT_DIR --tokenizer FILE --image observation.images.top=top.png "
            "--prompt 'pick it up'\n"
            "  pi0 infer --model tiny-pi0 --image base_0_rgb=a.png --tokens 2,5,6   no files but a picture\n"
            "  pi0 infer --config pi0_libero --request r.msgpack --tokenizer FILE --no-run --dump-inputs "
            "in.safetensors\n"
            "  pi0 infer --config pi0_droid --checkpoint DIR --tokenizer FILE --batch recorded/ --batch-size 8 --out "
            "answers/\n",
        .groups =
            (const option_group[]){
                {"model", model}, {"policy", policy}, {"request", request}, {"inference", running}, {NULL, NULL}},
        .common = &o.common,
    };
    int exit_code;
    if (options_parse(&line, argc, argv, &exit_code)) {
        if (!read_shard(&o)) o.shard_count = 0;
        exit_code = check_usage(&o, seed_given, batch_size_given);
        if (exit_code == EXIT_DONE) exit_code = o.batch ? infer_batch(&o) : infer_one(&o);
    }
    options_release(&line);
    return exit_code;
}
