/*
 * The policy's image, token and wire functions for tests/python, one call a line on standard input:
 *
 *     resize SIZE HEIGHT WIDTH auto|plain BYTES    uint8 [h,w,3] -> uint8 [s,s,3]
 *     torch SIZE HEIGHT WIDTH - BYTES              uint8 [h,w,3] -> float32 [3,s,s]
 *     image 0 0 0 - BYTES                          PNG or JPEG file -> int32 height, width; uint8 [h,w,3]
 *     model 0 0 0 - BYTES                          SentencePiece file, kept for encode and prompt
 *     encode 0 0 0 - BYTES                         text -> int32 ids
 *     prompt MAX STATES 0 plain|state|lerobot BYTES    float64 [STATES], then text -> int32 ids [MAX]
 *     wire 0 0 0 - BYTES                           message -> the same tree encoded again
 *
 * BYTES bytes follow the line. Answers "ok BYTES" and the bytes, or "error TEXT".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "policy/image.h"
#include "policy/prompt.h"
#include "policy/resize.h"
#include "policy/value.h"

typedef struct call {
    char name[16], option[16];
    int first, second, third;
    unsigned char *bytes;
    size_t size;
} call;

typedef struct answer {
    unsigned char *bytes; /* from memory_allocate */
    size_t size;
} answer;

static pi0_status take(answer *a, size_t size, pi0_error *error) {
    a->size = size;
    a->bytes = memory_allocate(size);
    return a->bytes ? PI0_OK : error_memory(error, size, "an answer");
}

static pi0_status run_resize(const call *c, answer *a, pi0_error *error) {
    size_t side = (size_t)c->first;
    if (!strcmp(c->name, "torch")) {
        TRY(take(a, side * side * 3 * sizeof(float), error));
        return resize_with_pad_torch((float *)(void *)a->bytes, c->first, c->bytes, c->second, c->third, error);
    }
    TRY(take(a, side * side * 3, error));
    return resize_with_pad_isa(a->bytes, c->first, c->bytes, c->second, c->third,
                               strcmp(c->option, "plain") ? RESIZE_AUTO : RESIZE_PLAIN, error);
}

static pi0_status run_image(const call *c, answer *a, pi0_error *error) {
    image decoded;
    TRY(image_decode(&decoded, c->bytes, c->size, "image", error));
    size_t bytes = 3 * (size_t)decoded.height * (size_t)decoded.width;
    pi0_status status = take(a, 8 + bytes, error);
    if (status == PI0_OK) {
        memcpy(a->bytes, (int32_t[]){decoded.height, decoded.width}, 8);
        memcpy(a->bytes + 8, decoded.pixels, bytes);
    }
    image_release(&decoded);
    return status;
}

static pi0_status run_prompt(const call *c, answer *a, const tokenizer *model, pi0_error *error) {
    prompt_format format = !strcmp(c->option, "plain")   ? PROMPT_PLAIN
                           : !strcmp(c->option, "state") ? PROMPT_STATE
                                                         : PROMPT_LEROBOT_PLAIN;
    size_t state_bytes = (size_t)c->second * sizeof(double);
    double state[64];
    if (c->second > 64 || c->size < state_bytes) return error_set(error, PI0_ERROR_ARGUMENT, "too many states");
    memcpy(state, c->bytes, state_bytes);
    TRY(take(a, (size_t)c->first * sizeof(int32_t), error));
    prompt_tokens result;
    return prompt_tokenize(&result, (int32_t *)(void *)a->bytes, NULL, c->first, model, format,
                           (const char *)c->bytes + state_bytes, c->size - state_bytes, state, (size_t)c->second,
                           error);
}

static pi0_status run_wire(const call *c, answer *a, pi0_error *error) {
    wire_message message;
    TRY(wire_decode(&message, c->bytes, c->size, NULL, error));
    wire_buffer buffer = {0};
    wire_put_value(&buffer, message.root);
    wire_release(&message);
    *a = (answer){buffer.bytes, buffer.size};
    return buffer.failed ? error_memory(error, buffer.size, "an answer") : PI0_OK;
}

static pi0_status run(const call *c, answer *a, tokenizer **model, pi0_error *error) {
    if (!strcmp(c->name, "resize") || !strcmp(c->name, "torch")) return run_resize(c, a, error);
    if (!strcmp(c->name, "image")) return run_image(c, a, error);
    if (!strcmp(c->name, "wire")) return run_wire(c, a, error);
    if (!strcmp(c->name, "model")) {
        tokenizer_close(model);
        return tokenizer_parse(model, c->bytes, c->size, "model", error);
    }
    if (!*model) return error_set(error, PI0_ERROR_ARGUMENT, "no model yet");
    if (!strcmp(c->name, "prompt")) return run_prompt(c, a, *model, error);
    int32_t *ids;
    size_t count;
    TRY(tokenizer_encode(*model, (const char *)c->bytes, c->size, &ids, &count, error));
    *a = (answer){(unsigned char *)ids, count * sizeof *ids};
    return PI0_OK;
}

int main(void) {
    tokenizer *model = NULL;
    call c;
    while (scanf("%15s %d %d %d %15s %zu", c.name, &c.first, &c.second, &c.third, c.option, &c.size) == 6) {
        if (getchar() != '\n') return 1;
        c.bytes = malloc(c.size ? c.size : 1); /* no slack: a sanitizer sees a read past the end */
        if (!c.bytes || fread(c.bytes, 1, c.size, stdin) != c.size) return 1;
        answer a = {0};
        pi0_error error;
        if (run(&c, &a, &model, &error)) {
            for (char *at = error.message; *at; at++)
                if (*at == '\n') *at = ' ';
            printf("error %s\n", error.message);
        } else {
            printf("ok %zu\n", a.size);
            if (a.size) fwrite(a.bytes, 1, a.size, stdout);
        }
        fflush(stdout);
        memory_release(a.bytes);
        free(c.bytes);
    }
    tokenizer_close(&model);
    return 0;
}
