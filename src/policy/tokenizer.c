#include "policy/tokenizer.h"

#include "base/file.h"
#include "base/memory.h"

/* PaliGemma's file has 4 MB. The library takes some 200 bytes a character while it encodes. */
enum { MAX_MODEL_BYTES = 64 << 20, MAX_TEXT_BYTES = 1 << 20 };

#ifdef PI0_WITH_TOKENIZER
#include "policy/sentencepiece_model.h"
#include "policy/sentencepiece_shim.h"

struct tokenizer {
    piece_model *model;
    int vocabulary;
};

pi0_status tokenizer_parse(tokenizer **result, const void *bytes, size_t size, const char *name, pi0_error *error) {
    *result = NULL;
    if (size > MAX_MODEL_BYTES)
        return error_set(error, PI0_ERROR_FORMAT, "%s: expected a SentencePiece model of at most %d bytes, found %zu",
                         name, MAX_MODEL_BYTES, size);
    TRY(sentencepiece_check(bytes, size, name, error));
    tokenizer *t = memory_allocate(sizeof *t);
    if (!t) return error_memory(error, sizeof *t, name);
    char message[512] = "";
    t->model = sentencepiece_load(bytes, size, message, sizeof message);
    if (!t->model) {
        memory_release(t);
        return error_set(error, PI0_ERROR_FORMAT, "%s: not a usable SentencePiece model: %s", name, message);
    }
    t->vocabulary = sentencepiece_pieces(t->model);
    *result = t;
    return PI0_OK;
}

void tokenizer_close(tokenizer **t) {
    if (!*t) return;
    sentencepiece_unload((*t)->model);
    memory_release(*t);
    *t = NULL;
}

int tokenizer_vocabulary(const tokenizer *t) { return t->vocabulary; }

pi0_status tokenizer_encode(const tokenizer *t, const char *text, size_t length, int32_t **ids, size_t *count,
                            pi0_error *error) {
    *ids = NULL;
    *count = 0;
    if (length > MAX_TEXT_BYTES)
        return error_set(error, PI0_ERROR_ARGUMENT, "expected a prompt of at most %d bytes, found %zu", MAX_TEXT_BYTES,
                         length);
    char message[512] = "";
    if (sentencepiece_encode(t->model, text, length, ids, count, message, sizeof message))
        return error_set(error, PI0_ERROR_MEMORY, "cannot encode a prompt of %zu bytes: %s", length, message);
    return PI0_OK;
}
#else
pi0_status tokenizer_parse(tokenizer **result, const void *bytes, size_t size, const char *name, pi0_error *error) {
    (void)bytes, (void)size;
    *result = NULL;
    return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: this build has no tokenizer (PI0_TOKENIZER is off)", name);
}

void tokenizer_close(tokenizer **t) { *t = NULL; }

int tokenizer_vocabulary(const tokenizer *t) {
    (void)t;
    return 0;
}

pi0_status tokenizer_encode(const tokenizer *t, const char *text, size_t length, int32_t **ids, size_t *count,
                            pi0_error *error) {
    (void)t, (void)text, (void)length;
    *ids = NULL;
    *count = 0;
    return error_set(error, PI0_ERROR_UNSUPPORTED, "this build has no tokenizer (PI0_TOKENIZER is off)");
}
#endif

pi0_status tokenizer_open(tokenizer **result, const char *path, pi0_error *error) {
    *result = NULL;
    void *bytes;
    size_t size;
    TRY(file_read(&bytes, &size, path, MAX_MODEL_BYTES, error));
    pi0_status status = tokenizer_parse(result, bytes, size, path, error);
    memory_release(bytes);
    return status;
}
