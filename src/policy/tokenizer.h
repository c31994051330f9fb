/*
 * SentencePiece model files (https://github.com/google/sentencepiece): text -> piece ids.
 * A build without PI0_TOKENIZER refuses every file with PI0_ERROR_UNSUPPORTED.
 */
#ifndef PI0_POLICY_TOKENIZER_H
#define PI0_POLICY_TOKENIZER_H

#include "base/status.h"

typedef struct tokenizer tokenizer; /* immutable: encode from any number of threads */

pi0_status tokenizer_open(tokenizer **result, const char *path, pi0_error *error);
/* The same from memory, which is copied; `name` is used in errors. */
pi0_status tokenizer_parse(tokenizer **result, const void *bytes, size_t size, const char *name, pi0_error *error);
void tokenizer_close(tokenizer **tokenizer);

/* Number of pieces: ids lie in 0 .. vocabulary-1. */
int tokenizer_vocabulary(const tokenizer *tokenizer);

/* Text (UTF-8, may hold NUL) to ids without BOS and EOS. *ids is the caller's, to give to memory_release. */
pi0_status tokenizer_encode(const tokenizer *tokenizer, const char *text, size_t length, int32_t **ids, size_t *count,
                            pi0_error *error);

#endif
