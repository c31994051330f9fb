#include "serve/cameras.h"

#include <pthread.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"
#include "policy/input.h"

struct cameras {
    pthread_mutex_t lock;
    int count, size;
    uint64_t requests;
    char names[PI0_MAX_CAMERAS][96];
    bool valid[PI0_MAX_CAMERAS];
    uint8_t *pixels; /* [count][size,size,3] */
};

static size_t image_bytes(const cameras *c) { return (size_t)c->size * (size_t)c->size * 3; }

pi0_status cameras_open(cameras **result, const pi0_policy_info *info, pi0_error *error) {
    cameras *c = memory_zeroed(1, sizeof *c);
    *result = NULL;
    if (!c) return error_memory(error, sizeof *c, "the dashboard's images");
    c->count = info->cameras < PI0_MAX_CAMERAS ? info->cameras : PI0_MAX_CAMERAS;
    c->size = info->image_size;
    c->pixels = memory_zeroed((size_t)c->count, image_bytes(c));
    if (!c->pixels) {
        memory_release(c);
        return error_memory(error, (size_t)info->cameras * (size_t)info->image_size, "the dashboard's images");
    }
    pthread_mutex_init(&c->lock, NULL);
    *result = c;
    return PI0_OK;
}

void cameras_close(cameras **cameras) {
    if (!*cameras) return;
    pthread_mutex_destroy(&(*cameras)->lock);
    memory_release((*cameras)->pixels);
    memory_release(*cameras);
    *cameras = NULL;
}

/* [3,size,size] in [-1,1] */
static void from_floats(uint8_t *pixels, const float *planes, size_t area) {
    for (size_t i = 0; i < area; i++)
        for (size_t k = 0; k < 3; k++) {
            float level = (planes[k * area + i] + 1) * 127.5f + 0.5f;
            pixels[3 * i + k] = level > 0 ? level < 255 ? (uint8_t)level : 255 : 0;
        }
}

void cameras_show(cameras *c, const pi0_input *input) {
    input_view view;
    input_look(input, &view);
    pthread_mutex_lock(&c->lock);
    c->requests++;
    for (int i = 0; i < c->count && i < view.cameras && view.image_size == c->size; i++) {
        uint8_t *pixels = c->pixels + (size_t)i * image_bytes(c);
        c->valid[i] = view.images[i] || view.float_images[i];
        if (view.images[i])
            memcpy(pixels, view.images[i], image_bytes(c));
        else if (view.float_images[i])
            from_floats(pixels, view.float_images[i], image_bytes(c) / 3);
        const char *name = view.camera_names[i] ? view.camera_names[i] : "camera";
        size_t length = strlen(name) < sizeof c->names[i] ? strlen(name) : sizeof c->names[i] - 1;
        memcpy(c->names[i], name, length);
        c->names[i][length] = 0;
    }
    pthread_mutex_unlock(&c->lock);
}

void cameras_json(cameras *c, text_buffer *text) {
    pthread_mutex_lock(&c->lock);
    text_put_format(text, "{\"size\":%d,\"requests\":%llu,\"names\":[", c->size, (unsigned long long)c->requests);
    for (int i = 0; i < c->count; i++) {
        if (i) text_put(text, ",");
        if (c->valid[i])
            text_put_json_string(text, c->names[i], strlen(c->names[i]));
        else
            text_put(text, "null");
    }
    text_put(text, "]}");
    pthread_mutex_unlock(&c->lock);
}

bool cameras_pixels(cameras *c, int slot, text_buffer *bytes) {
    pthread_mutex_lock(&c->lock);
    bool valid = slot >= 0 && slot < c->count && c->valid[slot];
    if (valid) text_put_n(bytes, (const char *)c->pixels + (size_t)slot * image_bytes(c), image_bytes(c));
    pthread_mutex_unlock(&c->lock);
    return valid;
}
