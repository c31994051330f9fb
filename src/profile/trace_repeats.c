#include "profile/trace_repeats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum {
    MAX_PER_COPY = 24,     /* kernels of one name in one copy */
    MIN_SAME_IN_ROW = 12,  /* copies of a pattern of one kernel before it counts as a run */
    MIN_INNER_COPIES = 12, /* of the runs that a run of runs is made of */
    MAX_ACTIVE = 2048,     /* runs that a chain is compared with: more are no model's layers */
    COPY_COUNTS = 8,       /* different counts of copies that the chains of a run may disagree on */
};

/* Occurrences of one symbol at a constant distance. */
typedef struct chain {
    uint32_t first, last; /* kernels */
    uint32_t kernels;
    uint32_t run;
    float period;
    uint16_t copies;
    uint8_t level;
    bool exact; /* every copy has as many kernels */
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
    double weight[COPY_COUNTS];
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

/* How far a distance may be off: a kernel or two more or less in a layer. */
static uint32_t slack(uint32_t distance) {
    if (distance < 8) return distance >= 4;
    return distance < 20 ? 2 : distance / 10;
}

/* From occurrence k on, how many distances to the per_copy-th next one stay what the first is, and their sum. */
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

/* Whether the distances are one distance with exceptions, and not two that take turns. */
static bool steady(const uint32_t *places, uint32_t k, uint32_t length, uint32_t per_copy, double mean) {
    double off = 0;
    for (uint32_t i = k; i < k + length; i++) off += fabs(places[i + per_copy] - places[i] - mean);
    return off <= length * (0.04 * mean + 0.15);
}

/* Takes links off the ends that only patience held: what stands before and after the layers is no layer. */
static void trim(const uint32_t *places, uint32_t *k, uint32_t *length, uint32_t per_copy, double *sum) {
    while (*length > 1) {
        double mean = *sum / *length, most = 0.5 + 0.02 * mean;
        uint32_t front = places[*k + per_copy] - places[*k];
        uint32_t back = places[*k + *length - 1 + per_copy] - places[*k + *length - 1];
        if (fabs(front - mean) > most) {
            *sum -= front;
            ++*k;
        } else if (fabs(back - mean) > most) {
            *sum -= back;
        } else {
            return;
        }
        --*length;
    }
}

/* All chains of one symbol; occurrences that a chain took are not taken again by one with more kernels a copy. */
static pi0_status chains_of_symbol(chain_list *list, const uint32_t *places, bool *claimed, uint32_t count, int level,
                                   bool *regular, pi0_error *error) {
    memset(claimed, 0, count);
    for (uint32_t per_copy = 1; per_copy <= MAX_PER_COPY && per_copy * REPEAT_MIN_COPIES <= count; per_copy++) {
        for (uint32_t k = 0; k + per_copy < count;) {
            double sum;
            uint32_t length = stretch(places, claimed, count, k, per_copy, &sum);
            trim(places, &k, &length, per_copy, &sum);
            uint32_t kernels = length + per_copy;
            if (kernels < REPEAT_MIN_COPIES * per_copy) {
                k += length ? length : 1;
                continue;
            }
            float period = (float)(sum / length);
            if (!steady(places, k, length, per_copy, sum / length)) {
                k++;
                continue;
            }
            uint32_t copies = (kernels + per_copy / 4) / per_copy; /* two more norms than layers are no layer */
            if (period >= 1.5F * (float)per_copy || copies >= MIN_SAME_IN_ROW) {
                TRY(chain_add(list,
                              (chain){.first = places[k],
                                      .last = places[k + kernels - 1],
                                      .kernels = kernels,
                                      .period = period,
                                      .copies = (uint16_t)(copies < UINT16_MAX ? copies : UINT16_MAX),
                                      .level = (uint8_t)level,
                                      .exact = kernels == copies * per_copy},
                              error));
                memset(claimed + k, 1, kernels);
                for (uint32_t i = k; regular && i < k + kernels; i++) regular[places[i]] = true;
            }
            k += kernels;
        }
    }
    return PI0_OK;
}

static pi0_status chains_of_level(chain_list *list, const repeat_level *level, int index, uint32_t count, bool *regular,
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
            status =
                chains_of_symbol(list, places + starts[s], claimed, starts[s + 1] - starts[s], index, regular, error);
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

/* A kernel that comes once a copy tells their number better than one that comes many times. */
static void vote(gathered *run, const chain *chain) {
    double per_copy = (double)chain->kernels / chain->copies, weight = chain->copies / (per_copy * per_copy);
    run->level_kernels[chain->level] += chain->kernels;
    for (int i = 0; i < COPY_COUNTS; i++) {
        if (run->weight[i] > 0 && run->copies[i] != chain->copies) continue;
        run->copies[i] = chain->copies;
        run->weight[i] += weight;
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
            if (active_count == MAX_ACTIVE) memmove(active, active + 1, --active_count * sizeof *active);
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
        run->run.first = UINT32_MAX; /* stays without exact chains: no run */
        run->run.last = 0;
    }
    for (uint32_t i = 0; i < list->count; i++) {
        const chain *chain = &list->chains[i];
        repeat_run *run = &runs[chain->run].run;
        if (chain->copies != run->copies || !chain->exact) continue;
        if (chain->first < run->first) run->first = chain->first;
        if (chain->last > run->last) run->last = chain->last;
    }
    for (uint32_t r = 0; r < run_count; r++) {
        gathered *run = &runs[r];
        double most = run->level_kernels[0] > run->level_kernels[1] ? run->level_kernels[0] : run->level_kernels[1];
        if (run->run.first > run->run.last) {
            run->dropped = true;
            continue;
        }
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
    if (b->run.period < 1.6F * a->run.period) { /* the same pattern seen twice: the longer, but for thin evidence */
        gathered *longer = length_a > length_b ? a : b, *shorter = longer == a ? b : a;
        bool thin = shorter->run.coverage > 1.3F * longer->run.coverage;
        if (outer) (thin ? longer : shorter)->dropped = true;
        return;
    }
    if (length_a >= 0.5F * length_b) {
        /* Over the same span, what repeats at a repeats at its multiples too: b counts when it explains what a leaves.
         */
        gathered *weaker = a->run.coverage <= 0.75F ? a : b;
        if (outer) weaker->dropped = true;
        return;
    }
    bool one_copy_of_b = length_a >= 0.45F * b->run.period && length_a <= 1.1F * b->run.period;
    if (one_copy_of_b && a->run.copies >= MIN_INNER_COPIES) {
        if (outer) b->dropped = true; /* a is the layers, b the steps or inferences made of them */
    } else if (!outer) {
        a->dropped = true;
    }
}

static void keep_innermost(gathered *runs, uint32_t count) {
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < count; i++)
            for (uint32_t j = i + 1; j < count && !runs[i].dropped && runs[j].run.first <= runs[i].run.last; j++)
                if (!runs[j].dropped && overlaps(&runs[i].run, &runs[j].run))
                    compare_runs(&runs[i], &runs[j], pass == 0);
}

/* ---- anchors ----------------------------------------------------------------------------------------------------- */

/*
 * Chains break where a layer has a kernel more or less than the others. The kernels that come once a copy, the run's
 * anchors, are followed on from both ends of it with more patience, and their number is the number of copies.
 */
typedef struct anchors {
    const repeat_level *level;
    uint32_t kernel_count;
    uint32_t *tally; /* of each symbol: how often it comes in the run, then its hits */
    uint32_t *place; /* of each anchor: where it came last */
    bool *is_anchor;
} anchors;

static float patience(float period) { return period + (period > 8 ? 0.25F * period : 2); }

/* Follows the anchors from the run's edge on; direction 1 or -1. */
static void follow(anchors *anchors, const repeat_run *run, int direction) {
    const uint32_t *symbols = anchors->level->symbols;
    float reach = patience(run->period), least = 0.6F * run->period;
    int64_t edge = direction > 0 ? run->last : run->first;
    int64_t inside = direction > 0 ? run->first : run->last;
    /* the outermost place of each anchor inside the run */
    for (int64_t i = inside; i != edge + direction; i += direction)
        if (anchors->is_anchor[symbols[i]]) anchors->place[symbols[i]] = (uint32_t)i;
    for (int64_t i = edge + direction; i >= 0 && i < anchors->kernel_count; i += direction) {
        if ((float)((i - edge) * direction) > reach) return;
        uint32_t symbol = symbols[i];
        if (!anchors->is_anchor[symbol]) continue;
        float distance = (float)((i - (int64_t)anchors->place[symbol]) * direction);
        if (distance < least || distance > reach) continue;
        anchors->place[symbol] = (uint32_t)i;
        anchors->tally[symbol]++;
        edge = i;
    }
}

/* Counts how often each anchor of one level was met; adds to votes. */
static void count_level(anchors *anchors, gathered *run) {
    const uint32_t *symbols = anchors->level->symbols;
    uint32_t first = run->run.first, last = run->run.last;
    for (uint32_t i = first; i <= last; i++) anchors->tally[symbols[i]] = 0;
    for (uint32_t i = first; i <= last; i++) anchors->tally[symbols[i]]++;
    for (uint32_t i = first; i <= last; i++)
        anchors->is_anchor[symbols[i]] =
            anchors->tally[symbols[i]] + 1 >= run->run.copies && anchors->tally[symbols[i]] <= run->run.copies + 1;
    follow(anchors, &run->run, 1);
    follow(anchors, &run->run, -1);
}

static void clear_level(anchors *anchors, const repeat_run *run) {
    for (uint32_t i = run->first; i <= run->last; i++) anchors->is_anchor[anchors->level->symbols[i]] = false;
}

static void vote_copies(gathered *run, uint32_t copies) {
    for (int i = 0; i < COPY_COUNTS; i++) {
        if (run->weight[i] > 0 && run->copies[i] != copies) continue;
        run->copies[i] = copies;
        run->weight[i] += 1;
        return;
    }
}

/* Widens first..last to the anchors with the winning count, inside the run and as far as they reach beyond it. */
static void widen(const anchors *anchors, const gathered *run, uint32_t *first, uint32_t *last) {
    const uint32_t *symbols = anchors->level->symbols;
    float reach = patience(run->run.period);
    for (int direction = -1; direction <= 1; direction += 2) {
        int64_t edge = direction > 0 ? run->run.first : run->run.last;
        for (int64_t i = edge; i >= 0 && i < anchors->kernel_count; i += direction) {
            bool outside = i < run->run.first || i > run->run.last;
            if (outside && (float)((i - edge) * direction) > reach) break;
            bool anchor = anchors->is_anchor[symbols[i]];
            if (anchor || !outside) edge = i;
            if (!anchor || anchors->tally[symbols[i]] != run->run.copies) continue;
            if ((uint32_t)i < *first) *first = (uint32_t)i;
            if ((uint32_t)i > *last) *last = (uint32_t)i;
        }
    }
}

static void extend(anchors anchors[REPEAT_LEVELS], gathered *run) {
    for (int i = 0; i < COPY_COUNTS; i++) run->weight[i] = 0;
    for (int level = 0; level < REPEAT_LEVELS; level++) {
        count_level(&anchors[level], run);
        for (uint32_t i = run->run.first; i <= run->run.last && i < run->run.first + (uint32_t)run->run.period + 1;
             i++) {
            uint32_t symbol = anchors[level].level->symbols[i];
            if (anchors[level].is_anchor[symbol]) vote_copies(run, anchors[level].tally[symbol]);
        }
    }
    double votes = 0;
    for (int i = 0; i < COPY_COUNTS; i++) votes += run->weight[i];
    uint32_t before = run->run.copies, first = run->run.first, last = run->run.last;
    int best = 0;
    for (int i = 1; i < COPY_COUNTS; i++)
        if (run->weight[i] > run->weight[best]) best = i;
    if (run->weight[best] > 0.5 * votes && run->copies[best] != before) {
        run->run.copies = run->copies[best];
        if (run->run.copies < before) { /* only the anchors know where it begins and ends */
            first = run->run.last;
            last = run->run.first;
        }
        for (int level = 0; level < REPEAT_LEVELS; level++) widen(&anchors[level], run, &first, &last);
    }
    for (int level = 0; level < REPEAT_LEVELS; level++) clear_level(&anchors[level], &run->run);
    run->run.first = first;
    run->run.last = last;
}

/* The outermost kernels of a run may be none that keep their distance: fills its length up at the ends with those that
 * have the names they would have to have. */
static void fill_up(const repeat_level *level, uint32_t kernel_count, repeat_run *run) {
    uint32_t period = (uint32_t)(run->period + 0.5F);
    float length = (float)run->copies * run->period;
    while (run->first > 0 && length_of(run) + 1 <= length + 0.5F &&
           level->symbols[run->first - 1] == level->symbols[run->first - 1 + period])
        run->first--;
    while (run->last + 1 < kernel_count && length_of(run) + 1 <= length + 0.5F &&
           level->symbols[run->last + 1] == level->symbols[run->last + 1 - period])
        run->last++;
}

/* Extends every run; those that are reached by one before them are part of it. */
static pi0_status extend_all(const repeat_level levels[REPEAT_LEVELS], uint32_t kernel_count, gathered *runs,
                             uint32_t run_count, pi0_error *error) {
    anchors anchors[REPEAT_LEVELS] = {{0}};
    pi0_status status = PI0_OK;
    for (int level = 0; level < REPEAT_LEVELS; level++) {
        anchors[level].level = &levels[level];
        anchors[level].kernel_count = kernel_count;
        anchors[level].tally = memory_zeroed((size_t)levels[level].symbol_count + 1, sizeof(uint32_t));
        anchors[level].place = memory_zeroed((size_t)levels[level].symbol_count + 1, sizeof(uint32_t));
        anchors[level].is_anchor = memory_zeroed((size_t)levels[level].symbol_count + 1, sizeof(bool));
        if (!anchors[level].tally || !anchors[level].place || !anchors[level].is_anchor)
            status = too_little_memory(error);
    }
    const gathered *before = NULL;
    for (uint32_t i = 0; i < run_count && status == PI0_OK; i++) {
        gathered *run = &runs[i];
        if (run->dropped) continue;
        uint32_t middle = run->run.first + (run->run.last - run->run.first) / 2;
        if (before && middle <= before->run.last) {
            run->dropped = true;
            continue;
        }
        extend(anchors, run);
        fill_up(&levels[REPEAT_LEVELS - 1], kernel_count, &run->run);
        if (before && run->run.first <= before->run.last) run->run.first = before->run.last + 1;
        before = run;
    }
    for (int level = 0; level < REPEAT_LEVELS; level++) {
        memory_release(anchors[level].tally);
        memory_release(anchors[level].place);
        memory_release(anchors[level].is_anchor);
    }
    return status;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

pi0_status repeats_find(const repeat_level levels[REPEAT_LEVELS], uint32_t kernel_count, bool *regular,
                        repeat_run **runs, uint32_t *run_count, pi0_error *error) {
    *runs = NULL;
    *run_count = 0;
    chain_list list = {0};
    gathered *found = NULL;
    uint32_t found_count = 0;
    pi0_status status = PI0_OK;
    for (int level = 0; level < REPEAT_LEVELS && status == PI0_OK; level++)
        status = chains_of_level(&list, &levels[level], level, kernel_count, regular, error);
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
        found_count = kept;
        keep_innermost(found, found_count);
        status = extend_all(levels, kernel_count, found, found_count, error);
    }
    if (status == PI0_OK) {
        *runs = memory_allocate(((size_t)found_count + 1) * sizeof **runs);
        if (!*runs) status = too_little_memory(error);
        for (uint32_t i = 0; i < found_count && *runs; i++)
            if (!found[i].dropped) (*runs)[(*run_count)++] = found[i].run;
    }
    memory_release(found);
    memory_release(list.chains);
    return status;
}
