#include "profile/memory_use.h"

#include <stdio.h>

/* VmHWM, RssAnon, RssFile and RssShmem of /proc/self/status, in bytes; false where there is no such file. */
typedef struct resident {
    int64_t peak, anonymous, file, shared;
} resident;

static int read_resident(resident *now) {
    FILE *status = fopen("/proc/self/status", "r");
    if (!status) return 0;
    char line[256];
    long long kib;
    *now = (resident){0};
    while (fgets(line, sizeof line, status)) {
        if (sscanf(line, "VmHWM: %lld", &kib) == 1) now->peak = kib << 10;
        if (sscanf(line, "RssAnon: %lld", &kib) == 1) now->anonymous = kib << 10;
        if (sscanf(line, "RssFile: %lld", &kib) == 1) now->file = kib << 10;
        if (sscanf(line, "RssShmem: %lld", &kib) == 1) now->shared = kib << 10;
    }
    fclose(status);
    return 1;
}

void memory_use_sample(memory_use *use) {
    resident now;
    if (!read_resident(&now)) return;
    if (now.anonymous + now.shared > use->anonymous_peak_bytes) use->anonymous_peak_bytes = now.anonymous + now.shared;
    if (now.file > use->file_peak_bytes) use->file_peak_bytes = now.file;
}

int64_t memory_use_peak_bytes(const memory_use *use) {
    resident now;
    if (!read_resident(&now)) return 0;
    int64_t rest = now.peak - use->file_peak_bytes;
    return rest > use->anonymous_peak_bytes ? rest : use->anonymous_peak_bytes;
}
