/*
 * Looks at each load and store of the kernels: is the memory there, did anybody write it, may another thread be at it
 * at the same time? The kernels are compiled with the compiler's calls for a race detector (-fsanitize=thread), and the
 * functions those call are here.
 *
 * Shared memory: two bytes have a note of who wrote them last and who read them since. Time is counted by warp, in
 * spans that end where the warp meets others (barriers) or itself (__syncwarp); shuffles and matrix instructions order
 * no memory. A warp knows, of each warp, up to which span it has waited for it. Two accesses by different threads, at
 * least one of them a write, must be ordered by that.
 *
 * Global memory: blocks of a launch are ordered by nothing but __threadfence and an atomic operation after a write, and
 * an atomic operation and __threadfence before what another block does with it.
 */
#include <link.h>
#include <string.h>
#include <sys/mman.h>

#include <mutex>
#include <vector>

#include "emulator_inside.h"

typedef struct shared_cell {
    uint32_t block; /* whose notes these are; others are of blocks long gone */
    int16_t writer, readers[2];
    uint32_t written, read[2];
} shared_cell;

typedef struct global_cell {
    uint32_t launch;
    int32_t writer, reader; /* blocks, -1: none; reader -2: several */
    uint32_t published;     /* fences and atomics of the writer, when it wrote */
} global_cell;

typedef struct region {
    uintptr_t begin, end;
    global_cell *cells; /* of four bytes each; NULL: memory of the host */
} region;

struct detector {
    uint32_t block;
    uint32_t span[MOST_WARPS], known[MOST_WARPS][MOST_WARPS];
    uintptr_t tls_begin, tls_end, stack_begin, stack_end;
    std::vector<shared_cell> cells;
};

static std::mutex region_lock;
static std::vector<region> regions;

/* Of the launch that runs; launches never overlap. */
static uint32_t launch_number;
static std::vector<uint32_t> published;               /* fences of each block */
static std::vector<std::vector<uint32_t>> atomics_at; /* of each block: its atomics' places in the order of all */
static uint32_t atomics;

void detect_memory_add(void *base, size_t bytes, bool device) {
    std::lock_guard<std::mutex> guard(region_lock);
    region r = {(uintptr_t)base, (uintptr_t)base + bytes, NULL};
    if (device) {
        void *cells = mmap(NULL, (bytes / 4 + 1) * sizeof *r.cells, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (cells != MAP_FAILED) r.cells = (global_cell *)cells;
    }
    regions.push_back(r);
}

void detect_memory_remove(void *base) {
    std::lock_guard<std::mutex> guard(region_lock);
    for (size_t i = 0; i < regions.size(); i++) {
        if (regions[i].begin != (uintptr_t)base) continue;
        if (regions[i].cells)
            munmap(regions[i].cells, ((regions[i].end - regions[i].begin) / 4 + 1) * sizeof(global_cell));
        regions.erase(regions.begin() + (long)i);
        return;
    }
}

/* ---- time ---- */

static int find_tls(struct dl_phdr_info *info, size_t, void *to) {
    detector *d = (detector *)to;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type != PT_TLS || !info->dlpi_tls_data) continue;
        const uintptr_t begin = (uintptr_t)info->dlpi_tls_data, end = begin + info->dlpi_phdr[i].p_memsz;
        if ((uintptr_t)shared_raw < begin || (uintptr_t)shared_raw >= end) continue;
        d->tls_begin = begin;
        d->tls_end = end;
        return 1;
    }
    return 0;
}

void detect_launch(void) {
    launch_number++;
    published.clear();
    atomics_at.clear();
    atomics = 0;
}

void detect_block_begin(machine *m) {
    if (!m->detector) {
        m->detector = new detector();
        dl_iterate_phdr(find_tls, m->detector);
        m->detector->stack_begin = (uintptr_t)m->fibers[0].stack;
        m->detector->stack_end =
            m->detector->stack_begin + (uintptr_t)(m->fibers[1].stack - m->fibers[0].stack) * EMULATOR_MAX_THREADS;
        m->detector->cells.resize((m->detector->tls_end - m->detector->tls_begin + 1) / 2);
    }
    detector *d = m->detector;
    d->block++;
    for (int w = 0; w < m->warps; w++) d->span[w] = 1;
    memset(d->known, 0, sizeof d->known);
    published.resize((size_t)m->block + 1);
    atomics_at.resize((size_t)m->block + 1);
}

void detect_warp_sync(machine *m, int warp) { m->detector->span[warp]++; }

void detect_barrier(machine *m, uint32_t warps) {
    detector *d = m->detector;
    uint32_t all[MOST_WARPS] = {};
    for (int w = 0; w < m->warps; w++) {
        if (!(warps >> w & 1)) continue;
        for (int i = 0; i < m->warps; i++)
            if (d->known[w][i] > all[i]) all[i] = d->known[w][i];
        if (d->span[w] > all[w]) all[w] = d->span[w];
    }
    for (int w = 0; w < m->warps; w++) {
        if (!(warps >> w & 1)) continue;
        memcpy(d->known[w], all, sizeof all);
        d->span[w]++;
    }
}

void emulator_fence(void) { published[machine_here->block]++; }

unsigned emulator_atomic_add(unsigned *to, unsigned value) {
    machine *m = machine_here;
    atomics_at[m->block].resize(published[m->block] + 1, 0);
    atomics_at[m->block][published[m->block]] = ++atomics;
    const unsigned before = *to;
    *to = before + value;
    return before;
}

/* ---- accesses ---- */

/* Whether what `thread` did in `span` of its warp comes before what the running fiber does now. */
static bool ordered(const machine *m, int thread, uint32_t span) {
    const detector *d = m->detector;
    const int other = thread / EMULATOR_LANES, own = m->now->warp;
    if (thread == m->now->thread) return true;
    return other == own ? span < d->span[own] : span <= d->known[own][other];
}

static void access_shared(machine *m, uintptr_t at, size_t bytes, access_kind kind) {
    detector *d = m->detector;
    const uintptr_t dynamic = (uintptr_t)shared_raw;
    if (at + bytes > dynamic && at < dynamic + EMULATOR_SHARED_BYTES &&
        (at < dynamic || at + bytes > dynamic + m->shared_bytes)) {
        problem_report(m, "%s of %zu bytes at %ld of %zu bytes of shared memory: out of bounds",
                       kind == ACCESS_READ ? "load" : "store", bytes, (long)(at - dynamic), m->shared_bytes);
        return;
    }
    for (uintptr_t i = (at - d->tls_begin) / 2; i <= (at + bytes - 1 - d->tls_begin) / 2; i++) {
        shared_cell *c = &d->cells[i];
        const int thread = m->now->thread;
        const uint32_t span = d->span[m->now->warp];
        if (c->block != d->block) *c = {d->block, -1, {-1, -1}, 0, {0, 0}};
        if (c->writer >= 0 && !ordered(m, c->writer, c->written)) {
            problem_report(m, "race in shared memory: %s at %ld, which thread %d stores without a barrier between",
                           kind == ACCESS_READ ? "load" : "store", (long)(at - dynamic), c->writer);
            return;
        }
        if (kind == ACCESS_READ) {
            if (c->writer < 0) {
                problem_report(m, "load of shared memory at %ld, which nobody has written", (long)(at - dynamic));
                return;
            }
            const int slot =
                c->readers[0] == thread || c->readers[0] < 0 || ordered(m, c->readers[0], c->read[0]) ? 0 : 1;
            c->readers[slot] = (int16_t)thread;
            c->read[slot] = span;
        } else {
            for (int r = 0; r < 2; r++)
                if (c->readers[r] >= 0 && !ordered(m, c->readers[r], c->read[r])) {
                    problem_report(m,
                                   "race in shared memory: store at %ld, which thread %d loads without a barrier "
                                   "between",
                                   (long)(at - dynamic), c->readers[r]);
                    return;
                }
            c->writer = (int16_t)thread;
            c->written = span;
            c->readers[0] = c->readers[1] = -1;
        }
    }
}

/* Whether block `other` wrote that, fenced and then did an atomic operation before one of this block's. */
static bool handed_over(const machine *m, int other, uint32_t fences) {
    const auto &own = atomics_at[m->block], &theirs = atomics_at[other];
    if (own.empty()) return false;
    for (size_t i = fences + 1; i < theirs.size(); i++)
        if (theirs[i]) return theirs[i] < own.back();
    return false;
}

static void access_global(machine *m, const region *r, uintptr_t at, size_t bytes, access_kind kind) {
    if (!r->cells) return;
    for (uintptr_t i = (at - r->begin) / 4; i <= (at + bytes - 1 - r->begin) / 4; i++) {
        global_cell *c = &r->cells[i];
        if (c->launch != launch_number) *c = {launch_number, -1, -1, 0};
        if (c->writer >= 0 && c->writer != m->block && bytes >= 4 && !handed_over(m, c->writer, c->published)) {
            problem_report(m, "race in global memory: %s of what block %d stores",
                           kind == ACCESS_READ ? "load" : "store", c->writer);
            return;
        }
        if (kind == ACCESS_READ) {
            c->reader = c->reader < 0 || c->reader == m->block ? m->block : -2;
        } else {
            c->writer = m->block;
            c->published = published[m->block];
        }
    }
}

void detect_access(machine *m, const void *p, size_t bytes, access_kind kind) {
    const uintptr_t at = (uintptr_t)p;
    const detector *d = m->detector;
    if (at >= d->stack_begin && at < d->stack_end) return;
    if (at + bytes > d->tls_begin && at < d->tls_end) return access_shared(m, at, bytes, kind);
    if (kind == ACCESS_READ && at >= (uintptr_t)m && at < (uintptr_t)(m + 1)) return; /* threadIdx and its like */
    const uintptr_t arguments = (uintptr_t)m->work->arguments->data();
    if (kind == ACCESS_READ && at >= arguments && at + bytes <= arguments + m->work->argument_bytes) return;
    for (const region &r : regions)
        if (at >= r.begin && at + bytes <= r.end) return access_global(m, &r, at, bytes, kind);
    problem_report(m, "%s of %zu bytes at %p: out of bounds of all device memory",
                   kind == ACCESS_READ ? "load" : "store", bytes, p);
}

/* ---- what the compiler calls ---- */

static inline void instrumented(const void *at, size_t bytes, access_kind kind) {
    machine *m = machine_here;
    if (m && m->running) detect_access(m, at, bytes, kind);
}

extern "C" {
#define ACCESSES(bytes)                                                                                                \
    void __tsan_read##bytes(void *at) { instrumented(at, bytes, ACCESS_READ); }                                        \
    void __tsan_write##bytes(void *at) { instrumented(at, bytes, ACCESS_WRITE); }                                      \
    void __tsan_unaligned_read##bytes(void *at) { instrumented(at, bytes, ACCESS_READ); }                              \
    void __tsan_unaligned_write##bytes(void *at) { instrumented(at, bytes, ACCESS_WRITE); }                            \
    void __tsan_read_write##bytes(void *at) {                                                                          \
        instrumented(at, bytes, ACCESS_READ);                                                                          \
        instrumented(at, bytes, ACCESS_WRITE);                                                                         \
    }                                                                                                                  \
    void __tsan_unaligned_read_write##bytes(void *at) { __tsan_read_write##bytes(at); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
void __tsan_read_range(void *at, size_t bytes) { instrumented(at, bytes, ACCESS_READ); }
void __tsan_write_range(void *at, size_t bytes) { instrumented(at, bytes, ACCESS_WRITE); }
void *__tsan_memcpy(void *to, const void *from, size_t bytes) {
    instrumented(from, bytes, ACCESS_READ);
    instrumented(to, bytes, ACCESS_WRITE);
    return memcpy(to, from, bytes);
}
void *__tsan_memset(void *to, int value, size_t bytes) {
    instrumented(to, bytes, ACCESS_WRITE);
    return memset(to, value, bytes);
}
void __tsan_init(void) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
}
