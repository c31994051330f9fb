/*
 * Opening a checkpoint: what kind is it, map its files, give every tensor its canonical name, work out the sizes, hold
 * every tensor that inference needs against them.
 */
#include "checkpoint/checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "base/memory.h"
#include "checkpoint/internal.h"
#include "checkpoint/synthetic.h"
#include "model/weights.h"

#define SYNTHETIC "synthetic"

/* ---- kind -------------------------------------------------------------------------------------------------------- */

/* "synthetic" or "synthetic:SEED"; *matches is false for anything else. */
static pi0_status parse_synthetic(const char *path, bool *matches, uint64_t *seed, pi0_error *error) {
    size_t length = strlen(SYNTHETIC);
    *matches = !strncmp(path, SYNTHETIC, length) && (path[length] == 0 || path[length] == ':');
    *seed = 1;
    if (!*matches || path[length] == 0) return PI0_OK;
    const char *digits = path + length + 1;
    char *end = NULL;
    errno = 0;
    if (*digits >= '0' && *digits <= '9') *seed = strtoull(digits, &end, 10);
    if (!end || *end || errno)
        return error_set(error, PI0_ERROR_ARGUMENT,
                         "expected synthetic:SEED with a number from 0 to 2^64 - 1, found "
                         "'%.200s'",
                         path);
    return PI0_OK;
}

/* Settings of lerobot's pi0.5 that add inputs to the network. */
static pi0_status refuse_memory(const json_t *config, const char *path, pi0_error *error) {
    static const char *const flags[] = {"use_visual_memory", "use_proprioceptive_memory"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (json_is_true(json_object_get(config, flags[i])))
            return error_set(error, PI0_ERROR_UNSUPPORTED,
                             "%.400s: expected %s to be false: observation memory is not "
                             "supported",
                             path, flags[i]);
    return PI0_OK;
}

/* lerobot's config.json names the policy as "type"; the one that openpi's converter writes has no such key. */
static pi0_status read_layout(const char *directory, checkpoint_layout *layout, pi0_family *family, pi0_error *error) {
    *layout = LAYOUT_OPENPI;
    *family = PI0_FAMILY_PI0;
    size_t size = strlen(directory) + sizeof "/config.json";
    char *path = memory_allocate(size);
    if (!path) return error_memory(error, size, "a path");
    snprintf(path, size, "%s/config.json", directory);
    struct stat information;
    json_t *config = NULL;
    pi0_status status = stat(path, &information) ? PI0_OK : json_open(&config, path, 0, error);
    const char *type = json_string_value(json_object_get(config, "type"));
    if (type) {
        *layout = LAYOUT_LEROBOT;
        if (!strcmp(type, "pi05"))
            *family = PI0_FAMILY_PI05;
        else if (strcmp(type, "pi0"))
            status = error_set(error, PI0_ERROR_UNSUPPORTED,
                               "%.400s: expected a policy of type pi0 or pi05, found '%.60s'", path, type);
        if (status == PI0_OK) status = refuse_memory(config, path, error);
    }
    json_decref(config);
    memory_release(path);
    return status;
}

pi0_status checkpoint_detect(const char *path, checkpoint_layout *layout, pi0_family *family, uint64_t *seed,
                             pi0_error *error) {
    bool synthetic;
    *layout = LAYOUT_SYNTHETIC;
    *family = PI0_FAMILY_PI0;
    TRY(parse_synthetic(path, &synthetic, seed, error));
    if (synthetic) return PI0_OK;
    *seed = 0;
    struct stat information;
    if (stat(path, &information))
        return error_set(error, PI0_ERROR_IO, "cannot open the checkpoint %.400s: %s", path, strerror(errno));
    if (!S_ISDIR(information.st_mode))
        return error_set(error, PI0_ERROR_IO, "%.400s: expected a checkpoint directory, found a file", path);
    return read_layout(path, layout, family, error);
}

/* ---- synthetic --------------------------------------------------------------------------------------------------- */

typedef struct synthetic_list {
    checkpoint *checkpoint;
    size_t count, name_bytes;
} synthetic_list;

static pi0_status measure_slot(void *user, const weight_slot *slot, pi0_error *error) {
    (void)error;
    synthetic_list *list = user;
    list->count++;
    list->name_bytes += strlen(slot->name) + 1;
    return PI0_OK;
}

static pi0_status add_slot(void *user, const weight_slot *slot, pi0_error *error) {
    (void)error;
    synthetic_list *list = user;
    checkpoint *checkpoint = list->checkpoint;
    char *name = checkpoint->synthetic_names + list->name_bytes;
    strcpy(name, slot->name);
    list->name_bytes += strlen(name) + 1;
    tensor *tensor = &checkpoint->synthetic[checkpoint->count];
    *tensor = (struct tensor){.name = name, .dtype = DTYPE_BF16, .rank = slot->rank};
    memcpy(tensor->shape, slot->shape, sizeof slot->shape);
    tensor->bytes = (size_t)tensor_elements(tensor) * sizeof(bf16);
    tensor->key = synthetic_key(name, checkpoint->seed);
    synthetic_amplitude_base(name, tensor->rank, tensor->shape, &tensor->amplitude, &tensor->base);
    checkpoint->entries[checkpoint->count++].tensor = tensor;
    return PI0_OK;
}

static pi0_status list_synthetic(checkpoint *checkpoint, pi0_model model, pi0_error *error) {
    bool tiny = model == PI0_MODEL_TINY_PI0 || model == PI0_MODEL_TINY_PI05;
    pi0_family family = model == PI0_MODEL_PI05 || model == PI0_MODEL_TINY_PI05 ? PI0_FAMILY_PI05 : PI0_FAMILY_PI0;
    model_config config = tiny ? model_config_tiny(family) : model_config_full(family);
    synthetic_list list = {.checkpoint = checkpoint};
    TRY(weights_visit(&config, NULL, measure_slot, &list, error));
    TRY(weights_visit_unread(&config, measure_slot, &list, error));
    checkpoint->entries = memory_zeroed(list.count, sizeof *checkpoint->entries);
    checkpoint->synthetic = memory_zeroed(list.count, sizeof *checkpoint->synthetic);
    checkpoint->synthetic_names = memory_allocate(list.name_bytes);
    if (!checkpoint->entries || !checkpoint->synthetic || !checkpoint->synthetic_names)
        return error_memory(error, list.count * sizeof *checkpoint->synthetic + list.name_bytes, "the list of tensors");
    list.name_bytes = 0;
    TRY(weights_visit(&config, NULL, add_slot, &list, error));
    return weights_visit_unread(&config, add_slot, &list, error);
}

/* ---- checks ------------------------------------------------------------------------------------------------------ */

typedef struct check {
    checkpoint *checkpoint;
    bool lenient, unread; /* unread: the tensors of weights_visit_unread */
} check;

static checkpoint_entry *find_entry(const checkpoint *checkpoint, const char *canonical_name) {
    size_t low = 0, high = checkpoint->named;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(canonical_name, checkpoint->by_name[middle]->canonical);
        if (order == 0) return checkpoint->by_name[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* Room for one more in a list of `count`; what it holds moves. */
static pi0_status make_room(void **list, size_t count, size_t *capacity, size_t size, pi0_error *error) {
    if (count < *capacity) return PI0_OK;
    size_t wanted = *capacity ? 2 * *capacity : 64;
    void *grown = memory_resize(*list, *capacity * size, wanted * size);
    if (!grown) return error_memory(error, wanted * size, "a list of tensors");
    *list = grown;
    *capacity = wanted;
    return PI0_OK;
}

static pi0_status add_missing(checkpoint *checkpoint, const char *name, pi0_error *error) {
    void *list = checkpoint->missing;
    TRY(make_room(&list, checkpoint->missing_count, &checkpoint->missing_capacity, sizeof *checkpoint->missing, error));
    checkpoint->missing = list;
    char *copy = memory_string(name);
    if (!copy) return error_memory(error, strlen(name), "the name of a missing tensor");
    checkpoint->missing[checkpoint->missing_count++] = copy;
    return PI0_OK;
}

static pi0_status add_unfit(checkpoint *checkpoint, const unfit_tensor *unfit, pi0_error *error) {
    void *list = checkpoint->unfit;
    TRY(make_room(&list, checkpoint->unfit_count, &checkpoint->unfit_capacity, sizeof *checkpoint->unfit, error));
    checkpoint->unfit = list;
    checkpoint->unfit[checkpoint->unfit_count++] = *unfit;
    return PI0_OK;
}

/* False: what is wrong with it is in *unfit. */
static bool fits(const tensor *tensor, const weight_slot *slot, unfit_tensor *unfit) {
    bool same = tensor->rank == slot->rank;
    for (int i = 0; same && i < slot->rank; i++) same = tensor->shape[i] == slot->shape[i];
    char shape[90];
    *unfit = (unfit_tensor){.name = tensor->name};
    if (!same) {
        shape_text(slot->rank, slot->shape, shape, sizeof shape);
        snprintf(unfit->expected, sizeof unfit->expected, "shape %s", shape);
        snprintf(unfit->found, sizeof unfit->found, "%s", tensor_shape_text(tensor, shape, sizeof shape));
        return false;
    }
    if (tensor->dtype == DTYPE_BF16 || tensor->dtype == DTYPE_F16 || tensor->dtype == DTYPE_F32) return true;
    snprintf(unfit->expected, sizeof unfit->expected, "dtype BF16, F16 or F32");
    snprintf(unfit->found, sizeof unfit->found, "%s", tensor_dtype_name(tensor->dtype));
    return false;
}

static pi0_status check_tensor(check *check, const tensor *tensor, const weight_slot *slot, pi0_error *error) {
    unfit_tensor unfit;
    if (fits(tensor, slot, &unfit)) return PI0_OK;
    if (check->lenient) return add_unfit(check->checkpoint, &unfit, error);
    return error_set(error, PI0_ERROR_FORMAT, "%.300s: tensor '%.300s': expected %s, found %s", check->checkpoint->path,
                     unfit.name, unfit.expected, unfit.found);
}

static pi0_status check_slot(void *user, const weight_slot *slot, pi0_error *error) {
    check *check = user;
    checkpoint *checkpoint = check->checkpoint;
    bool counted = !check->unread || !strcmp(slot->name, WEIGHTS_PREFIX_NORM);
    if (counted) {
        int64_t elements = 1;
        for (int i = 0; i < slot->rank; i++) elements *= slot->shape[i];
        checkpoint->parameters += elements;
    }
    checkpoint_entry *entry = find_entry(checkpoint, slot->name);
    if (entry && counted) entry->used = true;
    if (check->unread) return PI0_OK;
    return entry ? check_tensor(check, entry->tensor, slot, error) : add_missing(checkpoint, slot->name, error);
}

static pi0_status list_unused(checkpoint *checkpoint, pi0_error *error) {
    checkpoint->unused = memory_zeroed(checkpoint->count, sizeof *checkpoint->unused);
    if (!checkpoint->unused)
        return error_memory(error, checkpoint->count * sizeof *checkpoint->unused, "the list of unused tensors");
    for (size_t i = 0; i < checkpoint->count; i++)
        if (!checkpoint->entries[i].used)
            checkpoint->unused[checkpoint->unused_count++] = checkpoint->entries[i].tensor->name;
    return PI0_OK;
}

/* Adapters beside whole weights would change the answer if they were applied, so leaving them out is no choice. */
static pi0_status refuse_lora(const checkpoint *checkpoint, pi0_error *error) {
    const char *first = NULL;
    size_t count = 0;
    for (size_t i = 0; i < checkpoint->unused_count; i++) {
        if (!strstr(checkpoint->unused[i], "lora")) continue;
        if (!count++) first = checkpoint->unused[i];
    }
    if (!count) return PI0_OK;
    return error_set(error, PI0_ERROR_UNSUPPORTED,
                     "%.300s: %zu LoRA tensors (the first is '%.300s'): merge them into the weights first",
                     checkpoint->path, count, first);
}

static void append_names(char *text, size_t size, const char *const *names, size_t count) {
    size_t shown = count < 3 ? count : 3, used = strlen(text);
    for (size_t i = 0; i < shown && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s'%.110s'", i ? ", " : "", names[i]);
    if (count > shown && used < size) snprintf(text + used, size - used, " and %zu more", count - shown);
}

static pi0_status refuse_missing(const checkpoint *checkpoint, pi0_error *error) {
    if (!checkpoint->missing_count) return PI0_OK;
    char missing[450] = "", unused[450] = "";
    append_names(missing, sizeof missing, (const char *const *)checkpoint->missing, checkpoint->missing_count);
    if (checkpoint->unused_count) {
        strcpy(unused, "; not known: ");
        append_names(unused, sizeof unused, checkpoint->unused, checkpoint->unused_count);
    }
    return error_set(error, PI0_ERROR_FORMAT, "%.300s: %zu of the tensors that inference needs are missing: %s%s",
                     checkpoint->path, checkpoint->missing_count, missing, unused);
}

/* A file cut down to fewer layers is consistent in itself, so this cannot be an error: small models are legitimate. */
static void warn_depth(const checkpoint *checkpoint, const log_sink *log) {
    const model_config *config = &checkpoint->config, full = model_config_full(config->family);
    if (config->vit.width == full.vit.width && config->vit.layers != full.vit.layers)
        log_message(log, PI0_LOG_WARNING, "%s: expected %d vision layers at width %d, found %d", checkpoint->path,
                    full.vit.layers, full.vit.width, config->vit.layers);
    if (config->language.width == full.language.width && config->language.layers != full.language.layers)
        log_message(log, PI0_LOG_WARNING, "%s: expected %d language layers at width %d, found %d", checkpoint->path,
                    full.language.layers, full.language.width, config->language.layers);
}

static pi0_status check_tensors(checkpoint *checkpoint, bool lenient, const log_sink *log, pi0_error *error) {
    TRY(checkpoint_resolve_names(checkpoint, error));
    TRY(checkpoint_find_sizes(checkpoint, lenient, error));
    check check = {.checkpoint = checkpoint, .lenient = lenient};
    TRY(weights_visit(&checkpoint->config, NULL, check_slot, &check, error));
    check.unread = true;
    TRY(weights_visit_unread(&checkpoint->config, check_slot, &check, error));
    TRY(list_unused(checkpoint, error));
    warn_depth(checkpoint, log);
    if (lenient) return PI0_OK;
    TRY(refuse_lora(checkpoint, error));
    return refuse_missing(checkpoint, error);
}

/* ---- open, close ------------------------------------------------------------------------------------------------- */

static pi0_status open_parts(checkpoint *checkpoint, const char *path, pi0_model model, bool lenient,
                             const log_sink *log, pi0_error *error) {
    checkpoint->path = memory_string(path);
    if (!checkpoint->path) return error_memory(error, strlen(path) + 1, "a path");
    TRY(checkpoint_detect(path, &checkpoint->layout, &checkpoint->config.family, &checkpoint->seed, error));
    if (checkpoint->layout == LAYOUT_SYNTHETIC)
        TRY(list_synthetic(checkpoint, model, error));
    else
        TRY(checkpoint_map_files(checkpoint, log, error));
    return check_tensors(checkpoint, lenient, log, error);
}

static pi0_status open_checkpoint(checkpoint **result, const char *path, pi0_model model, bool lenient,
                                  const log_sink *log, pi0_error *error) {
    *result = NULL;
    checkpoint *checkpoint = memory_zeroed(1, sizeof *checkpoint);
    if (!checkpoint) return error_memory(error, sizeof *checkpoint, "a checkpoint");
    pi0_status status = open_parts(checkpoint, path, model, lenient, log, error);
    if (status == PI0_OK)
        *result = checkpoint;
    else
        checkpoint_close(&checkpoint);
    return status;
}

pi0_status checkpoint_open(checkpoint **checkpoint, const char *path, pi0_model model, const log_sink *log,
                           pi0_error *error) {
    return open_checkpoint(checkpoint, path, model, false, log, error);
}

pi0_status checkpoint_open_lenient(checkpoint **checkpoint, const char *path, pi0_model model, const log_sink *log,
                                   pi0_error *error) {
    return open_checkpoint(checkpoint, path, model, true, log, error);
}

void checkpoint_close(checkpoint **checkpoint) {
    if (!checkpoint || !*checkpoint) return;
    struct checkpoint *closing = *checkpoint;
    for (size_t i = 0; i < closing->missing_count; i++) memory_release(closing->missing[i]);
    memory_release(closing->missing);
    memory_release(closing->unfit);
    memory_release(closing->unused);
    memory_release(closing->by_name);
    memory_release(closing->entries);
    memory_release(closing->synthetic_names);
    memory_release(closing->synthetic);
    for (size_t i = 0; i < closing->shard_count; i++) safetensors_close(&closing->shards[i]);
    memory_release(closing->shards);
    memory_release(closing->path);
    memory_release(closing);
    *checkpoint = NULL;
}

/* ---- questions --------------------------------------------------------------------------------------------------- */

checkpoint_layout checkpoint_get_layout(const checkpoint *checkpoint) { return checkpoint->layout; }

const char *checkpoint_layout_name(checkpoint_layout layout) {
    return layout == LAYOUT_OPENPI ? "openpi" : layout == LAYOUT_LEROBOT ? "lerobot" : "synthetic";
}

const model_config *checkpoint_config(const checkpoint *checkpoint) { return &checkpoint->config; }

uint64_t checkpoint_seed(const checkpoint *checkpoint) { return checkpoint->seed; }

const char *checkpoint_path(const checkpoint *checkpoint) { return checkpoint->path; }

int64_t checkpoint_parameters(const checkpoint *checkpoint) { return checkpoint->parameters; }

const tensor *checkpoint_find(const checkpoint *checkpoint, const char *canonical_name) {
    const checkpoint_entry *entry = find_entry(checkpoint, canonical_name);
    return entry ? entry->tensor : NULL;
}

size_t checkpoint_count(const checkpoint *checkpoint) { return checkpoint->count; }

const tensor *checkpoint_at(const checkpoint *checkpoint, size_t index) { return checkpoint->entries[index].tensor; }

size_t checkpoint_missing_count(const checkpoint *checkpoint) { return checkpoint->missing_count; }

const char *checkpoint_missing(const checkpoint *checkpoint, size_t index) { return checkpoint->missing[index]; }

size_t checkpoint_unfit_count(const checkpoint *checkpoint) { return checkpoint->unfit_count; }

const unfit_tensor *checkpoint_unfit(const checkpoint *checkpoint, size_t index) { return &checkpoint->unfit[index]; }

size_t checkpoint_unused_count(const checkpoint *checkpoint) { return checkpoint->unused_count; }

const char *checkpoint_unused(const checkpoint *checkpoint, size_t index) { return checkpoint->unused[index]; }
