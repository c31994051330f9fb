/*
 * Robots: what the keys of a request mean and what the model's actions become (openpi policies/aloha_policy.py and its
 * siblings). One file each; what they share is in robot.c.
 *
 * A robot's state is a vector of at most ROBOT_MAX_STATE numbers, kept as float64: every type a client may send fits
 * into it but 64-bit integers beyond 2^53. The model has three camera slots: base, left wrist, right wrist.
 */
#ifndef PI0_POLICY_ROBOT_H
#define PI0_POLICY_ROBOT_H

#include "policy/camera.h"
#include "policy/request.h"

enum { ROBOT_MAX_STATE = 32, ROBOT_SLOTS = 3 };

/* "base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb" */
extern const char *const robot_slot_names[ROBOT_SLOTS];

typedef struct robot_state {
    double values[ROBOT_MAX_STATE];
    int count;
} robot_state;

typedef struct robot_camera {
    const char *key; /* in the request */
    int slot;        /* of the model; -1: accepted and not used */
    bool required;   /* in a request that came as a message */
} robot_camera;

typedef struct robot robot;
struct robot {
    const char *name;
    int state_count;  /* of a whole state */
    int action_count; /* columns of the answer; 0: all of the model's */
    const robot_camera *cameras;
    int camera_count;
    const char *image_map; /* the key of the map that holds the images; NULL: they stand in the request itself */
    bool map_is_optional;  /* images may stand in the request itself all the same */
    camera_layout layout;  /* of images in messages; those set from code are rows */
    bool bytes_prompt;     /* a prompt may be bytes */
    const char *const *state_keys; /* NULL at the end */
    pi0_status (*read_state)(robot_state *state, const pi0_request *request, bool adapt_to_pi, pi0_error *error);
    /* One row of actions, absolute, in place, to float64; for adapt_to_pi only. NULL: stays as it is. */
    void (*write_actions)(double *row);
};

extern const robot robot_aloha, robot_droid, robot_libero, robot_ur5, robot_generic;

/* The images of a request by slot: images[slot] is NULL where the camera is masked out. Refuses missing required
 * cameras and cameras the robot does not have. layouts[slot] is how to read it. */
pi0_status robot_find_images(const robot *robot, const pi0_request *request, const value *images[ROBOT_SLOTS],
                             const char *keys[ROBOT_SLOTS], camera_layout layouts[ROBOT_SLOTS], pi0_error *error);

/* The whole state where one was set from code, or zeros where a request built from code has none; else *found is
 * false. Each read_state begins with it. */
pi0_status robot_set_state(const robot *robot, robot_state *state, bool *found, const pi0_request *request,
                           pi0_error *error);

/* What a vector of numbers looked like when it was sent. */
typedef struct robot_vector {
    int rank;        /* 0: a bare number; 1 */
    bool is_integer; /* numpy would compute with it in int64 */
} robot_vector;

/* Appends the numbers under `key` to *state: a number, list of numbers, or array of rank 0 or 1. `vector` may be NULL.
 * Refuses a missing key, anything else, and more than ROBOT_MAX_STATE numbers in all. */
pi0_status robot_append_numbers(robot_state *state, robot_vector *vector, const pi0_request *request, const char *key,
                                pi0_error *error);
/* "'state': expected a, found b" */
pi0_status robot_refuse(const value *v, const char *key, const char *expected, pi0_error *error);

#endif
