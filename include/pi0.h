/*
 * pi0.h: run the pi0 and pi0.5 robot policies.
 *
 *     pi0_engine   immutable: weights on one backend. Open once, share between threads.
 *     pi0_session  mutable: buffers for one inference at a time. One per thread; any number per engine.
 *     pi0_policy   immutable: what a robot's request becomes before the model and what its actions become after it.
 *
 *     observation -> pi0_policy_prepare -> pi0_observation -> pi0_session_infer -> [H, 32] -> pi0_policy_finish -> [H,
 * robot]
 *
 * Calls that can fail return a pi0_status and take a `pi0_error *` last, which may be NULL. The library never prints,
 * exits or aborts. Close functions take a pointer to the pointer, free everything and set it to NULL; closing NULL is a
 * no-op.
 *
 * Threads: an engine and a policy may be used from many threads at once; a session, request or input from one at a
 * time. Close sessions before their engine. Strings and arrays passed in are borrowed for the call only, unless said
 * otherwise.
 *
 * ABI: PI0_ABI grows when a change breaks a program compiled against an older header. Structs that begin with
 * `struct_size` may grow at the end without that; call their `_default` function before setting fields.
 */
#ifndef PI0_H
#define PI0_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PI0_API __attribute__((visibility("default")))
#else
#define PI0_API
#endif

#define PI0_ABI            1
#define PI0_VERSION_STRING "0.1.0"
#define PI0_MAX_CAMERAS    8 /* openpi has 3 slots; lerobot any number from 1 */

/* The ABI number the library was built with; compare with PI0_ABI. */
PI0_API int pi0_abi(void);
/* "0.1.0": static string. */
PI0_API const char *pi0_version(void);

/* ---- status, errors, log ---------------------------------------------------------------------------------------- */

typedef enum pi0_status {
    PI0_OK = 0,
    PI0_ERROR_ARGUMENT,    /* the caller's argument or option is wrong */
    PI0_ERROR_IO,          /* a file cannot be opened, read or written */
    PI0_ERROR_FORMAT,      /* a file or message is not what it claims to be */
    PI0_ERROR_MEMORY,      /* not enough host or device memory */
    PI0_ERROR_UNSUPPORTED, /* valid, but not something this build or machine can do */
    PI0_ERROR_DEVICE,      /* a GPU or its driver failed */
    PI0_ERROR_CANCELLED,   /* a progress callback asked to stop */
} pi0_status;

/* "out of memory" and so on: static string. */
PI0_API const char *pi0_status_text(pi0_status status);

/* Filled by a failing call; untouched by one that succeeds. message: what was expected, what was found, and where. */
typedef struct pi0_error {
    pi0_status status;
    char message[1000];
} pi0_error;

typedef enum pi0_log_level { PI0_LOG_ERROR, PI0_LOG_WARNING, PI0_LOG_INFO, PI0_LOG_DEBUG } pi0_log_level;

/* One line of text without a newline. May be called from any thread that is inside a library call. */
typedef void (*pi0_log_function)(void *user, pi0_log_level level, const char *message);

/* Progress of long work: fraction in [0, 1]. A return value other than 0 cancels (PI0_ERROR_CANCELLED). */
typedef int (*pi0_progress_function)(void *user, const char *what, double fraction);

/* All memory the library takes on the host goes through this hook. Process-wide: set it before any other call, and do
 * not change it while anything is open. allocate returns NULL when there is no memory; alignment is a power of two.
 * NULL restores the default (aligned_alloc / free). */
typedef struct pi0_allocator {
    void *(*allocate)(void *user, size_t bytes, size_t alignment);
    void (*release)(void *user, void *memory);
    void *user;
} pi0_allocator;
PI0_API void pi0_set_allocator(const pi0_allocator *allocator);

/* ---- engine ------------------------------------------------------------------------------------------------------ */

typedef enum pi0_family { PI0_FAMILY_PI0, PI0_FAMILY_PI05 } pi0_family;

/* Which synthetic model to make; a checkpoint on disk says itself what it is. */
typedef enum pi0_model {
    PI0_MODEL_AUTO, /* pi0 */
    PI0_MODEL_PI0,
    PI0_MODEL_PI05,
    PI0_MODEL_TINY_PI0,
    PI0_MODEL_TINY_PI05,
} pi0_model;

typedef enum pi0_backend { PI0_BACKEND_AUTO, PI0_BACKEND_CPU, PI0_BACKEND_CUDA, PI0_BACKEND_HIP } pi0_backend;

/* AUTO: bf16 on a GPU and on a CPU with AMX or AVX-512-bf16, else f32; never fp8. */
typedef enum pi0_precision {
    PI0_PRECISION_AUTO,
    PI0_PRECISION_F32,
    PI0_PRECISION_BF16,
    PI0_PRECISION_FP8
} pi0_precision;

/* EXACT: float32 inverse frequencies (JAX, lerobot float32). ROUNDED: rounded to bf16 as openpi's PyTorch bf16 mode
 * does. */
typedef enum pi0_rope { PI0_ROPE_EXACT, PI0_ROPE_OPENPI_TORCH_BF16 } pi0_rope;

typedef enum pi0_kernels { PI0_KERNELS_AUTO, PI0_KERNELS_PORTABLE } pi0_kernels;
typedef enum pi0_gemm { PI0_GEMM_AUTO, PI0_GEMM_CUBLASLT, PI0_GEMM_OWN } pi0_gemm;
typedef enum pi0_attention { PI0_ATTENTION_AUTO, PI0_ATTENTION_NAIVE } pi0_attention;

/* Options that not every backend has a choice for; one that it lacks is refused unless it is left at its default. */
enum {
    PI0_CHOICE_GEMM = 1,      /* pi0_engine_options.gemm */
    PI0_CHOICE_ATTENTION = 2, /* .attention */
    PI0_CHOICE_FUSE_QKV = 4,  /* .fuse_qkv */
    PI0_CHOICE_GRAPH = 8,     /* pi0_session_options.graph; ignored where there is no such choice */
    PI0_CHOICE_TRACE = 16,    /* pi0_session_options.trace */
};

typedef struct pi0_engine_options {
    size_t struct_size;
    const char *checkpoint; /* directory (openpi or lerobot layout), or "synthetic[:SEED]"; default "synthetic:1" */
    pi0_model model;        /* for synthetic checkpoints only */
    pi0_backend backend;
    int device; /* index among the backend's devices */
    pi0_precision precision;
    int threads; /* CPU threads of one inference; 0: all the process may use */
    pi0_rope rope;
    bool
        keep_f32_weights; /* false: float32 matrices are rounded to bf16 at load, with a warning if that changes them */
    pi0_kernels kernels;
    pi0_gemm gemm;
    pi0_attention attention;
    bool fuse_qkv;
    const char *calibration; /* fp8 activation scales written by `pi0 calibrate`, or NULL */
    pi0_log_function log;
    void *log_user;
    pi0_progress_function progress;
    void *progress_user;
} pi0_engine_options;

typedef struct pi0_engine pi0_engine;

PI0_API void pi0_engine_options_default(pi0_engine_options *options);
/* Loads weights. On success *engine is the caller's to close; on failure it is NULL. options may be NULL (defaults). */
PI0_API pi0_status pi0_engine_open(pi0_engine **engine, const pi0_engine_options *options, pi0_error *error);
PI0_API void pi0_engine_close(pi0_engine **engine);

typedef struct pi0_engine_info {
    size_t struct_size;
    pi0_family family;
    int action_dim;          /* width of state, noise and actions: 32 */
    int image_size;          /* pixels a side: 224, tiny 56 */
    int tokens_per_image;    /* 256, tiny 16 */
    int vocabulary;          /* 257152, tiny 512 */
    int64_t parameters;      /* that inference reads: 3,238,048,528 for pi0 */
    pi0_backend backend;     /* never AUTO */
    pi0_precision precision; /* never AUTO */
    char device_name[128];   /* "NVIDIA H200", "Intel(R) Xeon(R) ..." */
    char device_arch[64];    /* "sm_90", "avx512" */
    char layout[16];         /* "openpi", "lerobot" or "synthetic" */
    int64_t weights_bytes;   /* memory that holds the weights, mapped pages included */
    unsigned choices;        /* PI0_CHOICE_*: which options the backend has an alternative for */
} pi0_engine_info;

/* Set info->struct_size first. */
PI0_API pi0_status pi0_engine_describe(const pi0_engine *engine, pi0_engine_info *info, pi0_error *error);

/* ---- session ----------------------------------------------------------------------------------------------------- */

/* One thing that took time during an inference. */
typedef enum pi0_trace_kind {
    PI0_TRACE_INFERENCE, /* these five nest: an inference has stages, they have layers, Diffusion has steps of layers */
    PI0_TRACE_STAGE,
    PI0_TRACE_STEP,
    PI0_TRACE_LAYER,
    PI0_TRACE_OP,     /* a range around several kernels */
    PI0_TRACE_KERNEL, /* what does the work: a GPU's kernel, one op of the CPU backend */
    PI0_TRACE_COPY,   /* between host and device, or on it */
    PI0_TRACE_API,    /* a call on the host's side */
    PI0_TRACE_THREAD, /* a CPU thread's part of a kernel */
    PI0_TRACE_KIND_COUNT
} pi0_trace_kind;

typedef struct pi0_trace_value {
    const char *name; /* "rows", "k", "n", "bytes", "flops", "grid", .. */
    double number;
    const char *text; /* in place of the number, or NULL */
} pi0_trace_value;

typedef struct pi0_trace_event {
    size_t struct_size;
    pi0_trace_kind kind;
    const char *category; /* in trace files; NULL: after its kind */
    const char *name;
    int track;                    /* stream; of API and THREAD: the thread */
    double start_us, duration_us; /* start on one clock for all events, in microseconds */
    uint64_t flow;                /* an arrow goes from the first event with this number to each other one; 0: none */
    const pi0_trace_value *values;
    int value_count;
} pi0_trace_event;

/* Strings and values live as long as the call. Comes from the thread that is in pi0_session_infer; a range may come
 * after what it contains. */
typedef void (*pi0_trace_function)(void *user, const pi0_trace_event *event);

typedef struct pi0_session_options {
    size_t struct_size;
    int cameras;             /* slots of the prefix, 1..PI0_MAX_CAMERAS; default 3 */
    int max_batch;           /* default 1 */
    int max_prompt_tokens;   /* valid prompt tokens per observation; default 200 */
    int horizon;             /* H, action rows; default 10 */
    int num_steps;           /* Euler steps; default 10 */
    bool skip_masked_images; /* default true; false computes masked cameras and masks their keys (same answer) */
    bool
        lerobot_time; /* step times as lerobot computes them (spec: 1 + k*dt in double); default: the engine's layout */
    bool graph;       /* GPU: one graph launch per inference; default true */
    bool record;      /* keep stage results for pi0_session_read; default false */
    bool profile;     /* fill the op table of pi0_timings; default false */
    pi0_trace_function trace; /* told everything that an inference did; default NULL, which costs nothing */
    void *trace_user;
} pi0_session_options;

typedef struct pi0_session pi0_session;

PI0_API void pi0_session_options_default(pi0_session_options *options, const pi0_engine *engine);
/* Takes all memory that inference will need. options may be NULL (defaults). */
PI0_API pi0_status pi0_session_open(pi0_session **session, pi0_engine *engine, const pi0_session_options *options,
                                    pi0_error *error);
PI0_API void pi0_session_close(pi0_session **session);

/* What the model sees; R is the engine's image_size, A its action_dim, H the session's horizon. */
typedef struct pi0_observation {
    const uint8_t *images[PI0_MAX_CAMERAS];     /* uint8 [R,R,3] RGB per camera slot; NULL in both: camera masked out */
    const float *float_images[PI0_MAX_CAMERAS]; /* float32 [3,R,R] in [-1,1], used where images[i] is NULL */
    const int32_t *tokens;                      /* int32 [token_count] */
    const bool *token_mask;                     /* bool [token_count], or NULL: all valid; masked tokens are left out */
    int token_count;
    const float *state; /* float32 [A], normalised and padded; pi0.5 does not read it (may be NULL there) */
    const float *noise; /* float32 [H,A], the flow-matching start x_1 */
} pi0_observation;

/* actions: float32 [batch,H,A], written only on success. Nothing is allocated. At least one camera or token must be
 * valid in each observation. */
PI0_API pi0_status pi0_session_infer(pi0_session *session, const pi0_observation *observations, int batch,
                                     float *actions, pi0_error *error);

/* float32[count] noise of `--seed`: normal("noise", seed, count), the same on every machine. */
PI0_API void pi0_noise(uint64_t seed, float *noise, size_t count);

enum { PI0_STAGE_VIT, PI0_STAGE_PREFILL, PI0_STAGE_DENOISE, PI0_STAGE_OTHER, PI0_STAGE_COUNT };
enum { PI0_OP_GEMM, PI0_OP_ATTENTION, PI0_OP_NORM, PI0_OP_ROPE, PI0_OP_ACTIVATION, PI0_OP_OTHER, PI0_OP_COUNT };

typedef struct pi0_timings {
    size_t struct_size;
    double total_ms;  /* wall clock of the last pi0_session_infer */
    double device_ms; /* device events around it; 0 where the backend has no device timer */
    double stage_ms[PI0_STAGE_COUNT];
    double op_ms[PI0_STAGE_COUNT][PI0_OP_COUNT]; /* zero unless the session profiles */
    int64_t op_calls[PI0_STAGE_COUNT][PI0_OP_COUNT];
    int64_t workspace_bytes; /* memory this session holds */
} pi0_timings;

/* "ViT", "LLM prefill", "Diffusion", "Other"; "GEMM", "attention", ...: static strings, NULL out of range. */
PI0_API const char *pi0_stage_name(int stage);
PI0_API const char *pi0_op_name(int op);
/* Timings of the last inference. Set timings->struct_size first. */
PI0_API pi0_status pi0_session_timings(const pi0_session *session, pi0_timings *timings, pi0_error *error);

/*
 * A stage result of the last inference of a recording session, for observation `index` of the batch, as float32:
 *     "prefix_embeddings" [P, width]; "prefix_keys", "prefix_values" [layers, P, head_dim]; "x", "v" [steps, H, A]
 * P counts the rows that were computed: tokens of valid cameras (all cameras with skip_masked_images false), then valid
 * text tokens. *count receives the number of values; at most `capacity` are written to values (may be NULL to ask).
 */
PI0_API pi0_status pi0_session_read(const pi0_session *session, const char *name, int index, float *values,
                                    size_t capacity, size_t *count, pi0_error *error);

/* ---- devices ----------------------------------------------------------------------------------------------------- */

typedef struct pi0_device_info {
    size_t struct_size;
    pi0_backend backend;
    int index;
    char name[128];
    char arch[64];
    char features[256]; /* "avx512f avx512-bf16 amx-bf16", "wgmma tma fp8" */
    int64_t memory_bytes;
    int units; /* cores or multiprocessors */
    bool usable;
    char reason[256]; /* why not, if not usable */
} pi0_device_info;

/* Fills devices[0..capacity) and sets *count to how many there are; a backend that cannot run is one entry with
 * usable = false and a reason. Set devices[i].struct_size first. */
PI0_API pi0_status pi0_devices(pi0_device_info *devices, int capacity, int *count, pi0_error *error);

/* ---- policy: requests of a robot --------------------------------------------------------------------------------- */

/* A request: a map from the robot's keys to images, numbers and text, as a client sends it. */
typedef struct pi0_request pi0_request;

PI0_API pi0_status pi0_request_new(pi0_request **request, pi0_error *error);
/* One openpi request as it goes over the wire (msgpack-numpy). Refuses anything that is not one whole map. */
PI0_API pi0_status pi0_request_decode(pi0_request **request, const void *bytes, size_t size, pi0_error *error);
PI0_API void pi0_request_free(pi0_request **request);
/* Key is the robot's ("observation/image", ALOHA's camera names, lerobot's "observation.images.x", or a model key
 * without a robot). pixels: uint8 [height,width,3] RGB, copied. */
PI0_API pi0_status pi0_request_set_image(pi0_request *request, const char *key, const uint8_t *pixels, int height,
                                         int width, pi0_error *error);
/* PNG or JPEG file. PI0_ERROR_UNSUPPORTED in a build without image files. */
PI0_API pi0_status pi0_request_set_image_file(pi0_request *request, const char *key, const char *path,
                                              pi0_error *error);
/* float64 [count], copied; key NULL: the robot's state. */
PI0_API pi0_status pi0_request_set_state(pi0_request *request, const char *key, const double *values, int count,
                                         pi0_error *error);
PI0_API pi0_status pi0_request_set_prompt(pi0_request *request, const char *utf8, pi0_error *error);
/* Token ids instead of a prompt. */
PI0_API pi0_status pi0_request_set_tokens(pi0_request *request, const int32_t *tokens, int count, pi0_error *error);

typedef struct pi0_policy_options {
    size_t struct_size;
    const char *config;         /* an openpi config name, or NULL: the model's own inputs, or the lerobot directory's */
    const char *checkpoint;     /* where assets and lerobot processors are; as for the engine */
    const char *norm_stats;     /* a norm_stats.json in place of the checkpoint's, or NULL */
    const char *tokenizer;      /* SentencePiece model file, or NULL: requests must bring tokens */
    const char *default_prompt; /* for requests without a prompt; beats the config's own; or NULL */
    int image_size;             /* 0: 224, or what the checkpoint says */
    pi0_model model;            /* family and size of a synthetic checkpoint; AUTO: the config's family */
    int horizon;                /* 0: the config's, else 10 */
    pi0_log_function log;
    void *log_user;
} pi0_policy_options;

typedef struct pi0_policy pi0_policy;

PI0_API void pi0_policy_options_default(pi0_policy_options *options);
PI0_API pi0_status pi0_policy_open(pi0_policy **policy, const pi0_policy_options *options, pi0_error *error);
PI0_API void pi0_policy_close(pi0_policy **policy);

typedef struct pi0_policy_info {
    size_t struct_size;
    pi0_family family;
    int cameras; /* slots the model gets */
    int horizon; /* rows of the answer */
    int max_prompt_tokens;
    int image_size;
    int action_dim;            /* the model's: 32 */
    int robot_action_dim;      /* columns of the answer */
    bool float32_actions;      /* the reference answers float32 here, else float64 */
    const char *config;        /* borrowed from the policy; NULL without one */
    const char *metadata_json; /* what openpi's server sends on connect: a JSON object; borrowed */
    int num_steps;             /* Euler steps the checkpoint asks for: lerobot's num_inference_steps, else 10 */
} pi0_policy_info;

/* Set info->struct_size first. */
PI0_API pi0_status pi0_policy_describe(const pi0_policy *policy, pi0_policy_info *info, pi0_error *error);

/* A prepared request: resized images, tokens and normalised state, and what finishing it needs. Free it before its
 * policy is closed. */
typedef struct pi0_input pi0_input;

PI0_API pi0_status pi0_policy_prepare(const pi0_policy *policy, const pi0_request *request, pi0_input **input,
                                      pi0_error *error);
PI0_API void pi0_input_free(pi0_input **input);
/* The model's view of it: pointers stay valid until the input is freed. noise is NULL: the caller sets it. */
PI0_API void pi0_input_observation(const pi0_input *input, pi0_observation *observation);

/* model_actions: float32 [H,A] from pi0_session_infer. actions: float64 [H, robot_action_dim]; values are float32
 * numbers where float32_actions is set. */
PI0_API pi0_status pi0_policy_finish(const pi0_policy *policy, const pi0_input *input, const float *model_actions,
                                     double *actions, pi0_error *error);

#ifdef __cplusplus
}
#endif
#endif
