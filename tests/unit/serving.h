/* A handler over the tiny model and requests for it: what tests of the server's inside share. */
#ifndef PI0_TESTS_UNIT_SERVING_H
#define PI0_TESTS_UNIT_SERVING_H

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "serve/handler.h"

/* Everything a handler stands on. */
typedef struct kitchen {
    pi0_engine *engine;
    pi0_policy *policy;
    metrics *metrics;
    handler *handler;
} kitchen;

/* False: *error says why. The model has no robot: its requests bring tokens, so no tokenizer is needed. */
static inline bool kitchen_open(kitchen *k, const char *config, const char *tokenizer, int batch, int num_steps,
                                pi0_error *error) {
    *k = (kitchen){0};
    pi0_engine_options engine;
    pi0_engine_options_default(&engine);
    engine.model = PI0_MODEL_TINY_PI0;
    engine.threads = 1;
    pi0_policy_options policy;
    pi0_policy_options_default(&policy);
    policy.config = config;
    policy.tokenizer = tokenizer;
    policy.model = PI0_MODEL_TINY_PI0;
    policy.checkpoint = "synthetic:1";
    if (pi0_policy_open(&k->policy, &policy, error) || pi0_engine_open(&k->engine, &engine, error) ||
        metrics_open(&k->metrics, error))
        return false;
    handler_options options = {.engine = k->engine,
                               .policy = k->policy,
                               .batch = batch,
                               .num_steps = num_steps,
                               .seeded = true,
                               .seed = 1,
                               .metrics = k->metrics};
    return handler_open(&k->handler, &options, error) == PI0_OK;
}

static inline void kitchen_close(kitchen *k) {
    handler_close(&k->handler);
    metrics_close(&k->metrics);
    pi0_engine_close(&k->engine);
    pi0_policy_close(&k->policy);
}

/* A job with a copy of these bytes that has a minute's time. */
static inline job *new_job(const void *bytes, size_t size) {
    unsigned char *copy = memory_allocate(size ? size : 1);
    if (!copy) return NULL;
    for (size_t i = 0; i < size; i++) copy[i] = ((const unsigned char *)bytes)[i];
    job *made = job_new(copy, size);
    if (!made) return NULL;
    made->received_ms = clock_ms();
    made->deadline_ms = made->received_ms + 60000;
    return made;
}

#endif
