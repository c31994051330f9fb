/* The camera images of the last request as the model saw them, for the dashboard: kept only where that is asked for. */
#ifndef PI0_SERVE_CAMERAS_H
#define PI0_SERVE_CAMERAS_H

#include "base/text.h"
#include "pi0.h"

typedef struct cameras cameras;

pi0_status cameras_open(cameras **cameras, const pi0_policy_info *info, pi0_error *error);
void cameras_close(cameras **cameras);
/* Keeps a copy. From any thread. */
void cameras_show(cameras *cameras, const pi0_input *input);
/* {"size":224,"requests":7,"names":["base_0_rgb",null,..]}: requests counts what was shown; null: no image there. */
void cameras_json(cameras *cameras, text_buffer *text);
/* Appends uint8 [size,size,3]; false: no image in that slot. */
bool cameras_pixels(cameras *cameras, int slot, text_buffer *bytes);

#endif
