/* What the emulator's own files share; see emulator.h. */
#ifndef PI0_EMULATOR_INSIDE_H
#define PI0_EMULATOR_INSIDE_H

#include <memory>
#include <vector>

#include "emulator.h"

enum { MOST_WARPS = EMULATOR_MAX_THREADS / 32, NAMED_BARRIERS = 16 };

enum fiber_state { FIBER_READY, FIBER_IN_WARP, FIBER_IN_BARRIER, FIBER_ENDED };

typedef struct fiber_copy {
    uint32_t shared;
    const void *from; /* NULL: zeros */
} fiber_copy;

typedef struct fiber {
    void *stack_pointer;
    char *stack;
    fiber_state state;
    emulator_place place;
    int thread, warp;
    emulator_operation operation; /* what it waits for in its warp */
    void *argument;
    int barrier, barrier_threads;
    std::vector<std::vector<fiber_copy>> copies; /* under way: groups, the last one still open */
} fiber;

typedef struct launch_work {
    const void *kernel;
    void (*call)(const void *arguments);
    std::shared_ptr<std::vector<uint64_t>> arguments;
    size_t argument_bytes;
    dim3 blocks;
    int threads;
    size_t shared_bytes;
} launch_work;

/* Runs it now. */
cudaError_t launch_run(const launch_work *work);

/* One block at a time, on one thread of the host. */
typedef struct machine {
    fiber fibers[EMULATOR_MAX_THREADS];
    fiber *now;   /* whose turn it is; NULL: nobody's */
    bool running; /* a fiber runs, not the host on its behalf */
    void *host_stack_pointer;
    const launch_work *work;
    int threads, warps, block;
    size_t shared_bytes;
    int alive, arrived[NAMED_BARRIERS];
    struct detector *detector;
    bool failed;
} machine;

/* The machine whose fiber runs on this thread of the host; NULL: host code runs. */
extern thread_local machine *machine_here;
/* What `extern __shared__` names, with its name for bytes and for floats. */
extern thread_local uint8_t shared_raw[EMULATOR_SHARED_BYTES];

/* Notes a problem with the block and thread it came up in and ends the block. Does not return when a fiber
 * runs. */
void problem_report(machine *m, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- instructions.cc: all lanes of `lanes` stand at the same operation ---- */
void instruction_run(machine *m, emulator_operation operation, fiber **lanes, int count);

/* ---- detect.cc ---- */
enum access_kind { ACCESS_READ, ACCESS_WRITE };
void detect_block_begin(machine *m);
void detect_access(machine *m, const void *at, size_t bytes, access_kind kind);
void detect_warp_sync(machine *m, int warp);
void detect_barrier(machine *m, uint32_t warps); /* these warps met */
void detect_atomic(machine *m);
void detect_launch(void);
void detect_memory_add(void *base, size_t bytes, bool device);
void detect_memory_remove(void *base);

#endif
