/*
 * PNG and JPEG files to RGB pixels: what Pillow's Image.open(file).convert("RGB") gives, except that
 *   - EXIF orientation is ignored (as Pillow ignores it unless asked),
 *   - 16-bit PNG keep their upper byte (Pillow clips 16-bit grey to 255, which is of no use here),
 *   - CMYK JPEG are refused,
 *   - truncated files are refused.
 * A build without PI0_IMAGES refuses every file with PI0_ERROR_UNSUPPORTED.
 */
#ifndef PI0_POLICY_IMAGE_H
#define PI0_POLICY_IMAGE_H

#include "base/status.h"

/* Most pixels a file may claim, checked before anything is taken for them: 300 MB of RGB. */
enum { IMAGE_MAX_PIXELS = 100 * 1000 * 1000 };

typedef struct image {
    int height, width;
    uint8_t *pixels; /* uint8 [height, width, 3] RGB; release with image_release */
} image;

/* On failure *result holds nothing to release. `name` (file or request key) is used in errors. */
pi0_status image_decode(image *result, const void *bytes, size_t size, const char *name, pi0_error *error);
pi0_status image_open(image *result, const char *path, pi0_error *error);
/* Releases the pixels; harmless on a zeroed image. */
void image_release(image *image);

/* [3, height, width] -> [height, width, 3] */
void image_interleave(uint8_t *rows, const uint8_t *planes, int height, int width);

#endif
