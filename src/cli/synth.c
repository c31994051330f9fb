/*
 * pi0 synth: writes a synthetic checkpoint as an openpi directory that openpi's strict loader accepts: every tensor of
 * its PyTorch module in bf16 (openpi examples/convert_jax_model_to_pytorch.py), the embedding under the name the
 * safetensors writer keeps, the tie in the metadata, and with a named config its statistics. All of it appears or
 * nothing does.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "cli/commands.h"
#include "cli/json.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "policy/configs.h"
#include "policy/norm_stats.h"
#include "policy/robot.h"

enum { MAX_MADE = 24, DEFAULT_HORIZON = 50 /* openpi's Pi0Config */ };

typedef struct synthesis {
    const char *directory;
    int model; /* pi0_model */
    uint64_t seed;
    const policy_config *config; /* or NULL */
    checkpoint *checkpoint;
    size_t bytes; /* of tensors */
    double seconds;
    char *made[MAX_MADE]; /* files and directories that did not exist before, in the order they were made */
    int made_count;
} synthesis;

/* ---- what was made can be taken back ----------------------------------------------------------------------------- */

static pi0_status remember(synthesis *s, const char *path, pi0_error *error) {
    if (s->made_count == MAX_MADE)
        return error_set(error, PI0_ERROR_ARGUMENT, "%s: too many directories to make", s->directory);
    char *copy = memory_string(path);
    if (!copy) return error_memory(error, strlen(path), "a path");
    s->made[s->made_count++] = copy;
    terminal_temporary_add(copy);
    return PI0_OK;
}

/* Takes everything back unless it is to be kept. */
static void forget(synthesis *s, bool keep) {
    while (s->made_count) {
        char *path = s->made[--s->made_count];
        if (!keep) remove(path);
        terminal_temporary_forget(path);
        memory_release(path);
    }
}

/* Makes the directory `path` and those above it. */
static pi0_status make_directories(synthesis *s, const char *path, pi0_error *error) {
    char part[PATH_MAX];
    size_t length = strlen(path);
    if (!length || length >= sizeof part)
        return error_set(error, PI0_ERROR_ARGUMENT, "expected a directory to write, found a path of %zu bytes", length);
    for (size_t end = 1; end <= length; end++) {
        if (path[end] != '/' && path[end] != 0) continue;
        memcpy(part, path, end);
        part[end] = 0;
        struct stat information;
        if (!stat(part, &information)) {
            if (S_ISDIR(information.st_mode)) continue;
            return error_set(error, PI0_ERROR_IO, "%s: expected a directory, found a file", part);
        }
        TRY(output_check(part, error));
        if (mkdir(part, 0777))
            return error_set(error, PI0_ERROR_IO, "cannot make the directory %s: %s", part, strerror(errno));
        TRY(remember(s, part, error));
    }
    return PI0_OK;
}

static pi0_status join(char path[PATH_MAX], const char *directory, const char *name, pi0_error *error) {
    if (snprintf(path, PATH_MAX, "%s/%s", directory, name) < PATH_MAX) return PI0_OK;
    return error_set(error, PI0_ERROR_ARGUMENT, "%.100s...: the path is too long", directory);
}

/* ---- the files --------------------------------------------------------------------------------------------------- */

static pi0_status write_json(synthesis *s, const char *directory, const char *name, json_t *value, pi0_error *error) {
    char path[PATH_MAX];
    char *text = value ? json_dumps(value, JSON_INDENT(2)) : NULL;
    json_decref(value);
    pi0_status status = text ? join(path, directory, name, error) : error_memory(error, 0, name);
    if (status == PI0_OK) status = remember(s, path, error);
    if (status == PI0_OK) status = file_write(path, text, strlen(text), error);
    free(text);
    return status;
}

/* As openpi's converter writes it: for people, no loader reads it. */
static pi0_status write_config(synthesis *s, pi0_error *error) {
    bool tiny = s->model == PI0_MODEL_TINY_PI0 || s->model == PI0_MODEL_TINY_PI05;
    int horizon = s->config ? s->config->horizon : DEFAULT_HORIZON;
    return write_json(s, s->directory, "config.json",
                      json_pack("{s:i, s:i, s:s, s:s, s:s}", "action_dim", checkpoint_config(s->checkpoint)->action_dim,
                                "action_horizon", horizon, "paligemma_variant", tiny ? "tiny" : "gemma_2b",
                                "action_expert_variant", tiny ? "tiny" : "gemma_300m", "precision", "bfloat16"),
                      error);
}

static json_t *numbers_json(const norm_values *numbers) {
    json_t *list = json_array();
    for (int i = 0; i < numbers->count; i++) json_array_append_new(list, json_real(numbers->values[i]));
    return list;
}

static json_t *stats_json(const norm_stats *stats) {
    json_t *entries = json_object();
    for (size_t i = 0; i < stats->count; i++) {
        const norm_entry *entry = &stats->entries[i];
        json_object_set_new(entries, entry->key,
                            json_pack("{s:o, s:o, s:o, s:o}", "mean", numbers_json(&entry->mean), "std",
                                      numbers_json(&entry->std), "q01", numbers_json(&entry->q01), "q99",
                                      numbers_json(&entry->q99)));
    }
    return json_pack("{s:o}", "norm_stats", entries);
}

static pi0_status write_stats(synthesis *s, pi0_error *error) {
    char assets[PATH_MAX], directory[PATH_MAX];
    if (!s->config || !s->config->asset_id) return PI0_OK;
    TRY(join(assets, s->directory, "assets", error));
    TRY(join(directory, assets, s->config->asset_id, error));
    TRY(make_directories(s, directory, error));
    const robot *robot = s->config->robot;
    int actions = robot->action_count ? robot->action_count : s->config->action_dim;
    norm_stats stats;
    TRY(norm_stats_synthetic(&stats, robot->state_count, actions, error));
    json_t *json = stats_json(&stats);
    norm_stats_release(&stats);
    return write_json(s, directory, "norm_stats.json", json, error);
}

static pi0_status check_space(const synthesis *s, pi0_error *error) {
    struct statvfs space;
    if (statvfs(s->directory, &space)) return PI0_OK; /* then writing will tell */
    size_t needed = s->bytes + (2 << 20), free_bytes = (size_t)space.f_bavail * space.f_frsize;
    if (needed <= free_bytes) return PI0_OK;
    return error_set(error, PI0_ERROR_IO, "%s: not enough space: expected %zu bytes, %zu free", s->directory, needed,
                     free_bytes);
}

static pi0_status write_weights(synthesis *s, pi0_error *error) {
    static const safetensors_pair tie = {"paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight",
                                         CHECKPOINT_EMBEDDING};
    char path[PATH_MAX], temporary[PATH_MAX];
    TRY(join(path, s->directory, "model.safetensors", error));
    TRY(join(temporary, s->directory, "model.safetensors.tmp", error));
    size_t count = checkpoint_count(s->checkpoint);
    tensor *tensors = memory_zeroed(count, sizeof *tensors);
    if (!tensors) return error_memory(error, count * sizeof *tensors, "the list of tensors");
    for (size_t i = 0; i < count; i++) tensors[i] = *checkpoint_at(s->checkpoint, i);
    pi0_status status = remember(s, path, error);
    if (status == PI0_OK) status = remember(s, temporary, error);
    if (status == PI0_OK) status = safetensors_write(path, tensors, count, &tie, 1, terminal_progress, NULL, error);
    terminal_progress_end();
    memory_release(tensors);
    return status;
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

static pi0_status check_target(const char *directory, pi0_error *error) {
    DIR *entries = opendir(directory);
    if (!entries && errno == ENOENT) return PI0_OK;
    if (!entries) return error_set(error, PI0_ERROR_IO, "%s: %s", directory, strerror(errno));
    bool empty = true;
    for (struct dirent *entry; (entry = readdir(entries));)
        empty &= !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
    closedir(entries);
    if (empty) return PI0_OK;
    return error_set(error, PI0_ERROR_IO, "%s: expected a new or an empty directory, found files in it", directory);
}

/* The config's family where --model was not given; a --model of the other family is a mistake. */
static pi0_status choose_model(synthesis *s, pi0_error *error) {
    bool pi05 = s->config && s->config->family == PI0_FAMILY_PI05;
    if (s->model == PI0_MODEL_AUTO) s->model = pi05 ? PI0_MODEL_PI05 : PI0_MODEL_PI0;
    bool model_pi05 = s->model == PI0_MODEL_PI05 || s->model == PI0_MODEL_TINY_PI05;
    if (!s->config || model_pi05 == pi05) return PI0_OK;
    return error_set(error, PI0_ERROR_ARGUMENT, "expected --model of the family of %s, %s, found %s", s->config->name,
                     pi05 ? "pi0.5" : "pi0", model_pi05 ? "pi0.5" : "pi0");
}

static pi0_status synthesise(synthesis *s, const char *config_name, pi0_error *error) {
    double start = clock_ms();
    if (config_name) TRY(config_find(&s->config, config_name, error));
    TRY(choose_model(s, error));
    TRY(check_target(s->directory, error));
    char source[40];
    snprintf(source, sizeof source, "synthetic:%llu", (unsigned long long)s->seed);
    TRY(checkpoint_open(&s->checkpoint, source, (pi0_model)s->model, NULL, error));
    for (size_t i = 0; i < checkpoint_count(s->checkpoint); i++) s->bytes += checkpoint_at(s->checkpoint, i)->bytes;
    TRY(make_directories(s, s->directory, error));
    char weights[PATH_MAX];
    TRY(join(weights, s->directory, "model.safetensors", error));
    TRY(output_check(weights, error));
    TRY(check_space(s, error));
    TRY(write_config(s, error));
    TRY(write_stats(s, error));
    TRY(write_weights(s, error));
    s->seconds = (clock_ms() - start) * 1e-3;
    return PI0_OK;
}

static int report(const synthesis *s, bool json) {
    static const char *const names[] = {"", "pi0", "pi05", "tiny-pi0", "tiny-pi05"};
    char source[40];
    snprintf(source, sizeof source, "synthetic:%llu", (unsigned long long)s->seed);
    const char *asset_id = s->config ? s->config->asset_id : NULL;
    if (json)
        return json_print(json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:s?, s:f}", "directory", s->directory, "model",
                                    names[s->model], "checkpoint", source, "parameters",
                                    (json_int_t)checkpoint_parameters(s->checkpoint), "tensors",
                                    (json_int_t)checkpoint_count(s->checkpoint), "bytes", (json_int_t)s->bytes,
                                    "asset_id", asset_id, "seconds", s->seconds));
    printf("%s: %s with the weights of %s: %zu tensors, %.3f GB, written in %.1f s\n", s->directory, names[s->model],
           source, checkpoint_count(s->checkpoint), (double)s->bytes * 1e-9, s->seconds);
    if (asset_id) printf("%s/assets/%s/norm_stats.json: mean 0, std 1, q01 -1, q99 1\n", s->directory, asset_id);
    return EXIT_DONE;
}

int command_synth(int argc, char **argv) {
    common_options common = common_options_default();
    model_options model = model_options_default();
    synthesis s = {.seed = 1};
    const char *config_name = NULL;
    option rows[MODEL_OPTION_COUNT + 1];
    model_options_table(rows, &model);
    const option options[] = {
        {.name = rows[1].name,
         .kind = OPTION_CHOICE,
         .target = &s.model,
         .value = rows[1].value,
         .help = "which model (default: the config's family, else pi0)",
         .minimum = rows[1].minimum},
        {.name = "--seed", .kind = OPTION_SEED, .target = &s.seed, .value = "N", .help = "of the weights"},
        {.name = "--config",
         .kind = OPTION_TEXT,
         .target = &config_name,
         .value = "NAME",
         .help = "an openpi config: adds assets/<asset_id>/norm_stats.json of its robot's width"},
        {0},
    };
    const command_line line = {
        .name = "synth",
        .summary = "write a synthetic checkpoint in openpi's layout",
        .description =
            "Writes DIR/model.safetensors (bf16 throughout, every tensor that openpi's own loader asks for),\n"
            "DIR/config.json and, with --config, statistics with mean 0, std 1, q01 -1, q99 1.\n"
            "DIR must be new or empty: nothing is overwritten. A run that fails or is interrupted leaves nothing.",
        .examples = "  pi0 synth /tmp/pi0 --seed 3                            the full model, 7 GB\n"
                    "  pi0 synth /tmp/tiny --model tiny-pi05 --seed 7          a tiny one, in a moment\n"
                    "  pi0 synth /tmp/aloha --config pi0_aloha_sim             with statistics for the robot\n",
        .operand = "DIR",
        .operand_value = &s.directory,
        .groups = (const option_group[]){{"synth", options}, {NULL, NULL}},
        .common = &common,
    };
    int exit_code;
    if (!options_parse(&line, argc, argv, &exit_code)) return exit_code;
    pi0_error error;
    pi0_status status = synthesise(&s, config_name, &error);
    forget(&s, status == PI0_OK);
    exit_code = status == PI0_OK ? report(&s, common.json) : terminal_fail(&error);
    checkpoint_close(&s.checkpoint);
    return exit_code;
}
