/*
 * What operations of a warp do: shuffles, ldmatrix, mma.sync, MFMA; copies that come when they are waited for. Fragment
 * layouts are the tables of layouts.h, which a test holds to the vendors' own.
 */
#include <string.h>

#include "emulator_inside.h"
#include "layouts.h"

/* ---- memory by instructions of their own ---- */

uint32_t emulator_shared_address(const void *p) { return (uint32_t)((const uint8_t *)p - shared_raw); }

static uint8_t *shared_at(uint32_t address) { return shared_raw + (int32_t)address; }

static void check_aligned(uint64_t address, int bytes) {
    if (address % bytes) problem_report(machine_here, "an access of %d bytes is not aligned", bytes);
}

void emulator_shared_load(void *to, uint32_t shared, int bytes) {
    check_aligned(shared, bytes);
    detect_access(machine_here, shared_at(shared), bytes, ACCESS_READ);
    if (machine_here->failed) return; /* a load of a whole warp, which has no fiber to end */
    memcpy(to, shared_at(shared), bytes);
}
void emulator_shared_store(uint32_t shared, const void *from, int bytes) {
    check_aligned(shared, bytes);
    detect_access(machine_here, shared_at(shared), bytes, ACCESS_WRITE);
    memcpy(shared_at(shared), from, bytes);
}
void emulator_global_load(void *to, const void *from, int bytes) {
    check_aligned((uintptr_t)from, bytes);
    detect_access(machine_here, from, bytes, ACCESS_READ);
    memcpy(to, from, bytes);
}

void emulator_copy_async(uint32_t shared, const void *from, bool valid) {
    machine *m = machine_here;
    check_aligned(shared, 16);
    /* it may come from now on: nobody else may still use the place */
    detect_access(m, shared_at(shared), 16, ACCESS_WRITE);
    if (valid) {
        check_aligned((uintptr_t)from, 16);
        detect_access(m, from, 16, ACCESS_READ);
    }
    memset(shared_at(shared), 0xff, 16);
    m->now->copies.back().push_back({shared, valid ? from : NULL});
}
void emulator_copy_commit(void) { machine_here->now->copies.push_back({}); }
void emulator_copy_wait(int pending) {
    machine *m = machine_here;
    auto &copies = m->now->copies;
    /* with 0, PTX's wait_group waits for all groups that were closed */
    const int done = (int)copies.size() - 1 - pending;
    for (int i = 0; i < done; i++)
        for (const fiber_copy &c : copies[i]) {
            detect_access(m, shared_at(c.shared), 16, ACCESS_WRITE);
            if (c.from)
                memcpy(shared_at(c.shared), c.from, 16);
            else
                memset(shared_at(c.shared), 0, 16);
        }
    if (done > 0) copies.erase(copies.begin(), copies.begin() + done);
}

/* ---- operations of a warp ---- */

static float widen(uint32_t pair, int half) {
    const uint32_t bits = half ? pair & 0xffff0000u : pair << 16;
    float v;
    memcpy(&v, &bits, 4);
    return v;
}

/* D += A B by the layouts of the instruction; float32 sums in order of k. */
static void multiply(const matrix_layout *layout, fiber **lanes) {
    float a[32 * 32], b[32 * 32];
    const int rows = layout->rows, columns = layout->columns, depth = layout->depth;
    for (int lane = 0; lane < EMULATOR_LANES; lane++) {
        const emulator_product *p = (const emulator_product *)lanes[lane]->argument;
        for (int i = 0; i < rows * depth / EMULATOR_LANES; i++) {
            const matrix_place at = layout->a(lane, i);
            a[at.row * depth + at.column] = widen(p->a[i / 2], i % 2);
        }
        for (int i = 0; i < depth * columns / EMULATOR_LANES; i++) {
            const matrix_place at = layout->b(lane, i);
            b[at.column * depth + at.row] = widen(p->b[i / 2], i % 2);
        }
    }
    for (int lane = 0; lane < EMULATOR_LANES; lane++) {
        const emulator_product *p = (const emulator_product *)lanes[lane]->argument;
        for (int i = 0; i < rows * columns / EMULATOR_LANES; i++) {
            const matrix_place at = layout->d(lane, i);
            float sum = p->d[i];
            for (int k = 0; k < depth; k++) sum += a[at.row * depth + k] * b[at.column * depth + k];
            p->d[i] = sum;
        }
    }
}

/* PTX ISA, ldmatrix: lane 8 i + r names row r of matrix i; lane l gets elements 2 (l % 4), + 1 of row l / 4. */
static void load_matrices(machine *m, fiber **lanes) {
    uint16_t matrices[4][8][8];
    const emulator_matrix *first = (const emulator_matrix *)lanes[0]->argument;
    for (int lane = 0; lane < first->count * 8; lane++) {
        const emulator_matrix *own = (const emulator_matrix *)lanes[lane]->argument;
        m->now = lanes[lane];
        emulator_shared_load(matrices[lane / 8][lane % 8], own->shared, 16);
        m->now = NULL;
        if (m->failed) return;
    }
    for (int lane = 0; lane < 32; lane++) {
        const emulator_matrix *own = (const emulator_matrix *)lanes[lane]->argument;
        for (int i = 0; i < first->count; i++) {
            const int row = lane / 4, column = lane % 4 * 2;
            const auto &from = matrices[i];
            own->registers[i] = own->transposed ? from[column][row] | (uint32_t)from[column + 1][row] << 16
                                                : from[row][column] | (uint32_t)from[row][column + 1] << 16;
        }
    }
}

static void shuffle(machine *m, fiber **lanes, int count) {
    for (int i = 0; i < count; i++) {
        emulator_shuffle *own = (emulator_shuffle *)lanes[i]->argument;
        const int distance = ((const emulator_shuffle *)lanes[0]->argument)->distance;
        const int want = lanes[i]->thread ^ distance;
        int other = 0;
        while (other < count && lanes[other]->thread != want) other++;
        if (own->distance != distance || other == count) {
            m->now = lanes[i];
            problem_report(m, "a lane wants the value of a lane that is not there");
            return;
        }
        own->result = ((const emulator_shuffle *)lanes[other]->argument)->value;
    }
}

void instruction_run(machine *m, emulator_operation operation, fiber **lanes, int count) {
    switch (operation) {
    case EMULATOR_SYNC_WARP:
        detect_warp_sync(m, lanes[0]->warp);
        return;
    case EMULATOR_UNIFORM:
        for (int i = 1; i < count; i++) *(int *)lanes[i]->argument = *(int *)lanes[0]->argument;
        return;
    case EMULATOR_SHUFFLE:
        shuffle(m, lanes, count);
        return;
    case EMULATOR_LOAD_MATRIX:
        load_matrices(m, lanes);
        return;
    case EMULATOR_MMA_16X8X16:
        multiply(&layout_mma_16x8x16, lanes);
        return;
    case EMULATOR_MFMA_16X16X16:
        multiply(&layout_mfma_16x16x16, lanes);
        return;
    case EMULATOR_MFMA_16X16X32:
        multiply(&layout_mfma_16x16x32, lanes);
        return;
    case EMULATOR_MFMA_32X32X8:
        multiply(&layout_mfma_32x32x8, lanes);
        return;
    }
}
