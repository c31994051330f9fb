#include "serve/job.h"

#include "base/memory.h"

job *job_new(unsigned char *bytes, size_t size) {
    job *made = memory_zeroed(1, sizeof *made);
    if (!made) return NULL;
    made->bytes = bytes;
    made->size = size;
    made->prev_total_ms = -1;
    return made;
}

void job_free(job *job) {
    if (!job) return;
    pi0_request_free(&job->request);
    memory_release(job->bytes);
    memory_release(job->response.bytes);
    pi0_input_free(&job->input);
    memory_release(job);
}
