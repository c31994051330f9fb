/* The three JSON files of a lerobot directory from a stranger, one after the other, separated by NUL. */
#include <string.h>

#include "policy/lerobot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef pi0_status (*parser)(lerobot *policy, const char *text, size_t size, const char *name, pi0_error *error);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const parser parsers[] = {lerobot_parse_config, lerobot_parse_before, lerobot_parse_after};
    lerobot policy = {0};
    pi0_error error;
    const char *text = (const char *)data;
    pi0_status status = PI0_OK;
    for (int i = 0; i < 3 && status == PI0_OK; i++) {
        const char *end = memchr(text, 0, size);
        size_t length = end ? (size_t)(end - text) : size;
        status = parsers[i](&policy, text, length, "fuzzed", &error);
        text += end ? length + 1 : length;
        size -= end ? length + 1 : length;
    }
    lerobot_release(&policy);
    return 0;
}
