/*
 * No robot: the model's own inputs and outputs. The state is already normalised and at most as wide as the model; the
 * answer is what the model gives. A message may hold the images under the model's names or in a map "image", as
 * openpi's Observation names them.
 *
 * pi0.5 writes the state into the prompt before it is padded (openpi's ModelTransformFactory tokenizes first), so the
 * prompt has as many numbers as the request; a request without state has 32 zeros.
 */
#include "policy/robot.h"

static const char state_key[] = "state";

static pi0_status read_state(robot_state *state, const pi0_request *request, bool adapt_to_pi, pi0_error *error) {
    (void)adapt_to_pi;
    bool found;
    TRY(robot_set_state(&robot_generic, state, &found, request, error));
    return found ? PI0_OK : robot_append_numbers(state, NULL, request, state_key, error);
}

static const robot_camera cameras[] = {
    {.key = "base_0_rgb", .slot = 0},
    {.key = "left_wrist_0_rgb", .slot = 1},
    {.key = "right_wrist_0_rgb", .slot = 2},
};

const robot robot_generic = {
    .name = "generic",
    .state_count = ROBOT_MAX_STATE,
    .cameras = cameras,
    .camera_count = sizeof cameras / sizeof *cameras,
    .image_map = "image",
    .map_is_optional = true,
    .layout = CAMERA_EITHER,
    .state_keys = (const char *const[]){state_key, NULL},
    .read_state = read_state,
};
