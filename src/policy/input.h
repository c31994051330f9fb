/* A prepared request, for what looks into it: `pi0 infer --dump-inputs` and tests. */
#ifndef PI0_POLICY_INPUT_H
#define PI0_POLICY_INPUT_H

#include "pi0.h"

/* All pointers stay valid until the input is freed. */
typedef struct input_view {
    bool float32; /* lerobot: float32 state and images in [-1, 1]; else float64 state and uint8 images */
    int cameras, image_size, state_count, token_count;
    const char *camera_names[PI0_MAX_CAMERAS];  /* of every slot: "base_0_rgb"; lerobot: the feature's name */
    bool image_mask[PI0_MAX_CAMERAS];           /* false: no image, masked out */
    const uint8_t *images[PI0_MAX_CAMERAS];     /* uint8 [R,R,3] after the resize; NULL where masked or float32 */
    const float *float_images[PI0_MAX_CAMERAS]; /* float32 [3,R,R]; NULL where masked or uint8 */
    const double *state;                        /* [state_count]: normalised, zero-padded to the model's width */
    const int32_t *tokens;                      /* [token_count], padded with 0 to the prompt length */
    const bool *token_mask;                     /* [token_count] */
} input_view;

void input_look(const pi0_input *input, input_view *view);

#endif
