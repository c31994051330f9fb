/* Reading a lerobot directory: config.json, the two pipelines, their statistics. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/bf16.h"
#include "base/half.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/path.h"
#include "checkpoint/safetensors.h"
#include "policy/lerobot.h"

static const char state_feature[] = "observation.state", action_feature[] = "action";

/* ---- JSON fields: absent ones leave the default ------------------------------------------------------------------ */

static pi0_status refuse(const char *file, const char *field, const char *expected, const json_t *found,
                         pi0_error *error) {
    return error_set(error, PI0_ERROR_FORMAT, "%s: expected %s in \"%s\", found %s", file, expected, field,
                     json_kind_name(found));
}

static pi0_status read_int(int *value, const json_t *object, const char *field, int low, int high, const char *file,
                           pi0_error *error) {
    const json_t *found = json_object_get(object, field);
    if (!found) return PI0_OK;
    char expected[60];
    snprintf(expected, sizeof expected, "a whole number from %d to %d", low, high);
    if (!json_is_integer(found)) return refuse(file, field, expected, found, error);
    json_int_t number = json_integer_value(found);
    if (number < low || number > high)
        return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: expected %s in \"%s\", found %" JSON_INTEGER_FORMAT, file,
                         expected, field, number);
    *value = (int)number;
    return PI0_OK;
}

static pi0_status read_bool(bool *value, const json_t *object, const char *field, const char *file, pi0_error *error) {
    const json_t *found = json_object_get(object, field);
    if (!found) return PI0_OK;
    if (!json_is_boolean(found)) return refuse(file, field, "true or false", found, error);
    *value = json_is_true(found);
    return PI0_OK;
}

/* *text is fresh memory. */
static pi0_status copy_text(char **text, const char *source, pi0_error *error) {
    memory_release(*text);
    *text = memory_string(source);
    return *text ? PI0_OK : error_memory(error, strlen(source), "a name");
}

/* Fields the engine has one value for. */
static pi0_status require_number(const json_t *object, const char *field, double only, const char *file,
                                 pi0_error *error) {
    const json_t *found = json_object_get(object, field);
    if (!found || (json_is_number(found) && json_number_value(found) == only)) return PI0_OK;
    return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: expected \"%s\" to be %g", file, field, only);
}

static pi0_status require_text(const json_t *object, const char *field, const char *only, const char *file,
                               pi0_error *error) {
    const json_t *found = json_object_get(object, field);
    if (!found || (json_is_string(found) && strcmp(json_string_value(found), only) == 0)) return PI0_OK;
    return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: expected \"%s\" to be \"%s\"", file, field, only);
}

/* ---- config.json ------------------------------------------------------------------------------------------------- */

static const char *feature_type(const json_t *feature) {
    const char *type = json_string_value(json_object_get(feature, "type"));
    return type ? type : "";
}

/* The length of a vector feature: shape [n]. */
static pi0_status read_length(int *length, const json_t *feature, const char *name, const char *file,
                              pi0_error *error) {
    const json_t *shape = json_object_get(feature, "shape");
    const json_t *first = json_array_get(shape, 0);
    if (json_array_size(shape) != 1 || !json_is_integer(first) || json_integer_value(first) < 1 ||
        json_integer_value(first) > ROBOT_MAX_STATE)
        return error_set(error, PI0_ERROR_UNSUPPORTED,
                         "%s: feature \"%s\": expected a shape of one length from 1 to %d", file, name,
                         ROBOT_MAX_STATE);
    *length = (int)json_integer_value(first);
    return PI0_OK;
}

static pi0_status add_camera(lerobot *policy, const char *name, const char *file, pi0_error *error) {
    for (int i = 0; i < policy->camera_count; i++)
        if (strcmp(policy->cameras[i], name) == 0) return PI0_OK;
    if (policy->camera_count == PI0_MAX_CAMERAS)
        return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: expected at most %d cameras, found more", file,
                         PI0_MAX_CAMERAS);
    policy->camera_count++;
    return copy_text(&policy->cameras[policy->camera_count - 1], name, error);
}

static pi0_status read_features(lerobot *policy, const json_t *root, const char *file, pi0_error *error) {
    json_t *features = json_object_get(root, "input_features"), *feature;
    if (!json_is_object(features)) return refuse(file, "input_features", "an object", features, error);
    const char *name;
    json_object_foreach(features, name, feature) {
        if (strcmp(feature_type(feature), "VISUAL") == 0)
            TRY(add_camera(policy, name, file, error));
        else if (strcmp(name, state_feature) == 0)
            TRY(read_length(&policy->state_count, feature, name, file, error));
    }
    int empty_cameras = 0;
    TRY(read_int(&empty_cameras, root, "empty_cameras", 0, PI0_MAX_CAMERAS, file, error));
    for (int i = 0; i < empty_cameras; i++) {
        char empty[64];
        snprintf(empty, sizeof empty, "observation.images.empty_camera_%d", i);
        TRY(add_camera(policy, empty, file, error));
    }
    if (policy->camera_count == 0)
        return error_set(error, PI0_ERROR_FORMAT, "%s: expected a VISUAL feature in \"input_features\", found none",
                         file);
    features = json_object_get(root, "output_features");
    feature = json_object_get(features, action_feature);
    return feature ? read_length(&policy->action_count, feature, action_feature, file, error) : PI0_OK;
}

static pi0_status read_resolution(lerobot *policy, const json_t *root, const char *file, pi0_error *error) {
    const json_t *size = json_object_get(root, "image_resolution");
    if (!size) return PI0_OK;
    const json_t *height = json_array_get(size, 0), *width = json_array_get(size, 1);
    if (json_array_size(size) != 2 || !json_is_integer(height) || !json_is_integer(width) ||
        json_integer_value(height) != json_integer_value(width) || json_integer_value(height) < 1 ||
        json_integer_value(height) > POLICY_MAX_IMAGE_SIZE)
        return error_set(error, PI0_ERROR_UNSUPPORTED,
                         "%s: expected \"image_resolution\" to be two equal numbers from 1 to %d", file,
                         POLICY_MAX_IMAGE_SIZE);
    policy->image_size = (int)json_integer_value(height);
    return PI0_OK;
}

static pi0_status read_config(lerobot *policy, const json_t *root, const char *file, pi0_error *error) {
    const char *type = json_string_value(json_object_get(root, "type"));
    if (!type || (strcmp(type, "pi0") != 0 && strcmp(type, "pi05") != 0))
        return error_set(error, PI0_ERROR_UNSUPPORTED,
                         "%s: expected \"type\" to be \"pi0\" or \"pi05\", found \"%.60s\"", file, type ? type : "");
    *policy = (lerobot){.family = strcmp(type, "pi05") == 0 ? PI0_FAMILY_PI05 : PI0_FAMILY_PI0,
                        .chunk_size = 50,
                        .num_steps = 10,
                        .image_size = 224,
                        .model_width = 32};
    int state_width = 32;
    TRY(read_int(&policy->chunk_size, root, "chunk_size", 1, POLICY_MAX_HORIZON, file, error));
    TRY(read_int(&policy->num_steps, root, "num_inference_steps", 1, 1000, file, error));
    TRY(read_int(&policy->model_width, root, "max_action_dim", 1, ROBOT_MAX_STATE, file, error));
    TRY(read_int(&state_width, root, "max_state_dim", 1, ROBOT_MAX_STATE, file, error));
    if (state_width != policy->model_width)
        return error_set(error, PI0_ERROR_UNSUPPORTED,
                         "%s: expected \"max_state_dim\" (%d) to be \"max_action_dim\" (%d)", file, state_width,
                         policy->model_width);
    TRY(require_number(root, "min_period", 0.004, file, error));
    TRY(require_number(root, "max_period", 4.0, file, error));
    policy->state_count = policy->action_count = policy->model_width;
    TRY(read_resolution(policy, root, file, error));
    TRY(read_features(policy, root, file, error));
    if (policy->state_count > policy->model_width || policy->action_count > policy->model_width)
        return error_set(error, PI0_ERROR_FORMAT, "%s: a state of %d and actions of %d do not fit into the model's %d",
                         file, policy->state_count, policy->action_count, policy->model_width);
    return PI0_OK;
}

/* ---- pipelines --------------------------------------------------------------------------------------------------- */

typedef struct step_name {
    const char *name;
    lerobot_step_kind kind;
} step_name;

static const step_name steps_before[] = {
    {"rename_observations_processor", STEP_RENAME},
    {"to_batch_processor", STEP_NOTHING},
    {"pi0_new_line_processor", STEP_NEW_LINE},
    {"pi05_prepare_state_tokenizer_processor_step", STEP_STATE_PROMPT},
    {"tokenizer_processor", STEP_TOKENIZE},
    {"device_processor", STEP_NOTHING},
    {"relative_actions_processor", STEP_KEEP_STATE},
    {"normalizer_processor", STEP_NORMALISE},
    {NULL, STEP_NOTHING},
};
static const step_name steps_after[] = {
    {"unnormalizer_processor", STEP_UNNORMALISE},
    {"absolute_actions_processor", STEP_ABSOLUTE},
    {"device_processor", STEP_NOTHING},
    {NULL, STEP_NOTHING},
};

static pi0_status read_renames(lerobot *policy, const json_t *config, const char *file, pi0_error *error) {
    json_t *map = json_object_get(config, "rename_map"), *to;
    if (!map) return PI0_OK;
    if (!json_is_object(map)) return refuse(file, "rename_map", "an object", map, error);
    const char *from;
    json_object_foreach(map, from, to) {
        if (!json_is_string(to)) return refuse(file, "rename_map", "names only", to, error);
        if (policy->rename_count == LEROBOT_MAX_NAMES)
            return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: expected at most %d names in \"rename_map\"", file,
                             LEROBOT_MAX_NAMES);
        lerobot_rename *rename = &policy->renames[policy->rename_count++];
        TRY(copy_text(&rename->from, from, error));
        TRY(copy_text(&rename->to, json_string_value(to), error));
    }
    return PI0_OK;
}

static pi0_status read_tokenizer(lerobot *policy, const json_t *config, const char *file, pi0_error *error) {
    policy->max_length = 512; /* the step's own default */
    TRY(read_int(&policy->max_length, config, "max_length", 1, POLICY_MAX_TOKENS, file, error));
    TRY(require_text(config, "padding_side", "right", file, error));
    bool truncation = true;
    TRY(read_bool(&truncation, config, "truncation", file, error));
    if (truncation) return PI0_OK;
    return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: expected \"truncation\" to be true", file);
}

static void lower(char *to, size_t size, const char *from) {
    size_t i = 0;
    for (; from[i] && i + 1 < size; i++) to[i] = (char)(from[i] >= 'A' && from[i] <= 'Z' ? from[i] + 32 : from[i]);
    to[i] = 0;
}

/* True if the action's name contains one of the words, whatever the case. */
static bool is_excluded(const char *name, const json_t *words) {
    char low_name[256], low_word[256];
    lower(low_name, sizeof low_name, name);
    size_t i;
    json_t *word;
    json_array_foreach(words, i, word) {
        lower(low_word, sizeof low_word, json_string_value(word));
        if (*low_word && strstr(low_name, low_word)) return true;
    }
    return false;
}

static pi0_status check_names(const json_t *list, const char *field, const char *file, pi0_error *error) {
    if (!list || json_is_null(list)) return PI0_OK;
    if (!json_is_array(list)) return refuse(file, field, "a list of names or null", list, error);
    size_t i;
    json_t *name;
    json_array_foreach(list, i, name) {
        if (!json_is_string(name)) return refuse(file, field, "names only", name, error);
    }
    return PI0_OK;
}

static pi0_status read_relative(lerobot *policy, const json_t *config, const char *file, pi0_error *error) {
    TRY(read_bool(&policy->relative, config, "enabled", file, error));
    const json_t *words = json_object_get(config, "exclude_joints"), *names = json_object_get(config, "action_names");
    TRY(check_names(words, "exclude_joints", file, error));
    TRY(check_names(names, "action_names", file, error));
    for (size_t i = 0; i < ROBOT_MAX_STATE; i++) {
        const char *name = json_string_value(json_array_get(names, i));
        policy->absolute_mask[i] = !name || !is_excluded(name, words);
    }
    return PI0_OK;
}

static pi0_status read_mode(feature_mode *mode, const json_t *config, const char *type, const char *file,
                            pi0_error *error) {
    static const char *const names[] = {"IDENTITY", "MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10"};
    const json_t *map = json_object_get(config, "norm_map");
    const json_t *name = json_object_get(map, type);
    *mode = FEATURE_IDENTITY;
    if (!name) return PI0_OK;
    if (!json_is_string(name)) return refuse(file, "norm_map", "names of modes", name, error);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(json_string_value(name), names[i]) != 0) continue;
        *mode = (feature_mode)i;
        return PI0_OK;
    }
    return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: unknown mode \"%.60s\" of %s in \"norm_map\"", file,
                     json_string_value(name), type);
}

/* The mode and constants of one feature; the statistics come later, from *state_file. */
static pi0_status read_normalizer(feature_norm *norm, char **state_file, const json_t *step, const char *feature,
                                  const char *file, pi0_error *error) {
    const json_t *config = json_object_get(step, "config"), *features = json_object_get(config, "features");
    norm->eps = 1e-8f;
    const json_t *eps = json_object_get(config, "eps");
    if (eps && !json_is_number(eps)) return refuse(file, "eps", "a number", eps, error);
    if (eps) norm->eps = (float)json_number_value(eps);
    const json_t *found = json_object_get(features, feature);
    if (found) TRY(read_mode(&norm->mode, config, feature_type(found), file, error));
    feature_mode visual;
    TRY(read_mode(&visual, config, "VISUAL", file, error));
    if (visual != FEATURE_IDENTITY)
        return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: expected images to be left as they are (VISUAL: IDENTITY)",
                         file);
    const json_t *only = json_object_get(config, "normalize_observation_keys");
    if (json_is_array(only) && strcmp(feature, state_feature) == 0) {
        TRY(check_names(only, "normalize_observation_keys", file, error));
        bool named = false;
        size_t i;
        json_t *name;
        json_array_foreach(only, i, name) named = named || strcmp(json_string_value(name), feature) == 0;
        if (!named) norm->mode = FEATURE_IDENTITY;
    }
    const json_t *path = json_object_get(step, "state_file");
    if (!path || json_is_null(path)) return PI0_OK;
    const char *name = json_string_value(path);
    if (!name || !*name || strchr(name, '/'))
        return refuse(file, "state_file", "the name of a file beside this one", path, error);
    return copy_text(state_file, name, error);
}

static pi0_status read_step(lerobot *policy, lerobot_step_kind kind, const json_t *step, const char *file,
                            pi0_error *error) {
    const json_t *config = json_object_get(step, "config");
    bool enabled = false;
    switch (kind) {
    case STEP_RENAME:
        return read_renames(policy, config, file, error);
    case STEP_TOKENIZE:
        return read_tokenizer(policy, config, file, error);
    case STEP_KEEP_STATE:
        return read_relative(policy, config, file, error);
    case STEP_NORMALISE:
        return read_normalizer(&policy->state_norm, &policy->state_file, step, state_feature, file, error);
    case STEP_UNNORMALISE:
        return read_normalizer(&policy->action_norm, &policy->action_file, step, action_feature, file, error);
    case STEP_ABSOLUTE:
        TRY(read_bool(&enabled, config, "enabled", file, error));
        if (!enabled)
            policy->after.count--; /* not a step then */
        else if (!policy->relative)
            return error_set(error, PI0_ERROR_FORMAT,
                             "%s: expected an enabled relative_actions_processor in the preprocessor, since "
                             "absolute_actions_processor is enabled",
                             file);
        return PI0_OK;
    default:
        return PI0_OK;
    }
}

static pi0_status read_pipeline(lerobot *policy, lerobot_pipeline *pipeline, const step_name *names, const json_t *root,
                                const char *file, pi0_error *error) {
    const json_t *steps = json_object_get(root, "steps");
    if (!json_is_array(steps)) return refuse(file, "steps", "a list", steps, error);
    size_t i;
    json_t *step;
    json_array_foreach(steps, i, step) {
        const char *registered = json_string_value(json_object_get(step, "registry_name"));
        const char *class = json_string_value(json_object_get(step, "class"));
        const step_name *known = names;
        while (known->name && (!registered || strcmp(known->name, registered) != 0)) known++;
        if (!known->name)
            return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: step %zu, \"%.100s\", is none that this engine knows",
                             file, i,
                             registered ? registered
                             : class    ? class
                                        : "");
        if (known->kind == STEP_NOTHING) continue;
        for (int k = 0; k < pipeline->count; k++)
            if (pipeline->steps[k] == known->kind)
                return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: expected one step \"%s\", found two", file,
                                 known->name);
        pipeline->steps[pipeline->count++] = known->kind; /* each kind once: they fit */
        TRY(read_step(policy, known->kind, step, file, error));
    }
    return PI0_OK;
}

static pi0_status read_before(lerobot *policy, const json_t *root, const char *file, pi0_error *error) {
    TRY(read_pipeline(policy, &policy->before, steps_before, root, file, error));
    if (policy->max_length) return PI0_OK;
    return error_set(error, PI0_ERROR_FORMAT, "%s: expected a step \"tokenizer_processor\", found none", file);
}

static pi0_status read_after(lerobot *policy, const json_t *root, const char *file, pi0_error *error) {
    return read_pipeline(policy, &policy->after, steps_after, root, file, error);
}

typedef pi0_status (*reader)(lerobot *policy, const json_t *root, const char *file, pi0_error *error);

static pi0_status parse(lerobot *policy, reader read, const char *text, size_t size, const char *name,
                        pi0_error *error) {
    json_t *root;
    TRY(json_parse(&root, text, size, 0, name, error));
    pi0_status status = read(policy, root, name, error);
    json_decref(root);
    return status;
}

pi0_status lerobot_parse_config(lerobot *policy, const char *text, size_t size, const char *name, pi0_error *error) {
    return parse(policy, read_config, text, size, name, error);
}

pi0_status lerobot_parse_before(lerobot *policy, const char *text, size_t size, const char *name, pi0_error *error) {
    return parse(policy, read_before, text, size, name, error);
}

pi0_status lerobot_parse_after(lerobot *policy, const char *text, size_t size, const char *name, pi0_error *error) {
    return parse(policy, read_after, text, size, name, error);
}

/* ---- statistics -------------------------------------------------------------------------------------------------- */

/* Element i of a statistics tensor as float32; NaN for dtypes statistics do not come in. */
static float read_element(const tensor *tensor, size_t i) {
    const unsigned char *data = (const unsigned char *)tensor->data + i * tensor_dtype_size(tensor->dtype);
    float number = NAN;
    double wide;
    uint16_t bits;
    if (tensor->dtype == DTYPE_F32) memcpy(&number, data, sizeof number);
    if (tensor->dtype == DTYPE_F64) {
        memcpy(&wide, data, sizeof wide);
        number = (float)wide;
    }
    if (tensor->dtype == DTYPE_F16 || tensor->dtype == DTYPE_BF16) {
        memcpy(&bits, data, sizeof bits);
        number = tensor->dtype == DTYPE_F16 ? half_to_float(bits) : bf16_to_float(bits);
    }
    return number;
}

/* *values stays NULL where the file has no such tensor. */
static pi0_status read_statistic(float **values, int *count, const safetensors *file, const char *feature,
                                 const char *statistic, const char *path, pi0_error *error) {
    char name[120], shape[120];
    snprintf(name, sizeof name, "%s.%s", feature, statistic);
    const tensor *tensor = safetensors_find(file, name);
    if (!tensor) return PI0_OK;
    int64_t elements = tensor_elements(tensor);
    if (elements < 1 || elements > ROBOT_MAX_STATE)
        return error_set(error, PI0_ERROR_FORMAT, "%s: '%s': expected 1 to %d numbers, found shape %s", path, name,
                         ROBOT_MAX_STATE, tensor_shape_text(tensor, shape, sizeof shape));
    *values = memory_zeroed((size_t)elements, sizeof **values);
    if (!*values) return error_memory(error, (size_t)elements * sizeof **values, "statistics");
    *count = (int)elements;
    for (int i = 0; i < *count; i++) {
        (*values)[i] = read_element(tensor, (size_t)i);
        if (!isfinite((*values)[i]))
            return error_set(error, PI0_ERROR_FORMAT, "%s: '%s' (%s): expected finite floating-point numbers", path,
                             name, tensor_dtype_name(tensor->dtype));
    }
    return PI0_OK;
}

static bool has_feature(const safetensors *file, const char *feature) {
    size_t length = strlen(feature);
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const char *name = safetensors_at(file, i)->name;
        if (strncmp(name, feature, length) == 0 && name[length] == '.' && !strchr(name + length + 1, '.')) return true;
    }
    return false;
}

static pi0_status read_statistics(feature_norm *norm, const safetensors *file, const char *feature, const char *path,
                                  pi0_error *error) {
    static const char *const names[][2] = {{"", ""}, {"mean", "std"}, {"min", "max"}, {"q01", "q99"}, {"q10", "q90"}};
    const char *low = names[norm->mode][0], *high = names[norm->mode][1];
    int high_count = 0;
    TRY(read_statistic(&norm->low, &norm->count, file, feature, low, path, error));
    TRY(read_statistic(&norm->high, &high_count, file, feature, high, path, error));
    if (norm->low && norm->high && norm->count == high_count) return PI0_OK;
    if (norm->low && norm->high)
        return error_set(error, PI0_ERROR_FORMAT, "%s: '%s' has %d values of %s and %d of %s", path, feature,
                         norm->count, low, high_count, high);
    /* the reference leaves a feature without statistics as it is, but insists on quantiles where there are others */
    norm->count = 0;
    bool quantiles = norm->mode == FEATURE_QUANTILES || norm->mode == FEATURE_QUANTILE10;
    if (!quantiles || !has_feature(file, feature)) return PI0_OK;
    return error_set(error, PI0_ERROR_FORMAT,
                     "%s: expected '%s.%s' and '%s.%s', since the feature is normalised by "
                     "quantiles",
                     path, feature, low, feature, high);
}

static pi0_status load_statistics(feature_norm *norm, const char *directory, const char *name, const char *feature,
                                  int width, pi0_error *error) {
    if (!name || norm->mode == FEATURE_IDENTITY) return PI0_OK;
    char *path;
    TRY(path_join(&path, directory, name, error));
    safetensors *file;
    pi0_status status = safetensors_open(&file, path, error);
    if (status == PI0_OK) {
        status = read_statistics(norm, file, feature, path, error);
        safetensors_close(&file);
    }
    if (status == PI0_OK && norm->count > 1 && norm->count != width)
        status = error_set(error, PI0_ERROR_FORMAT, "%s: statistics of '%s' have %d values, expected %d", path, feature,
                           norm->count, width);
    memory_release(path);
    return status;
}

/* ---- the directory ----------------------------------------------------------------------------------------------- */

static pi0_status parse_file(lerobot *policy, reader read, const char *directory, const char *name, pi0_error *error) {
    char *path;
    TRY(path_join(&path, directory, name, error));
    json_t *root;
    pi0_status status = json_open(&root, path, 0, error);
    if (status == PI0_OK) {
        status = read(policy, root, path, error);
        json_decref(root);
    }
    memory_release(path);
    return status;
}

static pi0_status open_files(lerobot *policy, const char *directory, pi0_error *error) {
    TRY(parse_file(policy, read_config, directory, "config.json", error));
    TRY(parse_file(policy, read_before, directory, "policy_preprocessor.json", error));
    TRY(parse_file(policy, read_after, directory, "policy_postprocessor.json", error));
    TRY(load_statistics(&policy->state_norm, directory, policy->state_file, state_feature, policy->state_count, error));
    return load_statistics(&policy->action_norm, directory, policy->action_file, action_feature, policy->action_count,
                           error);
}

pi0_status lerobot_open(lerobot **policy, const char *directory, pi0_error *error) {
    *policy = memory_zeroed(1, sizeof **policy);
    if (!*policy) return error_memory(error, sizeof **policy, "a lerobot policy");
    pi0_status status = open_files(*policy, directory, error);
    if (status != PI0_OK) lerobot_close(policy);
    return status;
}

void lerobot_release(lerobot *policy) {
    for (int i = 0; i < policy->camera_count; i++) memory_release(policy->cameras[i]);
    for (int i = 0; i < policy->rename_count; i++) {
        memory_release(policy->renames[i].from);
        memory_release(policy->renames[i].to);
    }
    feature_norm *norms[] = {&policy->state_norm, &policy->action_norm};
    for (int i = 0; i < 2; i++) {
        memory_release(norms[i]->low);
        memory_release(norms[i]->high);
    }
    memory_release(policy->state_file);
    memory_release(policy->action_file);
    *policy = (lerobot){0};
}

void lerobot_close(lerobot **policy) {
    if (!*policy) return;
    lerobot_release(*policy);
    memory_release(*policy);
    *policy = NULL;
}
