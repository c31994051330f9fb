/* A SentencePiece model file, and a text that it encodes. Input: uint16 bytes of text, the text, the model. */
#include <stdlib.h>

#include "base/memory.h"
#include "policy/prompt.h"

static void require(bool condition) {
    if (!condition) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    size_t length = data[0] | (size_t)data[1] << 8;
    data += 2;
    size -= 2;
    if (length > size) length = size;
    tokenizer *t;
    if (tokenizer_parse(&t, data + length, size - length, "file", NULL)) return 0;
    int32_t *ids;
    size_t count;
    if (tokenizer_encode(t, (const char *)data, length, &ids, &count, NULL) == PI0_OK) {
        for (size_t i = 0; i < count; i++) require(ids[i] >= 0 && ids[i] < tokenizer_vocabulary(t));
        memory_release(ids);
    }
    int32_t tokens[48];
    bool mask[48];
    prompt_tokens result;
    double state[3] = {-2, 0, (double)length};
    if (prompt_tokenize(&result, tokens, mask, 48, t, PROMPT_STATE, (const char *)data, length, state, 3, NULL) ==
        PI0_OK)
        require(result.valid >= 1 && result.valid <= 48 && tokens[0] == PROMPT_BOS);
    tokenizer_close(&t);
    return 0;
}
