/*
 * A camera image of a request to uint8, as openpi's robot transforms do it: float images in [0, 1] times 255 in their
 * own precision and truncated. Where the channels come first, the resize swaps the axes, of fewer pixels then.
 */
#ifndef PI0_POLICY_CAMERA_H
#define PI0_POLICY_CAMERA_H

#include "policy/value.h"

typedef enum camera_layout {
    CAMERA_PLANES,   /* [3, height, width] */
    CAMERA_ROWS,     /* [height, width, 3] */
    CAMERA_EITHER,   /* planes if the first axis is 3, as openpi decides; else rows */
    CAMERA_ROWS_LAST /* rows if the last axis is 3, as lerobot's robots send; else planes */
} camera_layout;

typedef struct camera_image {
    int height, width;
    const uint8_t *pixels; /* uint8 [height, width, 3], or [3, height, width]: inside the request, or `memory` */
    bool planes;           /* the latter */
    void *memory;
} camera_image;

/* `key` stands in errors. On success release with camera_release; on failure there is nothing to release. */
pi0_status camera_read(camera_image *image, const value *v, const char *key, camera_layout layout, pi0_error *error);
/* Makes an image of planes one of pixels. The image is the caller's to release all the same when this fails. */
pi0_status camera_interleave(camera_image *image, const char *key, pi0_error *error);
void camera_release(camera_image *image);

/* Refuses what camera_read would refuse, without converting. */
pi0_status camera_check(const value *v, const char *key, camera_layout layout, pi0_error *error);

#endif
