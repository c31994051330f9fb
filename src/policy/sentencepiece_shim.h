/* The SentencePiece library from C. No exception leaves these functions; nothing is printed. */
#ifndef PI0_POLICY_SENTENCEPIECE_SHIM_H
#define PI0_POLICY_SENTENCEPIECE_SHIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct piece_model piece_model;

/* A model from bytes that sentencepiece_check accepted; NULL with a reason in message[message_size]. */
piece_model *sentencepiece_load(const void *bytes, size_t size, char *message, size_t message_size);
void sentencepiece_unload(piece_model *model);
int sentencepiece_pieces(const piece_model *model);
/* Returns 0 with *ids from memory_allocate, or -1 with a reason. */
int sentencepiece_encode(const piece_model *model, const char *text, size_t length, int32_t **ids, size_t *count,
                         char *message, size_t message_size);

#ifdef __cplusplus
}
#endif
#endif
