/* openpi models/tokenizer.py (PaligemmaTokenizer.tokenize); lerobot's NewLineTaskProcessor and Pi05PrepareState. */
#include "policy/prompt.h"

#include <math.h>

#include "base/memory.h"
#include "base/text.h"
#include "base/utf8.h"

/* What str.strip() of Python strips. */
static bool is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

size_t prompt_clean(char *text, size_t length, char **start) {
    char *end = text + length;
    uint32_t c;
    for (size_t size; (size = utf8_read(text, (size_t)(end - text), &c)) && is_space(c);) text += size;
    while (end > text) {
        char *last = end - 1;
        while (last > text && (*last & 0xc0) == 0x80) last--;
        if (!utf8_read(last, (size_t)(end - last), &c) || !is_space(c)) break;
        end = last;
    }
    for (char *at = text; at < end; at++)
        if (*at == '_' || *at == '\n') *at = ' ';
    *start = text;
    return (size_t)(end - text);
}

int prompt_state_bin(double v) {
    if (isnan(v)) return 255;
    double bin = floor(v * 128) + 128; /* exact: the edges are multiples of 1/128 */
    return bin < -1 ? -1 : bin > 255 ? 255 : (int)bin;
}

/* The one string that is encoded first. */
static pi0_status write_prompt(text_buffer *out, prompt_format format, const char *text, size_t length,
                               const double *state, size_t state_count, pi0_error *error) {
    char *copy = memory_string_n(text, length), *start = copy;
    if (!copy) return error_memory(error, length, "a prompt");
    if (format != PROMPT_LEROBOT_PLAIN) length = prompt_clean(copy, length, &start);
    if (format == PROMPT_STATE) text_put(out, "Task: ");
    text_put_n(out, start, length);
    if (format == PROMPT_LEROBOT_PLAIN && (!length || start[length - 1] != '\n')) text_put(out, "\n");
    if (format == PROMPT_STATE) {
        text_put(out, ", State: ");
        for (size_t i = 0; i < state_count; i++) text_put_format(out, i ? " %d" : "%d", prompt_state_bin(state[i]));
        text_put(out, ";\nAction: ");
    }
    memory_release(copy);
    return out->failed ? error_memory(error, out->capacity, "a prompt") : PI0_OK;
}

/* Appends what fits. */
static void append(prompt_tokens *result, int32_t *ids, int max_tokens, const int32_t *more, size_t count) {
    result->full_count += count;
    for (size_t i = 0; i < count && result->valid < max_tokens; i++) ids[result->valid++] = more[i];
}

static pi0_status append_text(prompt_tokens *result, int32_t *ids, int max_tokens, const tokenizer *tokenizer,
                              const char *text, size_t length, pi0_error *error) {
    int32_t *more;
    size_t count;
    TRY(tokenizer_encode(tokenizer, text, length, &more, &count, error));
    append(result, ids, max_tokens, more, count);
    memory_release(more);
    return PI0_OK;
}

pi0_status prompt_tokenize(prompt_tokens *result, int32_t *ids, bool *mask, int max_tokens, const tokenizer *tokenizer,
                           prompt_format format, const char *text, size_t length, const double *state,
                           size_t state_count, pi0_error *error) {
    *result = (prompt_tokens){0};
    if (!utf8_valid(text, length))
        return error_set(error, PI0_ERROR_ARGUMENT, "expected a prompt in UTF-8, found %zu bytes that are not", length);
    text_buffer prompt = {0};
    pi0_status status = write_prompt(&prompt, format, text, length, state, state_count, error);
    append(result, ids, max_tokens, &(int32_t){PROMPT_BOS}, 1);
    if (status == PI0_OK)
        status = append_text(result, ids, max_tokens, tokenizer, prompt.bytes ? prompt.bytes : "", prompt.size, error);
    memory_release(prompt.bytes);
    if (status == PI0_OK && format == PROMPT_PLAIN)
        status = append_text(result, ids, max_tokens, tokenizer, "\n", 1, error);
    if (status) return status;
    result->truncated = result->full_count > (size_t)max_tokens;
    for (int i = result->valid; i < max_tokens; i++) ids[i] = PROMPT_PAD;
    for (int i = 0; mask && i < max_tokens; i++) mask[i] = i < result->valid;
    return PI0_OK;
}
