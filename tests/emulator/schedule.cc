/*
 * Threads of a block as fibers: each runs until it has to wait for its warp or for a barrier. Fibers switch without the
 * kernel's help, a few nanoseconds each. Blocks of a launch run one after the other, in order.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <mutex>

#include "emulator_inside.h"

enum { STACK_BYTES = 128 << 10 };

thread_local machine *machine_here;
alignas(128) thread_local uint8_t shared_raw[EMULATOR_SHARED_BYTES];
/* attention_plain.cu's name for it */
extern thread_local float scores[EMULATOR_SHARED_BYTES / 4] __attribute__((alias("shared_raw")));

/* ---- problems ---- */

static std::mutex problem_lock;
static char problem[600];

const char *emulator_problem(void) { return problem; }
void emulator_forget(void) { problem[0] = 0; }

extern "C" void emulator_switch(void **from, void *to);
asm(R"(
    .text
    .globl emulator_switch
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, . - emulator_switch
)");

static void yield(machine *m) {
    fiber *f = m->now;
    emulator_switch(&f->stack_pointer, m->host_stack_pointer);
}

void problem_report(machine *m, const char *format, ...) {
    {
        std::lock_guard<std::mutex> guard(problem_lock);
        if (!problem[0]) {
            char text[300];
            va_list arguments;
            va_start(arguments, format);
            vsnprintf(text, sizeof text, format, arguments);
            va_end(arguments);
            Dl_info info = {};
            char name[200];
            if (dladdr(m->work->kernel, &info) && info.dli_sname)
                snprintf(name, sizeof name, "%.199s", info.dli_sname);
            else /* a name that the program does not show: addr2line -f -e PROGRAM ADDRESS */
                snprintf(name, sizeof name, "the kernel at %#zx",
                         (size_t)((const char *)m->work->kernel - (const char *)info.dli_fbase));
            snprintf(problem, sizeof problem, "%.299s; block %d, thread %d of %.199s", text, m->block,
                     m->now ? m->now->thread : -1, name);
        }
    }
    m->failed = true;
    if (m->running) yield(m);
}

/* ---- fibers ---- */

static void fiber_main(void) {
    machine *m = machine_here;
    m->work->call(m->work->arguments->data());
    m->now->state = FIBER_ENDED;
    m->alive--;
    yield(m);
    abort();
}

static void fiber_begin(fiber *f) {
    void **top = (void **)(f->stack + STACK_BYTES);
    *--top = NULL; /* where fiber_main would return to */
    *--top = (void *)fiber_main;
    for (int i = 0; i < 6; i++) *--top = NULL;
    f->stack_pointer = top;
    f->state = FIBER_READY;
    f->copies.assign(1, {});
}

static machine *machine_open(void) {
    machine *m = new machine();
    char *stacks = (char *)mmap(NULL, (size_t)STACK_BYTES * EMULATOR_MAX_THREADS, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) abort();
    for (int i = 0; i < EMULATOR_MAX_THREADS; i++) {
        m->fibers[i].stack = stacks + (size_t)STACK_BYTES * i;
        m->fibers[i].thread = i;
        m->fibers[i].warp = i / EMULATOR_LANES;
    }
    return m;
}

/* ---- meeting ---- */

const emulator_place &emulator_here(void) { return machine_here->now->place; }

static void release_barrier(machine *m, int id) {
    uint32_t warps = 0;
    for (int i = 0; i < m->threads; i++) {
        fiber *f = &m->fibers[i];
        if (f->state != FIBER_IN_BARRIER || f->barrier != id) continue;
        f->state = FIBER_READY;
        warps |= 1u << f->warp;
    }
    m->arrived[id] = 0;
    detect_barrier(m, warps);
}

void emulator_barrier(int id, int threads) {
    machine *m = machine_here;
    fiber *f = m->now;
    if (id < 0 || id >= NAMED_BARRIERS) problem_report(m, "there is no barrier %d", id);
    if (m->arrived[id])
        for (int i = 0; i < m->threads; i++)
            if (m->fibers[i].state == FIBER_IN_BARRIER && m->fibers[i].barrier == id &&
                m->fibers[i].barrier_threads != threads)
                problem_report(m, "threads of barrier %d disagree about how many they are", id);
    f->state = FIBER_IN_BARRIER;
    f->barrier = id;
    f->barrier_threads = threads;
    m->arrived[id]++;
    if (threads && m->arrived[id] == threads) release_barrier(m, id);
    yield(m);
}

void emulator_warp(emulator_operation operation, void *argument) {
    machine *m = machine_here;
    fiber *f = m->now;
    f->state = FIBER_IN_WARP;
    f->operation = operation;
    f->argument = argument;
    yield(m);
}

/* Runs what all lanes of a warp stand at; false: none can go on. */
static bool warp_meet(machine *m, int warp) {
    fiber *lanes[EMULATOR_LANES];
    int count = 0, present = 0;
    for (int i = warp * EMULATOR_LANES; i < (warp + 1) * EMULATOR_LANES && i < m->threads; i++, present++) {
        if (m->fibers[i].state == FIBER_READY) return true; /* the last lane released a barrier of the others */
        if (m->fibers[i].state == FIBER_IN_WARP) lanes[count++] = &m->fibers[i];
    }
    if (!count) return false;
    bool same = true;
    for (int i = 1; i < count; i++) same = same && lanes[i]->operation == lanes[0]->operation;
    /* A wave of 64 may go on with the lanes that are there, as AMD's does; NVIDIA's kernels ask for all by their mask,
     * and matrices need all. */
    const emulator_operation operation = lanes[0]->operation;
    const bool all = count == present;
    if (!same) {
        problem_report(m, "lanes of warp %d stand at different operations of the warp", warp);
        return false;
    }
    if (!all && (EMULATOR_LANES == 32 || operation >= EMULATOR_LOAD_MATRIX)) {
        problem_report(m, "%d of %d lanes of warp %d are at an operation (%d) of the whole warp", count, present, warp,
                       operation);
        return false;
    }
    instruction_run(m, operation, lanes, count);
    if (m->failed) return false;
    for (int i = 0; i < count; i++) lanes[i]->state = FIBER_READY;
    return true;
}

static void run_block(machine *m, dim3 block, dim3 blocks) {
    m->alive = m->threads;
    memset(m->arrived, 0, sizeof m->arrived);
    /* as bf16 and as float32 not a number: who uses it without having written it will show it */
    memset(shared_raw, 0xff, m->shared_bytes);
    for (int i = 0; i < m->threads; i++) {
        fiber_begin(&m->fibers[i]);
        m->fibers[i].place = {dim3(i, 0, 0), block, dim3(m->threads), blocks};
    }
    detect_block_begin(m);
    while (m->alive && !m->failed) {
        bool moved = false;
        for (int warp = 0; warp < m->warps && !m->failed; warp++) {
            const int first = warp * EMULATOR_LANES, last = std::min(first + EMULATOR_LANES, m->threads);
            do {
                for (int i = first; i < last && !m->failed; i++)
                    while (m->fibers[i].state == FIBER_READY && !m->failed) {
                        m->now = &m->fibers[i];
                        m->running = true;
                        emulator_switch(&m->host_stack_pointer, m->fibers[i].stack_pointer);
                        m->running = false;
                        m->now = NULL;
                        moved = true;
                    }
            } while (!m->failed && warp_meet(m, warp));
        }
        if (m->failed || !m->alive) break;
        if (m->arrived[0] && m->arrived[0] == m->alive) {
            release_barrier(m, 0);
            moved = true;
        }
        if (!moved) problem_report(m, "%d threads wait for others that never come", m->alive);
    }
}

cudaError_t launch_run(const launch_work *work) {
    static thread_local machine *own;
    const dim3 blocks = work->blocks;
    const int threads = work->threads;
    const size_t shared_bytes = work->shared_bytes;
    if (problem[0]) return cudaErrorUnknown;
    if (threads < 1 || threads > EMULATOR_MAX_THREADS || shared_bytes > EMULATOR_SHARED_BYTES || !blocks.x ||
        !blocks.y || !blocks.z)
        return cudaErrorInvalidValue;
    if (!own) own = machine_open();
    machine *m = own;
    m->work = work;
    m->threads = threads;
    m->warps = (threads + EMULATOR_LANES - 1) / EMULATOR_LANES;
    m->shared_bytes = shared_bytes;
    m->failed = false;
    machine_here = m;
    detect_launch();
    m->block = 0;
    for (unsigned z = 0; z < blocks.z && !m->failed; z++)
        for (unsigned y = 0; y < blocks.y && !m->failed; y++)
            for (unsigned x = 0; x < blocks.x && !m->failed; x++, m->block++) run_block(m, dim3(x, y, z), blocks);
    machine_here = NULL;
    return m->failed ? cudaErrorUnknown : cudaSuccess;
}
