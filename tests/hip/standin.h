/*
 * A libamdhip64 without a GPU, for tests of the HIP backend's host side. Device memory is host memory that no one else
 * should touch; copies are made, launches are looked at (launches.c) and not run. What a call must not do is noted as
 * misuse. Any one call can be made to fail.
 *
 * Environment: STANDIN_DEVICES, STANDIN_ARCH and STANDIN_INIT_FAILS say what there is; STANDIN_LOG names a file that
 * gets a line for each launch: kernel, grid x y z, threads, bytes of LDS.
 */
#ifndef STANDIN_H
#define STANDIN_H

#include <stdbool.h>
#include <stddef.h>

typedef struct standin_state {
    int calls;          /* since standin_reset */
    int fail_at;        /* this call fails; 0: none */
    bool failed;        /* it was reached */
    bool failed_giving; /* it was reached and gave something back, which it did all the same */
    int devices;        /* visible GPUs; default 1 */
    char arch[64];      /* default "gfx942:sramecc+:xnack-" */
    int live;           /* objects and allocations not yet given back */
    long launches;      /* kernels that ran: launched into a stream, or nodes of a launched graph */
    long copies, fills, captures, graph_launches, products; /* products: of hipBLASLt */
    size_t most_shared_bytes;                               /* of a launch, static and dynamic */
    char misuse[300];                                       /* the first, or empty */
} standin_state;

standin_state *standin(void);
/* Counters to zero, no failure asked for; devices and arch stay. */
void standin_reset(void);

/* ---- between the files of the stand-ins ---- */

void standin_misuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Counts a call, true: it is to fail; the latter for one that gives something back. Counts objects. */
bool standin_fails(void);
bool standin_fails_giving(void);
void standin_live(int change);
/* Whether `bytes` from `memory` on lie in one allocation of device memory. */
bool standin_on_device(const void *memory, size_t bytes);
/* As above, or in pinned host memory, which kernels may read. */
bool standin_readable(const void *memory, size_t bytes);

typedef struct standin_launch {
    const char *name;
    unsigned grid[3], threads;
    size_t shared_bytes;
    void **arguments;
} standin_launch;
/* Looks at a launch's arguments; notes misuse. */
void standin_check_launch(const standin_launch *launch);
#endif
