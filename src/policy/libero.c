/*
 * LIBERO's simulated arm (openpi policies/libero_policy.py): end effector position, axis-angle, two gripper fingers.
 * The client turns both images by 180 degrees before it sends them.
 */
#include "policy/robot.h"

static const char state_key[] = "observation/state";

/* The reference takes the state as it is: a plain list has no shape and fails there. */
static pi0_status read_state(robot_state *state, const pi0_request *request, bool adapt_to_pi, pi0_error *error) {
    (void)adapt_to_pi;
    bool found;
    TRY(robot_set_state(&robot_libero, state, &found, request, error));
    if (found) return PI0_OK;
    const value *v = request_find(request, state_key);
    if (!v || v->kind != VALUE_ARRAY || v->array.rank != 1)
        return robot_refuse(v, state_key, "an array of numbers", error);
    return robot_append_numbers(state, NULL, request, state_key, error);
}

static const robot_camera cameras[] = {
    {.key = "observation/image", .slot = 0, .required = true},
    {.key = "observation/wrist_image", .slot = 1, .required = true},
};

const robot robot_libero = {
    .name = "libero",
    .state_count = 8,
    .action_count = 7,
    .cameras = cameras,
    .camera_count = sizeof cameras / sizeof *cameras,
    .layout = CAMERA_EITHER,
    .state_keys = (const char *const[]){state_key, NULL},
    .read_state = read_state,
};
