/*
 * Camera images to the model's square: the longer side fills it, the rest is padding, split evenly.
 *   resize_with_pad        openpi's (openpi_client/image_tools.py): BILINEAR of Pillow 11.2.1, which openpi pins, byte
 *                          for byte (Pillow 13 takes the vertical pass first where an image is twice as tall as wide,
 *                          and rounds otherwise there); black padding
 *   resize_with_pad_torch  lerobot's: torch bilinear without antialias on pixels / 255, then * 2 - 1, padding -1
 * Both take scratch memory for one intermediate image at most, and run on the caller's thread.
 */
#ifndef PI0_POLICY_RESIZE_H
#define PI0_POLICY_RESIZE_H

#include "base/status.h"

/* Where the resized image lies in the square: width, height >= 1. */
typedef struct resize_box {
    int width, height, left, top;
} resize_box;

/* Refuses (PI0_ERROR_ARGUMENT) an empty image and one so thin that a side shrinks to nothing. */
pi0_status resize_fit(resize_box *box, int size, int height, int width, pi0_error *error);

/* out: uint8 [size, size, 3]; pixels: uint8 [height, width, 3]. An image of that size already is copied. */
pi0_status resize_with_pad(uint8_t *out, int size, const uint8_t *pixels, int height, int width, pi0_error *error);
/* The same for an image that may come as planes, uint8 [3, height, width], keeping in *plan what the next image of that
 * size needs: NULL at first, the caller's to release. */
typedef struct resize_plan resize_plan;
pi0_status resize_again(uint8_t *out, int size, const uint8_t *pixels, int height, int width, bool planes,
                        resize_plan **plan, pi0_error *error);
void resize_plan_release(resize_plan **plan); /* NULL is a no-op */

/* The first, with the instructions that isa allows at most: for tests. */
typedef enum resize_isa { RESIZE_AUTO, RESIZE_AVX2, RESIZE_PLAIN } resize_isa;
pi0_status resize_with_pad_isa(uint8_t *out, int size, const uint8_t *pixels, int height, int width, resize_isa isa,
                               pi0_error *error);

/* out: float32 [3, size, size] in [-1, 1]; pixels: uint8 [height, width, 3]. */
pi0_status resize_with_pad_torch(float *out, int size, const uint8_t *pixels, int height, int width, pi0_error *error);

#endif
