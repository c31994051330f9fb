#include "profile/trace_repeats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum {
    MAX_PER_COPY = 24,    /* kernels of one name in one copy */
    MIN_SAME_IN_ROW = 12, /* copies of a pattern of one kernel before it counts as a run */
    COPY_COUNTS = 8,      /* different counts of copies that the chains of a run may disagree on */
};

/* Occurrences of one symbol at a constant distance. */
typedef struct chain {
    uint32_t first, last; /* kernels */
    uint32_t kernels;
    uint32_t run;
    float period;
    uint16_t copies;
    uint16_t level;
} chain;

typedef struct chain_list {
    chain *chains;
    uint32_t count, capacity;
} chain_list;

/* Chains that agree, while they are gathered. */
typedef struct gathered {
    repeat_run run;
    float seed_last;
    double level_kernels[REPEAT_LEVELS];
    uint32_t copies[COPY_COUNTS];
    uint64_t weight[COPY_COUNTS];
    bool dropped;
} gathered;

static pi0_status too_little_memory(pi0_error *error) { return error_memory(error, 1 << 20, "finding repeats"); }

static pi0_status chain_add(chain_list *list, chain chain, pi0_error *error) {
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity ? list->capacity * 2 : 1024;
        void *larger = memory_resize(list->chains, list->count * sizeof chain, (size_t)capacity * sizeof chain);
        if (!larger) return too_little_memory(error);
        list->chains = larger;
        list->capacity = capacity;
    }
    list->chains[list->count++] = chain;
    return PI0_OK;
}

/* How far a distance may be off: a kernel or two more or less in a long layer. */
static uint32_t slack(uint32_t distance) { return distance / 12; }

/* From occurrence k on, how many distances to the per_copy-th next one stay what the first is. */
static uint32_t stretch(const uint32_t *places, const bool *claimed, uint32_t count, uint32_t k, uint32_t per_copy,
                        double *sum) {
    uint32_t distance = places[k + per_copy] - places[k], tolerance = slack(distance), length = 0;
    for (*sum = 0; k + per_copy < count; k++, length++) {
        if (claimed[k] || claimed[k + per_copy]) break;
        uint32_t d = places[k + per_copy] - places[k];
        if (d > distance + tolerance || d + tolerance < distance) break;
        *sum += d;
    }
    return length;
}

/* All chains of one symbol; occurrences that a chain took are not taken again by one with more kernels a copy. */
static pi0_status chains_of_symbol(chain_list *list, const uint32_t *places, bool *claimed, uint32_t count, int level,
                                   pi0_error *error) {
    memset(claimed, 0, count);
    for (uint32_t per_copy = 1; per_copy <= MAX_PER_COPY && per_copy * REPEAT_MIN_COPIES <= count; per_copy++) {
        for (uint32_t k = 0; k + per_copy < count;) {
            double sum;
            uint32_t length = stretch(places, claimed, count, k, per_copy, &sum), kernels = length + per_copy;
            if (kernels < REPEAT_MIN_COPIES * per_copy) {
                k += length ? length : 1;
                continue;
            }
            float period = (float)(sum / length);
            uint32_t copies = (kernels + per_copy / 2) / per_copy;
            if (period >= 1.5F * (float)per_copy || copies >= MIN_SAME_IN_ROW) {
                TRY(chain_add(list,
                              (chain){.first = places[k],
                                      .last = places[k + kernels - 1],
                                      .kernels = kernels,
                                      .period = period,
                                      .copies = (uint16_t)(copies < UINT16_MAX ? copies : UINT16_MAX),
                                      .level = (uint16_t)level},
                              error));
                memset(claimed + k, 1, kernels);
            }
            k += kernels;
        }
    }
    return PI0_OK;
}

static pi0_status chains_of_level(chain_list *list, const repeat_level *level, int index, uint32_t count,
                                  pi0_error *error) {
    uint32_t *starts = memory_zeroed((size_t)level->symbol_count + 2, sizeof *starts);
    uint32_t *places = memory_allocate((size_t)count * sizeof *places);
    bool *claimed = memory_allocate(count);
    pi0_status status = starts && places && claimed ? PI0_OK : too_little_memory(error);
    if (status == PI0_OK) {
        for (uint32_t i = 0; i < count; i++) starts[level->symbols[i] + 2]++;
        for (uint32_t s = 2; s < level->symbol_count + 2; s++) starts[s] += starts[s - 1];
        for (uint32_t i = 0; i < count; i++) places[starts[level->symbols[i] + 1]++] = i;
        for (uint32_t s = 0; s < level->symbol_count && status == PI0_OK; s++)
            status = chains_of_symbol(list, places + starts[s], claimed, starts[s + 1] - starts[s], index, error);
    }
    memory_release(claimed);
    memory_release(places);
    memory_release(starts);
    return status;
}

static int by_first_chain(const void *a, const void *b) {
    const chain *left = a, *right = b;
    if (left->first != right->first) return left->first < right->first ? -1 : 1;
    if (left->last != right->last) return left->last > right->last ? -1 : 1;
    return left->level < right->level ? -1 : left->level > right->level;
}

static bool agrees(const gathered *run, const chain *chain) {
    float period = run->run.period, difference = fabsf(period - chain->period);
    if (difference > 0.5F && difference > 0.04F * period) return false;
    return (float)chain->first <= (float)run->run.first + period &&
           fabsf((float)chain->last - run->seed_last) <= period;
}

static void vote(gathered *run, const chain *chain) {
    run->level_kernels[chain->level] += chain->kernels;
    for (int i = 0; i < COPY_COUNTS; i++) {
        if (run->weight[i] && run->copies[i] != chain->copies) continue;
        run->copies[i] = chain->copies;
        run->weight[i] += chain->kernels;
        return;
    }
}

/* Puts each chain into the run it agrees with; chains come by their first kernel. */
static pi0_status gather(chain_list *list, gathered **runs, uint32_t *run_count, pi0_error *error) {
    uint32_t capacity = 256, count = 0, active_count = 0;
    *runs = memory_allocate(capacity * sizeof **runs);
    uint32_t *active = memory_allocate(capacity * sizeof *active);
    if (!*runs || !active) {
        memory_release(active);
        return too_little_memory(error);
    }
    for (uint32_t i = 0; i < list->count; i++) {
        chain *chain = &list->chains[i];
        uint32_t kept = 0, found = UINT32_MAX;
        for (uint32_t k = 0; k < active_count; k++) {
            const gathered *run = &(*runs)[active[k]];
            if ((float)run->run.first + run->run.period < (float)chain->first) continue;
            active[kept++] = active[k];
            if (found == UINT32_MAX && agrees(run, chain)) found = active[k];
        }
        active_count = kept;
        if (found == UINT32_MAX) {
            if (count == capacity) {
                void *larger = memory_resize(*runs, count * sizeof **runs, (size_t)capacity * 2 * sizeof **runs);
                if (larger) *runs = larger;
                void *larger_active =
                    larger ? memory_resize(active, active_count * sizeof *active, (size_t)capacity * 2 * sizeof *active)
                           : NULL;
                if (!larger_active) {
                    memory_release(active);
                    return too_little_memory(error);
                }
                active = larger_active;
                capacity *= 2;
            }
            found = count++;
            (*runs)[found] = (gathered){.run = {.first = chain->first, .last = chain->last, .period = chain->period},
                                        .seed_last = (float)chain->last};
            active[active_count++] = found;
        }
        chain->run = found;
        vote(&(*runs)[found], chain);
    }
    memory_release(active);
    *run_count = count;
    return PI0_OK;
}

/* The count of copies that most kernels vote for, and the span of the chains that have it. */
static void settle(gathered *runs, uint32_t run_count, const chain_list *list) {
    for (uint32_t r = 0; r < run_count; r++) {
        gathered *run = &runs[r];
        int best = 0;
        for (int i = 1; i < COPY_COUNTS; i++)
            if (run->weight[i] > run->weight[best]) best = i;
        run->run.copies = run->copies[best];
        run->run.first = UINT32_MAX;
        run->run.last = 0;
    }
    for (uint32_t i = 0; i < list->count; i++) {
        const chain *chain = &list->chains[i];
        repeat_run *run = &runs[chain->run].run;
        if (chain->copies != run->copies) continue;
        if (chain->first < run->first) run->first = chain->first;
        if (chain->last > run->last) run->last = chain->last;
    }
    for (uint32_t r = 0; r < run_count; r++) {
        gathered *run = &runs[r];
        double most = run->level_kernels[0] > run->level_kernels[1] ? run->level_kernels[0] : run->level_kernels[1];
        double coverage = most / ((double)run->run.last - run->run.first + 1);
        run->run.coverage = (float)(coverage < 1 ? coverage : 1);
        run->dropped = run->run.coverage < 0.25F;
    }
}

static int by_first_run(const void *a, const void *b) {
    const gathered *left = a, *right = b;
    if (left->run.first != right->run.first) return left->run.first < right->run.first ? -1 : 1;
    return left->run.last > right->run.last ? -1 : left->run.last < right->run.last;
}

static float length_of(const repeat_run *run) { return (float)(run->last - run->first + 1); }

static bool overlaps(const repeat_run *a, const repeat_run *b) {
    uint32_t first = a->first > b->first ? a->first : b->first, last = a->last < b->last ? a->last : b->last;
    if (first > last) return false;
    float shorter = length_of(a) < length_of(b) ? length_of(a) : length_of(b);
    return (float)(last - first + 1) >= 0.5F * shorter;
}

/* Of two runs over the same kernels one is the layers. outer: drop runs made of runs; then inner: drop what repeats
 * inside one copy of what is left. */
static void compare_runs(gathered *a, gathered *b, bool outer) {
    if (a->run.period > b->run.period) {
        gathered *swap = a;
        a = b;
        b = swap;
    }
    float length_a = length_of(&a->run), length_b = length_of(&b->run);
    if (b->run.period < 1.6F * a->run.period) { /* the same pattern seen twice: the one with more evidence */
        gathered *weaker = a->run.coverage * length_a < b->run.coverage * length_b ? a : b;
        if (outer) weaker->dropped = true;
        return;
    }
    bool substantial = length_a >= 0.45F * b->run.period;
    if (!substantial) {
        if (!outer) a->dropped = true;
        return;
    }
    if (!outer) return;
    bool alias = length_a >= 0.5F * length_b; /* the same span with a multiple of the period */
    if (alias && a->run.coverage < 0.8F * b->run.coverage)
        a->dropped = true;
    else
        b->dropped = true;
}

static void keep_innermost(gathered *runs, uint32_t count) {
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < count; i++)
            for (uint32_t j = i + 1; j < count && !runs[i].dropped && runs[j].run.first <= runs[i].run.last; j++)
                if (!runs[j].dropped && overlaps(&runs[i].run, &runs[j].run))
                    compare_runs(&runs[i], &runs[j], pass == 0);
}

pi0_status repeats_find(const repeat_level levels[REPEAT_LEVELS], uint32_t kernel_count, repeat_run **runs,
                        uint32_t *run_count, pi0_error *error) {
    *runs = NULL;
    *run_count = 0;
    chain_list list = {0};
    gathered *found = NULL;
    uint32_t found_count = 0;
    pi0_status status = PI0_OK;
    for (int level = 0; level < REPEAT_LEVELS && status == PI0_OK; level++)
        status = chains_of_level(&list, &levels[level], level, kernel_count, error);
    if (status == PI0_OK && list.count) {
        qsort(list.chains, list.count, sizeof *list.chains, by_first_chain);
        status = gather(&list, &found, &found_count, error);
    }
    if (status == PI0_OK) {
        settle(found, found_count, &list);
        if (found_count) qsort(found, found_count, sizeof *found, by_first_run);
        uint32_t kept = 0; /* only what has evidence is compared */
        for (uint32_t i = 0; i < found_count; i++)
            if (!found[i].dropped) found[kept++] = found[i];
        keep_innermost(found, kept);
        *runs = memory_allocate((kept ? kept : 1) * sizeof **runs);
        if (!*runs) status = too_little_memory(error);
        for (uint32_t i = 0; i < kept && *runs; i++)
            if (!found[i].dropped) (*runs)[(*run_count)++] = found[i].run;
    }
    memory_release(found);
    memory_release(list.chains);
    return status;
}
