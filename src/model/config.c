#include "model/config.h"

model_config model_config_full(pi0_family family) {
    return (model_config){
        .family = family,
        .vit = {.image_size = 224,
                .patch_size = 14,
                .tokens = 256,
                .width = 1152,
                .mlp = 4304,
                .layers = 27,
                .heads = 16,
                .head_dim = 72},
        .language = {.width = 2048, .mlp = 16384, .layers = 18, .heads = 8, .head_dim = 256},
        .expert = {.width = 1024, .mlp = 4096, .layers = 18, .heads = 8, .head_dim = 256},
        .vocabulary = 257152,
        .action_dim = 32,
    };
}

model_config model_config_tiny(pi0_family family) {
    return (model_config){
        .family = family,
        .vit = {.image_size = 56,
                .patch_size = 14,
                .tokens = 16,
                .width = 48,
                .mlp = 80,
                .layers = 2,
                .heads = 4,
                .head_dim = 12},
        .language = {.width = 64, .mlp = 128, .layers = 3, .heads = 8, .head_dim = 16},
        .expert = {.width = 32, .mlp = 64, .layers = 3, .heads = 8, .head_dim = 16},
        .vocabulary = 512,
        .action_dim = 32,
    };
}
