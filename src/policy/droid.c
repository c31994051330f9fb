/* DROID: a Franka arm of seven joints and a gripper (openpi policies/droid_policy.py). */
#include "policy/robot.h"

static const char joints_key[] = "observation/joint_position", gripper_key[] = "observation/gripper_position";

/* Joints, then gripper; the lengths are not checked. */
static pi0_status read_state(robot_state *state, const pi0_request *request, bool adapt_to_pi, pi0_error *error) {
    (void)adapt_to_pi;
    bool found;
    TRY(robot_set_state(&robot_droid, state, &found, request, error));
    if (found) return PI0_OK;
    robot_vector joints;
    TRY(robot_append_numbers(state, &joints, request, joints_key, error));
    if (joints.rank != 1)
        return robot_refuse(request_find(request, joints_key), joints_key, "a list of numbers", error);
    return robot_append_numbers(state, NULL, request, gripper_key, error);
}

static const robot_camera cameras[] = {
    {.key = "observation/exterior_image_1_left", .slot = 0, .required = true},
    {.key = "observation/wrist_image_left", .slot = 1, .required = true},
};

const robot robot_droid = {
    .name = "droid",
    .state_count = 8,
    .action_count = 8,
    .cameras = cameras,
    .camera_count = sizeof cameras / sizeof *cameras,
    .layout = CAMERA_EITHER,
    .bytes_prompt = true,
    .state_keys = (const char *const[]){joints_key, gripper_key, NULL},
    .read_state = read_state,
};
