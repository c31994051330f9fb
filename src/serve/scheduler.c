#include "serve/scheduler.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"

typedef struct queue {
    job *first, *last;
    int length;
} queue;

struct scheduler {
    scheduler_options options;
    pthread_mutex_t lock;
    pthread_cond_t received; /* for the preparer */
    pthread_cond_t prepared; /* for the runner */
    queue waiting, ready, done;
    int preparing, running; /* jobs in the hands of the threads */
    bool runner_waits, stopping;
    pthread_t preparer, runner;
    int threads; /* started */
    job **batch; /* [options.batch] of the runner */
};

static void push(queue *q, job *j) {
    j->next = NULL;
    if (q->last)
        q->last->next = j;
    else
        q->first = j;
    q->last = j;
    q->length++;
}

static job *pop(queue *q) {
    job *j = q->first;
    if (!j) return NULL;
    q->first = j->next;
    if (!q->first) q->last = NULL;
    q->length--;
    return j;
}

/* Called with the lock held. */
static void publish_lengths(scheduler *s) {
    metrics_set(s->options.metrics, METRIC_QUEUE, s->waiting.length + s->preparing + s->ready.length);
    metrics_set(s->options.metrics, METRIC_RUNNING, s->running);
}

static bool unlink_job(queue *q, const job *j) {
    for (job **at = &q->first, *before = NULL; *at; before = *at, at = &(*at)->next)
        if (*at == j) {
            *at = j->next;
            if (q->last == j) q->last = before;
            q->length--;
            return true;
        }
    return false;
}

/* Called with the lock held; wake does no more than write to a pipe. */
static void deliver(scheduler *s, job *j) {
    push(&s->done, j);
    s->options.wake(s->options.wake_user);
}

static bool not_wanted(job *j) { return atomic_load(&j->abandoned) || clock_ms() > j->deadline_ms; }

/* Called with the lock held, which is given up for the work. */
static void prepare_job(scheduler *s, job *j) {
    s->preparing++;
    publish_lengths(s);
    pthread_mutex_unlock(&s->lock);
    bool wanted = !not_wanted(j);
    if (wanted) {
        handler_prepare(s->options.handler, j);
        metrics_observe(s->options.metrics, METRIC_PREPARE, j->prepare_ms / 1000);
    }
    pthread_mutex_lock(&s->lock);
    s->preparing--;
    if (s->waiting.first) pthread_cond_signal(&s->received);
    if (wanted && !j->failed) {
        push(&s->ready, j);
        pthread_cond_signal(&s->prepared);
    } else {
        deliver(s, j);
    }
    publish_lengths(s);
}

static void *prepare(void *argument) {
    scheduler *s = argument;
    pthread_mutex_lock(&s->lock);
    while (true) {
        /* one at a time, or they would not be ready in their order */
        while ((!s->waiting.first || s->preparing) && !s->stopping) pthread_cond_wait(&s->received, &s->lock);
        if (s->stopping) break;
        prepare_job(s, pop(&s->waiting));
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* Waits until `ready` may hold something more, at most until the clock says `until_ms`. False: time is up. */
static bool wait_until(scheduler *s, double until_ms) {
    struct timespec at = {.tv_sec = (time_t)(until_ms / 1000)};
    at.tv_nsec = (long)((until_ms - (double)at.tv_sec * 1000) * 1e6);
    return pthread_cond_timedwait(&s->prepared, &s->lock, &at) != ETIMEDOUT;
}

/* Moves what runs next into s->batch; returns how many. Called with the lock held and something ready. */
static int gather(scheduler *s) {
    int count = 0;
    double until_ms = clock_ms() + s->options.window_ms;
    while (count < s->options.batch && !s->stopping) {
        job *j = pop(&s->ready);
        if (j && not_wanted(j)) {
            deliver(s, j);
        } else if (j) {
            s->batch[count++] = j;
            s->running = count; /* in no queue from here on: scheduler_idle has to know of it */
        } else {
            /* alone and nobody in sight: waiting would only cost time when the window is open for others */
            if (s->options.batch == 1 || s->options.window_ms <= 0 || !count) break;
            if (!wait_until(s, until_ms) && !s->ready.first) break;
        }
    }
    return count;
}

/* A runner that waits prepares a lone request itself: that saves waking one more thread. Called with the lock held. */
static bool runner_has_work(const scheduler *s) { return s->ready.first || (s->waiting.first && !s->preparing); }

static void *run(void *argument) {
    scheduler *s = argument;
    pthread_mutex_lock(&s->lock);
    while (true) {
        while (!runner_has_work(s) && !s->stopping) {
            s->runner_waits = true;
            pthread_cond_wait(&s->prepared, &s->lock);
            s->runner_waits = false;
        }
        if (s->stopping) break;
        if (!s->ready.first) {
            prepare_job(s, pop(&s->waiting));
            continue;
        }
        int count = gather(s);
        publish_lengths(s);
        if (!count) continue;
        pthread_mutex_unlock(&s->lock);
        double now = clock_ms();
        for (int i = 0; i < count; i++)
            metrics_observe(s->options.metrics, METRIC_WAIT,
                            (now - s->batch[i]->received_ms - s->batch[i]->prepare_ms) / 1000);
        handler_run(s->options.handler, s->batch, count);
        pthread_mutex_lock(&s->lock);
        for (int i = 0; i < count; i++) deliver(s, s->batch[i]);
        s->running = 0;
        publish_lengths(s);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

pi0_status scheduler_open(scheduler **result, const scheduler_options *options, pi0_error *error) {
    *result = NULL;
    scheduler *s = memory_zeroed(1, sizeof *s);
    if (!s) return error_memory(error, sizeof *s, "the scheduler");
    s->options = *options;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->received, &monotonic);
    pthread_cond_init(&s->prepared, &monotonic);
    pthread_condattr_destroy(&monotonic);
    s->batch = memory_zeroed((size_t)options->batch, sizeof *s->batch);
    if (s->batch && pthread_create(&s->preparer, NULL, prepare, s) == 0) {
        s->threads++;
        if (pthread_create(&s->runner, NULL, run, s) == 0) s->threads++;
    }
    if (s->threads < 2) {
        scheduler_close(&s);
        return error_set(error, PI0_ERROR_MEMORY, "the server's threads could not be started");
    }
    *result = s;
    return PI0_OK;
}

static void free_all(queue *q) {
    for (job *j; (j = pop(q));) job_free(j);
}

void scheduler_close(scheduler **scheduler_) {
    scheduler *s = *scheduler_;
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_broadcast(&s->received);
    pthread_cond_broadcast(&s->prepared);
    pthread_mutex_unlock(&s->lock);
    if (s->threads > 0) pthread_join(s->preparer, NULL);
    if (s->threads > 1) pthread_join(s->runner, NULL);
    free_all(&s->waiting);
    free_all(&s->ready);
    free_all(&s->done);
    pthread_cond_destroy(&s->received);
    pthread_cond_destroy(&s->prepared);
    pthread_mutex_destroy(&s->lock);
    memory_release(s->batch);
    memory_release(s);
    *scheduler_ = NULL;
}

/* Prepares a job on the network's thread, where that is quick and nobody else has anything to do. What another core has
 * just written is slow to read: that, and not the work, is most of what preparing costs elsewhere. Called with the lock
 * held, which is given up for the work. False: the job is still to be prepared. */
static bool prepare_here(scheduler *s, job *j) {
    if (!s->runner_waits || s->preparing || runner_has_work(s)) return false;
    s->preparing++;
    pthread_mutex_unlock(&s->lock);
    bool quick = handler_decode_quickly(s->options.handler, j);
    pthread_mutex_lock(&s->lock);
    s->preparing--;
    if (quick) prepare_job(s, j);
    return quick;
}

bool scheduler_submit(scheduler *s, job *j) {
    pthread_mutex_lock(&s->lock);
    bool room = s->waiting.length + s->preparing + s->ready.length < s->options.max_queue;
    if (room && prepare_here(s, j)) {
        s->runner_waits = false;
    } else if (room) {
        push(&s->waiting, j);
        pthread_cond_signal(s->runner_waits && runner_has_work(s) ? &s->prepared : &s->received);
        s->runner_waits = false; /* it is woken once; who comes next is for the preparer */
        publish_lengths(s);
    }
    pthread_mutex_unlock(&s->lock);
    return room;
}

void scheduler_abandon(scheduler *s, job *j) {
    pthread_mutex_lock(&s->lock);
    atomic_store(&j->abandoned, true);
    bool mine = unlink_job(&s->waiting, j) || unlink_job(&s->ready, j);
    publish_lengths(s);
    pthread_mutex_unlock(&s->lock);
    if (mine) job_free(j);
}

job *scheduler_take(scheduler *s) {
    pthread_mutex_lock(&s->lock);
    job *j = pop(&s->done);
    pthread_mutex_unlock(&s->lock);
    return j;
}

bool scheduler_idle(scheduler *s) {
    pthread_mutex_lock(&s->lock);
    bool idle = !s->waiting.first && !s->ready.first && !s->done.first && !s->preparing && !s->running;
    pthread_mutex_unlock(&s->lock);
    return idle;
}
