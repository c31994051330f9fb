#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

static pi0_status read_all(void **bytes, size_t *size, int descriptor, const char *path, size_t max_bytes,
                           pi0_error *error) {
    struct stat info;
    if (fstat(descriptor, &info)) return error_set(error, PI0_ERROR_IO, "%s: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode)) return error_set(error, PI0_ERROR_IO, "%s: expected a file, found a directory", path);
    if (S_ISREG(info.st_mode) && (size_t)info.st_size > max_bytes)
        return error_set(error, PI0_ERROR_FORMAT, "%s: expected at most %zu bytes, found %lld", path, max_bytes,
                         (long long)info.st_size);
    /* One byte more than the file has, so that its end is seen without growing. */
    size_t capacity = (S_ISREG(info.st_mode) ? (size_t)info.st_size : 65536) + 1, filled = 0;
    char *buffer = memory_allocate(capacity + 1);
    if (!buffer) return error_memory(error, capacity, path);
    for (;;) {
        ssize_t got = read(descriptor, buffer + filled, capacity - filled);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            int code = errno;
            memory_release(buffer);
            return error_set(error, PI0_ERROR_IO, "%s: %s", path, strerror(code));
        }
        if (got == 0) break;
        filled += (size_t)got;
        if (filled > max_bytes) {
            memory_release(buffer);
            return error_set(error, PI0_ERROR_FORMAT, "%s: expected at most %zu bytes, found more", path, max_bytes);
        }
        if (filled < capacity) continue;
        char *grown = memory_resize(buffer, filled, capacity * 2 + 1);
        if (!grown) {
            memory_release(buffer);
            return error_memory(error, capacity * 2, path);
        }
        buffer = grown;
        capacity *= 2;
    }
    buffer[filled] = 0;
    *bytes = buffer;
    *size = filled;
    return PI0_OK;
}

pi0_status file_read(void **bytes, size_t *size, const char *path, size_t max_bytes, pi0_error *error) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return error_set(error, PI0_ERROR_IO, "%s: %s", path, strerror(errno));
    pi0_status status = read_all(bytes, size, descriptor, path, max_bytes, error);
    close(descriptor);
    return status;
}

/* Returns 0 or an errno. */
static int write_all(int descriptor, const char *bytes, size_t size) {
    while (size) {
        ssize_t put = write(descriptor, bytes, size);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return errno;
        bytes += put;
        size -= (size_t)put;
    }
    return 0;
}

static int write_closing(int descriptor, const void *bytes, size_t size) {
    int code = write_all(descriptor, bytes, size);
    if (close(descriptor) && !code) code = errno;
    return code;
}

pi0_status file_write(const char *path, const void *bytes, size_t size, pi0_error *error) {
    int code = 0;
    struct stat info;
    bool exists = stat(path, &info) == 0;
    if (exists && S_ISDIR(info.st_mode)) {
        code = EISDIR;
    } else if (exists && access(path, W_OK)) {
        code = errno; /* renaming over it would go behind the back of who made it read-only */
    } else if (exists && !S_ISREG(info.st_mode)) {
        int descriptor = open(path, O_WRONLY | O_CLOEXEC); /* a pipe or device is written to, not replaced */
        code = descriptor < 0 ? errno : write_closing(descriptor, bytes, size);
    } else {
        char target[PATH_MAX], temporary[PATH_MAX + 64];
        if (!exists || !realpath(path, target)) { /* a link is followed, not replaced */
            if (snprintf(target, sizeof target, "%s", path) >= (int)sizeof target)
                return error_set(error, PI0_ERROR_IO, "cannot write: path of %zu bytes is too long", strlen(path));
        }
        snprintf(temporary, sizeof temporary, "%s.%d-%lld.tmp", target, (int)getpid(), (long long)clock_ns());
        int descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        code = descriptor < 0 ? errno : write_closing(descriptor, bytes, size);
        if (!code && rename(temporary, target)) code = errno;
        if (code && descriptor >= 0) unlink(temporary);
    }
    return code ? error_set(error, PI0_ERROR_IO, "cannot write %s: %s", path, strerror(code)) : PI0_OK;
}
