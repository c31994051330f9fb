/*
 * From runs of repeats to inferences. Runs that follow each other and look alike (the cameras' passes through the ViT,
 * the steps of the expert) make a segment; an inference is a segment of 27 ViT layers (times cameras), one of 17 or 18
 * prefill layers (the last one's unused half may be gone) and one of 18 expert layers a step. Anything else is no
 * trace of this model.
 */
#include "profile/trace_layers.h"

#include <string.h>

#include "base/memory.h"
#include "profile/trace_repeats.h"

enum { VIT_LAYERS = 27, GEMMA_LAYERS = 18 };

typedef struct segment {
    uint32_t first, last; /* kernels, both included */
    uint32_t run_first, run_count;
    uint32_t copies;
    double us;
    float period;
} segment;

typedef struct finder {
    const trace_split *split;
    const trace *trace;
    uint32_t begin, count; /* the part of the order that is looked at */
    uint32_t *kept;        /* [count] after the kernels that fit nowhere were left out: places in the part; else NULL */
    bool *regular;         /* [count] kernels that keep a distance */
    uint32_t *symbols[REPEAT_LEVELS];
    uint32_t symbol_count[REPEAT_LEVELS];
    repeat_run *runs;
    uint32_t run_count;
    segment *segments;
    uint32_t segment_count;
    double *sums_us; /* of kernels before each one, [count + 1] */
    uint32_t *tally; /* [2 * coarse symbols], for comparing runs */
    pi0_error *error;
} finder;

static pi0_status no_memory(finder *finder) {
    return error_memory(finder->error, (size_t)finder->count * sizeof(uint32_t), "a trace's structure");
}

static const trace_kernel *kernel_at(const finder *finder, uint32_t index) {
    uint32_t place = finder->kept ? finder->kept[index] : index;
    return trace_split_kernel(finder->split, finder->trace, finder->begin + place);
}

/* ---- symbols ----------------------------------------------------------------------------------------------------- */

/* A name without its numbers: tiles, unroll factors and Inductor's counters go, what the kernel does stays. */
static size_t without_numbers(const char *name, size_t length, char *bytes, size_t capacity) {
    size_t size = 0;
    for (size_t i = 0; i < length && size < capacity; i++) {
        char c = name[i];
        bool digit = c >= '0' && c <= '9';
        if (!digit)
            bytes[size++] = c;
        else if (size == 0 || bytes[size - 1] != '#')
            bytes[size++] = '#';
    }
    return size;
}

static pi0_status make_symbols(finder *finder) {
    const trace_names *names = &finder->trace->kernels;
    trace_names coarse = {0}, fine = {0};
    uint32_t *coarse_of_name = memory_allocate((names->count + 1) * sizeof *coarse_of_name);
    pi0_status status = PI0_OK;
    for (int level = 0; level < REPEAT_LEVELS; level++) {
        finder->symbols[level] = memory_allocate((size_t)(finder->count + 1) * sizeof(uint32_t));
        if (!finder->symbols[level]) status = no_memory(finder);
    }
    if (!coarse_of_name) status = no_memory(finder);
    for (uint32_t i = 0; i < names->count && status == PI0_OK; i++) {
        char bytes[512];
        size_t length = without_numbers(names->names[i].text, names->names[i].length, bytes, sizeof bytes);
        coarse_of_name[i] = trace_names_add(&coarse, bytes, length);
        if (coarse_of_name[i] == TRACE_NO_NAME) status = no_memory(finder);
    }
    for (uint32_t i = 0; i < finder->count && status == PI0_OK; i++) {
        const trace_kernel *kernel = kernel_at(finder, i);
        char pair[sizeof kernel->name + sizeof kernel->grid + 1];
        memcpy(pair, &kernel->name, sizeof kernel->name);
        memcpy(pair + sizeof kernel->name, &kernel->grid, sizeof kernel->grid);
        finder->symbols[1][i] = coarse_of_name[kernel->name];
        finder->symbols[0][i] = trace_names_add(&fine, pair, sizeof kernel->name + sizeof kernel->grid);
        if (finder->symbols[0][i] == TRACE_NO_NAME) status = no_memory(finder);
    }
    finder->symbol_count[0] = fine.count;
    finder->symbol_count[1] = coarse.count;
    memory_release(coarse_of_name);
    trace_names_release(&fine);
    trace_names_release(&coarse);
    return status;
}

/* ---- segments ---------------------------------------------------------------------------------------------------- */

static double time_between(const finder *finder, uint32_t first, uint32_t end) {
    return finder->sums_us[end] - finder->sums_us[first];
}

/* Share of one copy's kernels that one copy of the other run has too, by name. */
static double likeness(finder *finder, const repeat_run *a, const repeat_run *b) {
    const uint32_t *symbols = finder->symbols[1];
    uint32_t *of_a = finder->tally, *of_b = finder->tally + finder->symbol_count[1];
    for (uint32_t i = b->first; i <= b->last; i++) of_a[symbols[i]] = of_b[symbols[i]] = 0;
    for (uint32_t i = a->first; i <= a->last; i++) of_a[symbols[i]] = of_b[symbols[i]] = 0;
    for (uint32_t i = b->first; i <= b->last; i++) of_b[symbols[i]]++;
    for (uint32_t i = a->first; i <= a->last; i++) of_a[symbols[i]]++;
    double common = 0;
    for (uint32_t i = a->first; i <= a->last; i++) {
        uint32_t symbol = symbols[i];
        double x = (double)of_a[symbol] / a->copies, y = (double)of_b[symbol] / b->copies;
        common += x < y ? x : y;
        of_a[symbol] = 0; /* counts once */
    }
    double longer = a->period > b->period ? (double)a->period : (double)b->period;
    return common / longer;
}

static bool within(double a, double b, double factor) { return a <= b * factor && b <= a * factor; }

/* Whether the run continues the segment: the same layers again, after no more than what stands between two steps. */
static bool continues(finder *finder, const segment *segment, const repeat_run *run) {
    const repeat_run *last = &finder->runs[segment->run_first + segment->run_count - 1];
    double us = time_between(finder, run->first, run->last + 1) / run->copies;
    double period_difference = (double)(run->period - last->period);
    if (period_difference > 1.5 || period_difference < -1.5)
        if (!within((double)run->period, (double)last->period, 1.15)) return false;
    uint32_t gap = run->first > last->last ? run->first - last->last : 0;
    if ((double)gap > 16 + 12.0 * (double)run->period) return false; /* a step that was not found would be 18 */
    return within(us, segment->us / segment->copies, 1.5) && likeness(finder, last, run) >= 0.5;
}

static pi0_status make_segments(finder *finder) {
    finder->segments = memory_allocate((2 * (size_t)finder->run_count + 1) * sizeof *finder->segments);
    finder->tally = memory_allocate(2 * (size_t)finder->symbol_count[1] * sizeof *finder->tally);
    if (!finder->segments || !finder->tally) return no_memory(finder);
    for (uint32_t i = 0; i < finder->run_count; i++) {
        const repeat_run *run = &finder->runs[i];
        segment *segment = finder->segment_count ? &finder->segments[finder->segment_count - 1] : NULL;
        if (!segment || !continues(finder, segment, run)) {
            segment = &finder->segments[finder->segment_count++];
            *segment = (struct segment){.first = run->first, .last = run->last, .run_first = i, .period = run->period};
        }
        if (run->last > segment->last) segment->last = run->last;
        segment->run_count++;
        segment->copies += run->copies;
        segment->us += time_between(finder, run->first, run->last + 1);
    }
    return PI0_OK;
}

static uint32_t vit_passes(const finder *finder, const segment *segment);

/* Gemma's layers and the expert's can look alike (eager PyTorch): behind a ViT the first 17 or 18 are Gemma's. */
static void part_prefill(finder *finder) {
    for (uint32_t i = 1; i < finder->segment_count; i++) {
        segment *both = &finder->segments[i];
        if (both->copies <= GEMMA_LAYERS || vit_passes(finder, both - 1) == 0) continue;
        uint32_t copies = 0, runs = 0;
        while (runs < both->run_count && copies < GEMMA_LAYERS - 1)
            copies += finder->runs[both->run_first + runs++].copies;
        if (runs == both->run_count || (copies != GEMMA_LAYERS && copies != GEMMA_LAYERS - 1)) continue;
        segment rest = {.first = finder->runs[both->run_first + runs].first,
                        .last = both->last,
                        .run_first = both->run_first + runs,
                        .run_count = both->run_count - runs,
                        .copies = both->copies - copies,
                        .period = finder->runs[both->run_first + runs].period};
        both->run_count = runs;
        both->copies = copies;
        both->last = finder->runs[both->run_first + runs - 1].last;
        both->us = 0;
        for (uint32_t k = 0; k < runs + rest.run_count; k++) {
            const repeat_run *run = &finder->runs[both->run_first + k];
            *(k < runs ? &both->us : &rest.us) += time_between(finder, run->first, run->last + 1);
        }
        memmove(both + 2, both + 1, (finder->segment_count - i - 1) * sizeof *both);
        both[1] = rest;
        finder->segment_count++;
    }
}

/* Drops runs that carry next to no time beside their neighbours and have no count of layers of this model. */
static void drop_noise(finder *finder) {
    uint32_t kept = 0, count = finder->run_count;
    for (uint32_t i = 0; i < count; i++) {
        repeat_run run = finder->runs[i];
        bool layers = run.copies % VIT_LAYERS == 0 || run.copies % GEMMA_LAYERS == 0 || run.copies == GEMMA_LAYERS - 1;
        double largest = 0;
        for (uint32_t k = i < 2 ? 0 : i - 2; k < count && k <= i + 2; k++) {
            const repeat_run *near = &finder->runs[k]; /* those before may have moved up: neighbours all the same */
            double us = time_between(finder, near->first, near->last + 1);
            if (us > largest) largest = us;
        }
        if (layers || time_between(finder, run.first, run.last + 1) >= 0.05 * largest) finder->runs[kept++] = run;
    }
    finder->run_count = kept;
}

/* ---- reading segments as stages ---------------------------------------------------------------------------------- */

/* Whether the copies fill the span: else some were not seen, and their number is worth nothing. */
static bool is_dense(const finder *finder, const segment *segment) {
    for (uint32_t i = 0; i < segment->run_count; i++) {
        const repeat_run *run = &finder->runs[segment->run_first + i];
        float expected = (float)run->copies * run->period, found = (float)(run->last - run->first + 1);
        if (found > 1.2F * expected + 2 * run->period || expected > 1.2F * found + 2 * run->period) return false;
    }
    return true;
}

/* Passes through the ViT, or 0. A run may have lost a layer at its ends to fusion, but not the sum. */
static uint32_t vit_passes(const finder *finder, const segment *segment) {
    if (!is_dense(finder, segment)) return 0;
    if (segment->copies % VIT_LAYERS == 0) return segment->copies;
    for (uint32_t i = 0; i < segment->run_count; i++) {
        uint32_t copies = finder->runs[segment->run_first + i].copies;
        if (copies != VIT_LAYERS && copies != VIT_LAYERS - 1) return 0;
    }
    return segment->run_count * VIT_LAYERS;
}

static bool at_end(const finder *finder, const segment *segment) {
    return (float)segment->last + 2 * segment->period + 2 >= (float)finder->count;
}

/* Steps of the expert in *steps and the layers of one that breaks off in *layers; false: no expert. */
static bool expert_steps(const finder *finder, const segment *segment, int *steps, int *layers) {
    const repeat_run *runs = &finder->runs[segment->run_first];
    *layers = 0;
    if (!is_dense(finder, segment)) return false;
    if (segment->copies % GEMMA_LAYERS == 0) {
        *steps = (int)(segment->copies / GEMMA_LAYERS);
        return true;
    }
    uint32_t last = segment->run_count - 1, whole = 0;
    for (uint32_t i = 0; i < last; i++) whole += runs[i].copies;
    bool each = true;
    for (uint32_t i = 0; i < last; i++)
        each = each && (runs[i].copies == GEMMA_LAYERS || runs[i].copies == GEMMA_LAYERS - 1);
    if (each && (runs[last].copies == GEMMA_LAYERS || runs[last].copies == GEMMA_LAYERS - 1)) {
        *steps = (int)segment->run_count;
        return true;
    }
    if (!at_end(finder, segment)) return false;
    if (each || whole % GEMMA_LAYERS == 0) {
        *steps = each && last ? (int)last : (int)(whole / GEMMA_LAYERS);
        *steps += (int)(runs[last].copies / GEMMA_LAYERS);
        *layers = (int)(runs[last].copies % GEMMA_LAYERS);
        return true;
    }
    return false;
}

static double us_per_copy(const segment *segment) { return segment->us / segment->copies; }

/* Share of the kernels from..to-1 whose names occur in first..end-1. */
static double known_share(finder *finder, uint32_t first, uint32_t end, uint32_t from, uint32_t to) {
    uint32_t *known = finder->tally, found = 0;
    const uint32_t *symbols = finder->symbols[1];
    if (from >= to) return 0;
    for (uint32_t i = from; i < to; i++) known[symbols[i]] = 0;
    for (uint32_t i = first; i < end; i++) known[symbols[i]] = 1;
    for (uint32_t i = from; i < to; i++) found += known[symbols[i]];
    return (double)found / (to - from);
}

/* The inference that begins with segment `index`; *used segments belong to it, 0 when it is none of this model's. */
static void read_plan(finder *finder, uint32_t index, layer_plan *plan, uint32_t *used) {
    const segment *vit = &finder->segments[index], *prefill = vit + 1, *expert = vit + 2;
    uint32_t left = finder->segment_count - index;
    *used = 0;
    *plan = (layer_plan){.vit_first = vit->first, .vit_end = vit->last + 1, .vit_layers = (int)vit_passes(finder, vit)};
    if (plan->vit_layers == 0 || left < 2) return;
    plan->prefill_first = prefill->first;
    plan->prefill_end = prefill->last + 1;
    plan->prefill_layers = (int)prefill->copies;
    if (plan->vit_end > plan->prefill_first) plan->vit_end = plan->prefill_first;
    if (!is_dense(finder, prefill)) return;
    bool whole = prefill->copies == GEMMA_LAYERS || prefill->copies == GEMMA_LAYERS - 1;
    if (!whole || left < 3) {
        /* the trace may end inside the prefill or right behind it, but nothing else may follow */
        bool other_layers = known_share(finder, vit->first, vit->last + 1, prefill->first, prefill->last + 1) < 0.7;
        if (left == 2 && prefill->copies <= GEMMA_LAYERS && at_end(finder, prefill) && other_layers) *used = 2;
        return;
    }
    if (!expert_steps(finder, expert, &plan->denoise_steps, &plan->expert_layers)) return;
    if (us_per_copy(prefill) < 1.1 * us_per_copy(expert)) return; /* the expert's layers are a fraction of Gemma's */
    if (left > 3) { /* the next inference must follow, or it is another model; or the steps were not all seen */
        const segment *next = expert + 1;
        bool same_layers = within((double)vit->period, (double)next->period, 1.15) &&
                           known_share(finder, vit->first, vit->last + 1, next->first, next->last + 1) >= 0.7;
        bool breaks_off = left == 4 && at_end(finder, next);
        if (!same_layers || (vit_passes(finder, next) == 0 && !breaks_off)) return;
    }
    plan->expert_first = expert->first;
    plan->expert_end = expert->last + 1;
    plan->run_first = expert->run_first;
    plan->run_count = expert->run_count;
    if (plan->prefill_end > plan->expert_first) plan->prefill_end = plan->expert_first;
    plan->complete = plan->expert_layers == 0 && plan->denoise_steps > 0;
    *used = 3;
}

/* ---- where one inference ends and the next begins ---------------------------------------------------------------- */

/* Idle time before kernel `index`. */
static double idle_before(const finder *finder, uint32_t index) {
    const trace_kernel *before = kernel_at(finder, index - 1), *here = kernel_at(finder, index);
    double idle = here->start_us - (before->start_us + (double)before->us);
    return idle > 0 ? idle : 0;
}

/* The kernel in first..end-1 that the longest pause comes before; *idle that pause, *second the next longest. */
static uint32_t longest_pause(const finder *finder, uint32_t first, uint32_t end, double *idle, double *second) {
    uint32_t at = first;
    *idle = *second = 0;
    for (uint32_t i = first > 0 ? first : 1; i < end; i++) {
        double pause = idle_before(finder, i);
        if (pause > *idle) {
            *second = *idle;
            *idle = pause;
            at = i;
        } else if (pause > *second) {
            *second = pause;
        }
    }
    return at;
}

static bool same_symbol(const finder *finder, uint32_t a, uint32_t b) {
    return finder->symbols[1][a] == finder->symbols[1][b];
}

/* How many kernels before `a` and before `b` are the same, `limit` at most. */
static uint32_t common_before(const finder *finder, uint32_t a, uint32_t b, uint32_t limit) {
    uint32_t common = 0;
    while (common < limit && common < a && common < b && same_symbol(finder, a - 1 - common, b - 1 - common)) common++;
    return common;
}

static uint32_t common_from(const finder *finder, uint32_t a, uint32_t b, uint32_t limit) {
    uint32_t common = 0;
    while (common < limit && a + common < finder->count && b + common < finder->count &&
           same_symbol(finder, a + common, b + common))
        common++;
    return common;
}

/* The first kernel of the later one of two neighbouring inferences: known from how the first one begins and the last
 * one ends, or from the pause between them. */
static uint32_t boundary(const finder *finder, const layer_plan *first_plan, const layer_plan *last_plan,
                         const layer_plan *before, const layer_plan *after) {
    uint32_t begin = before->expert_end, end = after->vit_first;
    if (begin >= end) return end;
    uint32_t lead = common_before(finder, first_plan->vit_first, end, end - begin);
    uint32_t tail = last_plan->expert_end ? common_from(finder, last_plan->expert_end, begin, end - begin) : 0;
    double idle, second;
    uint32_t pause = longest_pause(finder, begin, end + 1, &idle, &second);
    if (lead + tail < end - begin && idle >= 20 && idle >= 2 * second) return pause;
    return end - lead;
}

/* Kernels that stand between two steps, or between the layers' end and what follows: the most that may be taken at
 * the outer ends without another sign. */
static uint32_t usual_gap(const finder *finder, const layer_plan *plan) {
    uint32_t gap = 0;
    for (uint32_t i = 1; i < plan->run_count; i++) {
        const repeat_run *run = &finder->runs[plan->run_first + i];
        uint32_t here = run->first > run[-1].last ? run->first - run[-1].last - 1 : 0;
        if (here > gap) gap = here;
    }
    return gap;
}

/* What comes before the first inference: other work in front of it is cut at the longest pause. */
static uint32_t outer_first(const finder *finder, const layer_plan *plan) {
    double idle, second, vit = time_between(finder, plan->vit_first, plan->vit_end);
    if (time_between(finder, 0, plan->vit_first) <= 0.25 * vit && plan->vit_first <= 500) return 0;
    uint32_t from = plan->vit_first > 500 ? plan->vit_first - 500 : 0;
    uint32_t pause = longest_pause(finder, from + 1, plan->vit_first + 1, &idle, &second);
    if (idle < 20 || idle < 2 * second) return plan->vit_first;
    return pause;
}

/* The place near `near` where the kernels are most like those from `reference` on: runs begin a few kernels early or
 * late. */
static uint32_t aligned(const finder *finder, uint32_t reference, uint32_t near) {
    enum { LOOK = 64, REACH = 24 };
    uint32_t best = near, most = 0;
    for (int offset = 0; offset <= 2 * REACH; offset++) {
        int64_t at = (int64_t)near + (offset % 2 ? (offset + 1) / 2 : -(offset / 2)); /* 0, 1, -1, 2, .. */
        uint32_t same = 0;
        if (at < 0) continue;
        for (uint32_t i = 0; i < LOOK && at + i < finder->count && reference + i < finder->count; i++)
            same += same_symbol(finder, reference + i, (uint32_t)at + i);
        if (same <= most) continue;
        most = same;
        best = (uint32_t)at;
    }
    return best;
}

/* What one step is made of, from the first two: kernels from one to the next, and those before its layers. */
typedef struct step_shape {
    uint32_t length, head;
    uint32_t spread;     /* by which the steps differ in length */
    uint32_t last_first; /* where the last step has the kernel that the first one's run begins with */
} step_shape;

/* false: there are no two steps to learn it from. */
static bool shape_of_step(const finder *finder, const layer_plan *plan, step_shape *shape) {
    if (plan->run_count < 2 || plan->run_count < (uint32_t)plan->denoise_steps) return false;
    const repeat_run *runs = &finder->runs[plan->run_first];
    uint32_t second = aligned(finder, runs[0].first, runs[1].first);
    if (second <= runs[0].first) return false;
    shape->length = second - runs[0].first;
    uint32_t shortest = shape->length, longest = shape->length;
    for (uint32_t i = 2; i < plan->run_count; i++) {
        uint32_t length = runs[i].first - runs[i - 1].first;
        if (length < shortest) shortest = length;
        if (length > longest) longest = length;
    }
    shape->spread = longest - shortest;
    shape->head = common_before(finder, runs[0].first, second, runs[0].first - plan->prefill_end);
    shape->last_first = aligned(finder, runs[0].first, runs[plan->run_count - 1].first);
    return shape->head < shape->length;
}

/* Where other repeats begin behind the plan's expert: the next inference's ViT, of which not all is there. */
static uint32_t next_run(const finder *finder, const layer_plan *plan) {
    uint32_t next = plan->run_first + plan->run_count;
    return next < finder->run_count ? finder->runs[next].first : finder->count;
}

static uint32_t outer_end(const finder *finder, const layer_plan *plan) {
    uint32_t end = next_run(finder, plan), usual = usual_gap(finder, plan), next = plan->expert_end;
    step_shape shape;
    double idle, second;
    if (shape_of_step(finder, plan, &shape)) {
        if (shape.last_first + shape.length - shape.head > next) next = shape.last_first + shape.length - shape.head;
        if (next + 2 >= end) return end;
        if (common_from(finder, next, plan->first, end - next) >= 3) return next; /* begins as this one did */
    }
    uint32_t pause = longest_pause(finder, next, end, &idle, &second);
    if (idle >= 100 && idle >= 4 * second) return pause;
    if (end - plan->expert_end <= 2 * usual + 64) return end;
    if (idle >= 20 && idle >= 2 * second && pause - plan->expert_end <= 2 * usual + 64) return pause;
    return plan->expert_end + usual;
}

static void set_ends(const finder *finder, layer_plan *plans, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        layer_plan *plan = &plans[i], *last = &plans[count - 1];
        if (i == 0) plan->first = outer_first(finder, plan);
        if (plan->expert_end == 0) { /* the trace ends before the expert's layers */
            plan->end = finder->count;
        } else if (i + 1 < count) {
            plan->end = plans[i + 1].first = boundary(finder, &plans[0], last, plan, &plans[i + 1]);
        } else {
            plan->end = outer_end(finder, plan);
        }
    }
    /* work long before the images: noise, copies of the last call */
    for (uint32_t i = 0; i < count; i++) {
        layer_plan *plan = &plans[i];
        double idle = 0, second;
        uint32_t pause = plan->vit_first > plan->first + 1
                             ? longest_pause(finder, plan->first + 1, plan->vit_first + 1, &idle, &second)
                             : plan->first;
        plan->other_end = idle >= 100 && idle >= 4 * second ? pause : plan->first;
    }
}

/*
 * The trace may be cut off between two steps. The last step is whole when it is as long as the others, but for what
 * stands before the layers of the next one; and when the next one does not begin behind it.
 */
static void check_tail(const finder *finder, layer_plan *plan) {
    step_shape shape;
    if (!plan->complete || plan->end != finder->count || !shape_of_step(finder, plan, &shape)) return;
    uint32_t here = plan->end - shape.last_first, whole = shape.length - shape.head;
    if (here + shape.spread + 2 < whole) plan->complete = false;
    if (here < whole + shape.spread + 2) return;
    uint32_t same = 0, beyond = here - whole, first = finder->runs[plan->run_first].first;
    for (uint32_t i = 0; i < beyond; i++) same += same_symbol(finder, shape.last_first + whole + i, first + whole + i);
    if (same * 10 >= beyond * 8) plan->complete = false;
}

/*
 * How often all of those kernels come in from..to-1 that come once in each of the `copies` layers first..end-1: layers
 * that were not counted. *low and *high receive the span of the kernels that tell it.
 */
static uint32_t lost_layers(finder *finder, uint32_t first, uint32_t end, int copies, uint32_t from, uint32_t to,
                            uint32_t *low, uint32_t *high) {
    const uint32_t *symbols = finder->symbols[1];
    uint32_t *inside = finder->tally, *outside = finder->tally + finder->symbol_count[1], lost = UINT32_MAX;
    *low = to;
    *high = from;
    if (from >= to || copies <= 0) return 0;
    for (uint32_t i = from; i < to; i++) outside[symbols[i]] = 0;
    for (uint32_t i = first; i < end; i++) inside[symbols[i]] = outside[symbols[i]] = 0;
    for (uint32_t i = first; i < end; i++) inside[symbols[i]]++;
    for (uint32_t i = from; i < to; i++) outside[symbols[i]]++;
    for (uint32_t i = first; i < end; i++)
        if (inside[symbols[i]] == (uint32_t)copies && outside[symbols[i]] < lost) lost = outside[symbols[i]];
    for (uint32_t i = first; i < end; i++) outside[symbols[i]] = inside[symbols[i]] == (uint32_t)copies;
    for (uint32_t i = from; i < to; i++) {
        if (!outside[symbols[i]]) continue;
        if (i < *low) *low = i;
        if (i > *high) *high = i;
    }
    return lost == UINT32_MAX ? 0 : lost;
}

/* Layers outside of what was found make the count wrong, but for a first or last prefill layer that differs and a step
 * that breaks off. */
static bool layers_are_left(finder *finder, layer_plan *plan, uint32_t from, uint32_t until) {
    uint32_t low, high;
    if (lost_layers(finder, plan->vit_first, plan->vit_end, plan->vit_layers, from, plan->vit_first, &low, &high) > 2)
        return true;
    for (int side = 0; side < 2; side++) {
        uint32_t begin = side ? plan->prefill_end : plan->vit_end;
        uint32_t end = !side ? plan->prefill_first : plan->expert_end ? plan->expert_first : until;
        uint32_t lost =
            lost_layers(finder, plan->prefill_first, plan->prefill_end, plan->prefill_layers, begin, end, &low, &high);
        if (lost == 0) continue;
        if (lost > 1 || plan->prefill_layers != GEMMA_LAYERS - 1) return true;
        plan->prefill_layers++;
        if (side)
            plan->prefill_end = high + 1;
        else
            plan->prefill_first = low;
    }
    if (plan->expert_end == 0) return false;
    int layers = plan->denoise_steps * GEMMA_LAYERS + plan->expert_layers;
    if (lost_layers(finder, plan->expert_first, plan->expert_end, layers, plan->prefill_end, plan->expert_first, &low,
                    &high))
        return true;
    uint32_t lost =
        lost_layers(finder, plan->expert_first, plan->expert_end, layers, plan->expert_end, until, &low, &high);
    if (lost == 0) return false;
    if (until != finder->count || lost >= GEMMA_LAYERS || plan->expert_layers) return true;
    plan->complete = false; /* the beginning of a step */
    plan->expert_layers = (int)lost;
    plan->end = until;
    return false;
}

/* Whether more than a step's time behind the last inference is spent in kernels that its expert has too. */
static bool steps_follow(finder *finder, const layer_plan *plan) {
    uint32_t to = finder->count;
    if (plan->expert_end == 0 || plan->denoise_steps == 0 || plan->end >= to) return false;
    for (uint32_t i = finder->run_count; i-- > 0 && finder->runs[i].first >= plan->end;) to = finder->runs[i].first;
    uint32_t *known = finder->tally;
    const uint32_t *symbols = finder->symbols[1];
    for (uint32_t i = plan->end; i < to; i++) known[symbols[i]] = 0;
    for (uint32_t i = plan->expert_first; i < plan->expert_end; i++) known[symbols[i]] = 1;
    double alike_us = 0;
    for (uint32_t i = plan->end; i < to; i++)
        if (known[symbols[i]]) alike_us += (double)kernel_at(finder, i)->us;
    return alike_us > time_between(finder, plan->expert_first, plan->expert_end) / plan->denoise_steps;
}

static pi0_status add_steps(const finder *finder, layer_plans *plans, layer_plan *plan) {
    uint32_t first = plans->step_count, count = (uint32_t)plan->denoise_steps;
    if (plan->run_count < count || (plan->run_count > count && !plan->expert_layers)) count = 0;
    uint32_t tail = plan->end - plan->expert_end, start = plan->prefill_end;
    for (uint32_t i = 0; i < count; i++) {
        const repeat_run *run = &finder->runs[plan->run_first + i];
        uint32_t end = run->last + 1 + tail;
        if (i + 1 < plan->run_count && (plan->expert_layers || end > run[1].first)) end = run[1].first;
        if (i + 1 == count && !plan->expert_layers) end = plan->end;
        plans->steps[plans->step_count++] = (trace_step){start, end};
        start = end;
    }
    plan->run_first = first;
    plan->run_count = count;
    return PI0_OK;
}

/* Whether the layers found carry the inference: else something large was not understood. */
static bool carries(const finder *finder, const layer_plan *plan) {
    double layers = time_between(finder, plan->vit_first, plan->vit_end) +
                    time_between(finder, plan->prefill_first, plan->prefill_end) +
                    time_between(finder, plan->expert_first, plan->expert_end);
    return layers >= 0.7 * time_between(finder, plan->other_end, plan->end);
}

static pi0_status read_plans(finder *finder, layer_plans *plans) {
    plans->plans = memory_allocate((finder->segment_count + 1) * sizeof *plans->plans);
    plans->steps = memory_allocate((finder->run_count + 1) * sizeof *plans->steps);
    if (!plans->plans || !plans->steps) return no_memory(finder);
    uint32_t found = 0;
    for (uint32_t i = 0; i < finder->segment_count;) {
        uint32_t used;
        read_plan(finder, i, &plans->plans[found], &used);
        if (used) found++;
        i += used ? used : 1;
    }
    plans->reason =
        finder->segment_count ? "the layers that repeat are not those of this model" : "no layers repeat in it";
    if (found == 0) return PI0_OK;
    set_ends(finder, plans->plans, found);
    int most_steps = 0;
    uint32_t whole = 0;
    for (uint32_t i = 0; i < found; i++) {
        layer_plan *plan = &plans->plans[i];
        if (!carries(finder, plan)) {
            plans->reason = "most of its time lies outside the layers that repeat";
            return PI0_OK;
        }
        uint32_t from = i ? plan[-1].end : 0, until = finder->count;
        if (i + 1 < found || (plan->expert_end && next_run(finder, plan) < finder->count)) until = plan->end;
        if (layers_are_left(finder, plan, from, until) || (i + 1 == found && steps_follow(finder, plan))) {
            plans->reason = "layers repeat too unevenly to be counted";
            return PI0_OK;
        }
        check_tail(finder, plan);
        if (plan->denoise_steps > most_steps) most_steps = plan->denoise_steps;
    }
    layer_plan *last = &plans->plans[found - 1];
    if (found > 1 && last->denoise_steps < most_steps) last->complete = false; /* cut off between two steps */
    if (finder->trace->cut_off && found == 1 && last->denoise_steps != 10) last->complete = false;
    for (uint32_t i = 0; i < found; i++) whole += plans->plans[i].complete;
    for (uint32_t i = 0; i < found; i++) {
        if (whole ? !plans->plans[i].complete : i > 0) {
            plans->partial++;
            continue;
        }
        plans->plans[plans->count] = plans->plans[i];
        TRY(add_steps(finder, plans, &plans->plans[plans->count]));
        plans->count++;
    }
    plans->reason = NULL;
    return PI0_OK;
}

/* The split's own place of a kernel of the part, or of its end. */
static uint32_t place_of(const finder *finder, uint32_t index, uint32_t whole_count) {
    if (!finder->kept) return finder->begin + index;
    return finder->begin + (index < finder->count ? finder->kept[index] : whole_count);
}

static void place_plans(const finder *finder, layer_plans *plans, uint32_t whole_count) {
    for (uint32_t i = 0; i < plans->count; i++) {
        layer_plan *plan = &plans->plans[i];
        uint32_t *places[] = {&plan->vit_first,   &plan->vit_end, &plan->prefill_first,
                              &plan->prefill_end, &plan->first,   &plan->expert_first,
                              &plan->expert_end,  &plan->end,     &plan->other_end};
        bool reaches_expert = plan->expert_end > 0;
        for (size_t k = 0; k < sizeof places / sizeof *places; k++)
            *places[k] = place_of(finder, *places[k], whole_count);
        if (plan->first == place_of(finder, 0, whole_count)) {
            if (plan->other_end == plan->first) plan->other_end = finder->begin;
            plan->first = finder->begin;
        }
        if (!reaches_expert) plan->expert_end = 0;
    }
    for (uint32_t i = 0; i < plans->step_count; i++) {
        plans->steps[i].first = place_of(finder, plans->steps[i].first, whole_count);
        plans->steps[i].end = place_of(finder, plans->steps[i].end, whole_count);
    }
}

/* Leaves out the kernels that come at no distance: of names of which less than two in five keep one. */
static pi0_status leave_out_irregular(finder *finder) {
    uint32_t symbols = finder->symbol_count[1];
    uint32_t *counts = memory_zeroed((size_t)symbols + 1, 2 * sizeof *counts);
    uint32_t *kept = memory_allocate(((size_t)finder->count + 1) * sizeof *kept);
    if (!counts || !kept) {
        memory_release(counts);
        memory_release(kept);
        return no_memory(finder);
    }
    for (uint32_t i = 0; i < finder->count; i++) {
        counts[2 * finder->symbols[1][i]]++;
        counts[2 * finder->symbols[1][i] + 1] += finder->regular[i];
    }
    uint32_t count = 0;
    for (uint32_t i = 0; i < finder->count; i++) {
        const uint32_t *of_name = &counts[2 * finder->symbols[1][i]];
        if (5 * (uint64_t)of_name[1] < 2 * (uint64_t)of_name[0]) continue;
        for (int level = 0; level < REPEAT_LEVELS; level++) finder->symbols[level][count] = finder->symbols[level][i];
        kept[count++] = i;
    }
    memory_release(counts);
    finder->kept = kept;
    finder->count = count;
    return PI0_OK;
}

static void sum_times(finder *finder) {
    finder->sums_us[0] = 0;
    for (uint32_t i = 0; i < finder->count; i++)
        finder->sums_us[i + 1] = finder->sums_us[i] + (double)kernel_at(finder, i)->us;
}

/* One look at the kernels, told apart by these levels. */
static pi0_status look(finder *finder, layer_plans *plans, int first_level, int second_level) {
    const repeat_level levels[REPEAT_LEVELS] = {{finder->symbols[first_level], finder->symbol_count[first_level]},
                                                {finder->symbols[second_level], finder->symbol_count[second_level]}};
    TRY(repeats_find(levels, finder->count, finder->kept ? NULL : finder->regular, &finder->runs, &finder->run_count,
                     finder->error));
    drop_noise(finder);
    TRY(make_segments(finder));
    part_prefill(finder);
    return read_plans(finder, plans);
}

static void forget_look(finder *finder, layer_plans *plans) {
    memory_release(finder->runs);
    memory_release(finder->segments);
    memory_release(finder->tally);
    memory_release(plans->plans);
    memory_release(plans->steps);
    finder->runs = NULL;
    finder->segments = NULL;
    finder->tally = NULL;
    finder->run_count = finder->segment_count = 0;
    *plans = (layer_plans){.reason = plans->reason};
}

static pi0_status find_all(finder *finder, layer_plans *plans) {
    finder->sums_us = memory_allocate((size_t)(finder->count + 1) * sizeof *finder->sums_us);
    if (!finder->sums_us) return no_memory(finder);
    finder->regular = memory_zeroed((size_t)finder->count + 1, sizeof *finder->regular);
    if (!finder->regular) return no_memory(finder);
    uint32_t whole_count = finder->count;
    sum_times(finder);
    TRY(make_symbols(finder));
    /* Both ways of telling kernels apart; if that leads nowhere, each by itself; then the same without the kernels that
     * fit nowhere. */
    static const int looks[][2] = {{0, 1}, {0, 0}, {1, 1}};
    const char *reason = NULL;
    for (int pass = 0; pass < 2 && plans->count == 0; pass++) {
        if (pass == 1) {
            TRY(leave_out_irregular(finder));
            sum_times(finder);
            if (finder->count == whole_count) break;
        }
        for (size_t i = 0; i < sizeof looks / sizeof *looks && plans->count == 0; i++) {
            forget_look(finder, plans);
            TRY(look(finder, plans, looks[i][0], looks[i][1]));
            if (!reason) reason = plans->reason;
        }
    }
    if (plans->count == 0) plans->reason = reason;
    place_plans(finder, plans, whole_count);
    return PI0_OK;
}

pi0_status layer_plans_find(layer_plans *plans, const trace_split *split, const trace *trace, uint32_t begin,
                            uint32_t end, pi0_error *error) {
    *plans = (layer_plans){0};
    finder finder = {.split = split, .trace = trace, .begin = begin, .count = end - begin, .error = error};
    pi0_status status = find_all(&finder, plans);
    for (int level = 0; level < REPEAT_LEVELS; level++) memory_release(finder.symbols[level]);
    memory_release(finder.runs);
    memory_release(finder.segments);
    memory_release(finder.sums_us);
    memory_release(finder.tally);
    memory_release(finder.kept);
    memory_release(finder.regular);
    return status;
}

void layer_plans_release(layer_plans *plans) {
    memory_release(plans->plans);
    memory_release(plans->steps);
    *plans = (layer_plans){0};
}
