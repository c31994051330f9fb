#include "profile/trace_source.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef PI0_WITH_ZLIB
#include <zlib.h>
#endif

#include "base/memory.h"

enum { PACKED_BYTES = 256 << 10 };

struct trace_source {
    int descriptor; /* -1: memory */
    bool close_descriptor, packed, ended;
    const char *damage;
    const unsigned char *memory;
    size_t memory_left;
    unsigned char peeked[2]; /* the first bytes, read to look for gzip */
    size_t peeked_size, peeked_used;
#ifdef PI0_WITH_ZLIB
    z_stream stream;
    unsigned char *packed_bytes;
    bool stream_open, between_members;
#endif
};

static pi0_status read_raw(trace_source *source, unsigned char *bytes, size_t capacity, size_t *got, pi0_error *error) {
    *got = 0;
    if (source->peeked_used < source->peeked_size) {
        size_t size = source->peeked_size - source->peeked_used;
        if (size > capacity) size = capacity;
        memcpy(bytes, source->peeked + source->peeked_used, size);
        source->peeked_used += size;
        *got = size;
        return PI0_OK;
    }
    if (source->descriptor < 0) {
        size_t size = source->memory_left < capacity ? source->memory_left : capacity;
        if (size) memcpy(bytes, source->memory, size);
        source->memory += size;
        source->memory_left -= size;
        *got = size;
        return PI0_OK;
    }
    for (;;) {
        ssize_t size = read(source->descriptor, bytes, capacity > SSIZE_MAX ? SSIZE_MAX : capacity);
        if (size >= 0) {
            *got = (size_t)size;
            return PI0_OK;
        }
        if (errno != EINTR) return error_set(error, PI0_ERROR_IO, "cannot read: %s", strerror(errno));
    }
}

#ifdef PI0_WITH_ZLIB
static voidpf zlib_allocate(voidpf user, uInt count, uInt size) {
    (void)user;
    return memory_zeroed(count, size);
}

static void zlib_release(voidpf user, voidpf memory) {
    (void)user;
    memory_release(memory);
}

static pi0_status unpack_begin(trace_source *source, pi0_error *error) {
    source->packed_bytes = memory_allocate(PACKED_BYTES);
    if (!source->packed_bytes) return error_memory(error, PACKED_BYTES, "unpacking gzip");
    source->stream.zalloc = zlib_allocate;
    source->stream.zfree = zlib_release;
    if (inflateInit2(&source->stream, 15 + 16) != Z_OK) return error_memory(error, 1 << 16, "unpacking gzip");
    source->stream_open = true;
    return PI0_OK;
}

static void stop_damaged(trace_source *source, const char *damage) {
    source->damage = damage;
    source->ended = true;
}

/* One round of input and output; leaves *got 0 when the round only took input. */
static pi0_status unpack_round(trace_source *source, char *bytes, size_t capacity, size_t *got, pi0_error *error) {
    z_stream *stream = &source->stream;
    if (stream->avail_in == 0) {
        size_t size;
        TRY(read_raw(source, source->packed_bytes, PACKED_BYTES, &size, error));
        if (size == 0) {
            source->ended = true;
            if (!source->between_members) source->damage = "the gzip stream breaks off";
            return PI0_OK;
        }
        stream->next_in = source->packed_bytes;
        stream->avail_in = (uInt)size;
    }
    stream->next_out = (unsigned char *)bytes;
    stream->avail_out = capacity > UINT_MAX ? UINT_MAX : (uInt)capacity;
    uInt before = stream->avail_out;
    bool first_of_member = source->between_members;
    int result = inflate(stream, Z_NO_FLUSH);
    *got = before - stream->avail_out;
    source->between_members = false;
    if (result == Z_STREAM_END) {
        source->between_members = true; /* gzip files may be glued together */
        inflateReset(stream);
    } else if (result == Z_MEM_ERROR) {
        return error_memory(error, 1 << 16, "unpacking gzip");
    } else if (result != Z_OK && result != Z_BUF_ERROR) {
        stop_damaged(source,
                     first_of_member ? "bytes that are not gzip follow the gzip stream" : "the gzip stream is damaged");
    }
    return PI0_OK;
}
#endif

static pi0_status look_for_gzip(trace_source *source, pi0_error *error) {
    while (source->peeked_size < 2) {
        size_t got;
        /* nothing is marked as peeked yet, so this reads on */
        source->peeked_used = source->peeked_size;
        TRY(read_raw(source, source->peeked + source->peeked_size, 2 - source->peeked_size, &got, error));
        if (got == 0) break;
        source->peeked_size += got;
    }
    source->peeked_used = 0;
    source->packed = source->peeked_size == 2 && source->peeked[0] == 0x1f && source->peeked[1] == 0x8b;
    if (!source->packed) return PI0_OK;
#ifdef PI0_WITH_ZLIB
    return unpack_begin(source, error);
#else
    return error_set(error, PI0_ERROR_UNSUPPORTED, "a gzip file, and this build was made without zlib");
#endif
}

static pi0_status source_new(trace_source **source, trace_source start, pi0_error *error) {
    trace_source *made = memory_zeroed(1, sizeof *made);
    if (!made) {
        if (start.close_descriptor) close(start.descriptor);
        return error_memory(error, sizeof *made, "a trace");
    }
    *made = start;
    pi0_status status = look_for_gzip(made, error);
    if (status == PI0_OK)
        *source = made;
    else
        trace_source_close(&made);
    return status;
}

pi0_status trace_source_open(trace_source **source, const char *path, pi0_error *error) {
    *source = NULL;
    if (strcmp(path, "-") == 0) return source_new(source, (trace_source){.descriptor = STDIN_FILENO}, error);
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return error_set(error, PI0_ERROR_IO, "cannot open: %s", strerror(errno));
    struct stat info;
    if (fstat(descriptor, &info) == 0 && S_ISDIR(info.st_mode)) {
        close(descriptor);
        return error_set(error, PI0_ERROR_IO, "a directory, and a trace is a file");
    }
    return source_new(source, (trace_source){.descriptor = descriptor, .close_descriptor = true}, error);
}

pi0_status trace_source_memory(trace_source **source, const void *bytes, size_t size, pi0_error *error) {
    *source = NULL;
    return source_new(source, (trace_source){.descriptor = -1, .memory = bytes, .memory_left = size}, error);
}

pi0_status trace_source_read(trace_source *source, char *bytes, size_t capacity, size_t *got, pi0_error *error) {
    *got = 0;
#ifdef PI0_WITH_ZLIB
    if (source->packed) {
        while (*got == 0 && !source->ended) TRY(unpack_round(source, bytes, capacity, got, error));
        return PI0_OK;
    }
#endif
    return read_raw(source, (unsigned char *)bytes, capacity, got, error);
}

const char *trace_source_damage(const trace_source *source) { return source->damage; }

void trace_source_close(trace_source **source) {
    trace_source *gone = *source;
    *source = NULL;
    if (!gone) return;
#ifdef PI0_WITH_ZLIB
    if (gone->stream_open) inflateEnd(&gone->stream);
    memory_release(gone->packed_bytes);
#endif
    if (gone->close_descriptor) close(gone->descriptor);
    memory_release(gone);
}
