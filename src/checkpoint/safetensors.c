#include "checkpoint/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

/* The reference implementation refuses longer headers, too; it bounds what a hostile file makes us allocate. */
#define MAX_HEADER_BYTES 100000000u

struct safetensors {
    char *name; /* path, for messages */
    void *mapping;
    size_t mapped_bytes;
    json_t *header;         /* owns every name and string handed out */
    json_t *metadata;       /* borrowed from header, or NULL */
    size_t count;           /* tensors */
    tensor *tensors;        /* [count], by data offset */
    const tensor **by_name; /* [count], by strcmp of their names */
};

typedef struct span {
    size_t begin, end; /* bytes after the header */
} span;

/* A non-negative JSON integer; false for anything else (a real like 3.0, too: the format has integers only). */
static bool read_size(const json_t *value, size_t *size) {
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *size = (size_t)json_integer_value(value);
    return true;
}

static pi0_status read_dtype(const json_t *value, tensor *tensor, pi0_error *error) {
    if (!json_is_string(value))
        return error_set(error, PI0_ERROR_FORMAT, "tensor '%.300s': expected a string as 'dtype'", tensor->name);
    if (!tensor_dtype_from_name(json_string_value(value), &tensor->dtype))
        return error_set(error, PI0_ERROR_FORMAT, "tensor '%.300s': unknown dtype '%.60s'", tensor->name,
                         json_string_value(value));
    return PI0_OK;
}

/* Fills rank, shape and bytes. */
static pi0_status read_shape(const json_t *value, tensor *tensor, pi0_error *error) {
    if (!json_is_array(value))
        return error_set(error, PI0_ERROR_FORMAT, "tensor '%.300s': expected an array as 'shape'", tensor->name);
    if (json_array_size(value) > TENSOR_MAX_RANK)
        return error_set(error, PI0_ERROR_FORMAT, "tensor '%.300s': expected at most %d axes, found %zu", tensor->name,
                         (int)TENSOR_MAX_RANK, json_array_size(value));
    tensor->rank = (int)json_array_size(value);
    bool empty = false;
    size_t bytes = tensor_dtype_size(tensor->dtype);
    for (int i = 0; i < tensor->rank; i++) {
        size_t length;
        if (!read_size(json_array_get(value, (size_t)i), &length))
            return error_set(error, PI0_ERROR_FORMAT, "tensor '%.300s': axis %d of 'shape' is no size", tensor->name,
                             i);
        tensor->shape[i] = (int64_t)length;
        if (length == 0)
            empty = true;
        else if (bytes > (size_t)INT64_MAX / length)
            return error_set(error, PI0_ERROR_FORMAT, "tensor '%.300s': the shape's size overflows 64 bits",
                             tensor->name);
        else
            bytes *= length;
    }
    tensor->bytes = empty ? 0 : bytes;
    return PI0_OK;
}

static pi0_status read_offsets(const json_t *value, const tensor *tensor, size_t data_bytes, span *span,
                               pi0_error *error) {
    if (!json_is_array(value) || json_array_size(value) != 2 || !read_size(json_array_get(value, 0), &span->begin) ||
        !read_size(json_array_get(value, 1), &span->end))
        return error_set(error, PI0_ERROR_FORMAT, "tensor '%.300s': expected 'data_offsets' to be two sizes",
                         tensor->name);
    if (span->begin > span->end || span->end > data_bytes)
        return error_set(error, PI0_ERROR_FORMAT,
                         "tensor '%.300s': data offsets [%zu, %zu] are not inside the %zu bytes of data that the file "
                         "holds (truncated?)",
                         tensor->name, span->begin, span->end, data_bytes);
    if (span->end - span->begin != tensor->bytes) {
        char shape[200];
        return error_set(error, PI0_ERROR_FORMAT, "tensor '%.300s': expected %zu bytes for %s %s, found %zu",
                         tensor->name, tensor->bytes, tensor_dtype_name(tensor->dtype),
                         tensor_shape_text(tensor, shape, sizeof shape), span->end - span->begin);
    }
    return PI0_OK;
}

static pi0_status read_tensor(const char *name, const json_t *entry, const unsigned char *data, size_t data_bytes,
                              tensor *tensor, pi0_error *error) {
    *tensor = (struct tensor){.name = name};
    if (!json_is_object(entry))
        return error_set(error, PI0_ERROR_FORMAT, "tensor '%.300s': expected an object in the header", name);
    span span = {0};
    TRY(read_dtype(json_object_get(entry, "dtype"), tensor, error));
    TRY(read_shape(json_object_get(entry, "shape"), tensor, error));
    TRY(read_offsets(json_object_get(entry, "data_offsets"), tensor, data_bytes, &span, error));
    tensor->data = data + span.begin;
    return PI0_OK;
}

static int by_offset(const void *left, const void *right) {
    const tensor *a = left, *b = right;
    if (a->data != b->data) return (const unsigned char *)a->data < (const unsigned char *)b->data ? -1 : 1;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? -1 : 1; /* empty tensors before the one they share a place with */
    return strcmp(a->name, b->name);
}

/* The format wants the tensors to cover the data without holes and without overlap. `tensors` are sorted. */
static pi0_status check_coverage(const safetensors *file, const unsigned char *data, size_t data_bytes,
                                 pi0_error *error) {
    size_t end = 0;
    for (size_t i = 0; i < file->count; i++) {
        const tensor *tensor = &file->tensors[i];
        size_t begin = (size_t)((const unsigned char *)tensor->data - data);
        if (begin < end)
            return error_set(error, PI0_ERROR_FORMAT, "tensors '%.200s' and '%.200s' overlap at data byte %zu",
                             file->tensors[i - 1].name, tensor->name, begin);
        if (begin > end)
            return error_set(error, PI0_ERROR_FORMAT, "data bytes %zu to %zu, before '%.200s', belong to no tensor",
                             end, begin, tensor->name);
        end = begin + tensor->bytes;
    }
    if (end != data_bytes)
        return error_set(error, PI0_ERROR_FORMAT, "expected %zu bytes of data after the header, found %zu", end,
                         data_bytes);
    return PI0_OK;
}

static int by_tensor_name(const void *left, const void *right) {
    const tensor *const *a = left, *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

static pi0_status check_metadata(const json_t *metadata, pi0_error *error) {
    if (!json_is_object(metadata))
        return error_set(error, PI0_ERROR_FORMAT, "expected '__metadata__' to be an object of strings");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)metadata, key, value) {
        if (!json_is_string(value))
            return error_set(error, PI0_ERROR_FORMAT, "expected '__metadata__' entry '%.200s' to be a string", key);
    }
    return PI0_OK;
}

static pi0_status parse_header(safetensors *file, const unsigned char *bytes, size_t size, pi0_error *error) {
    if (size < 8)
        return error_set(error, PI0_ERROR_FORMAT, "expected a safetensors file of at least 8 bytes, found %zu", size);
    uint64_t header_bytes = 0;
    for (int i = 0; i < 8; i++) header_bytes |= (uint64_t)bytes[i] << (8 * i);
    if (header_bytes > size - 8)
        return error_set(error, PI0_ERROR_FORMAT,
                         "the header claims %llu bytes, but the file has only %zu after the "
                         "length (no safetensors file, or truncated)",
                         (unsigned long long)header_bytes, size - 8);
    if (header_bytes > MAX_HEADER_BYTES)
        return error_set(error, PI0_ERROR_FORMAT, "expected a header of at most %u bytes, found %llu", MAX_HEADER_BYTES,
                         (unsigned long long)header_bytes);

    json_error_t problem;
    file->header = json_loadb((const char *)bytes + 8, header_bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &problem);
    if (!file->header)
        return error_set(error, PI0_ERROR_FORMAT, "the header is no valid JSON: %.160s (header byte %d)", problem.text,
                         problem.position);
    if (!json_is_object(file->header))
        return error_set(error, PI0_ERROR_FORMAT, "expected the header to be a JSON object");

    const unsigned char *data = bytes + 8 + header_bytes;
    size_t data_bytes = size - 8 - header_bytes, entries = json_object_size(file->header);
    file->tensors = memory_zeroed(entries, sizeof *file->tensors);
    file->by_name = memory_zeroed(entries, sizeof *file->by_name);
    if (!file->tensors || !file->by_name)
        return error_memory(error, entries * sizeof *file->tensors, "the list of tensors");
    const char *key;
    json_t *value;
    json_object_foreach(file->header, key, value) {
        if (!strcmp(key, "__metadata__")) {
            TRY(check_metadata(value, error));
            file->metadata = value;
        } else {
            TRY(read_tensor(key, value, data, data_bytes, &file->tensors[file->count], error));
            file->count++;
        }
    }
    qsort(file->tensors, file->count, sizeof *file->tensors, by_offset);
    for (size_t i = 0; i < file->count; i++) file->by_name[i] = &file->tensors[i];
    qsort(file->by_name, file->count, sizeof *file->by_name, by_tensor_name);
    return check_coverage(file, data, data_bytes, error);
}

/* Takes over the mapping, if there is one, whatever happens. */
static pi0_status create(safetensors **result, const void *bytes, size_t size, void *mapping, const char *name,
                         pi0_error *error) {
    safetensors *file = memory_zeroed(1, sizeof *file);
    char *own_name = memory_string(name);
    if (!file || !own_name) {
        memory_release(file);
        memory_release(own_name);
        if (mapping) munmap(mapping, size);
        return error_memory(error, sizeof *file, "a safetensors file");
    }
    file->name = own_name;
    file->mapping = mapping;
    file->mapped_bytes = mapping ? size : 0;
    pi0_status status = parse_header(file, bytes, size, error);
    if (status != PI0_OK) {
        error_prefix(error, status, "%.400s", name);
        safetensors_close(&file);
        return status;
    }
    *result = file;
    return PI0_OK;
}

pi0_status safetensors_parse(safetensors **file, const void *bytes, size_t size, const char *name, pi0_error *error) {
    *file = NULL;
    return create(file, bytes, size, NULL, name, error);
}

pi0_status safetensors_open(safetensors **file, const char *path, pi0_error *error) {
    *file = NULL;
    /* O_NONBLOCK: opening a FIFO must not wait for a writer */
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) return error_set(error, PI0_ERROR_IO, "cannot open %.400s: %s", path, strerror(errno));
    struct stat information;
    if (fstat(descriptor, &information) || !S_ISREG(information.st_mode)) {
        close(descriptor);
        return error_set(error, PI0_ERROR_IO, "%.400s: expected a regular file", path);
    }
    size_t size = (size_t)information.st_size;
    if (size == 0) {
        close(descriptor);
        return error_set(error, PI0_ERROR_FORMAT, "%.400s: the file is empty", path);
    }
    void *mapping = mmap(NULL, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    int problem = errno;
    close(descriptor);
    if (mapping == MAP_FAILED) return error_set(error, PI0_ERROR_IO, "cannot map %.400s: %s", path, strerror(problem));
    return create(file, mapping, size, mapping, path, error);
}

void safetensors_close(safetensors **file) {
    if (!file || !*file) return;
    safetensors *closing = *file;
    json_decref(closing->header);
    if (closing->mapping) munmap(closing->mapping, closing->mapped_bytes);
    memory_release(closing->by_name);
    memory_release(closing->tensors);
    memory_release(closing->name);
    memory_release(closing);
    *file = NULL;
}

size_t safetensors_count(const safetensors *file) { return file->count; }

const tensor *safetensors_at(const safetensors *file, size_t index) { return &file->tensors[index]; }

const tensor *safetensors_find(const safetensors *file, const char *name) {
    size_t low = 0, high = file->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const tensor *candidate = file->by_name[middle];
        int order = strcmp(name, candidate->name);
        if (order == 0) return candidate;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const char *safetensors_metadata(const safetensors *file, const char *key) {
    return json_string_value(json_object_get(file->metadata, key));
}

size_t safetensors_metadata_count(const safetensors *file) { return json_object_size(file->metadata); }

void safetensors_metadata_at(const safetensors *file, size_t index, const char **key, const char **value) {
    void *iterator = json_object_iter(file->metadata);
    while (index--) iterator = json_object_iter_next(file->metadata, iterator);
    *key = json_object_iter_key(iterator);
    *value = json_string_value(json_object_iter_value(iterator));
}
