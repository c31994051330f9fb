#include "policy/robot.h"

#include <stdio.h>
#include <string.h>

const char *const robot_slot_names[ROBOT_SLOTS] = {"base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"};

pi0_status robot_refuse(const value *v, const char *key, const char *expected, pi0_error *error) {
    char found[160] = "nothing";
    if (v) value_describe(v, found, sizeof found);
    return error_set(error, PI0_ERROR_ARGUMENT, "'%.200s': expected %s, found %s", key, expected, found);
}

/* ---- state ------------------------------------------------------------------------------------------------------- */

/* A bare number: numpy's 0-d array. */
static bool read_number(const value *v, double *number, bool *is_integer) {
    *is_integer = true;
    switch (v->kind) {
    case VALUE_BOOL:
        *number = v->boolean;
        return true;
    case VALUE_INT:
        *number = (double)v->integer;
        return true;
    case VALUE_UINT: /* numpy's uint64, which it computes with as float64 */
        *number = (double)v->unsigned_integer;
        *is_integer = false;
        return true;
    case VALUE_FLOAT:
        *number = v->number;
        *is_integer = false;
        return true;
    case VALUE_ARRAY:
    case VALUE_SCALAR:
        if (v->array.rank != 0 || !strchr("uibf", v->array.kind)) return false;
        *number = value_array_number(&v->array, 0);
        *is_integer = v->array.kind != 'f' && !(v->array.kind == 'u' && v->array.item_bytes == 8);
        return true;
    default:
        return false;
    }
}

static pi0_status append(robot_state *state, double number, const char *key, pi0_error *error) {
    if (state->count == ROBOT_MAX_STATE)
        return error_set(error, PI0_ERROR_ARGUMENT, "'%.200s': expected a state of at most %d numbers, found more", key,
                         ROBOT_MAX_STATE);
    state->values[state->count++] = number;
    return PI0_OK;
}

static pi0_status append_value(robot_state *state, robot_vector *vector, const value *v, const char *key,
                               pi0_error *error) {
    static const char expected[] = "numbers";
    robot_vector ignored;
    if (!vector) vector = &ignored;
    double number;
    if (v && read_number(v, &number, &vector->is_integer)) {
        vector->rank = 0;
        return append(state, number, key, error);
    }
    vector->rank = 1;
    if (v && v->kind == VALUE_LIST) {
        vector->is_integer = v->list.count > 0;
        for (size_t i = 0; i < v->list.count; i++) {
            bool is_integer;
            if (!read_number(&v->list.items[i], &number, &is_integer)) {
                char where[260];
                snprintf(where, sizeof where, "%.200s[%zu]", key, i);
                return robot_refuse(&v->list.items[i], where, "a number", error);
            }
            vector->is_integer = vector->is_integer && is_integer;
            TRY(append(state, number, key, error));
        }
        return PI0_OK;
    }
    if (!v || v->kind != VALUE_ARRAY || v->array.rank != 1 || !strchr("uibf", v->array.kind))
        return robot_refuse(v, key, expected, error);
    vector->is_integer = v->array.kind != 'f' && !(v->array.kind == 'u' && v->array.item_bytes == 8);
    size_t count = value_array_count(&v->array);
    for (size_t i = 0; i < count; i++) TRY(append(state, value_array_number(&v->array, i), key, error));
    return PI0_OK;
}

pi0_status robot_append_numbers(robot_state *state, robot_vector *vector, const pi0_request *request, const char *key,
                                pi0_error *error) {
    return append_value(state, vector, request_find(request, key), key, error);
}

pi0_status robot_set_state(const robot *robot, robot_state *state, bool *found, const pi0_request *request,
                           pi0_error *error) {
    *state = (robot_state){0};
    const value *set = request_find_set(request, REQUEST_STATE);
    *found = true;
    if (set) return append_value(state, NULL, set, "state", error);
    *found = request_is_built(request);
    for (const char *const *key = robot->state_keys; *key; key++)
        if (request_find(request, *key)) *found = false;
    if (*found) state->count = robot->state_count;
    return PI0_OK;
}

/* ---- images ------------------------------------------------------------------------------------------------------ */

static void list_cameras(const robot *robot, char *list, size_t size) {
    list[0] = 0;
    for (int i = 0; i < robot->camera_count; i++) {
        size_t used = strlen(list);
        snprintf(list + used, size - used, "%s%s", i ? ", " : "", robot->cameras[i].key);
    }
}

static pi0_status check_camera(const robot *robot, const char *key, size_t length, pi0_error *error) {
    for (int i = 0; i < robot->camera_count; i++)
        if (strlen(robot->cameras[i].key) == length && memcmp(robot->cameras[i].key, key, length) == 0) return PI0_OK;
    char list[300];
    list_cameras(robot, list, sizeof list);
    return error_set(error, PI0_ERROR_ARGUMENT, "unknown camera '%.*s': expected %s", length < 200 ? (int)length : 200,
                     key, list);
}

/* What was set from code must be read by somebody. */
static pi0_status check_entries(const robot *robot, const pi0_request *request, pi0_error *error) {
    for (size_t i = 0; i < request->count; i++) {
        const request_entry *entry = &request->entries[i];
        if (entry->role == REQUEST_IS_IMAGE) TRY(check_camera(robot, entry->key, strlen(entry->key), error));
        if (entry->role != REQUEST_IS_STATE || strcmp(entry->key, REQUEST_STATE) == 0) continue;
        const char *const *key = robot->state_keys;
        while (*key && strcmp(*key, entry->key) != 0) key++;
        if (!*key)
            return error_set(error, PI0_ERROR_ARGUMENT, "unknown state '%.200s': robot '%s' has '%s'%s%s%s", entry->key,
                             robot->name, robot->state_keys[0], robot->state_keys[1] ? " and '" : "",
                             robot->state_keys[1] ? robot->state_keys[1] : "", robot->state_keys[1] ? "'" : "");
    }
    return PI0_OK;
}

/* The map that holds a message's images; NULL where there is none to look into. */
static pi0_status find_map(const robot *robot, const pi0_request *request, const value **map, pi0_error *error) {
    *map = request->message.root;
    if (!*map || !robot->image_map) return PI0_OK;
    const value *inner = value_find(*map, robot->image_map);
    if (!inner && robot->map_is_optional) return PI0_OK;
    if (!inner || inner->kind != VALUE_MAP)
        return robot_refuse(inner, robot->image_map, "a map from camera to image", error);
    *map = inner;
    for (size_t i = 0; i < inner->list.count; i++) {
        const value *key = &inner->list.keys[i];
        TRY(check_camera(robot, key->text.data, key->text.length, error));
        TRY(camera_check(&inner->list.items[i], key->text.data, robot->layout, error));
    }
    return PI0_OK;
}

pi0_status robot_find_images(const robot *robot, const pi0_request *request, const value *images[ROBOT_SLOTS],
                             const char *keys[ROBOT_SLOTS], camera_layout layouts[ROBOT_SLOTS], pi0_error *error) {
    for (int slot = 0; slot < ROBOT_SLOTS; slot++) images[slot] = NULL;
    TRY(check_entries(robot, request, error));
    const value *map;
    TRY(find_map(robot, request, &map, error));
    for (int i = 0; i < robot->camera_count; i++) {
        const robot_camera *camera = &robot->cameras[i];
        const value *image = request_find_set(request, camera->key);
        camera_layout layout = CAMERA_ROWS;
        if (!image && map) {
            image = value_find(map, camera->key);
            layout = robot->layout;
        }
        if (!image && camera->required && map) {
            char list[300];
            list_cameras(robot, list, sizeof list);
            return error_set(error, PI0_ERROR_ARGUMENT, "image '%s' is missing; the robot's cameras are %s",
                             camera->key, list);
        }
        if (!image || camera->slot < 0) continue;
        images[camera->slot] = image;
        keys[camera->slot] = camera->key;
        layouts[camera->slot] = layout;
    }
    return PI0_OK;
}
