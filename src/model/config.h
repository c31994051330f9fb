/*
 * Sizes of a pi0-family model (openpi models/gemma.py, siglip.py; spec: 9 "Shapes and counts").
 * Known from the checkpoint's tensor shapes; nothing else in the code holds a size of the network.
 */
#ifndef PI0_MODEL_CONFIG_H
#define PI0_MODEL_CONFIG_H

#include "base/status.h"

/* SigLIP So400m/14: 224 px, 256 tokens, width 1152, MLP 4304, 27 layers, 16 heads of 72. Tiny: 56, 16, 48, 80, 2, 4
 * x 12. */
typedef struct vit_config {
    int image_size, patch_size, tokens;
    int width, mlp, layers, heads, head_dim;
} vit_config;

/* Gemma 2B: width 2048, MLP 16384; 300M: 1024, 4096; both 18 layers, 8 query heads, 1 kv head of 256.
 * Tiny: 64/128 and 32/64, 3 layers, 8 heads of 16. */
typedef struct gemma_config {
    int width, mlp, layers, heads, head_dim;
} gemma_config;

typedef struct model_config {
    pi0_family family;
    vit_config vit;
    gemma_config language; /* the prefix: Gemma 2B */
    gemma_config expert;   /* the suffix: action expert */
    int vocabulary;        /* 257152 */
    int action_dim;        /* 32 */
} model_config;

/* The two sizes that have a name. */
model_config model_config_full(pi0_family family);
model_config model_config_tiny(pi0_family family);

#define MODEL_ROPE_THETA 10000.0f
#define MODEL_NORM_EPS   1e-6f

#endif
