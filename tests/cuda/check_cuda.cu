/*
 * Every kernel of the CUDA backend against a plain twin on the CPU, over random shapes and worst cases, then timed.
 *
 *     check_cuda            compare and time
 *     check_cuda compare    compare only        check_cuda time    time only
 *     check_cuda .. TEXT    products whose name holds TEXT           check_cuda .. TEXT portable    mma.sync alone
 *     check_cuda chain [images]    the ViT's layers in one graph, every variant in its place
 *
 * Twins work in double precision on the bf16 values that the kernels get; of large results a random sample of elements
 * is compared, and all must have been written.
 */
#include <cuda.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "cuda/attention.h"
#include "cuda/gemm.h"
#include "cuda/gemm_portable.h"

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        cudaError_t status_ = (call);                                                                                  \
        if (status_ != cudaSuccess) {                                                                                  \
            printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(status_));                          \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

typedef __nv_bfloat16 bf16;
static uint64_t seed_state = 1;
static int failures, multiprocessors;
static bool portable_only;
static void *encode;
static cudaStream_t stream;

static uint32_t draw(void) {
    seed_state = seed_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed_state >> 33);
}
static float uniform(void) { return (float)(draw() & 0xffffff) / (float)0x800000 - 1.0f; }

template <typename T> struct buffer {
    std::vector<T> host;
    T *device = NULL;
    explicit buffer(size_t count) : host(count) { MUST(cudaMalloc((void **)&device, count * sizeof(T) + 256)); }
    ~buffer() { cudaFree(device); }
    void up() { MUST(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice)); }
    void down() { MUST(cudaMemcpy(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost)); }
    void poison() { MUST(cudaMemset(device, 0xff, host.size() * sizeof(T))); }
};

static void fill(buffer<bf16> &b, float amplitude) {
    for (auto &v : b.host) v = __float2bfloat16(uniform() * amplitude);
    b.up();
}
static void fill(buffer<float> &b, float amplitude, float base = 0.0f) {
    for (auto &v : b.host) v = base + uniform() * amplitude;
    b.up();
}

/* Relative L2 error of what was compared. */
struct comparison {
    double difference = 0, reference = 0;
    bool finite = true;
    void add(double got, double want) {
        finite = finite && isfinite(got);
        difference += (got - want) * (got - want);
        reference += want * want;
    }
    double error() const { return finite ? sqrt(difference / (reference + 1e-30)) : INFINITY; }
};

static void report(const char *what, const char *variant, double error, double bound) {
    const bool ok = error <= bound;
    failures += !ok;
    printf("%-44s %-24s %9.2e  bound %.0e  %s\n", what, variant, error, bound, ok ? "ok" : "FAIL");
}

/* Median milliseconds per launch of `launch`, from a graph of `repeats` of them. */
template <typename F> static double timed(F launch, int repeats) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < repeats; i++) launch(i);
    MUST(cudaStreamEndCapture(stream, &graph));
    MUST(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t a, b;
    MUST(cudaEventCreate(&a));
    MUST(cudaEventCreate(&b));
    std::vector<float> times;
    for (int i = 0; i < 7; i++) {
        float ms;
        MUST(cudaEventRecord(a, stream));
        MUST(cudaGraphLaunch(exec, stream));
        MUST(cudaEventRecord(b, stream));
        MUST(cudaEventSynchronize(b));
        MUST(cudaEventElapsedTime(&ms, a, b));
        times.push_back(ms / repeats);
    }
    MUST(cudaGraphExecDestroy(exec));
    MUST(cudaGraphDestroy(graph));
    cudaEventDestroy(a);
    cudaEventDestroy(b);
    for (size_t i = 0; i < times.size(); i++)
        for (size_t j = i + 1; j < times.size(); j++)
            if (times[j] < times[i]) std::swap(times[i], times[j]);
    return times[times.size() / 2];
}

static double gelu(double x) { return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }

struct product_case {
    const char *name;
    gemm_epilogue epilogue;
    int features, tokens, k;
    bool norm, layer_norm;
};

/* One product with everything its epilogue can do, every variant and both splits. */
static void product(const product_case &c, bool compare, bool time) {
    const int copies = compare && !time ? 1 : 1 + (int)(120000000ll / ((long long)c.features * c.k * 2 + 1));
    const int slabs = (c.k + 63) / 64, out_slabs = (c.features + GEMM_SLAB_LEAST - 1) / GEMM_SLAB_LEAST;
    const int out_features = c.epilogue == GEMM_GATED ? c.features / 2 : c.features;
    const int head_dim = c.features % 256 == 0 ? 256 : 16, heads = c.features / head_dim - 2;
    buffer<bf16> weights((size_t)copies * c.features * c.k), input((size_t)c.tokens * c.k);
    buffer<float2> stats((size_t)slabs * c.tokens), stats_out((size_t)out_slabs * c.tokens);
    buffer<float> bias(c.features), center(c.features), gain(c.features), x((size_t)c.tokens * c.features);
    buffer<bf16> out((size_t)c.tokens * c.features), operand((size_t)c.tokens * c.features);
    buffer<float2> rope((size_t)(c.tokens + 7) * head_dim / 2);
    buffer<int> positions(c.tokens);
    buffer<float> partial(gemm_partial_bytes() / 4);
    buffer<unsigned> ticket(GEMM_TICKETS);
    fill(weights, sqrtf(3.0f / c.k));
    fill(input, 1.7f);
    fill(bias, 0.3f);
    fill(center, 0.1f);
    fill(gain, 0.1f, 1.0f);
    for (auto &v : stats.host) v = make_float2(uniform() * 4.0f, 64.0f * (1.0f + 0.3f * uniform()));
    stats.up();
    for (auto &v : rope.host) {
        const float angle = 3.0f * uniform();
        v = make_float2(cosf(angle), sinf(angle));
    }
    rope.up();
    for (int i = 0; i < c.tokens; i++) positions.host[i] = i + (int)(draw() % 7);
    positions.up();
    MUST(cudaMemset(ticket.device, 0, GEMM_TICKETS * sizeof(unsigned)));

    gemm_problem p = {};
    p.weights = weights.device;
    p.input = input.device;
    p.features = c.features;
    p.tokens = c.tokens;
    p.k = p.weights_stride = p.input_stride = p.norm_width = c.k;
    p.scale = 0.75f;
    if (c.norm) {
        p.stats = stats.device;
        p.stats_slabs = slabs;
        p.stats_stride = c.tokens;
        p.layer_norm = c.layer_norm;
    }
    if (c.epilogue != GEMM_GATED && c.epilogue != GEMM_ROPE) p.bias = bias.device;
    if (c.layer_norm) p.center = center.device;
    p.out = out.device;
    p.out_stride = out_features;
    p.q = out.device;
    p.keys = out.device + (size_t)c.tokens * heads * head_dim;
    p.values = p.keys + (size_t)c.tokens * head_dim;
    p.heads = heads;
    p.head_dim = head_dim;
    p.rope = rope.device;
    p.positions = positions.device;
    p.x = x.device;
    p.accumulate = true;
    p.operand = operand.device;
    p.gain = gain.device;
    p.stats_out = stats_out.device;
    p.stats_out_stride = c.tokens;
    p.row_period = 1;
    p.partial = partial.device;
    p.ticket = ticket.device;

    auto dot = [&](int token, int f) {
        double sum = 0;
        for (int k = 0; k < c.k; k++)
            sum += (double)__bfloat162float(weights.host[(size_t)f * c.k + k]) *
                   (double)__bfloat162float(input.host[(size_t)token * c.k + k]);
        double r = p.scale, mean = 0;
        if (c.norm) {
            double s = 0, q = 0;
            for (int i = 0; i < slabs; i++) {
                s += stats.host[(size_t)i * c.tokens + token].x;
                q += stats.host[(size_t)i * c.tokens + token].y;
            }
            mean = c.layer_norm ? s / c.k : 0;
            r = 1 / sqrt(q / c.k - mean * mean + 1e-6);
        }
        return r * sum - (c.layer_norm ? r * mean * center.host[f] : 0) + (p.bias ? bias.host[f] : 0);
    };

    const gemm_choice chosen = gemm_choose(c.epilogue, &p, multiprocessors);
    for (int variant = -1 - gemm_portable_variants(); variant < (portable_only ? 0 : gemm_variant_count(c.epilogue));
         variant++)
        for (int split = 1; split <= (variant < -1 ? 4 : 2); split++) {
            char text[64], label[80];
            gemm_variant_text(c.epilogue, variant, text, sizeof text);
            snprintf(label, sizeof label, "%s%s%.0d%s", text, split > 1 ? " split " : "", split > 1 ? split : 0,
                     chosen.variant == variant && chosen.split == split ? " *" : "");
            gemm_plan plan;
            gemm_choice choice = {variant, split};
            if (!gemm_possible(c.epilogue, &p, choice, multiprocessors)) continue;
            const int slab_width = gemm_slab(c.epilogue, choice);
            MUST(gemm_plan_make(&plan, c.epilogue, &p, choice, multiprocessors, encode));
            if (compare) {
                fill(x, 1.0f);
                const std::vector<float> before = x.host;
                out.poison();
                operand.poison();
                stats_out.poison();
                MUST(gemm_launch(c.epilogue, &plan, false, stream));
                MUST(cudaStreamSynchronize(stream));
                out.down();
                x.down();
                operand.down();
                stats_out.down();
                comparison result, sums;
                bool written = true;
                if (c.epilogue == GEMM_RESIDUAL)
                    for (auto v : x.host) written = written && isfinite(v);
                else
                    for (size_t i = 0; i < (size_t)c.tokens * out_features; i++)
                        written = written && isfinite(__bfloat162float(out.host[i]));
                for (int i = 0; i < 600; i++) {
                    const int token = i < 4 ? c.tokens - 1 : (int)(draw() % c.tokens);
                    const int f = i < 2 ? out_features - 1 : (int)(draw() % out_features);
                    const size_t at = (size_t)token * out_features + f;
                    if (c.epilogue == GEMM_STORE) result.add(__bfloat162float(out.host[at]), dot(token, f));
                    if (c.epilogue == GEMM_GELU) result.add(__bfloat162float(out.host[at]), gelu(dot(token, f)));
                    if (c.epilogue == GEMM_GATED) {
                        const int gate = f / 8 * 16 + f % 8;
                        result.add(__bfloat162float(out.host[at]), gelu(dot(token, gate)) * dot(token, gate + 8));
                    }
                    if (c.epilogue == GEMM_ROPE) {
                        const int head = f / head_dim, d = f % head_dim, half = head_dim / 2, pair = d % half;
                        const int low = head * head_dim + pair / 8 * 16 + pair % 8;
                        const double a = dot(token, low), b = dot(token, low + 8);
                        const float2 turn = rope.host[(size_t)positions.host[token] * half + pair];
                        double want = d < half ? a : b;
                        if (head <= heads) want = d < half ? a * turn.x - b * turn.y : b * turn.x + a * turn.y;
                        const bf16 got = head < heads
                                             ? out.host[((size_t)token * heads + head) * head_dim + d]
                                             : out.host[(size_t)c.tokens * heads * head_dim +
                                                        ((size_t)(head - heads) * c.tokens + token) * head_dim + d];
                        result.add(__bfloat162float(got), want);
                    }
                    if (c.epilogue == GEMM_RESIDUAL) {
                        result.add(x.host[at], before[at] + dot(token, f));
                        sums.add(__bfloat162float(operand.host[at]), x.host[at] * gain.host[f]);
                        const int slab = f / slab_width;
                        double s = 0, q = 0;
                        for (int j = slab * slab_width; j < (slab + 1) * slab_width && j < c.features; j++) {
                            const double v = x.host[(size_t)token * c.features + j];
                            s += v;
                            q += v * v;
                        }
                        sums.add(stats_out.host[(size_t)slab * c.tokens + token].x, s);
                        sums.add(stats_out.host[(size_t)slab * c.tokens + token].y, q);
                    }
                }
                char what[120];
                snprintf(what, sizeof what, "%s %dx%dx%d", c.name, c.features, c.tokens, c.k);
                report(what, label, written ? result.error() : INFINITY, c.epilogue == GEMM_RESIDUAL ? 3e-5 : 4e-3);
                if (c.epilogue == GEMM_RESIDUAL) report(what, "operand, row sums", sums.error(), 3e-3);
            }
            if (time && c.features >= 1024 && c.tokens > 1) {
                std::vector<gemm_plan> plans(copies);
                for (int i = 0; i < copies; i++) {
                    p.weights = weights.device + (size_t)i * c.features * c.k;
                    MUST(gemm_plan_make(&plans[i], c.epilogue, &p, choice, multiprocessors, encode));
                }
                p.weights = weights.device;
                const double ms =
                    timed([&](int i) { MUST(gemm_launch(c.epilogue, &plans[i % copies], i > 0, stream)); }, 40);
                printf("%-44s %-24s %8.2f us  %6.1f TFLOP/s\n", c.name, label, ms * 1e3,
                       2e-9 * c.features * c.tokens * c.k / ms);
            }
        }
}

struct attention_case {
    const char *name;
    int head_dim, heads, group, sequences, length;
    bool ragged, masked;
};

static void attention(const attention_case &c, bool compare, bool time) {
    std::vector<int> starts(1, 0);
    for (int i = 0; i < c.sequences; i++)
        starts.push_back(starts.back() + (c.ragged && i ? 1 + (int)(draw() % c.length) : c.length));
    const int tokens = starts.back(), width = c.heads * c.head_dim;
    buffer<bf16> q((size_t)tokens * c.group * width), k((size_t)tokens * width), v((size_t)tokens * width),
        out((size_t)tokens * c.group * width);
    buffer<int> first(starts.size());
    buffer<uint8_t> mask(tokens);
    first.host = starts;
    first.up();
    for (int i = 0; i < tokens; i++) mask.host[i] = !c.masked || draw() % 3 != 0;
    for (int i = 0; i < c.sequences; i++) mask.host[starts[i]] = 1;
    mask.up();
    fill(q, 3.0f);
    fill(k, 3.0f);
    fill(v, 1.0f);
    attention_problem p = {};
    p.q = q.device;
    p.k = k.device;
    p.v = v.device;
    p.out = out.device;
    p.q_stride = p.kv_stride = p.out_stride = width;
    p.group = c.group;
    p.heads = c.heads;
    p.head_dim = c.head_dim;
    p.sequences = c.sequences;
    p.starts = c.ragged ? first.device : NULL;
    p.length = c.length;
    p.key_mask = c.masked ? mask.device : NULL;
    p.scale = 1.0f / sqrtf((float)c.head_dim);
    const bool vit = attention_vit_possible(&p);
    for (int hopper = 0; hopper <= (vit || (c.head_dim == 256 && c.heads == 1)); hopper++) {
        attention_plan plan;
        if (hopper && !vit) MUST(attention_hopper_plan(&plan, &p, tokens, encode));
        auto run = [&](int i) {
            MUST(!hopper ? attention_launch(&p, i > 0, stream)
                 : vit   ? attention_vit_launch(&p, encode, i > 0, stream)
                         : attention_hopper_launch(&plan, i > 0, stream));
        };
        if (compare) {
            out.poison();
            run(0);
            MUST(cudaStreamSynchronize(stream));
            out.down();
            bool written = true;
            for (auto value : out.host) written = written && isfinite(__bfloat162float(value));
            comparison result;
            for (int i = 0; i < 60; i++) {
                const int sequence = (int)(draw() % c.sequences), head = (int)(draw() % c.heads);
                const int begin = starts[sequence], keys = starts[sequence + 1] - begin;
                const size_t row = (size_t)begin * c.group + (i < 4 ? keys * c.group - 1 : draw() % (keys * c.group));
                std::vector<double> score(keys);
                double top = -INFINITY, sum = 0;
                for (int j = 0; j < keys; j++) {
                    score[j] = 0;
                    for (int d = 0; d < c.head_dim; d++)
                        score[j] +=
                            (double)__bfloat162float(q.host[row * width + head * c.head_dim + d]) *
                            (double)__bfloat162float(k.host[(size_t)(begin + j) * width + head * c.head_dim + d]);
                    score[j] = c.masked && !mask.host[begin + j] ? -INFINITY : score[j] * p.scale;
                    top = fmax(top, score[j]);
                }
                for (auto &s : score) sum += s = exp(s - top);
                for (int d = 0; d < c.head_dim; d++) {
                    double value = 0;
                    for (int j = 0; j < keys; j++)
                        value += score[j] / sum *
                                 (double)__bfloat162float(v.host[(size_t)(begin + j) * width + head * c.head_dim + d]);
                    result.add(__bfloat162float(out.host[row * width + head * c.head_dim + d]), value);
                }
            }
            report(c.name, hopper ? "wgmma" : "mma.sync", written ? result.error() : INFINITY, 6e-3);
        }
        if (time && c.length > 100)
            printf("%-44s %-24s %8.2f us\n", c.name, hopper ? "wgmma" : "mma.sync", timed(run, 40) * 1e3);
    }
}

/*
 * The ViT's layers as the model runs them, 27 in a graph over four layers' weights (more than L2 holds): what a layer
 * takes with everything as chosen, and with one product's variant replaced at a time.
 */
static void chain(int images) {
    enum { WIDTH = 1152, MLP = 4304, LAYERS = 27, COPIES = 4 };
    const int rows = images * 256;
    const size_t sizes[4] = {(size_t)3 * WIDTH * WIDTH, (size_t)WIDTH * WIDTH, (size_t)MLP * WIDTH,
                             (size_t)WIDTH * MLP};
    buffer<bf16> some((size_t)MLP * WIDTH), operand((size_t)rows * WIDTH), qkv((size_t)rows * 3 * WIDTH),
        attended((size_t)rows * WIDTH), mlp((size_t)rows * MLP);
    buffer<float> x((size_t)rows * WIDTH), bias(MLP), center(MLP), gain(MLP);
    buffer<float2> stats((size_t)24 * rows);
    buffer<float> partial(gemm_partial_bytes() / 4);
    buffer<unsigned> ticket(GEMM_TICKETS);
    MUST(cudaMemset(ticket.device, 0, GEMM_TICKETS * sizeof(unsigned)));
    fill(some, sqrtf(3.0f / WIDTH) * 0.05f);
    fill(bias, 0.3f);
    fill(center, 0.1f);
    fill(gain, 0.1f, 1.0f);
    fill(operand, 1.7f);
    for (auto &v : stats.host) v = make_float2(uniform() * 4.0f, 64.0f * (1.0f + 0.3f * uniform()));
    stats.up();
    bf16 *weights[4];
    for (int w = 0; w < 4; w++) {
        MUST(cudaMalloc((void **)&weights[w], COPIES * sizes[w] * 2));
        for (int i = 0; i < COPIES; i++)
            MUST(cudaMemcpy(weights[w] + i * sizes[w], some.device, sizes[w] * 2, cudaMemcpyDeviceToDevice));
    }
    const gemm_epilogue epilogues[4] = {GEMM_STORE, GEMM_RESIDUAL, GEMM_GELU, GEMM_RESIDUAL};
    const char *names[4] = {"qkv", "out", "fc1", "fc2"};
    auto problem = [&](int w, int layer, int slabs) {
        gemm_problem p = {};
        p.weights = weights[w] + layer % COPIES * sizes[w];
        p.tokens = rows;
        p.scale = 1.0f;
        p.bias = bias.device;
        p.row_period = 1;
        p.partial = partial.device;
        p.ticket = ticket.device;
        p.features = w == 0 ? 3 * WIDTH : w == 2 ? MLP : WIDTH;
        p.k = p.weights_stride = p.input_stride = w == 3 ? MLP : WIDTH;
        p.input = w == 1 ? attended.device : w == 3 ? mlp.device : operand.device;
        if (w % 2 == 0) {
            p.stats = stats.device;
            p.stats_slabs = slabs;
            p.stats_stride = rows;
            p.norm_width = WIDTH;
            p.layer_norm = true;
            p.center = center.device;
            p.out = w == 0 ? qkv.device : mlp.device;
            p.out_stride = p.features;
        } else {
            p.x = x.device;
            p.accumulate = true;
            p.operand = operand.device;
            p.gain = gain.device;
            p.stats_out = stats.device;
            p.stats_out_stride = rows;
        }
        return p;
    };
    attention_problem a = {};
    a.q = qkv.device;
    a.k = qkv.device + WIDTH;
    a.v = qkv.device + 2 * WIDTH;
    a.out = attended.device;
    a.q_stride = a.kv_stride = 3 * WIDTH;
    a.out_stride = WIDTH;
    a.group = 1;
    a.heads = 16;
    a.head_dim = 72;
    a.sequences = images;
    a.length = 256;
    a.scale = 1.0f / sqrtf(72.0f);
    gemm_choice choices[4];
    bool fast_attention = true, prefetch = false;
    unsigned skip = 0; /* bit per kernel of a layer that is left out */
    auto layer_us = [&]() {
        MUST(cudaMemset(x.device, 0, x.host.size() * sizeof(float)));
        int slabs = (WIDTH + 63) / 64;
        const double ms = timed(
            [&](int layer) {
                for (int step = 0; step < 5; step++) {
                    if (skip >> step & 1) continue;
                    if (step == 1) {
                        a.next_weights = weights[2] + layer % COPIES * sizes[2];
                        a.next_bytes = prefetch ? (unsigned)(sizes[2] * 2) : 0;
                        MUST(fast_attention ? attention_vit_launch(&a, encode, layer > 0, stream)
                                            : attention_launch(&a, layer > 0, stream));
                        continue;
                    }
                    const int w = step ? step - 1 : 0, after = (w + 1) % 4, after_layer = layer + (w == 3);
                    gemm_problem p = problem(w, layer, slabs);
                    if (prefetch && w != 1) {
                        p.next_weights = weights[after] + after_layer % COPIES * sizes[after];
                        p.next_bytes = (unsigned)(sizes[after] * 2);
                    }
                    gemm_plan plan;
                    MUST(gemm_plan_make(&plan, epilogues[w], &p, choices[w], multiprocessors, encode));
                    MUST(gemm_launch(epilogues[w], &plan, layer > 0 || step > 0, stream));
                    if (w % 2)
                        slabs = (WIDTH + gemm_slab(epilogues[w], choices[w]) - 1) / gemm_slab(epilogues[w], choices[w]);
                }
            },
            LAYERS);
        return ms * 1e3;
    };
    char text[64];
    for (int w = 0; w < 4; w++) {
        gemm_problem p = problem(w, 0, 18);
        choices[w] = gemm_choose(epilogues[w], &p, multiprocessors);
        gemm_variant_text(epilogues[w], choices[w].variant, text, sizeof text);
        printf("chain %d images: %s by %s%s\n", images, names[w], text, choices[w].split > 1 ? " split" : "");
    }
    const double least = layer_us();
    printf("chain layer %24.2f us, again %.2f\n", least, layer_us());
    prefetch = true;
    printf("  with prefetch %20.2f\n", layer_us());
    prefetch = false;
    fast_attention = false;
    printf("  attention mma.sync %15.2f\n", layer_us());
    fast_attention = true;
    for (int step = 0; step < 5; step++) {
        skip = 1u << step;
        printf("  without kernel %d %18.2f\n", step, layer_us());
    }
    skip = 0;
    for (int w = 0; w < 4; w++)
        for (int variant = 0; variant < gemm_variant_count(epilogues[w]); variant++)
            for (int split = 1; split <= 2; split++) {
                const gemm_problem p = problem(w, 0, 18);
                const gemm_choice old = choices[w];
                choices[w] = {variant, split};
                if (gemm_possible(epilogues[w], &p, choices[w], multiprocessors)) {
                    gemm_variant_text(epilogues[w], variant, text, sizeof text);
                    const double us = layer_us();
                    printf("  %s %-26s %s %7.2f%s\n", names[w], text, split > 1 ? "split" : "     ", us,
                           us < least - 0.3 ? " better" : "");
                }
                choices[w] = old;
            }
    for (int w = 0; w < 4; w++) cudaFree(weights[w]);
}

int main(int argc, char **argv) {
    const bool compare = argc < 2 || !strcmp(argv[1], "compare"), time = argc < 2 || !strcmp(argv[1], "time");
    portable_only = argc > 3 && !strcmp(argv[3], "portable");
    if (cudaSetDevice(0) != cudaSuccess) {
        printf("no CUDA device: nothing to check\n");
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    cudaDriverEntryPointQueryResult found;
    MUST(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
    MUST(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault, &found));
    MUST(cudaStreamCreate(&stream));
    MUST(gemm_setup());
    MUST(gemm_portable_setup());
    MUST(attention_setup());
    MUST(attention_vit_setup());

    const product_case products[] = {
        {"store tiny", GEMM_STORE, 48, 5, 48, true, true},
        {"gelu odd", GEMM_GELU, 80, 77, 72, true, true},
        {"gated odd", GEMM_GATED, 144, 201, 264, true, false},
        {"rope tiny", GEMM_ROPE, 160, 67, 64, true, false},
        {"residual odd", GEMM_RESIDUAL, 72, 333, 1064, false, false},
        {"residual one token", GEMM_RESIDUAL, 2048, 1, 2048, true, false},
        {"ViT patches", GEMM_RESIDUAL, 1152, 768, 640, false, false},
        {"ViT qkv", GEMM_STORE, 3456, 768, 1152, true, true},
        {"ViT out", GEMM_RESIDUAL, 1152, 768, 1152, false, false},
        {"ViT fc1", GEMM_GELU, 4304, 768, 1152, true, true},
        {"ViT fc2", GEMM_RESIDUAL, 1152, 768, 4304, false, false},
        {"projector", GEMM_RESIDUAL, 2048, 768, 1152, true, true},
        {"prefill qkv", GEMM_ROPE, 2560, 788, 2048, true, false},
        {"prefill o", GEMM_RESIDUAL, 2048, 788, 2048, false, false},
        {"prefill gate+up", GEMM_GATED, 32768, 788, 2048, true, false},
        {"prefill down", GEMM_RESIDUAL, 2048, 788, 16384, false, false},
    };
    for (const auto &c : products)
        if (argc < 3 || strstr(c.name, argv[2])) product(c, compare, time);
    const attention_case attentions[] = {
        {"attention tiny", 16, 4, 1, 3, 16, false, false},      {"attention ViT", 72, 16, 1, 3, 256, false, false},
        {"attention one token", 256, 1, 8, 1, 1, false, false}, {"attention prefix", 256, 1, 8, 1, 788, false, false},
        {"attention ragged", 256, 1, 8, 5, 301, true, false},   {"attention masked", 256, 1, 8, 2, 556, true, true},
    };
    for (const auto &c : attentions)
        if (argc < 3 || strstr(c.name, argv[2])) attention(c, compare, time);
    if (argc > 1 && !strcmp(argv[1], "chain")) chain(argc > 2 ? atoi(argv[2]) : 3);
    printf("%d failures\n", failures);
    return failures != 0;
}
