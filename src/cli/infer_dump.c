/* pi0 infer --dump-inputs: what the model gets, to compare with what the reference's transforms make of a request. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoint/safetensors.h"
#include "cli/infer.h"
#include "cli/terminal.h"
#include "policy/input.h"

enum { MAX_TENSORS = PI0_MAX_CAMERAS + 4, MAX_NAME = 300 };

typedef struct dump {
    tensor tensors[MAX_TENSORS];
    size_t count;
    char names[PI0_MAX_CAMERAS][MAX_NAME];
    void *blank;     /* an image for masked cameras: zeros, or -1 where pixels are float32 in [-1, 1] */
    float *state;    /* float32 [state_count], for lerobot */
    int64_t *tokens; /* int64 [token_count] */
    uint8_t *mask;   /* bool [token_count] */
    uint8_t cameras[PI0_MAX_CAMERAS];
} dump;

static void add(dump *d, const char *name, tensor_dtype dtype, const void *data, int rank, const int64_t *shape) {
    tensor *t = &d->tensors[d->count++];
    *t = (tensor){.name = name, .dtype = dtype, .rank = rank, .data = data, .bytes = tensor_dtype_size(dtype)};
    for (int i = 0; i < rank; i++) {
        t->shape[i] = shape[i];
        t->bytes *= (size_t)shape[i];
    }
}

static pi0_status allocate(dump *d, const input_view *view, pi0_error *error) {
    size_t pixels = (size_t)view->image_size * (size_t)view->image_size * 3;
    size_t tokens = (size_t)view->token_count;
    d->blank = memory_zeroed(pixels, view->float32 ? sizeof(float) : 1);
    d->state = memory_zeroed((size_t)view->state_count, sizeof *d->state);
    d->tokens = memory_zeroed(tokens, sizeof *d->tokens);
    d->mask = memory_zeroed(tokens, sizeof *d->mask);
    if (!d->blank || !d->state || !d->tokens || !d->mask)
        return error_memory(error, pixels * sizeof(float), "the dumped inputs");
    for (size_t i = 0; view->float32 && i < pixels; i++) ((float *)d->blank)[i] = -1.0f;
    for (int i = 0; i < view->state_count; i++) d->state[i] = (float)view->state[i];
    for (size_t i = 0; i < tokens; i++) {
        d->tokens[i] = view->tokens[i];
        d->mask[i] = view->token_mask[i];
    }
    return PI0_OK;
}

static void add_images(dump *d, const input_view *view) {
    int64_t size = view->image_size, rows[] = {size, size, 3}, planes[] = {3, size, size};
    for (int i = 0; i < view->cameras; i++) {
        snprintf(d->names[i], MAX_NAME, "image/%s", view->camera_names[i]);
        const void *pixels = view->float32 ? (const void *)view->float_images[i] : (const void *)view->images[i];
        if (!view->image_mask[i] || !pixels) pixels = d->blank;
        add(d, d->names[i], view->float32 ? DTYPE_F32 : DTYPE_U8, pixels, 3, view->float32 ? planes : rows);
        d->cameras[i] = view->image_mask[i];
    }
}

pi0_status infer_dump_inputs(const pi0_input *input, const char *path, pi0_error *error) {
    input_view view;
    input_look(input, &view);
    dump d = {.count = 0};
    pi0_status status = allocate(&d, &view, error);
    if (status == PI0_OK) {
        int64_t state = view.state_count, cameras = view.cameras, tokens = view.token_count;
        if (view.float32)
            add(&d, "state", DTYPE_F32, d.state, 1, &state);
        else
            add(&d, "state", DTYPE_F64, view.state, 1, &state);
        add_images(&d, &view);
        add(&d, "image_mask", DTYPE_BOOL, d.cameras, 1, &cameras);
        add(&d, "tokens", DTYPE_I64, d.tokens, 1, &tokens);
        add(&d, "token_mask", DTYPE_BOOL, d.mask, 1, &tokens);
        char temporary[PATH_MAX]; /* the name that safetensors_write uses until the file is complete */
        snprintf(temporary, sizeof temporary, "%s.tmp", path);
        terminal_temporary_add(temporary);
        status = safetensors_write(path, d.tensors, d.count, NULL, 0, NULL, NULL, error);
        terminal_temporary_forget(temporary);
    }
    memory_release(d.blank);
    memory_release(d.state);
    memory_release(d.tokens);
    memory_release(d.mask);
    return status;
}
