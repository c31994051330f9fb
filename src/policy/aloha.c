/*
 * ALOHA: two arms of six joints and a gripper each (openpi policies/aloha_policy.py).
 *
 * State and actions: left joints, left gripper, right joints, right gripper. With adapt_to_pi some joints turn the
 * other way and the gripper's linear travel becomes the angle of the robots pi0 was trained on. The two gripper maps
 * are not inverses of each other; the reference has it so.
 */
#include <math.h>

#include "policy/robot.h"

enum { JOINTS = 14, LEFT_GRIPPER = 6, RIGHT_GRIPPER = 13 };

static const double flip[JOINTS] = {1, -1, -1, 1, 1, 1, 1, 1, -1, -1, 1, 1, 1, 1};

/* Normalised gripper travel of ALOHA -> normalised angle of pi: travel in metres, the angle of the horn that makes it
 * (arm 0.022 m, rod 0.036 m), then the range of angles to 0..1. */
static double gripper_to_angle(double value) {
    double position = value * (0.05800 - 0.01844) + 0.01844;
    double arm = 0.022, rod = 0.036;
    double sine = (arm * arm + position * position - rod * rod) / (2 * arm * position);
    double angle = asin(sine < -1 ? -1 : sine > 1 ? 1 : sine);
    return (angle - 0.5476) / (1.6296 - 0.5476);
}

/* Normalised angle of pi -> normalised command of ALOHA's gripper. */
static double gripper_from_angle(double value) {
    double angle = value + 0.5476;
    return (angle - -0.6213) / (1.4910 - -0.6213);
}

static pi0_status read_state(robot_state *state, const pi0_request *request, bool adapt_to_pi, pi0_error *error) {
    bool found;
    robot_vector vector = {.rank = 1};
    TRY(robot_set_state(&robot_aloha, state, &found, request, error));
    if (!found) TRY(robot_append_numbers(state, &vector, request, "state", error));
    if (adapt_to_pi && state->count == 1)
        for (; state->count < JOINTS; state->count++) state->values[state->count] = state->values[0];
    if (state->count != JOINTS) {
        const value *set = request_find_set(request, REQUEST_STATE);
        return robot_refuse(set ? set : request_find(request, "state"), "state", "14 numbers", error);
    }
    if (!adapt_to_pi) return PI0_OK;
    for (int i = 0; i < JOINTS; i++) state->values[i] = flip[i] * state->values[i] + 0.0;
    for (int i = LEFT_GRIPPER; i <= RIGHT_GRIPPER; i += RIGHT_GRIPPER - LEFT_GRIPPER) {
        double angle = gripper_to_angle(state->values[i]);
        /* the reference writes into an array of the state's type: integers cut the angle */
        state->values[i] = vector.is_integer ? trunc(angle) : angle;
    }
    return PI0_OK;
}

static void write_actions(double *row) {
    for (int i = 0; i < JOINTS; i++) row[i] *= flip[i];
    row[LEFT_GRIPPER] = gripper_from_angle(row[LEFT_GRIPPER]);
    row[RIGHT_GRIPPER] = gripper_from_angle(row[RIGHT_GRIPPER]);
}

static const robot_camera cameras[] = {
    {.key = "cam_high", .slot = 0, .required = true},
    {.key = "cam_left_wrist", .slot = 1},
    {.key = "cam_right_wrist", .slot = 2},
    {.key = "cam_low", .slot = -1},
};

const robot robot_aloha = {
    .name = "aloha",
    .state_count = JOINTS,
    .action_count = JOINTS,
    .cameras = cameras,
    .camera_count = sizeof cameras / sizeof *cameras,
    .image_map = "images",
    .layout = CAMERA_PLANES,
    .state_keys = (const char *const[]){"state", NULL},
    .read_state = read_state,
    .write_actions = write_actions,
};
