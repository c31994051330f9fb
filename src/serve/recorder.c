#include "serve/recorder.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

pi0_status recorder_open(recorder *r, const char *folder, metrics *metrics, const event_log *log, pi0_error *error) {
    *r = (recorder){.folder = folder, .metrics = metrics, .log = log};
    if (!folder) return PI0_OK;
    DIR *directory = opendir(folder);
    if (!directory) return error_set(error, PI0_ERROR_IO, "%s: %s", folder, strerror(errno));
    for (const struct dirent *entry; (entry = readdir(directory));) {
        char *end;
        unsigned long long number = strtoull(entry->d_name, &end, 10);
        if (end - entry->d_name >= 6 && strcmp(end, ".msgpack") == 0 && number >= r->next) r->next = number + 1;
    }
    closedir(directory);
    return PI0_OK;
}

static bool write_record(recorder *r, unsigned long long number, const char *suffix, const void *bytes, size_t size) {
    char path[4096];
    pi0_error error;
    int length = snprintf(path, sizeof path, "%s/%06llu%s", r->folder, number, suffix);
    pi0_status status = length > 0 && (size_t)length < sizeof path
                            ? file_write(path, bytes, size, &error)
                            : error_set(&error, PI0_ERROR_IO, "%s: the name is too long", r->folder);
    if (status == PI0_OK) return true;
    metrics_count(r->metrics, METRIC_RECORD_ERRORS);
    metrics_error(r->metrics, error.message);
    if (!atomic_exchange(&r->failing, true))
        event_write(r->log, PI0_LOG_ERROR, "record", NULL, "requests are not recorded: %s", error.message);
    return false;
}

unsigned long long recorder_request(recorder *r, const void *bytes, size_t size) {
    if (!r->folder) return 0;
    unsigned long long number = r->next++;
    if (write_record(r, number, ".msgpack", bytes, size) && atomic_exchange(&r->failing, false))
        event_write(r->log, PI0_LOG_WARNING, "record", NULL, "requests are recorded again, from %06llu on", number);
    return number;
}

void recorder_response(recorder *r, unsigned long long number, const void *bytes, size_t size) {
    if (r->folder) write_record(r, number, ".response.msgpack", bytes, size);
}
