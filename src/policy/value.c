#include "policy/value.h"

#include <stdio.h>
#include <string.h>

#include "base/number.h"

const value *value_find(const value *map, const char *key) {
    if (!map || map->kind != VALUE_MAP) return NULL;
    size_t length = strlen(key);
    for (size_t i = map->list.count; i-- > 0;) {
        const value *candidate = &map->list.keys[i];
        if (candidate->kind == VALUE_TEXT && candidate->text.length == length &&
            !memcmp(candidate->text.data, key, length))
            return &map->list.items[i];
    }
    return NULL;
}

char *value_describe(const value *v, char *text, size_t size) {
    switch (v->kind) {
    case VALUE_NULL:
        snprintf(text, size, "null");
        break;
    case VALUE_BOOL:
        snprintf(text, size, "bool");
        break;
    case VALUE_INT:
    case VALUE_UINT:
        snprintf(text, size, "integer");
        break;
    case VALUE_FLOAT:
        snprintf(text, size, "number");
        break;
    case VALUE_TEXT:
        snprintf(text, size, "text");
        break;
    case VALUE_BYTES:
        snprintf(text, size, "%zu bytes", v->text.length);
        break;
    case VALUE_LIST:
        snprintf(text, size, "list of %zu", v->list.count);
        break;
    case VALUE_MAP:
        snprintf(text, size, "map of %zu", v->list.count);
        break;
    case VALUE_ARRAY:
    case VALUE_SCALAR: {
        const value_array *array = &v->array;
        char type[192];
        number_describe(array->kind, array->item_bytes, array->rank, array->shape, type, sizeof type);
        char *shape = strchr(type, ' ');
        if (v->kind == VALUE_ARRAY)
            snprintf(text, size, "%.*s array%s", (int)(shape - type), type, shape);
        else
            snprintf(text, size, "%.*s scalar", (int)(shape - type), type);
        break;
    }
    }
    return text;
}

double value_array_number(const value_array *array, size_t index) {
    return number_read(array->kind, array->item_bytes,
                       (const unsigned char *)array->data + index * (size_t)array->item_bytes);
}

size_t value_array_count(const value_array *array) {
    size_t count = 1;
    for (int i = 0; i < array->rank; i++) count *= (size_t)array->shape[i];
    return count;
}
