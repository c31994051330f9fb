/* What the parts of `pi0 infer` share: one prepared request after the other through one policy and one session. */
#ifndef PI0_CLI_INFER_H
#define PI0_CLI_INFER_H

#include "cli/policy_options.h"
#include "pi0.h"

typedef struct infer_options {
    common_options common;
    model_options model;
    policy_options policy;
    const char *prompt;
    option_pairs images;
    option_ints tokens;
    option_floats state;
    uint64_t seed;
    const char *noise, *request, *batch, *dump_inputs, *model_actions, *out;
    int batch_size;
    const char *shard_text;            /* "1/4", read into the next two */
    unsigned shard_index, shard_count; /* of --batch: the requests whose place modulo count is index; count 0: all */
    bool no_run, resume, keep_going;
} infer_options;

/* Milliseconds of one inference; the stages are 0 where the model did not run. */
typedef struct infer_times {
    double preprocess, stages[PI0_STAGE_COUNT], postprocess, total;
} infer_times;

typedef struct inference {
    const infer_options *options;
    pi0_policy *policy;
    pi0_policy_info policy_info;
    pi0_engine *engine; /* NULL: the model does not run */
    pi0_session *session;
    float *noise;         /* float32 [H,A]: the same for every request */
    float *model_actions; /* float32 [batch,H,A] */
    double *actions;      /* float64 [H,D] */
} inference;

/* Opens the policy: everything before the weights. */
pi0_status inference_prepare(inference *run, const infer_options *options, pi0_error *error);
/* Loads weights and takes the memory for `batch` observations of at most `max_tokens` valid tokens. */
pi0_status inference_load(inference *run, int batch, int max_tokens, pi0_error *error);
/* Prepared inputs -> run->model_actions, with the stage times. */
pi0_status inference_run(inference *run, pi0_input *const *inputs, int count, infer_times *times, pi0_error *error);
/* Model actions of observation `index` -> run->actions. */
pi0_status inference_finish(inference *run, const pi0_input *input, int index, infer_times *times, pi0_error *error);
void inference_release(inference *run);

/* Valid tokens of a prepared request. */
int infer_token_count(const pi0_input *input);
/* One msgpack file. */
pi0_status infer_read_request(pi0_request **request, const char *path, pi0_error *error);
/* What the model gets, as a safetensors file. */
pi0_status infer_dump_inputs(const pi0_input *input, const char *path, pi0_error *error);
/* --batch: every NNNNNN.msgpack of a folder; returns the exit code. */
int infer_batch(const infer_options *options);

#endif
