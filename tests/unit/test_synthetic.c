/*
 * Synthetic values against those of tests/data/golden/synthetic.py (numpy), and every vector variant against the plain
 * loop. The source is included, since its variants are static.
 */
#include "checkpoint/synthetic.c"

#include "data.h"

#define PREFIX "paligemma_with_expert."
#define VISION PREFIX "paligemma.model.vision_tower.vision_model."

/* FNV-1a of the values' little-endian bytes. */
static const struct {
    const char *name;
    int rank;
    int64_t shape[4];
    uint64_t seed;
    int64_t start, count;
    uint32_t amplitude, base; /* float32 bits */
    uint64_t bf16_hash, float_hash;
} parameters[] = {
    {PREFIX "paligemma.lm_head.weight",
     2,
     {257152, 2048},
     1u,
     0,
     1000,
     0x3d1cc471u,
     0x00000000u,
     0x4e64d89016e3d9aau,
     0x34c519d88808481au},
    {PREFIX "paligemma.lm_head.weight",
     2,
     {257152, 2048},
     3u,
     1234567891,
     257,
     0x3d1cc471u,
     0x00000000u,
     0x77321684377d4bbdu,
     0x6032fc7075493705u},
    {PREFIX "paligemma.lm_head.weight",
     2,
     {257152, 2048},
     18446744073709551615u,
     7,
     33,
     0x3d1cc471u,
     0x00000000u,
     0xe614c22a58d9eb95u,
     0x36499c1addb43b25u},
    {VISION "embeddings.patch_embedding.weight",
     4,
     {1152, 3, 14, 14},
     1u,
     0,
     1000,
     0x3d924925u,
     0x00000000u,
     0x88453f2ad144aa50u,
     0xc0fb73f4b786d4d8u},
    {VISION "embeddings.patch_embedding.weight",
     4,
     {1152, 3, 14, 14},
     3u,
     1234567891,
     257,
     0x3d924925u,
     0x00000000u,
     0xdbf2c1aa1555ab80u,
     0x5b7e579951ef71b0u},
    {VISION "embeddings.patch_embedding.weight",
     4,
     {1152, 3, 14, 14},
     18446744073709551615u,
     7,
     33,
     0x3d924925u,
     0x00000000u,
     0xa9dd1288c383ec50u,
     0x20b2d7bb65471058u},
    {VISION "embeddings.position_embedding.weight",
     2,
     {256, 1152},
     1u,
     0,
     1000,
     0x3d4ccccdu,
     0x00000000u,
     0x6f611e62ad418f7eu,
     0xaccf11af6318246eu},
    {VISION "embeddings.position_embedding.weight",
     2,
     {256, 1152},
     3u,
     1234567891,
     257,
     0x3d4ccccdu,
     0x00000000u,
     0x0fcbc5d012402457u,
     0xd5bbe8c531aa8c9fu},
    {VISION "embeddings.position_embedding.weight",
     2,
     {256, 1152},
     18446744073709551615u,
     7,
     33,
     0x3d4ccccdu,
     0x00000000u,
     0x5b4354a5d765e366u,
     0x76dbb6c8137eb49eu},
    {VISION "encoder.layers.26.layer_norm1.weight",
     1,
     {1152},
     1u,
     0,
     1000,
     0x3dcccccdu,
     0x3f800000u,
     0xde454a34cac06dbfu,
     0x1c4c9edf93ba7f27u},
    {VISION "encoder.layers.26.layer_norm1.weight",
     1,
     {1152},
     3u,
     1234567891,
     257,
     0x3dcccccdu,
     0x3f800000u,
     0x519a0a7474b7e47fu,
     0xc9b0f38a6c4d8b2fu},
    {VISION "encoder.layers.26.layer_norm1.weight",
     1,
     {1152},
     18446744073709551615u,
     7,
     33,
     0x3dcccccdu,
     0x3f800000u,
     0x20e8f4017e8b8701u,
     0xc75789379e161b41u},
    {PREFIX "gemma_expert.model.layers.3.input_layernorm.weight",
     1,
     {1024},
     1u,
     0,
     1000,
     0x3dcccccdu,
     0x00000000u,
     0xec2132f352d3cfceu,
     0x248667e055e8b96eu},
    {PREFIX "gemma_expert.model.layers.3.input_layernorm.weight",
     1,
     {1024},
     3u,
     1234567891,
     257,
     0x3dcccccdu,
     0x00000000u,
     0xf4674f5613f12da8u,
     0x6011a4649da75fb0u},
    {PREFIX "gemma_expert.model.layers.3.input_layernorm.weight",
     1,
     {1024},
     18446744073709551615u,
     7,
     33,
     0x3dcccccdu,
     0x00000000u,
     0x035891c6946fe658u,
     0x957510b95526aa68u},
    {PREFIX "gemma_expert.model.layers.3.input_layernorm.dense.bias",
     1,
     {3072},
     1u,
     0,
     1000,
     0x3ca3d70au,
     0x00000000u,
     0x0d512b142fab08d9u,
     0x5d51438e0f3a3ea9u},
    {PREFIX "gemma_expert.model.layers.3.input_layernorm.dense.bias",
     1,
     {3072},
     3u,
     1234567891,
     257,
     0x3ca3d70au,
     0x00000000u,
     0xd6edadc75dafd7e4u,
     0x8da5b00dbf505d6cu},
    {PREFIX "gemma_expert.model.layers.3.input_layernorm.dense.bias",
     1,
     {3072},
     18446744073709551615u,
     7,
     33,
     0x3ca3d70au,
     0x00000000u,
     0xf6381080a77cd639u,
     0xca114b622c2ee279u},
    {"action_time_mlp_in.weight",
     2,
     {1024, 2048},
     1u,
     0,
     1000,
     0x3d1cc471u,
     0x00000000u,
     0x733d59ca231d2289u,
     0x7b823cdb002a6ee9u},
    {"action_time_mlp_in.weight",
     2,
     {1024, 2048},
     3u,
     1234567891,
     257,
     0x3d1cc471u,
     0x00000000u,
     0x5486b22e93b3c10bu,
     0x091962995129cadbu},
    {"action_time_mlp_in.weight",
     2,
     {1024, 2048},
     18446744073709551615u,
     7,
     33,
     0x3d1cc471u,
     0x00000000u,
     0x0e78081cedc70651u,
     0xaeb7196b051861f9u},
};

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void parameters_are_numpys(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof parameters / sizeof *parameters; i++) {
        float amplitude, base, floats[1000];
        bf16 halves[1000];
        synthetic_amplitude_base(parameters[i].name, parameters[i].rank, parameters[i].shape, &amplitude, &base);
        assert_int_equal(bits_of(amplitude), parameters[i].amplitude);
        assert_int_equal(bits_of(base), parameters[i].base);
        uint64_t key = synthetic_key(parameters[i].name, parameters[i].seed);
        size_t count = (size_t)parameters[i].count;
        synthetic_bf16(key, amplitude, base, parameters[i].start, parameters[i].count, halves);
        synthetic_float(key, amplitude, base, parameters[i].start, parameters[i].count, floats);
        assert_true(data_hash(halves, count * sizeof *halves) == parameters[i].bf16_hash);
        assert_true(data_hash(floats, count * sizeof *floats) == parameters[i].float_hash);
    }
}

static void streams_are_numpys(void **state) {
    (void)state;
    static const uint64_t prompt[] = {0x05a99a4b83016decu, 0x7f44bd752b93e8f5u, 0xa625ed1006d245fbu};
    uint64_t key = synthetic_key("prompt", 5);
    for (uint64_t i = 0; i < 3; i++) assert_true(synthetic_bits(key, i) == prompt[i]);
    key = synthetic_key("\xc3\xa9tat", UINT64_MAX); /* bytes of UTF-8 */
    assert_true(synthetic_bits(key, 1000000000000) == 0x4582b086d0627c33u);
    assert_true(synthetic_bits(key, 1000000000001) == 0x71d9c5dd326263aau);

    float values[1001];
    synthetic_unit("state", 9, values, 1001);
    assert_true(data_hash(values, sizeof values) == 0x1a2726f74a7d9adau);
    synthetic_normal("noise", 4, values, 640);
    assert_true(data_hash(values, 640 * sizeof *values) == 0xdd7064af426cbbccu);
    assert_int_equal(bits_of(values[0]), 0x3ec8eee2);
}

static void observations_are_numpys(void **state) {
    (void)state;
    static const struct {
        uint64_t seed;
        int size;
        uint64_t images[3];
        int vocabulary, tokens;
        uint64_t token_hash, state_hash;
    } cases[] = {
        {1,
         224,
         {0x52c7d8474c68e282u, 0x5ae8e1f54d2e4c82u, 0x5df8af101b6939a0u},
         257152,
         20,
         0xef9f89fdf46c103du,
         0xd2dc43dcc52c200eu},
        {5,
         56,
         {0xe69d04cfcf2055a5u, 0x3dbdfa77db08cc30u, 0x2bb15fcd2e2743deu},
         512,
         200,
         0xa13eb4feabd756c4u,
         0x5f3a759dd8204ce8u},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t bytes = (size_t)cases[i].size * (size_t)cases[i].size * 3;
        uint8_t *pixels = malloc(bytes);
        assert_non_null(pixels);
        for (int camera = 0; camera < 3; camera++) {
            synthetic_image(camera, cases[i].seed, cases[i].size, pixels);
            assert_true(data_hash(pixels, bytes) == cases[i].images[camera]);
        }
        free(pixels);
        int32_t tokens[200];
        synthetic_tokens(cases[i].seed, cases[i].vocabulary, tokens, cases[i].tokens);
        assert_true(data_hash(tokens, (size_t)cases[i].tokens * sizeof *tokens) == cases[i].token_hash);
        float values[32];
        synthetic_state(cases[i].seed, values, 32);
        assert_true(data_hash(values, sizeof values) == cases[i].state_hash);
    }
}

#if defined(__x86_64__)
/* Every start modulo a vector and every count around one, against the plain loop. */
static void compare_variant(void (*fill_halves)(uint64_t, float, float, int64_t, bf16 *),
                            void (*fill_floats)(uint64_t, float, float, int64_t, float *)) {
    for (int64_t count = 0; count < 70; count++)
        for (uint64_t start = 0; start < 5; start++) {
            uint64_t position = 0xfedcba9876543210u + start * GOLDEN_GAMMA;
            bf16 halves[72] = {0}, plain_halves[72] = {0};
            float floats[72] = {0}, plain_floats[72] = {0};
            fill_halves(position, 0.1f, 1.0f, count, halves);
            fill_bf16(position, 0.1f, 1.0f, count, plain_halves);
            assert_memory_equal(halves, plain_halves, sizeof halves);
            fill_floats(position, 0.03f, 0.0f, count, floats);
            fill_float(position, 0.03f, 0.0f, count, plain_floats);
            assert_memory_equal(floats, plain_floats, sizeof floats);
        }
}

static void variants_agree(void **state) {
    (void)state;
    if (__builtin_cpu_supports("avx2")) compare_variant(fill_bf16_avx2, fill_float_avx2);
    if (has_avx512()) compare_variant(fill_bf16_avx512, fill_float_avx512);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_are_numpys),
        cmocka_unit_test(streams_are_numpys),
        cmocka_unit_test(observations_are_numpys),
#if defined(__x86_64__)
        cmocka_unit_test(variants_agree),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
