#include "profile/trace_stages.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "profile/trace_layers.h"

static pi0_status no_memory(pi0_error *error) { return error_memory(error, 1 << 20, "a trace's stages"); }

/* ---- time order -------------------------------------------------------------------------------------------------- */

typedef struct ordering {
    const trace *trace;
    uint16_t *devices; /* of each queue */
} ordering;

static bool comes_before(const ordering *ordering, uint32_t a, uint32_t b) {
    const trace_kernel *left = trace_record(ordering->trace, a), *right = trace_record(ordering->trace, b);
    uint16_t left_device = ordering->devices[left->queue], right_device = ordering->devices[right->queue];
    if (left_device != right_device) return left_device < right_device;
    if (left->start_us < right->start_us || left->start_us > right->start_us) return left->start_us < right->start_us;
    return a < b;
}

/* Merge sort, because it is stable, needs no luck and takes its memory from the library. */
static pi0_status sort_order(uint32_t *order, uint32_t count, const ordering *ordering, pi0_error *error) {
    bool sorted = true;
    for (uint32_t i = 1; i < count && sorted; i++) sorted = !comes_before(ordering, order[i], order[i - 1]);
    if (sorted) return PI0_OK;
    uint32_t *other = memory_allocate((size_t)count * sizeof *other), *from = order, *to = other;
    if (!other) return no_memory(error);
    for (uint64_t width = 1; width < count; width *= 2) {
        for (uint64_t start = 0; start < count; start += 2 * width) {
            uint64_t middle = start + width < count ? start + width : count;
            uint64_t end = middle + width < count ? middle + width : count;
            uint64_t left = start, right = middle;
            for (uint64_t k = start; k < end; k++) {
                bool take_right = left >= middle || (right < end && comes_before(ordering, from[right], from[left]));
                to[k] = take_right ? from[right++] : from[left++];
            }
        }
        uint32_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != order) memcpy(order, from, (size_t)count * sizeof *order);
    memory_release(other);
    return PI0_OK;
}

/* The device of each queue: queues are "process\nstream", and a device is a process. */
static pi0_status number_devices(const trace *trace, uint16_t *devices, pi0_error *error) {
    trace_names processes = {0};
    pi0_status status = PI0_OK;
    for (uint32_t i = 0; i < trace->queues.count && i <= UINT16_MAX && status == PI0_OK; i++) {
        const trace_name *queue = &trace->queues.names[i];
        uint32_t id = trace_names_add(&processes, queue->text, strcspn(queue->text, "\n"));
        if (id == TRACE_NO_NAME) status = no_memory(error);
        devices[i] = (uint16_t)(id < UINT16_MAX ? id : UINT16_MAX);
    }
    trace_names_release(&processes);
    return status;
}

/* ---- from ranges and names --------------------------------------------------------------------------------------- */

/* Stage of a kernel whose own says nothing: that of the kernel before it. */
static void spread(uint8_t *stages, uint32_t count) {
    uint8_t first = TRACE_STAGE_OUTSIDE;
    for (uint32_t i = 0; i < count && first == TRACE_STAGE_OUTSIDE; i++) first = stages[i];
    for (uint32_t i = 0; i < count; i++)
        if (stages[i] == TRACE_STAGE_OUTSIDE) stages[i] = i ? stages[i - 1] : first;
}

static int by_start(const void *a, const void *b) {
    const trace_range *left = a, *right = b;
    if (left->kind != right->kind) return left->kind < right->kind ? -1 : 1;
    if (left->start_us < right->start_us) return -1;
    return left->start_us > right->start_us;
}

/* Of ranges of one kind, by start, the last one that begins at or before `us`; NULL without one. */
static const trace_range *range_at(const trace_range *ranges, uint32_t count, double us) {
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (ranges[middle].start_us <= us)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &ranges[low - 1] : NULL;
}

/* Share of the kernels' time that lies in ranges, which set the stages. */
static double stages_from_ranges(trace_split *split, const trace *trace, const trace_range *ranges, uint32_t count) {
    double all = 0, inside = 0;
    for (uint32_t i = 0; i < split->count; i++) {
        const trace_kernel *kernel = trace_split_kernel(split, trace, i);
        double middle = kernel->start_us + 0.5 * (double)kernel->us;
        const trace_range *range = range_at(ranges, count, middle);
        all += (double)kernel->us;
        split->stages[i] = PI0_STAGE_OTHER;
        if (!range || range->end_us < middle) continue;
        split->stages[i] = (uint8_t)range->stage;
        inside += (double)kernel->us;
    }
    return all > 0 ? inside / all : 0;
}

/* The same from the names of our own kernels. */
static double stages_from_names(trace_split *split, const trace *trace) {
    double all = 0, named = 0;
    for (uint32_t i = 0; i < split->count; i++) {
        const trace_kernel *kernel = trace_split_kernel(split, trace, i);
        int stage = split->classes[kernel->name].stage;
        all += (double)kernel->us;
        split->stages[i] = (uint8_t)(stage < 0 ? TRACE_STAGE_OUTSIDE : stage);
        if (stage >= 0) named += (double)kernel->us;
    }
    spread(split->stages, split->count);
    return all > 0 ? named / all : 0;
}

/* The inference that begins with kernel i of the order, and ends the one before. */
static pi0_status begin_inference(trace_split *split, uint32_t i, uint32_t *capacity, pi0_error *error) {
    uint32_t count = split->inference_count;
    if (count == *capacity) {
        uint32_t larger_capacity = *capacity ? *capacity * 2 : 16;
        void *larger = memory_resize(split->inferences, count * sizeof *split->inferences,
                                     larger_capacity * sizeof *split->inferences);
        if (!larger) return no_memory(error);
        split->inferences = larger;
        *capacity = larger_capacity;
    }
    if (count) split->inferences[count - 1].end = i;
    split->inferences[split->inference_count++] =
        (trace_inference){.first = i, .end = split->count, .vit_layers = -1, .prefill_layers = -1, .denoise_steps = -1};
    return PI0_OK;
}

/* Cuts where the stages start over: an earlier stage after a later one. Other belongs to either side. */
static pi0_status cut_inferences(trace_split *split, pi0_error *error) {
    uint32_t capacity = 0;
    int reached = PI0_STAGE_COUNT;
    for (uint32_t i = 0; i < split->count; i++) {
        int stage = split->stages[i];
        if (stage == PI0_STAGE_OTHER && i > 0) continue;
        bool starts_over = stage < reached && (i == 0 || reached != PI0_STAGE_OTHER);
        reached = stage;
        if (starts_over) TRY(begin_inference(split, i, &capacity, error));
    }
    return PI0_OK;
}

/* Cuts where the trace itself says so: the observations of a batch may go through the first stages one by one, so that
 * stages start over inside an inference. */
static pi0_status cut_at_ranges(trace_split *split, const trace *trace, const trace_range *ranges, uint32_t count,
                                pi0_error *error) {
    uint32_t capacity = 0;
    const trace_range *reached = NULL;
    for (uint32_t i = 0; i < split->count; i++) {
        const trace_range *range = range_at(ranges, count, trace_split_kernel(split, trace, i)->start_us);
        if (i == 0 || range != reached) TRY(begin_inference(split, i, &capacity, error));
        reached = range;
    }
    return PI0_OK;
}

static uint32_t count_ranges(const trace_range *ranges, uint32_t count, double from_us, double to_us) {
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++) found += ranges[i].start_us >= from_us && ranges[i].start_us < to_us;
    return found;
}

/* Steps and layers of the inferences, from the ranges nested in the stages; what has no ranges stays unknown. */
static void count_passes(trace_split *split, const trace *trace, const trace_range *ranges,
                         const uint32_t kind_count[TRACE_RANGE_KINDS]) {
    const trace_range *stages = ranges, *steps = stages + kind_count[0], *layers = steps + kind_count[1];
    for (uint32_t k = 0; k < split->inference_count; k++) {
        trace_inference *inference = &split->inferences[k];
        double from = trace_split_kernel(split, trace, inference->first)->start_us;
        double to = inference->end < split->count ? trace_split_kernel(split, trace, inference->end)->start_us
                                                  : trace->last_us + 1;
        const trace_range *around = range_at(stages, kind_count[0], from);
        if (around && around->end_us > from) from = around->start_us;
        around = inference->end < split->count ? range_at(stages, kind_count[0], to) : NULL;
        if (around && around->end_us > to) to = around->start_us;
        int vit = 0, prefill = 0;
        for (uint32_t i = 0; i < kind_count[0]; i++) {
            const trace_range *stage = &stages[i];
            if (stage->start_us < from || stage->start_us >= to) continue;
            int passes = (int)count_ranges(layers, kind_count[2], stage->start_us, stage->end_us);
            if (stage->stage == PI0_STAGE_VIT) vit += passes;
            if (stage->stage == PI0_STAGE_PREFILL) prefill += passes;
        }
        if (vit) inference->vit_layers = vit;
        if (prefill) inference->prefill_layers = prefill;
        if (kind_count[1]) inference->denoise_steps = (int)count_ranges(steps, kind_count[1], from, to);
    }
}

/* Whole inferences have all three stages; parts beside whole ones are left out. */
static void keep_whole(trace_split *split) {
    uint32_t whole = 0, kept = 0, found = split->inference_count;
    for (uint32_t k = 0; k < found; k++) {
        trace_inference *inference = &split->inferences[k];
        bool seen[PI0_STAGE_COUNT] = {false};
        for (uint32_t i = inference->first; i < inference->end; i++)
            if (split->stages[i] < PI0_STAGE_COUNT) seen[split->stages[i]] = true;
        inference->complete = seen[PI0_STAGE_VIT] && seen[PI0_STAGE_PREFILL] && seen[PI0_STAGE_DENOISE];
        whole += inference->complete;
    }
    for (uint32_t k = 0; k < found; k++) {
        trace_inference inference = split->inferences[k];
        if (whole ? inference.complete : k == 0)
            split->inferences[kept++] = inference;
        else
            memset(split->stages + inference.first, TRACE_STAGE_OUTSIDE, inference.end - inference.first);
    }
    split->inference_count = kept;
    split->left_out = found - kept;
}

/* ---- from repetition --------------------------------------------------------------------------------------------- */

static void mark(trace_split *split, uint32_t first, uint32_t end, int stage) {
    if (first < end) memset(split->stages + first, stage, end - first);
}

/* Everything before the first prefill layer is embedding and counts as ViT; all after the last one is Diffusion. */
static void mark_plan(trace_split *split, const layer_plan *plan) {
    mark(split, plan->first, plan->other_end, PI0_STAGE_OTHER);
    mark(split, plan->other_end, plan->prefill_first, PI0_STAGE_VIT);
    mark(split, plan->prefill_first, plan->prefill_end, PI0_STAGE_PREFILL);
    mark(split, plan->prefill_end, plan->end, plan->expert_end ? PI0_STAGE_DENOISE : PI0_STAGE_OTHER);
}

static pi0_status append(void **list, uint32_t *count, const void *elements, uint32_t more, size_t size,
                         pi0_error *error) {
    void *larger = memory_resize(*list, *count * size, ((size_t)*count + more + 1) * size);
    if (!larger) return no_memory(error);
    if (more) memcpy((char *)larger + *count * size, elements, more * size);
    *list = larger;
    *count += more;
    return PI0_OK;
}

static pi0_status add_plans(trace_split *split, const layer_plans *plans, pi0_error *error) {
    for (uint32_t i = 0; i < plans->count; i++) {
        const layer_plan *plan = &plans->plans[i];
        trace_inference inference = {
            .first = plan->first,
            .end = plan->end,
            .vit_layers = plan->vit_layers,
            .prefill_layers = plan->prefill_layers ? plan->prefill_layers : -1,
            .denoise_steps = plan->expert_end ? plan->denoise_steps : -1,
            .expert_layers = plan->expert_layers,
            .complete = plan->complete,
            .step_first = split->step_count + plan->run_first,
            .step_count = plan->run_count,
        };
        mark_plan(split, plan);
        void *inferences = split->inferences;
        TRY(append(&inferences, &split->inference_count, &inference, 1, sizeof inference, error));
        split->inferences = inferences;
    }
    void *steps = split->steps;
    TRY(append(&steps, &split->step_count, plans->steps, plans->step_count, sizeof *plans->steps, error));
    split->steps = steps;
    split->left_out += plans->partial;
    return PI0_OK;
}

/* Each device by itself: their kernels run side by side. */
static pi0_status split_by_repetition(trace_split *split, const trace *trace, const ordering *ordering,
                                      pi0_error *error) {
    memset(split->stages, TRACE_STAGE_OUTSIDE, split->count);
    for (uint32_t begin = 0, end; begin < split->count; begin = end) {
        uint16_t device = ordering->devices[trace_split_kernel(split, trace, begin)->queue];
        for (end = begin + 1; end < split->count; end++)
            if (ordering->devices[trace_split_kernel(split, trace, end)->queue] != device) break;
        layer_plans plans;
        pi0_status status = layer_plans_find(&plans, split, trace, begin, end, error);
        if (status == PI0_OK) status = add_plans(split, &plans, error);
        if (plans.count == 0 && !split->reason) split->reason = plans.reason;
        layer_plans_release(&plans);
        TRY(status);
    }
    if (split->inference_count) {
        split->source = "repetition";
        split->reason = NULL;
    }
    return PI0_OK;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

/* What all inferences agree on. */
static void summarise(trace_split *split) {
    split->vit_layers = split->prefill_layers = split->denoise_steps = -1;
    split->complete = false;
    for (uint32_t k = 0; k < split->inference_count; k++) {
        const trace_inference *inference = &split->inferences[k], *first = &split->inferences[0];
        if (k == 0) {
            split->vit_layers = first->vit_layers;
            split->prefill_layers = first->prefill_layers;
            split->denoise_steps = first->denoise_steps;
            split->expert_layers = first->expert_layers;
            split->complete = first->complete;
        }
        if (inference->vit_layers != first->vit_layers) split->vit_layers = -1;
        if (inference->prefill_layers != first->prefill_layers) split->prefill_layers = -1;
        if (inference->denoise_steps != first->denoise_steps) split->denoise_steps = -1;
        for (uint32_t i = inference->first; i < inference->end; i++)
            if (split->stages[i] < PI0_STAGE_COUNT) split->stage_known[split->stages[i]] = true;
    }
    if (split->inference_count) split->stage_known[PI0_STAGE_OTHER] = true; /* none is a figure too */
}

static pi0_status split_by_ranges(trace_split *split, const trace *trace, bool *done, pi0_error *error) {
    *done = false;
    if (!trace->range_count) return PI0_OK;
    trace_range *ranges = memory_allocate(trace->range_count * sizeof *ranges);
    if (!ranges) return no_memory(error);
    memcpy(ranges, trace->ranges, trace->range_count * sizeof *ranges);
    qsort(ranges, trace->range_count, sizeof *ranges, by_start);
    uint32_t kind_count[TRACE_RANGE_KINDS] = {0};
    for (uint32_t i = 0; i < trace->range_count; i++) kind_count[ranges[i].kind]++;
    pi0_status status = PI0_OK;
    if (stages_from_ranges(split, trace, ranges, kind_count[TRACE_RANGE_STAGE]) >= 0.8) {
        *done = true;
        split->source = "ranges";
        uint32_t inferences = kind_count[TRACE_RANGE_INFERENCE];
        status = inferences ? cut_at_ranges(split, trace, ranges + trace->range_count - inferences, inferences, error)
                            : cut_inferences(split, error);
        if (status == PI0_OK) {
            count_passes(split, trace, ranges, kind_count);
            keep_whole(split);
        }
    }
    memory_release(ranges);
    return status;
}

static pi0_status split_by_names(trace_split *split, const trace *trace, bool *done, pi0_error *error) {
    *done = false;
    if (stages_from_names(split, trace) < 0.6) return PI0_OK;
    TRY(cut_inferences(split, error));
    keep_whole(split);
    *done = split->inference_count && split->inferences[0].complete;
    if (*done)
        split->source = "kernel names";
    else
        split->inference_count = split->left_out = 0;
    return PI0_OK;
}

static pi0_status find(trace_split *split, const trace *trace, const ordering *ordering, pi0_error *error) {
    for (uint32_t i = 0; i < split->count; i++) split->order[i] = i;
    TRY(sort_order(split->order, split->count, ordering, error));
    bool done;
    TRY(split_by_ranges(split, trace, &done, error));
    if (!done) TRY(split_by_names(split, trace, &done, error));
    if (!done) TRY(split_by_repetition(split, trace, ordering, error));
    return PI0_OK;
}

pi0_status trace_split_find(trace_split *split, const trace *trace, pi0_error *error) {
    *split = (trace_split){.count = trace->record_count};
    split->classes = memory_allocate((trace->kernels.count + 1) * sizeof *split->classes);
    split->order = memory_allocate(((size_t)split->count + 1) * sizeof *split->order);
    split->stages = memory_allocate((size_t)split->count + 1);
    uint16_t *devices = memory_zeroed(UINT16_MAX + 1, sizeof *devices);
    pi0_status status = split->classes && split->order && split->stages && devices ? PI0_OK : no_memory(error);
    if (status == PI0_OK) {
        for (uint32_t i = 0; i < trace->kernels.count; i++)
            split->classes[i] = kernel_classify(trace->kernels.names[i].text, trace->kernels.names[i].length);
        if (trace->records_dropped)
            split->reason = "more kernels than are kept: totals only";
        else if (trace->record_count == 0)
            split->reason = "no kernels";
        else
            status = number_devices(trace, devices, error);
    }
    if (status == PI0_OK && !split->reason) {
        ordering ordering = {trace, devices};
        status = find(split, trace, &ordering, error);
    }
    if (status == PI0_OK) summarise(split);
    memory_release(devices);
    return status;
}

void trace_split_release(trace_split *split) {
    memory_release(split->order);
    memory_release(split->stages);
    memory_release(split->classes);
    memory_release(split->inferences);
    memory_release(split->steps);
    *split = (trace_split){0};
}
