#include "policy/norm_stats.h"

#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

/* Where a statistic stands, for errors. */
typedef struct place {
    const char *file, *key, *field;
} place;

static pi0_status refuse(const place *place, const char *expected, const char *found, pi0_error *error) {
    return error_set(error, PI0_ERROR_FORMAT, "%s: expected %s in norm_stats, \"%.100s\", \"%s\", found %s",
                     place->file, expected, place->key, place->field, found);
}

static pi0_status allocate_values(norm_values *values, size_t count, pi0_error *error) {
    values->values = memory_zeroed(count, sizeof *values->values);
    if (!values->values) return error_memory(error, count * sizeof *values->values, "statistics");
    values->count = (int)count;
    return PI0_OK;
}

static pi0_status read_values(norm_values *values, const json_t *entry, const place *place, bool required,
                              pi0_error *error) {
    const json_t *list = json_object_get(entry, place->field);
    if (!required && (!list || json_is_null(list))) return PI0_OK;
    if (!json_is_array(list)) return refuse(place, "a list of numbers", json_kind_name(list), error);
    size_t count = json_array_size(list);
    if (count == 0) return refuse(place, "a list of numbers", "an empty one", error);
    if (count > 1 << 20) return refuse(place, "a list of numbers", "one of more than a million", error);
    TRY(allocate_values(values, count, error));
    for (size_t i = 0; i < count; i++) {
        const json_t *number = json_array_get(list, i);
        if (!json_is_number(number)) return refuse(place, "only numbers", json_kind_name(number), error);
        values->values[i] = json_number_value(number);
        if (!isfinite(values->values[i])) return refuse(place, "finite numbers", "one that is not", error);
    }
    return PI0_OK;
}

static pi0_status read_entry(norm_entry *entry, const char *key, const json_t *object, const char *file,
                             pi0_error *error) {
    if (!json_is_object(object))
        return error_set(error, PI0_ERROR_FORMAT, "%s: expected an object in norm_stats, \"%.100s\", found %s", file,
                         key, json_kind_name(object));
    entry->key = memory_string(key);
    if (!entry->key) return error_memory(error, strlen(key), "statistics");
    TRY(read_values(&entry->mean, object, &(place){file, key, "mean"}, true, error));
    TRY(read_values(&entry->std, object, &(place){file, key, "std"}, true, error));
    TRY(read_values(&entry->q01, object, &(place){file, key, "q01"}, false, error));
    TRY(read_values(&entry->q99, object, &(place){file, key, "q99"}, false, error));
    return PI0_OK;
}

static pi0_status read_root(norm_stats *stats, json_t *root, const char *file, pi0_error *error) {
    json_t *map = json_object_get(root, "norm_stats");
    if (!json_is_object(map))
        return error_set(error, PI0_ERROR_FORMAT, "%s: expected an object with a map \"norm_stats\", found %s%s", file,
                         json_kind_name(json_is_object(root) ? map : root),
                         json_is_object(root) ? " under that key" : "");
    size_t count = json_object_size(map);
    stats->entries = memory_zeroed(count, sizeof *stats->entries);
    if (!stats->entries) return error_memory(error, count * sizeof *stats->entries, "statistics");
    const char *key;
    json_t *object;
    json_object_foreach(map, key, object) TRY(read_entry(&stats->entries[stats->count++], key, object, file, error));
    return PI0_OK;
}

/* Takes the root; on failure leaves *stats empty. */
static pi0_status read_and_release(norm_stats *stats, json_t *root, const char *file, pi0_error *error) {
    pi0_status status = read_root(stats, root, file, error);
    json_decref(root);
    if (status != PI0_OK) norm_stats_release(stats);
    return status;
}

pi0_status norm_stats_parse(norm_stats *stats, const char *text, size_t size, const char *name, pi0_error *error) {
    *stats = (norm_stats){0};
    json_t *root;
    TRY(json_parse(&root, text, size, JSON_DECODE_INT_AS_REAL, name, error));
    return read_and_release(stats, root, name, error);
}

pi0_status norm_stats_open(norm_stats *stats, const char *path, pi0_error *error) {
    *stats = (norm_stats){0};
    json_t *root;
    TRY(json_open(&root, path, JSON_DECODE_INT_AS_REAL, error));
    return read_and_release(stats, root, path, error);
}

static pi0_status fill(norm_values *values, int count, double number, pi0_error *error) {
    TRY(allocate_values(values, (size_t)count, error));
    for (int i = 0; i < count; i++) values->values[i] = number;
    return PI0_OK;
}

static pi0_status fill_entry(norm_entry *entry, const char *key, int count, pi0_error *error) {
    entry->key = memory_string(key);
    if (!entry->key) return error_memory(error, strlen(key), "statistics");
    TRY(fill(&entry->mean, count, 0, error));
    TRY(fill(&entry->std, count, 1, error));
    TRY(fill(&entry->q01, count, -1, error));
    return fill(&entry->q99, count, 1, error);
}

pi0_status norm_stats_synthetic(norm_stats *stats, int state_count, int action_count, pi0_error *error) {
    *stats = (norm_stats){.entries = memory_zeroed(2, sizeof *stats->entries), .count = 2};
    if (!stats->entries) {
        stats->count = 0;
        return error_memory(error, 2 * sizeof *stats->entries, "statistics");
    }
    pi0_status status = fill_entry(&stats->entries[0], "state", state_count, error);
    if (status == PI0_OK) status = fill_entry(&stats->entries[1], "actions", action_count, error);
    if (status != PI0_OK) norm_stats_release(stats);
    return status;
}

void norm_stats_release(norm_stats *stats) {
    for (size_t i = 0; i < stats->count; i++) {
        norm_entry *entry = &stats->entries[i];
        memory_release(entry->key);
        memory_release(entry->mean.values);
        memory_release(entry->std.values);
        memory_release(entry->q01.values);
        memory_release(entry->q99.values);
    }
    memory_release(stats->entries);
    *stats = (norm_stats){0};
}

const norm_entry *norm_stats_find(const norm_stats *stats, const char *key) {
    for (size_t i = 0; i < stats->count; i++)
        if (strcmp(stats->entries[i].key, key) == 0) return &stats->entries[i];
    return NULL;
}
