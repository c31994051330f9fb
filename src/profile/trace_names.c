#include "profile/trace_names.h"

#include <stdbool.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

enum { MAX_NAMES = 1 << 19, FIRST_NAMES = 256, BLOCK_BYTES = 256 << 10, MAX_TEXT_BYTES = 64 << 20 };

uint64_t trace_hash(const char *bytes, size_t length) {
    const uint64_t prime = UINT64_C(0x9e3779b97f4a7c15);
    uint64_t hash = prime ^ length, word;
    for (; length >= 8; bytes += 8, length -= 8) {
        memcpy(&word, bytes, 8);
        hash = (hash ^ word) * prime;
        hash ^= hash >> 29;
    }
    word = 0;
    if (length) memcpy(&word, bytes, length);
    hash = (hash ^ word) * prime;
    return hash ^ hash >> 32;
}

static bool grow(trace_names *names) {
    uint32_t capacity = names->capacity ? names->capacity * 2 : FIRST_NAMES;
    trace_name *larger = memory_resize(names->names, names->count * sizeof *larger, (size_t)capacity * sizeof *larger);
    if (!larger) return false;
    names->names = larger;
    names->capacity = capacity;
    uint32_t slot_count = capacity * 2;
    uint32_t *slots = memory_zeroed(slot_count, sizeof *slots);
    if (!slots) return false;
    for (uint32_t i = 0; i < names->count; i++) {
        uint32_t slot = names->names[i].hash & (slot_count - 1);
        while (slots[slot]) slot = (slot + 1) & (slot_count - 1);
        slots[slot] = i + 1;
    }
    memory_release(names->slots);
    names->slots = slots;
    names->slot_count = slot_count;
    return true;
}

static char *take_text(trace_names *names, size_t bytes) {
    if (!names->block || names->block_size - names->block_used < bytes) {
        size_t size = sizeof(char *) + (bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES);
        char *block = memory_allocate(size);
        if (!block) return NULL;
        memcpy(block, &names->block, sizeof names->block);
        names->block = block;
        names->block_used = sizeof(char *);
        names->block_size = size;
    }
    char *text = names->block + names->block_used;
    names->block_used += bytes;
    names->text_bytes += bytes;
    return text;
}

/* Copies text; bytes that are no UTF-8 become U+FFFD (three bytes for one). */
static size_t copy_valid(char *to, const char *text, size_t length) {
    if (utf8_valid(text, length)) {
        memcpy(to, text, length);
        return length;
    }
    size_t size = 0;
    for (size_t i = 0; i < length;) {
        uint32_t point;
        size_t taken = utf8_read(text + i, length - i, &point);
        if (taken) {
            memcpy(to + size, text + i, taken);
            size += taken;
            i += taken;
        } else {
            size += utf8_write(to + size, 0xfffd);
            i++;
        }
    }
    return size;
}

static uint32_t add_new(trace_names *names, const char *text, size_t length, uint32_t hash) {
    if (names->count * 2 >= names->slot_count && !grow(names)) return TRACE_NO_NAME;
    bool valid = utf8_valid(text, length);
    char *copy = take_text(names, (valid ? length : 3 * length) + 1);
    if (!copy) return TRACE_NO_NAME;
    size_t copied = copy_valid(copy, text, length);
    copy[copied] = 0;
    uint32_t slot = hash & (names->slot_count - 1);
    while (names->slots[slot]) slot = (slot + 1) & (names->slot_count - 1);
    names->names[names->count] = (trace_name){.text = copy, .length = (uint32_t)copied, .hash = hash};
    names->slots[slot] = ++names->count;
    return names->count - 1;
}

/* A name that was repaired is found again by the hash of its original bytes and the same repair. */
static bool same_text(const trace_name *name, const char *text, size_t length) {
    if (name->length == length && memcmp(name->text, text, length) == 0) return true;
    if (name->length <= length || utf8_valid(text, length)) return false;
    char repaired[4096];
    return 3 * length <= sizeof repaired && copy_valid(repaired, text, length) == name->length &&
           memcmp(repaired, name->text, name->length) == 0;
}

uint32_t trace_names_add(trace_names *names, const char *text, size_t length) {
    uint32_t hash = (uint32_t)trace_hash(text, length);
    if (names->slot_count) {
        for (uint32_t slot = hash & (names->slot_count - 1); names->slots[slot];
             slot = (slot + 1) & (names->slot_count - 1)) {
            uint32_t id = names->slots[slot] - 1;
            if (names->names[id].hash == hash && same_text(&names->names[id], text, length)) return id;
        }
    }
    if (names->overflow) return names->overflow - 1;
    if (names->count >= MAX_NAMES || names->text_bytes + 3 * length > MAX_TEXT_BYTES) {
        static const char others[] = "(all further names)";
        uint32_t id = add_new(names, others, sizeof others - 1, (uint32_t)trace_hash(others, sizeof others - 1));
        if (id != TRACE_NO_NAME) names->overflow = id + 1;
        return id;
    }
    return add_new(names, text, length, hash);
}

void trace_names_count(trace_names *names, uint32_t id, double us) {
    trace_name *name = &names->names[id];
    name->calls++;
    trace_sum(&name->total_us, &name->total_low, us);
}

double trace_name_us(const trace_name *name) { return name->total_us + name->total_low; }

void trace_names_release(trace_names *names) {
    while (names->block) {
        char *next;
        memcpy(&next, names->block, sizeof next);
        memory_release(names->block);
        names->block = next;
    }
    memory_release(names->names);
    memory_release(names->slots);
    *names = (trace_names){0};
}
