/* A message's whole way through the server but for the sockets: either it is refused with a reason, or the answer is a
 * message that decodes. */
#include <string.h>

#include "unit/serving.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
    if (!condition) abort();
}

/* Opened at the first input and kept: opening takes longer than a hundred inputs. */
static kitchen *shared_kitchen(void) {
    static kitchen kitchen;
    if (kitchen.handler) return &kitchen;
    char path[1024];
    const char *root = getenv("PI0_TEST_DATA");
    pi0_error error;
    snprintf(path, sizeof path, "%s/golden/tokenizer/tiny.model", root ? root : "tests/data");
    if (kitchen_open(&kitchen, "pi0_aloha_sim", path, 1, 1, &error)) return &kitchen;
    fprintf(stderr, "%s\n", error.message);
    exit(1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    kitchen *k = shared_kitchen();
    job *j = new_job(data, size);
    require(j != NULL);
    handler_prepare(k->handler, j);
    if (!j->failed) handler_run(k->handler, &j, 1);
    if (j->failed) {
        require(j->error.message[0] && j->error.status != PI0_OK);
    } else {
        wire_message answer;
        require(wire_decode(&answer, j->response.bytes, j->response.size, NULL, NULL) == PI0_OK);
        const value *actions = value_find(answer.root, "actions");
        require(actions && actions->kind == VALUE_ARRAY && actions->array.shape[1] == 14);
        wire_release(&answer);
    }
    job_free(j);
    return 0;
}
