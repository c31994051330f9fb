/* UR5: six joints and a gripper, as openpi examples/ur5/README.md describes it. */
#include "policy/robot.h"

static const char joints_key[] = "joints", gripper_key[] = "gripper";

/* The two are concatenated, which needs a list or array of each. */
static pi0_status read_state(robot_state *state, const pi0_request *request, bool adapt_to_pi, pi0_error *error) {
    (void)adapt_to_pi;
    bool found;
    TRY(robot_set_state(&robot_ur5, state, &found, request, error));
    if (found) return PI0_OK;
    const char *const keys[] = {joints_key, gripper_key};
    for (int i = 0; i < 2; i++) {
        robot_vector vector;
        TRY(robot_append_numbers(state, &vector, request, keys[i], error));
        if (vector.rank != 1) return robot_refuse(request_find(request, keys[i]), keys[i], "a list of numbers", error);
    }
    return PI0_OK;
}

static const robot_camera cameras[] = {
    {.key = "base_rgb", .slot = 0, .required = true},
    {.key = "wrist_rgb", .slot = 1, .required = true},
};

const robot robot_ur5 = {
    .name = "ur5",
    .state_count = 7,
    .action_count = 7,
    .cameras = cameras,
    .camera_count = sizeof cameras / sizeof *cameras,
    .layout = CAMERA_EITHER,
    .state_keys = (const char *const[]){joints_key, gripper_key, NULL},
    .read_state = read_state,
};
