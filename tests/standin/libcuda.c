/*
 * A stand-in for the driver's library. STANDIN_CUDA says what it is like: "old" (CUDA 12.4), "none" (a driver without a
 * device), "broken" (does not start), "empty" (a file with none of the functions).
 */
#include <stdlib.h>
#include <string.h>

__attribute__((visibility("default"))) int cuDriverGetVersion(int *version);
__attribute__((visibility("default"))) int cuInit(unsigned flags);
__attribute__((visibility("default"))) int cuGetProcAddress_v2(const char *name, void **function, int version,
                                                               unsigned long long flags, int *found);
__attribute__((visibility("default"))) int cuGetProcAddress(const char *name, void **function, int version,
                                                            unsigned long long flags, int *found);

static int is(const char *what) {
    const char *asked = getenv("STANDIN_CUDA");
    return asked && !strcmp(asked, what);
}

int cuDriverGetVersion(int *version) {
    *version = is("old") ? 12040 : 13000;
    return 0;
}

int cuInit(unsigned flags) {
    (void)flags;
    return is("none") ? 100 : 999; /* no device; unknown error */
}

/* Any other function: never reached, since nothing starts. */
static int refuse(void) { return 999; }

int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, int *found) {
    (void)version;
    (void)flags;
    if (found) *found = 0;
    if (is("empty")) {
        *function = NULL;
        return 500;
    }
    if (!strcmp(name, "cuDriverGetVersion"))
        *function = (void *)cuDriverGetVersion;
    else if (!strcmp(name, "cuInit"))
        *function = (void *)cuInit;
    else if (!strcmp(name, "cuGetProcAddress"))
        *function = (void *)cuGetProcAddress_v2;
    else
        *function = (void *)refuse;
    return 0;
}

int cuGetProcAddress(const char *name, void **function, int version, unsigned long long flags, int *found) {
    return cuGetProcAddress_v2(name, function, version, flags, found);
}
