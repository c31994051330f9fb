/*
 * The two resizes of spec/model.md: Pillow's BILINEAR, which is an antialiased triangle filter in 22-bit fixed point,
 * rounded to uint8 after the horizontal and again after the vertical pass; and torch's plain bilinear in float32.
 */
#include "policy/resize.h"

#include <string.h>

#include "policy/image.h"
#include "policy/resize_passes.h"

pi0_status resize_fit(resize_box *box, int size, int height, int width, pi0_error *error) {
    if (height < 1 || width < 1)
        return error_set(error, PI0_ERROR_ARGUMENT, "expected an image, found one of %dx%d pixels (width x height)",
                         width, height);
    double across = (double)width / size, down = (double)height / size;
    double ratio = across > down ? across : down;
    box->width = (int)(width / ratio);
    box->height = (int)(height / ratio);
    if (box->width < 1 || box->height < 1)
        return error_set(
            error, PI0_ERROR_ARGUMENT,
            "expected an image no thinner than 1 to %d, found %dx%d pixels (width x height): it shrinks to "
            "nothing when resized to %dx%d",
            size, width, height, size, size);
    box->left = (size - box->width) / 2;
    box->top = (size - box->height) / 2;
    return PI0_OK;
}

/* ---- openpi's resize ---- */

typedef struct source {
    const uint8_t *pixels; /* [height, width, 3], planes: [3, height, width] */
    int height, width;
    bool planes;
} source;

struct resize_plan {
    source from; /* all but the pixels: what the plan is for */
    int size;
    resize_isa isa;
    resize_box box;
    bool across, down; /* Pillow leaves out a pass that changes nothing */
    bool wide;         /* across by way of the lanes */
    filter horizontal, vertical;
    lanes lanes;
    uint8_t *pixels;   /* [height, width, 3] of planes, where no pass takes them as they are */
    uint8_t *narrowed; /* [height, 3 * box.width] between the passes; wide planes: of each row red, green, blue */
    uint8_t *row;      /* [3 * box.width] the same of one row of the result */
    arena memory;
};

void resize_plan_release(resize_plan **plan) {
    if (!*plan) return;
    memory_release((*plan)->memory.base);
    memory_release(*plan);
    *plan = NULL;
}

static bool plan_fits(const resize_plan *p, const source *from, int size, resize_isa isa) {
    return p && p->from.height == from->height && p->from.width == from->width && p->from.planes == from->planes &&
           p->size == size && p->isa == isa;
}

/* The arrays and what stands in them. */
static pi0_status plan_take(resize_plan *p, const source *from, resize_isa isa, pi0_error *error) {
    size_t row_bytes = 3 * (size_t)p->box.width, area = (size_t)from->height * (size_t)from->width;
    p->across = p->box.width != from->width;
    p->down = p->box.height != from->height;
    bool as_planes = from->planes && p->across && p->down;
    p->wide = p->across && isa == RESIZE_AUTO && lanes_fit(from->width, p->box.width, as_planes ? 1 : 3);
    as_planes = as_planes && p->wide;
    for (int pass = 0; pass < 2; pass++) {
        p->memory.used = 0;
        if (p->across) filter_layout(&p->horizontal, &p->memory, from->width, p->box.width);
        if (p->down) filter_layout(&p->vertical, &p->memory, from->height, p->box.height);
        if (p->wide) lanes_layout(&p->lanes, &p->memory, &p->horizontal, as_planes ? 1 : 3);
        if (p->across && p->down) p->narrowed = arena_take(&p->memory, (size_t)from->height, row_bytes);
        p->pixels = from->planes && !as_planes ? arena_take(&p->memory, area, 3) : NULL;
        p->row = as_planes ? arena_take(&p->memory, 1, row_bytes) : NULL;
        if (pass || !p->memory.used) break;
        p->memory.base = memory_allocate(p->memory.used);
        if (!p->memory.base) return error_memory(error, p->memory.used, "resizing an image");
    }
    if (p->across) filter_fill(&p->horizontal);
    if (p->down) filter_fill(&p->vertical);
    if (p->wide) lanes_fill(&p->lanes, &p->horizontal);
    return PI0_OK;
}

/* *plan becomes one for this image, if it is none yet. */
static pi0_status plan_make(resize_plan **plan, const source *from, int size, resize_isa isa, pi0_error *error) {
    if (plan_fits(*plan, from, size, isa)) return PI0_OK;
    resize_box box;
    TRY(resize_fit(&box, size, from->height, from->width, error));
    resize_plan_release(plan);
    resize_plan *made = memory_zeroed(1, sizeof *made);
    if (!made) return error_memory(error, sizeof *made, "resizing an image");
    made->from = *from;
    made->size = size;
    made->isa = isa;
    made->box = box;
    *plan = made;
    pi0_status status = plan_take(made, from, isa, error);
    if (status != PI0_OK) resize_plan_release(plan);
    return status;
}

static void run_across(const resize_plan *p, const source *from, uint8_t *to, size_t to_stride, resize_isa isa) {
    size_t plane = (size_t)from->height * (size_t)from->width;
    if (!p->wide) {
        pass_across(to, to_stride, from->pixels, from->height, &p->horizontal, isa);
        return;
    }
    for (int channel = 0; channel < (from->planes ? 3 : 1); channel++)
        pass_across_lanes(to + (size_t)channel * (size_t)p->box.width, to_stride,
                          from->pixels + (size_t)channel * plane, from->height, &p->horizontal, &p->lanes);
}

static void run_plan(const resize_plan *p, uint8_t *out, source from) {
    if (p->pixels) {
        image_interleave(p->pixels, from.pixels, from.height, from.width);
        from.pixels = p->pixels;
        from.planes = false;
    }
    size_t stride = 3 * (size_t)p->size, row_bytes = 3 * (size_t)p->box.width;
    uint8_t *corner = out + (size_t)p->box.top * stride + 3 * (size_t)p->box.left;
    if (p->box.width < p->size || p->box.height < p->size) memset(out, 0, (size_t)p->size * stride);
    if (p->across && p->down)
        run_across(p, &from, p->narrowed, row_bytes, p->isa);
    else if (p->across)
        run_across(p, &from, corner, stride, p->isa);
    const uint8_t *rows = p->across ? p->narrowed : from.pixels;
    for (int y = 0; y < p->box.height; y++) {
        uint8_t *to = corner + (size_t)y * stride;
        if (p->down) pass_down(p->row ? p->row : to, rows, (int)row_bytes, &p->vertical, y, p->isa);
        if (p->row) image_interleave(to, p->row, 1, p->box.width);
        if (!p->across && !p->down) memcpy(to, rows + (size_t)y * row_bytes, row_bytes);
    }
}

static pi0_status resize_source(uint8_t *out, int size, source from, resize_isa isa, resize_plan **plan,
                                pi0_error *error) {
    if (from.planes && from.width == size && from.height == size) {
        image_interleave(out, from.pixels, size, size);
        return PI0_OK;
    }
    resize_plan *own = NULL, **used = plan ? plan : &own;
    TRY(plan_make(used, &from, size, isa, error));
    run_plan(*used, out, from);
    resize_plan_release(&own);
    return PI0_OK;
}

pi0_status resize_with_pad_isa(uint8_t *out, int size, const uint8_t *pixels, int height, int width, resize_isa isa,
                               pi0_error *error) {
    source from = {.pixels = pixels, .height = height, .width = width};
    return resize_source(out, size, from, isa, NULL, error);
}

pi0_status resize_with_pad(uint8_t *out, int size, const uint8_t *pixels, int height, int width, pi0_error *error) {
    return resize_with_pad_isa(out, size, pixels, height, width, RESIZE_AUTO, error);
}

pi0_status resize_again(uint8_t *out, int size, const uint8_t *pixels, int height, int width, bool planes,
                        resize_plan **plan, pi0_error *error) {
    source from = {.pixels = pixels, .height = height, .width = width, .planes = planes};
    return resize_source(out, size, from, RESIZE_AUTO, plan, error);
}

/* ---- lerobot's resize ---- */

/* torch's upsample_bilinear2d, align_corners false: output i lies between inputs low[i] and high[i]. */
typedef struct blend {
    int *low, *high; /* [outputs] */
    float *weight;   /* [outputs] of high */
} blend;

static void blend_layout(blend *b, arena *memory, int outputs) {
    b->low = arena_take(memory, (size_t)outputs, sizeof *b->low);
    b->high = arena_take(memory, (size_t)outputs, sizeof *b->high);
    b->weight = arena_take(memory, (size_t)outputs, sizeof *b->weight);
}

static void blend_fill(blend *b, int inputs, int outputs) {
    float scale = (float)inputs / (float)outputs;
    for (int i = 0; i < outputs; i++) {
        float position = scale * ((float)i + 0.5f) - 0.5f;
        if (position < 0) position = 0;
        int low = (int)position < inputs - 1 ? (int)position : inputs - 1;
        b->low[i] = low;
        b->high[i] = low < inputs - 1 ? low + 1 : low;
        b->weight[i] = position - (float)low;
    }
}

static inline float clamp01(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }

/* One output row: three channels of out, `plane` apart. */
static void blend_row(float *out, size_t plane, int width, const uint8_t *upper, const uint8_t *lower, float weight,
                      const blend *across, const float *unit) {
    for (int x = 0; x < width; x++) {
        size_t left = 3 * (size_t)across->low[x], right = 3 * (size_t)across->high[x];
        float right_weight = across->weight[x], left_weight = 1 - right_weight;
        for (size_t channel = 0; channel < 3; channel++) {
            float top = left_weight * unit[upper[left + channel]] + right_weight * unit[upper[right + channel]];
            float bottom = left_weight * unit[lower[left + channel]] + right_weight * unit[lower[right + channel]];
            out[channel * plane + (size_t)x] = clamp01((1 - weight) * top + weight * bottom) * 2 - 1;
        }
    }
}

pi0_status resize_with_pad_torch(float *out, int size, const uint8_t *pixels, int height, int width, pi0_error *error) {
    resize_box box;
    TRY(resize_fit(&box, size, height, width, error));
    blend across, down;
    arena memory = {0};
    for (int pass = 0; pass < 2; pass++) {
        memory.used = 0;
        blend_layout(&across, &memory, box.width);
        blend_layout(&down, &memory, box.height);
        if (pass) break;
        memory.base = memory_allocate(memory.used);
        if (!memory.base) return error_memory(error, memory.used, "resizing an image");
    }
    blend_fill(&across, width, box.width);
    blend_fill(&down, height, box.height);
    float unit[256];
    for (int i = 0; i < 256; i++) unit[i] = (float)i / 255.0f;
    size_t plane = (size_t)size * (size_t)size, row_bytes = 3 * (size_t)width;
    for (size_t i = 0; i < 3 * plane; i++) out[i] = -1;
    for (int y = 0; y < box.height; y++)
        blend_row(out + (size_t)(box.top + y) * (size_t)size + (size_t)box.left, plane, box.width,
                  pixels + (size_t)down.low[y] * row_bytes, pixels + (size_t)down.high[y] * row_bytes, down.weight[y],
                  &across, unit);
    memory_release(memory.base);
    return PI0_OK;
}
