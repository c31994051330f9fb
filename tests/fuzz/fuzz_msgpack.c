/* What decodes, encodes; and what that gives decodes to a tree that encodes to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "policy/value.h"

static void require(bool condition) {
    if (!condition) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    wire_message first, second;
    if (wire_decode(&first, data, size, NULL, NULL)) return 0;
    wire_buffer once = {0}, twice = {0};
    wire_put_value(&once, first.root);
    require(wire_decode(&second, once.bytes, once.size, NULL, NULL) == PI0_OK);
    wire_put_value(&twice, second.root);
    require(once.size == twice.size && !memcmp(once.bytes, twice.bytes, once.size));
    char text[64];
    value_describe(first.root, text, sizeof text);
    if (first.root->kind == VALUE_ARRAY && first.root->array.bytes)
        value_array_number(&first.root->array, value_array_count(&first.root->array) - 1);
    memory_release(once.bytes);
    memory_release(twice.bytes);
    wire_release(&first);
    wire_release(&second);
    return 0;
}
