/* Norms, softmax, RoPE and elementwise kernels over the vectors of simd.h. Part of kernels_avx2.c and kernels_avx512.c.
 */
#include "cpu/kernels.h"
#include "cpu/simd.h"

/* ---- softmax ---- */

/* Keys in whole vectors; scores past the last key and of masked keys become -infinity before the maximum is taken. */
static float softmax(float *scores, size_t block_stride, int keys, float scale, const uint8_t *mask) {
    vec highest = vec_all(-INFINITY);
    for (int key = 0; key < keys; key += LANES) {
        float *at = scores + key / BLOCK_K * block_stride + key % BLOCK_K;
        vec value = vec_mul(vec_load(at), vec_all(scale));
        if (mask || keys - key < LANES) {
            float lanes[LANES];
            vec_store(lanes, value);
            for (int j = 0; j < LANES; j++)
                if (key + j >= keys || (mask && !mask[key + j])) lanes[j] = -INFINITY;
            value = vec_load(lanes);
        }
        vec_store(at, value);
        highest = vec_max(highest, value);
    }
    vec offset = vec_all(vec_highest(highest)), sum = vec_zero();
    for (int key = 0; key < keys; key += LANES) {
        float *at = scores + key / BLOCK_K * block_stride + key % BLOCK_K;
        vec value = vec_exp(vec_sub(vec_load(at), offset));
        vec_store(at, value);
        sum = vec_add(sum, value);
    }
    return 1.0f / vec_sum(sum);
}

static void put_scaled(operand *out, operand_storage storage, size_t first, const float *values, float factor,
                       int count) {
    for (int i = 0; i < count; i += LANES) {
        int some = lanes_left(i, count);
        put(storage, out, first + i, vec_mul(vec_load_first(values + i, some), vec_all(factor)), some);
    }
}

static void put_product(operand *out, operand_storage storage, size_t first, const float *a, const float *b,
                        int count) {
    for (int i = 0; i < count; i += LANES) {
        int some = lanes_left(i, count);
        put(storage, out, first + i, vec_mul(vec_load_first(a + i, some), vec_load_first(b + i, some)), some);
    }
}

static void convert(operand *out, operand_storage to, const operand *in, operand_storage from, size_t first,
                    size_t count) {
    for (size_t i = 0; i < count; i += LANES) {
        int some = lanes_left(i, count);
        put(to, out, first + i, get(from, in, first + i, some), some);
    }
}

/* ---- norms ---- */

ALWAYS_INLINE vec load_some(const float *from, int count) {
    return count == LANES ? vec_load(from) : vec_load_first(from, count);
}

/* Sum of squares of x - mean. Four partial sums hide the latency. */
static float sum_squares(const float *x, float mean, int width) {
    vec sums[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
    int i = 0;
    for (; i + 4 * LANES <= width; i += 4 * LANES) {
        for (int j = 0; j < 4; j++) {
            vec value = vec_sub(vec_load(x + i + j * LANES), vec_all(mean));
            sums[j] = vec_fma(value, value, sums[j]);
        }
    }
    for (; i + LANES <= width; i += LANES) {
        vec value = vec_sub(vec_load(x + i), vec_all(mean));
        sums[0] = vec_fma(value, value, sums[0]);
    }
    float rest = 0;
    for (; i < width; i++) rest += (x[i] - mean) * (x[i] - mean);
    return rest + vec_sum(vec_add(vec_add(sums[0], sums[1]), vec_add(sums[2], sums[3])));
}

static float sum_values(const float *x, int width) {
    vec sums[2] = {vec_zero(), vec_zero()};
    for (int i = 0, j = 0; i < width; i += LANES, j ^= 1)
        sums[j] = vec_add(sums[j], load_some(x + i, lanes_left(i, width)));
    return vec_sum(vec_add(sums[0], sums[1]));
}

static void layer_norm(operand *out, operand_storage storage, const float *x, const float *weight, const float *bias,
                       int rows, int width) {
    for (int row = 0; row < rows; row++, x += width) {
        float mean = sum_values(x, width) / (float)width;
        float factor = 1.0f / sqrtf(sum_squares(x, mean, width) / (float)width + (float)NORM_EPSILON);
        for (int i = 0; i < width; i += LANES) {
            int count = lanes_left(i, width);
            vec value = vec_mul(vec_sub(load_some(x + i, count), vec_all(mean)), vec_all(factor));
            value = vec_fma(value, load_some(weight + i, count), load_some(bias + i, count));
            put(storage, out, (size_t)row * width + i, value, count);
        }
    }
}

static void rms_norm(operand *out, operand_storage storage, const float *x, const float *scale, const float *shift,
                     int rows, int width) {
    for (int row = 0; row < rows; row++, x += width) {
        float factor = 1.0f / sqrtf(sum_squares(x, 0, width) / (float)width + (float)NORM_EPSILON);
        for (int i = 0; i < width; i += LANES) {
            int count = lanes_left(i, width);
            vec value = vec_mul(load_some(x + i, count), vec_all(factor));
            value = vec_mul(value, vec_add(load_some(scale + i, count), vec_all(1.0f)));
            if (shift) value = vec_add(value, load_some(shift + i, count));
            put(storage, out, (size_t)row * width + i, value, count);
        }
    }
}

/* ---- RoPE and elementwise ---- */

static void rope(operand *out, operand_storage storage, const float *x, const float *cosine, const float *sine,
                 int rows, int heads, int head_dim) {
    int half = head_dim / 2;
    for (int row = 0; row < rows; row++, cosine += half, sine += half) {
        for (int head = 0; head < heads; head++) {
            size_t first = ((size_t)row * heads + head) * head_dim;
            for (int i = 0; i < half; i += LANES) {
                int count = lanes_left(i, half);
                vec c = load_some(cosine + i, count), s = load_some(sine + i, count);
                vec low = load_some(x + first + i, count), high = load_some(x + first + half + i, count);
                put(storage, out, first + i, vec_sub(vec_mul(low, c), vec_mul(high, s)), count);
                put(storage, out, first + half + i, vec_add(vec_mul(high, c), vec_mul(low, s)), count);
            }
        }
    }
}

static void add_gated(float *x, const float *y, const float *gate, int rows, int width) {
    for (int row = 0; row < rows; row++, x += width, y += width) {
        for (int i = 0; i < width; i += LANES) {
            int count = lanes_left(i, width);
            vec change = vec_mul(load_some(y + i, count), load_some(gate + i, count));
            vec_store_first(x + i, vec_add(load_some(x + i, count), change), count);
        }
    }
}

static void silu(float *x, size_t count) {
    for (size_t i = 0; i < count; i += LANES) {
        int some = lanes_left(i, count);
        vec value = load_some(x + i, some);
        vec_store_first(x + i, vec_times_sigmoid(value, value), some);
    }
}

static void add(float *x, const float *y, size_t count) {
    for (size_t i = 0; i < count; i += LANES) {
        int some = lanes_left(i, count);
        vec_store_first(x + i, vec_add(load_some(x + i, some), load_some(y + i, some)), some);
    }
}

static void embed_row(float *x, const void *row, tensor_dtype dtype, int width, float scale) {
    operand_storage storage = dtype == DTYPE_BF16 ? OPERAND_BF16 : OPERAND_F32;
    for (int i = 0; i < width; i += LANES) {
        int count = lanes_left(i, width);
        vec_store_first(x + i, vec_mul(get(storage, row, i, count), vec_all(scale)), count);
    }
}

static void euler(float *x, const float *v, float dt, size_t count) {
    for (size_t i = 0; i < count; i += LANES) {
        int some = lanes_left(i, count);
        vec change = vec_mul(vec_all(dt), load_some(v + i, some));
        vec_store_first(x + i, vec_add(load_some(x + i, some), change), some);
    }
}
