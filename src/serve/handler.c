#include "serve/handler.h"

#include <sys/random.h>

#include "base/clock.h"
#include "base/memory.h"
#include "policy/request.h"

enum { QUICK_BYTES = 1 << 20, QUICK_OTHER_BYTES = 16 << 10 };

struct handler {
    handler_options options;
    pi0_policy_info info;
    recorder recorder;
    pi0_session *session;
    pi0_observation *observations; /* [batch] */
    float *noise;                  /* [batch, H, A] */
    float *model_actions;          /* [batch, H, A] */
    double *actions;               /* [H, robot dim] */
    float *narrow;                 /* [H, robot dim], where the reference answers float32 */
};

static pi0_status open_session(handler *h, pi0_error *error) {
    pi0_session_options o;
    pi0_session_options_default(&o, h->options.engine);
    o.cameras = h->info.cameras;
    o.max_batch = h->options.batch;
    o.max_prompt_tokens = h->info.max_prompt_tokens;
    o.horizon = h->info.horizon;
    o.num_steps = h->options.num_steps ? h->options.num_steps : h->info.num_steps;
    return pi0_session_open(&h->session, h->options.engine, &o, error);
}

static pi0_status take_buffers(handler *h, pi0_error *error) {
    size_t batch = (size_t)h->options.batch, rows = (size_t)h->info.horizon;
    size_t model = batch * rows * (size_t)h->info.action_dim, robot = rows * (size_t)h->info.robot_action_dim;
    h->observations = memory_zeroed(batch, sizeof *h->observations);
    h->noise = memory_zeroed(model, sizeof *h->noise);
    h->model_actions = memory_zeroed(model, sizeof *h->model_actions);
    h->actions = memory_zeroed(robot, sizeof *h->actions);
    h->narrow = memory_zeroed(robot, sizeof *h->narrow);
    if (h->observations && h->noise && h->model_actions && h->actions && h->narrow) return PI0_OK;
    return error_memory(error, 2 * model * sizeof(float), "the server's buffers");
}

pi0_status handler_open(handler **result, const handler_options *options, pi0_error *error) {
    *result = NULL;
    handler *h = memory_zeroed(1, sizeof *h);
    if (!h) return error_memory(error, sizeof *h, "the request handler");
    h->options = *options;
    h->info = (pi0_policy_info){.struct_size = sizeof h->info};
    pi0_status status = pi0_policy_describe(options->policy, &h->info, error);
    if (status == PI0_OK)
        status = recorder_open(&h->recorder, options->record_dir, options->metrics, &h->options.log, error);
    if (status == PI0_OK) status = open_session(h, error);
    if (status == PI0_OK) status = take_buffers(h, error);
    if (status != PI0_OK) {
        handler_close(&h);
        return status;
    }
    *result = h;
    return PI0_OK;
}

void handler_close(handler **handler) {
    if (!*handler) return;
    pi0_session_close(&(*handler)->session);
    memory_release((*handler)->observations);
    memory_release((*handler)->noise);
    memory_release((*handler)->model_actions);
    memory_release((*handler)->actions);
    memory_release((*handler)->narrow);
    memory_release(*handler);
    *handler = NULL;
}

static size_t noise_count(const handler *h) { return (size_t)h->info.horizon * (size_t)h->info.action_dim; }

static void decode(job *j) {
    double begin = clock_ms();
    j->failed = request_decode_in_place(&j->request, j->bytes, j->size, &j->error) != PI0_OK;
    j->prepare_ms += clock_ms() - begin;
}

/* Bytes of uint8 arrays: images, which are resized at gigabytes a second. Texts and floats take far longer. */
static size_t pixel_bytes(const value *v) {
    size_t sum = 0;
    if (v->kind == VALUE_ARRAY && v->array.kind == 'u' && v->array.item_bytes == 1) return v->array.bytes;
    if (v->kind != VALUE_MAP) return 0;
    for (size_t i = 0; i < v->list.count; i++) sum += pixel_bytes(&v->list.items[i]);
    return sum;
}

bool handler_decode_quickly(handler *h, job *j) {
    if (h->recorder.folder || j->size > QUICK_BYTES) return false;
    decode(j);
    return j->failed || j->size - pixel_bytes(j->request->message.root) <= QUICK_OTHER_BYTES;
}

void handler_prepare(handler *h, job *j) {
    if (!j->request && !j->failed) {
        j->record = recorder_request(&h->recorder, j->bytes, j->size);
        decode(j);
    }
    double begin = clock_ms();
    pi0_status status =
        j->failed ? j->error.status : pi0_policy_prepare(h->options.policy, j->request, &j->input, &j->error);
    j->failed = status != PI0_OK;
    /* all that is needed lives on in the input */
    pi0_request_free(&j->request);
    memory_release(j->bytes);
    j->bytes = NULL;
    j->size = 0;
    if (!j->failed && h->options.cameras) cameras_show(h->options.cameras, j->input);
    j->prepare_ms += clock_ms() - begin;
}

static uint64_t draw_seed(void) {
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, 0) == (ssize_t)sizeof seed) return seed;
    return (uint64_t)clock_ns(); /* a kernel without the call: the clock will do for noise */
}

/* {"actions": .., "policy_timing": {"infer_ms"}, "server_timing": {"infer_ms"[, "prev_total_ms"]}}, openpi's order */
static void encode(handler *h, job *j) {
    int64_t shape[2] = {h->info.horizon, h->info.robot_action_dim};
    size_t count = (size_t)shape[0] * (size_t)shape[1];
    wire_buffer *out = &j->response;
    wire_put_map(out, 3);
    wire_put_text(out, "actions");
    if (h->info.float32_actions) {
        for (size_t i = 0; i < count; i++) h->narrow[i] = (float)h->actions[i];
        wire_put_array(out, 'f', 4, 2, shape, h->narrow);
    } else {
        wire_put_array(out, 'f', 8, 2, shape, h->actions);
    }
    wire_put_text(out, "policy_timing");
    wire_put_map(out, 1);
    wire_put_text(out, "infer_ms");
    wire_put_float(out, j->infer_ms);
    wire_put_text(out, "server_timing");
    wire_put_map(out, j->prev_total_ms < 0 ? 1 : 2);
    wire_put_text(out, "infer_ms");
    wire_put_float(out, j->total_ms);
    if (j->prev_total_ms >= 0) {
        wire_put_text(out, "prev_total_ms");
        wire_put_float(out, j->prev_total_ms);
    }
}

static void finish(handler *h, job *j, const float *model_actions) {
    double begin = clock_ms();
    j->failed = pi0_policy_finish(h->options.policy, j->input, model_actions, h->actions, &j->error) != PI0_OK;
    if (j->failed) return;
    j->total_ms = j->prepare_ms + j->infer_ms + (clock_ms() - begin);
    encode(h, j);
    if (j->response.failed) {
        j->failed = true;
        error_memory(&j->error, j->response.size, "a response");
        return;
    }
    recorder_response(&h->recorder, j->record, j->response.bytes, j->response.size);
}

void handler_run(handler *h, job *const *jobs, int count) {
    double begin = clock_ms();
    pi0_error error = {0};
    for (int i = 0; i < count; i++) {
        float *noise = h->noise + (size_t)i * noise_count(h);
        pi0_noise(h->options.seeded ? h->options.seed : draw_seed(), noise, noise_count(h));
        pi0_input_observation(jobs[i]->input, &h->observations[i]);
        h->observations[i].noise = noise;
    }
    pi0_status status = pi0_session_infer(h->session, h->observations, count, h->model_actions, &error);
    double infer_ms = clock_ms() - begin;
    if (status != PI0_OK && count > 1) { /* one of them may be to blame: the others are not to suffer for it */
        for (int i = 0; i < count; i++) handler_run(h, &jobs[i], 1);
        return;
    }
    pi0_timings timings = {.struct_size = sizeof timings};
    if (status == PI0_OK && pi0_session_timings(h->session, &timings, NULL) == PI0_OK)
        metrics_inference(h->options.metrics, &timings, count);
    for (int i = 0; i < count; i++) {
        jobs[i]->infer_ms = infer_ms;
        jobs[i]->batch = count;
        jobs[i]->failed = jobs[i]->engine_failed = status != PI0_OK;
        jobs[i]->error = error;
        if (status == PI0_OK) finish(h, jobs[i], h->model_actions + (size_t)i * noise_count(h));
    }
}

pi0_status handler_warm_up(handler *h, pi0_error *error) {
    static const int32_t token = 2; /* BOS */
    static const float state[64] = {0};
    pi0_noise(0, h->noise, noise_count(h));
    pi0_observation o = {.tokens = &token, .token_count = 1, .state = state, .noise = h->noise};
    if (h->info.action_dim > 64) return PI0_OK;
    return pi0_session_infer(h->session, &o, 1, h->model_actions, error);
}
