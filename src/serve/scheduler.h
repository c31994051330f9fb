/*
 * The queues between the network and the engine: first come, first served (a connection has one request at a time, so
 * that is fair), bounded, with a thread that prepares and a thread that runs.
 */
#ifndef PI0_SERVE_SCHEDULER_H
#define PI0_SERVE_SCHEDULER_H

#include "serve/handler.h"

typedef struct scheduler scheduler;

typedef struct scheduler_options {
    handler *handler;         /* borrowed */
    metrics *metrics;         /* borrowed */
    int max_queue;            /* requests that wait */
    int batch;                /* most requests of one inference */
    double window_ms;         /* how long the first of a batch waits for others */
    void (*wake)(void *user); /* from the runner's thread: scheduler_take has something */
    void *wake_user;
} scheduler_options;

pi0_status scheduler_open(scheduler **scheduler, const scheduler_options *options, pi0_error *error);
/* Waits for the inference that runs; what still waits is freed. */
void scheduler_close(scheduler **scheduler);

/* Takes the job over; false: the queue is full and the job still the caller's. */
bool scheduler_submit(scheduler *scheduler, job *job);
/* Nobody waits for this job any more: it gives up its place in the queue at once; if a thread has it in hand, it is
 * handed out by scheduler_take in the end. The job must have been submitted and not been taken. */
void scheduler_abandon(scheduler *scheduler, job *job);
/* The next job that is done, failed or with a response; the caller's from then on. NULL: none. Abandoned jobs are
 * handed out too (with nothing to send), so that the caller can forget them. */
job *scheduler_take(scheduler *scheduler);
/* Nothing waits, runs or is done but not taken. */
bool scheduler_idle(scheduler *scheduler);

#endif
