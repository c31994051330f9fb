/* The statistics that lie in a checkpoint directory, as they are: what they mean is for src/policy to say. */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "cli/inspect.h"
#include "cli/json.h"
#include "cli/terminal.h"

/* Bounds for hostile directories: links can make any depth and number. */
enum { MAX_DEPTH = 6, MAX_FOLDERS = 10000 };

typedef struct search {
    json_t *found;
    size_t assets_length; /* of "DIR/assets/" */
    int folders, *failures;
} search;

static json_t *or_null(json_t *value, pi0_status status, const pi0_error *error, int *failures) {
    if (status == PI0_OK) return value;
    terminal_error("%s", error->message);
    ++*failures;
    return json_null();
}

/* openpi: assets/<asset_id>/norm_stats.json, where the id may contain slashes. `path` has room for PATH_MAX. */
static void find_norm_stats(search *search, char *path, int depth) {
    size_t length = strlen(path);
    DIR *folder = depth < MAX_DEPTH && search->folders++ < MAX_FOLDERS ? opendir(path) : NULL;
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        struct stat information;
        if (entry->d_name[0] == '.' || length + 1 + strlen(entry->d_name) >= PATH_MAX) continue;
        snprintf(path + length, PATH_MAX - length, "/%s", entry->d_name);
        if (stat(path, &information)) continue;
        if (S_ISDIR(information.st_mode))
            find_norm_stats(search, path, depth + 1);
        else if (S_ISREG(information.st_mode) && !strcmp(entry->d_name, "norm_stats.json") &&
                 length > search->assets_length) {
            pi0_error error;
            json_t *content = NULL;
            pi0_status status = json_open(&content, path, 0, &error);
            path[length] = 0;
            json_object_set_new(search->found, path + search->assets_length,
                                or_null(content, status, &error, search->failures));
        }
        path[length] = 0;
    }
    closedir(folder);
}

static json_t *tensor_numbers(const tensor *tensor) {
    json_t *numbers = json_array();
    for (int64_t i = 0; tensor->dtype == DTYPE_F32 && i < tensor_elements(tensor); i++) {
        float value;
        memcpy(&value, (const char *)tensor->data + (size_t)i * sizeof value, sizeof value);
        json_array_append_new(numbers, json_number((double)value));
    }
    return numbers;
}

static pi0_status read_state_file(json_t **content, const char *directory, const char *name, pi0_error *error) {
    char path[PATH_MAX];
    safetensors *file;
    if (!*name || strchr(name, '/') || snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path)
        return error_set(error, PI0_ERROR_FORMAT, "%s: expected a file beside it as 'state_file', found '%.200s'",
                         directory, name);
    TRY(safetensors_open(&file, path, error));
    *content = json_object();
    for (size_t i = 0; i < safetensors_count(file); i++)
        json_object_set_new(*content, safetensors_at(file, i)->name, tensor_numbers(safetensors_at(file, i)));
    safetensors_close(&file);
    return PI0_OK;
}

/* lerobot: the steps of a pipeline name their state files. */
static void find_state_files(json_t *found, const char *directory, const char *pipeline, int *failures) {
    char path[PATH_MAX];
    struct stat information;
    if (snprintf(path, sizeof path, "%s/%s", directory, pipeline) >= (int)sizeof path || stat(path, &information))
        return;
    pi0_error error;
    json_t *root = NULL, *step;
    size_t index;
    pi0_status status = json_open(&root, path, 0, &error);
    if (status != PI0_OK) json_object_set_new(found, pipeline, or_null(NULL, status, &error, failures));
    json_array_foreach(json_object_get(root, "steps"), index, step) {
        const char *name = json_string_value(json_object_get(step, "state_file"));
        json_t *content = NULL;
        if (!name) continue;
        status = read_state_file(&content, directory, name, &error);
        json_object_set_new(found, name, or_null(content, status, &error, failures));
    }
    json_decref(root);
}

json_t *inspect_statistics(const checkpoint *checkpoint, int *failures) {
    json_t *found = json_object();
    const char *directory = checkpoint_path(checkpoint);
    *failures = 0;
    if (!found || checkpoint_get_layout(checkpoint) == LAYOUT_SYNTHETIC) return found;
    if (checkpoint_get_layout(checkpoint) == LAYOUT_LEROBOT) {
        find_state_files(found, directory, "policy_preprocessor.json", failures);
        find_state_files(found, directory, "policy_postprocessor.json", failures);
        return found;
    }
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/assets", directory);
    if (length >= (int)sizeof path) return found;
    search search = {.found = found, .assets_length = (size_t)length + 1, .failures = failures};
    find_norm_stats(&search, path, 0);
    return found;
}
