/*
 * A look at a SentencePiece model file before the library gets it. The library trusts parts of the file that it reads
 * at every encode (the compiled normalisation trie, how many user-defined symbols can nest), so that a damaged file
 * would make it read out of bounds.
 */
#ifndef PI0_POLICY_SENTENCEPIECE_MODEL_H
#define PI0_POLICY_SENTENCEPIECE_MODEL_H

#include "base/status.h"

/* PI0_ERROR_FORMAT unless the bytes are a ModelProto (sentencepiece_model.proto) that is safe to use. What the library
 * checks itself and reports (duplicate pieces, a missing unknown piece, missing bytes) is left to it. */
pi0_status sentencepiece_check(const void *bytes, size_t size, const char *name, pi0_error *error);

#endif
