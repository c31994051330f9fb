/*
 * Deterministic synthetic weights and observations by integer arithmetic (golden/synthetic.py is the definition): the
 * same bits on every machine, so that a full-size problem needs no file.
 */
#ifndef PI0_CHECKPOINT_SYNTHETIC_H
#define PI0_CHECKPOINT_SYNTHETIC_H

#include "base/bf16.h"
#include "checkpoint/tensor.h"
#include "model/config.h"

/* fnv1a64(name) ^ seed * golden gamma: the key of the stream `name`. */
uint64_t synthetic_key(const char *name, uint64_t seed);
/* Amplitude and base of a parameter, from its canonical name and shape. */
void synthetic_amplitude_base(const char *name, int rank, const int64_t *shape, float *amplitude, float *base);

/* Elements start .. start+count of a parameter stream, as bf16 or as the bf16-rounded float32. Vectorised; one thread.
 */
void synthetic_bf16(uint64_t key, float amplitude, float base, int64_t start, int64_t count, bf16 *values);
void synthetic_float(uint64_t key, float amplitude, float base, int64_t start, int64_t count, float *values);

uint64_t synthetic_bits(uint64_t key, uint64_t index); /* bits(i) of the definition */
void synthetic_unit(const char *name, uint64_t seed, float *values, int64_t count);
void synthetic_normal(const char *name, uint64_t seed, float *values, int64_t count);

/* The synthetic observation: camera slot `camera` (base_0_rgb, left_wrist_0_rgb, right_wrist_0_rgb) uint8
 * [size,size,3]. */
void synthetic_image(int camera, uint64_t seed, int size, uint8_t *pixels);
void synthetic_tokens(uint64_t seed, int vocabulary, int32_t *tokens, int count);
void synthetic_state(uint64_t seed, float *state, int count);

extern const char *const synthetic_cameras[3];

#endif
