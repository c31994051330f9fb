/*
 * What this machine can do, measured: the rate of one large product of the model's own kind, and the rate at which
 * memory is read. The floor of a stage is what these allow.
 */
#ifndef PI0_PROFILE_CEILINGS_H
#define PI0_PROFILE_CEILINGS_H

#include "base/status.h"
#include "model/config.h"
#include "profile/flops.h"

typedef struct ceilings_options {
    pi0_backend backend;        /* whose device: AUTO and CPU: the processor; CUDA */
    int device;                 /* of a GPU */
    bool bf16;                  /* products of bf16 numbers (where the CPU has them), else float32 */
    int threads;                /* 0: all */
    int rows, columns, outputs; /* of the product: [rows, columns] x [outputs, columns]^T */
    size_t read_bytes;          /* size of the buffer that is read */
} ceilings_options;

/* The largest product of a model, 788 x 2048 x 32768 at full size, and a buffer like the expert's weights; smaller for
 * a small model. */
ceilings_options ceilings_options_default(const model_config *config);

typedef struct ceilings {
    double product_flops; /* FLOP per second */
    double read_bytes;    /* bytes per second */
    char product[64];     /* "oneDNN f32 788x2048x32768" */
} ceilings;

/* The best of a few rounds of each; takes the memory of one product and gives it back. */
pi0_status ceilings_measure(ceilings *result, const ceilings_options *options, pi0_error *error);

/* Milliseconds that the nearer bound allows for the work: arithmetic at the product rate, or weights and cache
 * (bytes_per_number each) at the read rate. */
double ceilings_floor_ms(const ceilings *ceilings, work work, int bytes_per_number);

#endif
