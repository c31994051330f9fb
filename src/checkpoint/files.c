/* The weight files of a checkpoint directory: one model.safetensors, or shards and their index. */
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/path.h"
#include "checkpoint/internal.h"

#define INDEX_NAME "model.safetensors.index.json"

static pi0_status no_weights(const char *directory, pi0_error *error) {
    static const char *const jax_files[] = {"params/_METADATA", "params/_CHECKPOINT_METADATA"};
    bool found;
    for (size_t i = 0; i < sizeof jax_files / sizeof *jax_files; i++) {
        TRY(path_exists(&found, directory, jax_files[i], error));
        if (found)
            return error_set(error, PI0_ERROR_UNSUPPORTED,
                             "%.400s: this is a JAX checkpoint; make model.safetensors of it with openpi's "
                             "examples/convert_jax_model_to_pytorch.py",
                             directory);
    }
    TRY(path_exists(&found, directory, "adapter_model.safetensors", error));
    if (found)
        return error_set(error, PI0_ERROR_UNSUPPORTED,
                         "%.400s: this is a LoRA adapter; merge it into its base model first", directory);
    return error_set(error, PI0_ERROR_IO, "%.400s: expected model.safetensors or " INDEX_NAME ", found neither",
                     directory);
}

/* Opens directory/name as the next shard. */
static pi0_status add_shard(checkpoint *checkpoint, const char *name, pi0_error *error) {
    size_t bytes = checkpoint->shard_count * sizeof *checkpoint->shards;
    safetensors **shards = memory_resize(checkpoint->shards, bytes, bytes + sizeof *shards);
    if (!shards) return error_memory(error, bytes + sizeof *shards, "the list of shards");
    checkpoint->shards = shards;
    char *path;
    TRY(path_join(&path, checkpoint->path, name, error));
    pi0_status status = safetensors_open(&shards[checkpoint->shard_count], path, error);
    memory_release(path);
    if (status == PI0_OK) checkpoint->shard_count++;
    return status;
}

static pi0_status allocate_entries(checkpoint *checkpoint, size_t count, pi0_error *error) {
    checkpoint->entries = memory_zeroed(count, sizeof *checkpoint->entries);
    return checkpoint->entries ? PI0_OK
                               : error_memory(error, count * sizeof *checkpoint->entries, "the list of tensors");
}

static pi0_status map_single(checkpoint *checkpoint, pi0_error *error) {
    TRY(add_shard(checkpoint, "model.safetensors", error));
    const safetensors *file = checkpoint->shards[0];
    TRY(allocate_entries(checkpoint, safetensors_count(file), error));
    for (size_t i = 0; i < safetensors_count(file); i++)
        checkpoint->entries[checkpoint->count++].tensor = safetensors_at(file, i);
    return PI0_OK;
}

/* The shard that the index calls `name`, opened when it is first named. names[i] belongs to shard i. */
static pi0_status find_shard(checkpoint *checkpoint, const char *name, const char **names, const safetensors **shard,
                             pi0_error *error) {
    for (size_t i = 0; i < checkpoint->shard_count; i++) {
        if (strcmp(names[i], name)) continue;
        *shard = checkpoint->shards[i];
        return PI0_OK;
    }
    if (!*name || *name == '.' || strchr(name, '/'))
        return error_set(error, PI0_ERROR_FORMAT, "expected the names of files beside the index, found '%.200s'", name);
    names[checkpoint->shard_count] = name;
    TRY(add_shard(checkpoint, name, error));
    *shard = checkpoint->shards[checkpoint->shard_count - 1];
    return PI0_OK;
}

static pi0_status map_shards(checkpoint *checkpoint, const json_t *weight_map, const char **names, const log_sink *log,
                             pi0_error *error) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)weight_map, key, value) {
        const safetensors *shard = NULL;
        if (!json_is_string(value))
            return error_set(error, PI0_ERROR_FORMAT, "expected a file name for '%.300s', found %s", key,
                             json_kind_name(value));
        TRY(find_shard(checkpoint, json_string_value(value), names, &shard, error));
        const tensor *tensor = safetensors_find(shard, key);
        if (!tensor)
            return error_set(error, PI0_ERROR_FORMAT, "tensor '%.300s' is not in %.200s, where the index has it", key,
                             json_string_value(value));
        checkpoint->entries[checkpoint->count++].tensor = tensor;
    }
    size_t stored = 0;
    for (size_t i = 0; i < checkpoint->shard_count; i++) stored += safetensors_count(checkpoint->shards[i]);
    if (stored > checkpoint->count)
        log_message(log, PI0_LOG_WARNING, "%s: the shards hold %zu tensors that the index does not list",
                    checkpoint->path, stored - checkpoint->count);
    return PI0_OK;
}

static pi0_status map_index(checkpoint *checkpoint, const log_sink *log, pi0_error *error) {
    char *path;
    TRY(path_join(&path, checkpoint->path, INDEX_NAME, error));
    json_t *root = NULL;
    pi0_status status = json_open(&root, path, 0, error);
    memory_release(path);
    TRY(status);
    const json_t *weight_map = json_object_get(root, "weight_map");
    size_t count = json_object_size(weight_map);
    const char **names = memory_zeroed(count, sizeof *names);
    if (!names)
        status = error_memory(error, count * sizeof *names, "the list of shards");
    else if (!json_is_object(weight_map))
        status = error_set(error, PI0_ERROR_FORMAT, "expected an object as 'weight_map', found %s",
                           json_kind_name(weight_map));
    if (status == PI0_OK) status = allocate_entries(checkpoint, count, error);
    if (status == PI0_OK) status = map_shards(checkpoint, weight_map, names, log, error);
    memory_release(names);
    json_decref(root);
    if (status != PI0_OK && status != PI0_ERROR_MEMORY)
        error_prefix(error, status, "%.300s/" INDEX_NAME, checkpoint->path);
    return status;
}

pi0_status checkpoint_map_files(checkpoint *checkpoint, const log_sink *log, pi0_error *error) {
    bool single, sharded;
    TRY(path_exists(&single, checkpoint->path, "model.safetensors", error));
    if (single) return map_single(checkpoint, error);
    TRY(path_exists(&sharded, checkpoint->path, INDEX_NAME, error));
    if (sharded) return map_index(checkpoint, log, error);
    return no_weights(checkpoint->path, error);
}
