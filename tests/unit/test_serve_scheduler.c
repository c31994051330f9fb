/* The queues between network and engine, with the tiny model behind them: order, bounds, batches, who gives up, and
 * that everything is freed (the sanitizers see to that). */
#include "data.h"

#include <semaphore.h>
#include <time.h>

#include "serve/scheduler.h"
#include "unit/serving.h"

enum { SLOW_STEPS = 60 };

typedef struct setup {
    kitchen kitchen;
    scheduler *scheduler;
    sem_t woken;
    void *request; /* [size] bytes of a request */
    size_t size;
} setup;

static void wake(void *user) { sem_post(user); }

static void open_setup(setup *s, int max_queue, int batch, double window_ms, int num_steps) {
    char path[1024];
    pi0_error error;
    *s = (setup){0};
    sem_init(&s->woken, 0, 0);
    s->request = data_read("golden/wire", "request_aloha_one_camera.msgpack", &s->size);
    if (!kitchen_open(&s->kitchen, "pi0_aloha_sim", data_path(path, sizeof path, "golden/tokenizer", "tiny.model"),
                      batch, num_steps, &error))
        fail_msg("%s", error.message);
    scheduler_options options = {.handler = s->kitchen.handler,
                                 .metrics = s->kitchen.metrics,
                                 .max_queue = max_queue,
                                 .batch = batch,
                                 .window_ms = window_ms,
                                 .wake = wake,
                                 .wake_user = &s->woken};
    assert_int_equal(scheduler_open(&s->scheduler, &options, NULL), PI0_OK);
}

static void close_setup(setup *s) {
    scheduler_close(&s->scheduler);
    kitchen_close(&s->kitchen);
    sem_destroy(&s->woken);
    free(s->request);
}

static job *request_of(const setup *s, uint64_t connection) {
    job *j = new_job(s->request, s->size);
    assert_non_null(j);
    j->connection = connection;
    return j;
}

static job *submit(setup *s, uint64_t connection) {
    job *j = request_of(s, connection);
    assert_true(scheduler_submit(s->scheduler, j));
    return j;
}

/* The next job that is done; the test fails after half a minute. */
static job *take(setup *s) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    for (job *j;;) {
        if ((j = scheduler_take(s->scheduler))) return j;
        assert_int_equal(sem_timedwait(&s->woken, &until), 0);
    }
}

static void wait_idle(setup *s) {
    for (int i = 0; i < 3000 && !scheduler_idle(s->scheduler); i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    assert_true(scheduler_idle(s->scheduler));
}

static void test_answers_come_in_order(void **state) {
    (void)state;
    setup s;
    open_setup(&s, 16, 1, 0, 1);
    for (uint64_t i = 0; i < 10; i++) submit(&s, i);
    for (uint64_t i = 0; i < 10; i++) {
        job *j = take(&s);
        assert_int_equal(j->connection, i);
        assert_false(j->failed);
        assert_true(j->response.size > 1000 && j->infer_ms > 0 && j->total_ms >= j->infer_ms);
        job_free(j);
    }
    assert_true(scheduler_idle(s.scheduler));
    close_setup(&s);
}

static void test_the_queue_is_bounded(void **state) {
    (void)state;
    setup s;
    open_setup(&s, 3, 1, 0, SLOW_STEPS);
    int accepted = 0;
    job *j;
    while (scheduler_submit(s.scheduler, j = request_of(&s, 0))) accepted++;
    job_free(j);
    assert_in_range(accepted, 3, 5); /* one may run already, one be prepared */
    assert_false(scheduler_idle(s.scheduler));
    for (int i = 0; i < accepted; i++) job_free(take(&s));
    submit(&s, 1);
    close_setup(&s); /* with one in hand */
}

static void test_who_gives_up_makes_room(void **state) {
    (void)state;
    setup s;
    open_setup(&s, 2, 1, 0, SLOW_STEPS);
    submit(&s, 0);
    while (scheduler_idle(s.scheduler)) continue;
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); /* it runs */
    for (int i = 0; i < 20; i++) scheduler_abandon(s.scheduler, submit(&s, 1));
    submit(&s, 2);
    for (bool done = false; !done;) { /* abandoned ones that a thread had in hand come out too, with nothing to send */
        job *j = take(&s);
        done = j->connection == 2;
        assert_true(j->connection != 1 || atomic_load(&j->abandoned));
        assert_true(j->connection == 1 || j->response.size > 0);
        job_free(j);
    }
    for (job *j; (j = scheduler_take(s.scheduler));) job_free(j);
    wait_idle(&s);
    close_setup(&s);
}

static void test_a_passed_deadline_is_not_run(void **state) {
    (void)state;
    setup s;
    open_setup(&s, 4, 1, 0, 1);
    job *late = request_of(&s, 1);
    late->deadline_ms = clock_ms() - 1;
    assert_true(scheduler_submit(s.scheduler, late));
    job *j = take(&s);
    assert_ptr_equal(j, late);
    assert_false(j->failed);
    assert_int_equal(j->response.size, 0);
    job_free(j);
    close_setup(&s);
}

static void test_batches(void **state) {
    (void)state;
    setup s;
    open_setup(&s, 64, 4, 300, 1);
    unsigned char *alone = NULL;
    size_t size = 0;
    for (int i = 0; i < 8; i++) submit(&s, (uint64_t)i);
    for (int i = 0; i < 8; i++) {
        job *j = take(&s);
        assert_false(j->failed);
        assert_in_range(j->batch, 2, 4);
        wire_message answer;
        assert_int_equal(wire_decode(&answer, j->response.bytes, j->response.size, NULL, NULL), PI0_OK);
        const value *actions = value_find(answer.root, "actions");
        if (!alone) {
            size = actions->array.bytes;
            alone = malloc(size);
            memcpy(alone, actions->array.data, size);
        }
        assert_memory_equal(alone, actions->array.data, size); /* same request, same noise */
        wire_release(&answer);
        job_free(j);
    }
    free(alone);
    close_setup(&s);
}

static void test_a_bad_request_fails_alone(void **state) {
    (void)state;
    setup s;
    open_setup(&s, 8, 2, 100, 1);
    submit(&s, 0);
    job *bad = new_job("\x80", 1);
    bad->connection = 1;
    assert_true(scheduler_submit(s.scheduler, bad));
    submit(&s, 2);
    for (int i = 0; i < 3; i++) {
        job *j = take(&s);
        assert_int_equal(j->failed, j->connection == 1);
        assert_false(j->engine_failed);
        if (j->failed) assert_non_null(strstr(j->error.message, "state"));
        job_free(j);
    }
    close_setup(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_come_in_order),
        cmocka_unit_test(test_the_queue_is_bounded),
        cmocka_unit_test(test_who_gives_up_makes_room),
        cmocka_unit_test(test_a_passed_deadline_is_not_run),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_a_bad_request_fails_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
