/*
 * The kernel that holds all denoising steps (denoise_stream.cu) against a plain twin on the CPU in double precision:
 * two layers of full size, random weights and prefix; pi0 and pi0.5, horizons 1 to 16, prefixes that fill no tile,
 * masks. Each case runs twice: the second answer must have the same bits.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "cuda/denoise.h"

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        cudaError_t status_ = (call);                                                                                  \
        if (status_ != cudaSuccess) {                                                                                  \
            printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(status_));                          \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

typedef __nv_bfloat16 bf16;
enum { WIDTH = 1024, MLP = 4096, HEADS = 8, HEAD_DIM = 256, QUERIES = 2048, FEATURES = 2560, ACTIONS = 32, LAYERS = 2 };

static uint64_t seed_state = 1;
static float uniform(void) {
    seed_state = seed_state * 6364136223846793005ull + 1442695040888963407ull;
    return (float)((seed_state >> 33) & 0xffffff) / (float)0x800000 - 1.0f;
}

template <typename T> struct buffer {
    std::vector<T> host;
    T *device = NULL;
    buffer(size_t count, float amplitude, float base = 0.0f) : host(count) {
        MUST(cudaMalloc((void **)&device, count * sizeof(T) + 256));
        for (auto &v : host) v = (T)(base + amplitude * uniform());
        MUST(cudaMemcpy(device, host.data(), count * sizeof(T), cudaMemcpyHostToDevice));
    }
    buffer(const buffer &) = delete;
    ~buffer() { cudaFree(device); }
    void up() { MUST(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice)); }
    void down() { MUST(cudaMemcpy(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost)); }
    double operator[](size_t i) const { return (double)(float)host[i]; }
};

typedef std::vector<double> matrix;

/* y[rows, n] = x[rows, k] W^T; row r of W lies at packed(r) */
template <typename F> static matrix product(const matrix &x, const buffer<bf16> &w, int rows, int n, int k, F packed) {
    matrix y((size_t)rows * n);
    std::vector<float> row(k);
    for (int f = 0; f < n; f++) {
        const bf16 *from = w.host.data() + (size_t)packed(f) * k;
        for (int i = 0; i < k; i++) row[i] = (float)from[i];
        for (int r = 0; r < rows; r++) {
            const double *a = x.data() + (size_t)r * k;
            double sum = 0;
            for (int i = 0; i < k; i++) sum += a[i] * row[i];
            y[(size_t)r * n + f] = sum;
        }
    }
    return y;
}
static int plain(int f) { return f; }
static int rope_row(int f) { return f / 256 * 256 + f % 128 / 8 * 16 + f % 256 / 128 * 8 + f % 8; }
static int gate_row(int f) { return f / 8 * 16 + f % 8; }
static int up_row(int f) { return f / 8 * 16 + f % 8 + 8; }

struct test_case {
    const char *name;
    bool pi05;
    int horizon, prefix, steps;
    bool masked;
};

static int failures;

static void run(const test_case &c) {
    const int has_state = !c.pi05, all_rows = c.horizon + has_state, steps = c.steps, H = c.horizon;
    std::vector<buffer<bf16> *> qkv, o, gate_up, down;
    std::vector<buffer<float> *> gain1, gain2;
    stream_problem p = {};
    for (int i = 0; i < LAYERS; i++) {
        qkv.push_back(new buffer<bf16>((size_t)FEATURES * WIDTH, sqrtf(3.0f / WIDTH)));
        o.push_back(new buffer<bf16>((size_t)WIDTH * QUERIES, sqrtf(3.0f / QUERIES)));
        gate_up.push_back(new buffer<bf16>((size_t)2 * MLP * WIDTH, sqrtf(3.0f / WIDTH)));
        down.push_back(new buffer<bf16>((size_t)WIDTH * MLP, sqrtf(3.0f / MLP)));
        gain1.push_back(new buffer<float>(WIDTH, 0.3f, 1.0f));
        gain2.push_back(new buffer<float>(WIDTH, 0.3f, 1.0f));
        p.layers[i] = {qkv[i]->device,  o[i]->device,     gate_up[i]->device,
                       down[i]->device, gain1[i]->device, gain2[i]->device};
    }
    const size_t cache = (size_t)(c.prefix + 5) * HEAD_DIM, row_values = (size_t)H * ACTIONS;
    buffer<bf16> keys(LAYERS * cache, 1.7f), values(LAYERS * cache, 1.7f), state_keys(LAYERS * HEAD_DIM, 0.0f),
        state_values(LAYERS * HEAD_DIM, 0.0f), time_out((size_t)WIDTH * WIDTH, sqrtf(3.0f / WIDTH)),
        state_weights(WIDTH * ACTIONS, 0.3f), out_weights(ACTIONS * WIDTH, sqrtf(3.0f / WIDTH));
    buffer<uint8_t> mask(c.prefix, 0.0f);
    buffer<int> prefix_valid(1, 0.0f);
    std::vector<float2> turns((size_t)(c.prefix + all_rows) * 128);
    for (auto &v : turns) {
        const float angle = 3.0f * uniform();
        v = make_float2(cosf(angle), sinf(angle));
    }
    float2 *rope_device;
    MUST(cudaMalloc((void **)&rope_device, turns.size() * sizeof(float2)));
    MUST(cudaMemcpy(rope_device, turns.data(), turns.size() * sizeof(float2), cudaMemcpyHostToDevice));
    buffer<float> actions((steps + 1) * row_values, 1.7f), velocity(steps * row_values, 0.0f),
        next_weights(WIDTH * ACTIONS, 0.3f), next_bias((size_t)steps * WIDTH, 0.5f), time_out_bias(WIDTH, 0.5f),
        state(ACTIONS, 1.0f), state_bias(WIDTH, 0.5f), out_bias(steps * ACTIONS, 0.3f), final_gain(WIDTH, 0.3f, 1.0f),
        modulation((size_t)(2 * LAYERS + 1) * steps * 3 * WIDTH, 0.5f, 0.8f),
        shift_qkv((size_t)LAYERS * steps * FEATURES, 0.3f), shift_gate((size_t)LAYERS * steps * 2 * MLP, 0.3f);
    int valid = 0;
    for (int i = 0; i < c.prefix; i++) valid += mask.host[i] = !c.masked || i % 3 != 1;
    mask.up();
    prefix_valid.host[0] = valid;
    prefix_valid.up();
    p.layer_count = LAYERS;
    p.steps = steps;
    p.horizon = H;
    p.prefix = c.prefix;
    p.keys = keys.device;
    p.values = values.device;
    p.cache_stride = cache;
    p.key_mask = c.masked ? mask.device : NULL;
    p.prefix_valid = prefix_valid.device;
    p.rope = rope_device;
    p.state_keys = state_keys.device;
    p.state_values = state_values.device;
    p.actions = actions.device;
    p.velocity = velocity.device;
    p.action_stride = row_values;
    p.next_weights = next_weights.device;
    p.next_bias = next_bias.device;
    p.next_bias_stride = c.pi05 ? 0 : WIDTH;
    if (c.pi05) {
        p.modulation = modulation.device;
        p.shift_qkv = shift_qkv.device;
        p.shift_gate = shift_gate.device;
    } else {
        p.time_out = time_out.device;
        p.time_out_bias = time_out_bias.device;
        p.state = state.device;
        p.state_weights = state_weights.device;
        p.state_bias = state_bias.device;
        p.final_gain = final_gain.device;
    }
    p.out_weights = out_weights.device;
    p.out_bias = out_bias.device;
    p.dt = -0.1f;
    p.inflight = 2;
    const size_t exchange = stream_exchange_bytes(all_rows);
    MUST(cudaMalloc((void **)&p.exchange, exchange));
    MUST(cudaMemset(p.exchange, 0, exchange));
    cudaStream_t stream;
    MUST(cudaStreamCreate(&stream));
    std::vector<float> first;
    bool same = true;
    const std::vector<float> noise(actions.host.begin(), actions.host.begin() + row_values);
    for (int repeat = 0; repeat < 2; repeat++) {
        MUST(stream_launch(&p, stream));
        MUST(cudaStreamSynchronize(stream));
        velocity.down();
        if (repeat) same = memcmp(first.data(), velocity.host.data(), first.size() * 4) == 0;
        first = velocity.host;
    }
    actions.down();

    /* the twin: each step from the actions that the kernel had */
    const float *shared_bias = next_bias.host.data();
    std::vector<std::vector<double>> state_k(LAYERS), state_v(LAYERS);
    double difference = 0, reference = 0, moved = 0;
    for (int step = 0; step < steps; step++) {
        const int state_row = has_state && step == 0, rows = H + state_row;
        matrix x((size_t)rows * WIDTH);
        for (int r = 0; r < H; r++)
            for (int f = 0; f < WIDTH; f++) {
                double y = shared_bias[(c.pi05 ? 0 : (size_t)step * WIDTH) + f];
                for (int d = 0; d < ACTIONS; d++)
                    y += next_weights[f * ACTIONS + d] * actions[step * row_values + r * ACTIONS + d];
                x[(size_t)r * WIDTH + f] = c.pi05 ? y : y / (1 + exp(-y));
            }
        if (!c.pi05) {
            matrix y = product(x, time_out, H, WIDTH, WIDTH, plain);
            for (int r = 0; r < H; r++)
                for (int f = 0; f < WIDTH; f++) x[(size_t)r * WIDTH + f] = y[(size_t)r * WIDTH + f] + time_out_bias[f];
            for (int f = 0; state_row && f < WIDTH; f++) {
                double v = state_bias[f];
                for (int d = 0; d < ACTIONS; d++) v += state_weights[f * ACTIONS + d] * state[d];
                x[(size_t)H * WIDTH + f] = v;
            }
        }
        auto vectors = [&](int index) { return modulation.host.data() + ((size_t)index * steps + step) * 3 * WIDTH; };
        auto normed = [&](const float *gain) {
            matrix y(x);
            for (int r = 0; r < rows; r++) {
                double sum = 0;
                for (int f = 0; f < WIDTH; f++) sum += x[(size_t)r * WIDTH + f] * x[(size_t)r * WIDTH + f];
                for (int f = 0; f < WIDTH; f++) y[(size_t)r * WIDTH + f] *= gain[f] / sqrt(sum / WIDTH + 1e-6);
            }
            return y;
        };
        for (int i = 0; i < LAYERS; i++) {
            const matrix n1 = normed(c.pi05 ? vectors(2 * i) : gain1[i]->host.data());
            matrix h = product(n1, *qkv[i], rows, FEATURES, WIDTH, rope_row);
            for (int r = 0; r < rows; r++)
                for (int head = 0; head < HEADS + 2; head++)
                    for (int d = 0; d < 128; d++) {
                        double *low = &h[(size_t)r * FEATURES + head * 256 + d], *high = low + 128;
                        if (c.pi05) {
                            const size_t at = ((size_t)i * steps + step) * FEATURES;
                            *low += shift_qkv[at + rope_row(head * 256 + d)];
                            *high += shift_qkv[at + rope_row(head * 256 + d + 128)];
                        }
                        if (head > HEADS) continue;
                        const int position = valid + (r == H ? 0 : r + has_state);
                        const float2 turn = turns[(size_t)position * 128 + d];
                        const double a = *low, b = *high;
                        *low = a * turn.x - b * turn.y;
                        *high = b * turn.x + a * turn.y;
                    }
            if (state_row) {
                const double *from = &h[(size_t)H * FEATURES + QUERIES];
                state_k[i].assign(from, from + 256);
                state_v[i].assign(from + 256, from + 512);
            }
            matrix mixed((size_t)rows * QUERIES);
            for (int r = 0; r < rows; r++)
                for (int head = 0; head < HEADS; head++) {
                    std::vector<double> score, weight;
                    const double *q = &h[(size_t)r * FEATURES + head * 256];
                    const int suffix = H + has_state;
                    double top = -INFINITY, sum = 0;
                    for (int key = 0; key < c.prefix + suffix; key++) {
                        double dot = -INFINITY;
                        const int s = key - c.prefix;
                        const bool counts = s < 0 ? !c.masked || mask.host[key] : r < H || s == H;
                        if (counts) {
                            dot = 0;
                            for (int d = 0; d < 256; d++)
                                dot += q[d] * (s < 0    ? keys[i * cache + (size_t)key * 256 + d]
                                               : s == H ? state_k[i][d]
                                                        : h[(size_t)s * FEATURES + QUERIES + d]);
                            dot /= 16;
                        }
                        score.push_back(dot);
                        top = fmax(top, dot);
                    }
                    for (double v : score) {
                        weight.push_back(exp(v - top));
                        sum += weight.back();
                    }
                    for (int key = 0; key < c.prefix + suffix; key++) {
                        if (weight[key] == 0) continue;
                        const int s = key - c.prefix;
                        for (int d = 0; d < 256; d++)
                            mixed[(size_t)r * QUERIES + head * 256 + d] +=
                                weight[key] / sum *
                                (s < 0    ? values[i * cache + (size_t)key * 256 + d]
                                 : s == H ? state_v[i][d]
                                          : h[(size_t)s * FEATURES + QUERIES + 256 + d]);
                    }
                }
            matrix y = product(mixed, *o[i], rows, WIDTH, QUERIES, plain);
            for (size_t e = 0; e < y.size(); e++) x[e] += y[e] * (c.pi05 ? vectors(2 * i)[2 * WIDTH + e % WIDTH] : 1);
            const matrix n2 = normed(c.pi05 ? vectors(2 * i + 1) : gain2[i]->host.data());
            matrix gate = product(n2, *gate_up[i], rows, MLP, WIDTH, gate_row),
                   up = product(n2, *gate_up[i], rows, MLP, WIDTH, up_row);
            for (size_t e = 0; e < gate.size(); e++) {
                const int f = (int)(e % MLP);
                double g = gate[e], u = up[e];
                if (c.pi05) {
                    const size_t at = ((size_t)i * steps + step) * 2 * MLP;
                    g += shift_gate[at + gate_row(f)];
                    u += shift_gate[at + up_row(f)];
                }
                gate[e] = 0.5 * g * (1 + tanh(0.7978845608028654 * (g + 0.044715 * g * g * g))) * u;
            }
            y = product(gate, *down[i], rows, WIDTH, MLP, plain);
            for (size_t e = 0; e < y.size(); e++)
                x[e] += y[e] * (c.pi05 ? vectors(2 * i + 1)[2 * WIDTH + e % WIDTH] : 1);
        }
        const matrix v = product(normed(c.pi05 ? vectors(2 * LAYERS) : final_gain.host.data()), out_weights, H, ACTIONS,
                                 WIDTH, plain);
        for (size_t e = 0; e < row_values; e++) {
            const double want = v[e] + out_bias[step * ACTIONS + e % ACTIONS], got = velocity[step * row_values + e];
            difference += (got - want) * (got - want);
            reference += want * want;
            const double next = actions[step * row_values + e] + p.dt * got;
            moved = fmax(moved, fabs(next - actions[(step + 1) * row_values + e]));
        }
    }
    const double error = sqrt(difference / reference);
    const bool ok = error < 8e-3 && same && moved < 1e-5;
    failures += !ok;
    printf("%-30s horizon %2d, prefix %3d, %d steps: %9.2e  bound 8e-03, Euler %.1e, %s  %s\n", c.name, H, c.prefix,
           steps, error, moved, same ? "same bits" : "OTHER BITS", ok ? "ok" : "FAIL");
    fflush(stdout);
    MUST(cudaStreamDestroy(stream));
    cudaFree(p.exchange);
    cudaFree(rope_device);
    for (int i = 0; i < LAYERS; i++) {
        delete qkv[i];
        delete o[i];
        delete gate_up[i];
        delete down[i];
        delete gain1[i];
        delete gain2[i];
    }
}

int main(void) {
    cudaDeviceProp device;
    if (cudaGetDeviceProperties(&device, 0) != cudaSuccess || device.major != 9 || device.multiProcessorCount < 128) {
        printf("no GPU that runs this kernel\n");
        return 77;
    }
    MUST(denoise_setup());
    static const test_case cases[] = {
        {"pi0", false, 10, 788, 2, false},
        {"pi0.5", true, 10, 788, 2, false},
        {"pi0, masked", false, 10, 532, 2, true},
        {"pi0, one action", false, 1, 17, 2, false},
        {"pi0, 15 actions", false, 15, 800, 1, false},
        {"pi0.5, 16 actions", true, 16, 256, 2, true},
    };
    for (const test_case &c : cases) run(c);
    printf(failures ? "%d FAILED\n" : "all is well\n", failures);
    return failures != 0;
}
