/*
 * pi0 infer --batch: recorded requests of a folder, some at a time. All of them are read and prepared once before the
 * weights are loaded, so that a bad file is refused before anything is written, or with --keep-going named and left
 * out. Answers appear whole or not at all, so --resume can go by the files that are there.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/npy.h"
#include "cli/infer.h"
#include "cli/json.h"
#include "cli/terminal.h"

/* "000001.msgpack" gives "000001"; `000001.response.msgpack` and anything else is left alone. */
typedef struct stems {
    char **names;
    size_t count, capacity;
    size_t answered, refused; /* left out: by --resume, by --keep-going */
} stems;

static bool is_request(const char *name) {
    size_t digits = strspn(name, "0123456789");
    return digits > 0 && strcmp(name + digits, ".msgpack") == 0;
}

static bool stems_add(stems *list, const char *name) {
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        char **names = memory_resize(list->names, list->count * sizeof *names, capacity * sizeof *names);
        if (!names) return false;
        list->names = names;
        list->capacity = capacity;
    }
    list->names[list->count] = memory_string_n(name, strspn(name, "0123456789"));
    return list->names[list->count] && ++list->count;
}

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static pi0_status stems_find(stems *list, const char *folder, pi0_error *error) {
    DIR *directory = opendir(folder);
    if (!directory) return error_set(error, PI0_ERROR_IO, "%s: %s", folder, strerror(errno));
    bool enough = true;
    for (struct dirent *entry; enough && (entry = readdir(directory));)
        if (is_request(entry->d_name)) enough = stems_add(list, entry->d_name);
    closedir(directory);
    if (!enough) return error_memory(error, list->capacity, "a list of files");
    if (list->count == 0)
        return error_set(error, PI0_ERROR_IO, "%s: expected requests named NNNNNN.msgpack, found none", folder);
    qsort(list->names, list->count, sizeof *list->names, compare_names);
    return PI0_OK;
}

static void stems_release(stems *list) {
    for (size_t i = 0; i < list->count; i++) memory_release(list->names[i]);
    memory_release(list->names);
}

static pi0_status prepare(const inference *run, const char *stem, pi0_input **input, pi0_error *error) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s.msgpack", run->options->batch, stem);
    pi0_request *request;
    TRY(infer_read_request(&request, path, error));
    pi0_status status = pi0_policy_prepare(run->policy, request, input, error);
    pi0_request_free(&request);
    return status == PI0_OK ? PI0_OK : error_prefix(error, status, "%s", path);
}

/* Keeps those of --shard, and with --resume those without an answer. */
static void stems_choose(stems *list, const infer_options *o) {
    size_t kept = 0;
    for (size_t i = 0; i < list->count; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/%s.npy", o->out, list->names[i]);
        bool mine = !o->shard_count || i % o->shard_count == o->shard_index;
        bool answered = mine && o->resume && access(path, F_OK) == 0;
        if (answered) list->answered++;
        if (mine && !answered)
            list->names[kept++] = list->names[i];
        else
            memory_release(list->names[i]);
    }
    list->count = kept;
}

/* The most valid tokens of any request. The first that cannot be prepared ends it; with --keep-going it leaves the
 * list. */
static pi0_status check_all(const inference *run, stems *list, int *max_tokens, pi0_error *error) {
    size_t kept = 0, all = list->count;
    *max_tokens = 0;
    for (size_t i = 0; i < all; i++) {
        pi0_input *input;
        pi0_status status = prepare(run, list->names[i], &input, error);
        if (status != PI0_OK && !run->options->keep_going) return status;
        char *name = list->names[i];
        list->names[i] = NULL;
        if (status == PI0_OK) {
            int tokens = infer_token_count(input);
            if (tokens > *max_tokens) *max_tokens = tokens;
            pi0_input_free(&input);
            list->names[kept++] = name;
        } else {
            terminal_fail(error);
            list->refused++;
            memory_release(name);
        }
        terminal_progress(NULL, "reading requests", (double)(i + 1) / (double)all);
    }
    list->count = kept;
    return PI0_OK;
}

/* Requests first .. first+count-1: prepare, run, write. */
static pi0_status run_some(inference *run, const stems *list, size_t first, int count, pi0_input **inputs,
                           infer_times *times, pi0_error *error) {
    const pi0_policy_info *info = &run->policy_info;
    double start = clock_ms();
    for (int i = 0; i < count; i++) TRY(prepare(run, list->names[first + (size_t)i], &inputs[i], error));
    times->preprocess = times->total = clock_ms() - start;
    TRY(inference_run(run, inputs, count, times, error));
    for (int i = 0; i < count; i++) {
        TRY(inference_finish(run, inputs[i], i, times, error));
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/%s.npy", run->options->out, list->names[first + (size_t)i]);
        TRY(npy_write_table(path, run->actions, info->horizon, info->robot_action_dim, info->float32_actions, error));
    }
    return PI0_OK;
}

static pi0_status run_all(inference *run, const stems *list, double *total_ms, pi0_error *error) {
    size_t size = (size_t)run->options->batch_size;
    pi0_input **inputs = memory_zeroed(size, sizeof(pi0_input *));
    if (!inputs) return error_memory(error, size * sizeof(pi0_input *), "a batch");
    pi0_status status = PI0_OK;
    for (size_t first = 0; status == PI0_OK && first < list->count; first += size) {
        infer_times times = {0};
        size_t count = list->count - first < size ? list->count - first : size;
        status = run_some(run, list, first, (int)count, inputs, &times, error);
        for (size_t i = 0; i < size; i++) pi0_input_free(&inputs[i]);
        *total_ms += times.total;
        terminal_progress(NULL, "inference", (double)(first + count) / (double)list->count);
    }
    memory_release(inputs);
    return status;
}

static int tell(const infer_options *o, const stems *list, double total_ms) {
    double per_request = list->count ? total_ms / (double)list->count : 0;
    int exit_code = list->refused ? EXIT_FAILED : EXIT_DONE;
    if (o->common.json) {
        int printed = json_print(json_pack("{s:I, s:s, s:i, s:f, s:f, s:I, s:I}", "requests", (json_int_t)list->count,
                                           "out", o->out, "batch_size", o->batch_size, "total_ms", total_ms,
                                           "ms_per_request", per_request, "already_answered",
                                           (json_int_t)list->answered, "refused", (json_int_t)list->refused));
        return printed == EXIT_DONE ? exit_code : printed;
    }
    printf("%zu requests answered in %s: %.1f ms, %.1f ms a request", list->count, o->out, total_ms, per_request);
    if (list->answered) printf("; %zu were answered already", list->answered);
    if (list->refused) printf("; %zu refused", list->refused);
    printf("\n");
    return exit_code;
}

int infer_batch(const infer_options *o) {
    pi0_error error;
    inference run = {0};
    stems list = {0};
    int max_tokens;
    double total_ms = 0;
    pi0_status status = stems_find(&list, o->batch, &error);
    if (status == PI0_OK) status = output_folder(o->out, &error);
    if (status == PI0_OK) stems_choose(&list, o);
    if (status == PI0_OK) status = inference_prepare(&run, o, &error);
    if (status == PI0_OK) status = check_all(&run, &list, &max_tokens, &error);
    if (status == PI0_OK && list.count) {
        int largest = list.count < (size_t)o->batch_size ? (int)list.count : o->batch_size;
        status = inference_load(&run, largest, max_tokens, &error);
    }
    if (status == PI0_OK) status = run_all(&run, &list, &total_ms, &error);
    inference_release(&run);
    int exit_code = status == PI0_OK ? tell(o, &list, total_ms) : EXIT_FAILED;
    if (status != PI0_OK) terminal_fail(&error);
    stems_release(&list);
    return exit_code;
}
