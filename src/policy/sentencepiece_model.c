/*
 * Walks the protocol buffer's wire format (https://protobuf.dev/programming-guides/encoding/) of the fields that
 * matter:
 *
 *     ModelProto      1 pieces, 2 trainer_spec, 3 normalizer_spec, 5 denormalizer_spec
 *     SentencePiece   1 piece, 2 score, 3 type
 *     NormalizerSpec  2 precompiled_charsmap
 */
#include "policy/sentencepiece_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

enum {
    MAX_PIECE_BYTES = 8000,
    MAX_NESTED_SYMBOLS = 64, /* the library's result arrays */
    MAX_NESTED_RULES = 32,
    MAX_TRIE_VISITS = 1 << 21, /* sentencepiece's own rules take 40,000 */
};

typedef struct span {
    const unsigned char *at, *end;
} span;

typedef struct field {
    uint32_t number;
    int wire_type;         /* 0 varint, 1 eight bytes, 2 bytes, 5 four bytes */
    uint64_t number_value; /* of types 0, 1 and 5 */
    span bytes;            /* of type 2 */
} field;

static bool read_varint(span *in, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 64 && in->at < in->end; shift += 7) {
        unsigned char byte = *in->at++;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return true;
    }
    return false;
}

static bool read_fixed(span *in, size_t bytes, uint64_t *value) {
    if ((size_t)(in->end - in->at) < bytes) return false;
    *value = 0;
    memcpy(value, in->at, bytes);
    in->at += bytes;
    return true;
}

/* The next field of a message; false at what is none. */
static bool read_field(span *in, field *out) {
    uint64_t tag, size;
    if (!read_varint(in, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff) return false;
    *out = (field){.number = (uint32_t)(tag >> 3), .wire_type = (int)(tag & 7)};
    switch (out->wire_type) {
    case 0:
        return read_varint(in, &out->number_value);
    case 1:
        return read_fixed(in, 8, &out->number_value);
    case 2:
        if (!read_varint(in, &size) || size > (size_t)(in->end - in->at)) return false;
        out->bytes = (span){in->at, in->at + size};
        in->at += size;
        return true;
    case 5:
        return read_fixed(in, 4, &out->number_value);
    default:
        return false; /* groups: SentencePiece has none */
    }
}

/* ---- the compiled normalisation ---- */

/*
 * A double array of Darts-clone: a node's unit holds its byte (label), the offset to its children and whether a rule
 * ends there; child `byte` of a node lies at base ^ byte, where base is the node's position ^ its offset; the rule's
 * value, a place in the replacement texts, lies at base itself. Equal tails are shared, so that a node may have
 * several parents.
 */
typedef struct trie {
    const unsigned char *units;
    size_t count, texts_bytes;
    unsigned char *rules;  /* [count]: 1 + most rules that end on a way to the node, itself included; 0: not reached */
    unsigned char *queued; /* [count] */
    uint32_t *queue;       /* [count] positions to visit */
    size_t queue_length;
} trie;

static uint32_t unit_at(const trie *t, size_t position) {
    uint32_t unit;
    memcpy(&unit, t->units + 4 * position, sizeof unit);
    return unit;
}

static uint32_t base_of(const trie *t, uint32_t position) {
    uint32_t unit = unit_at(t, position);
    return position ^ ((unit >> 10) << ((unit & (1u << 9)) >> 6));
}

/* A way of `rules` rules leads to this node. */
static bool reach(trie *t, uint32_t position, int rules) {
    if (unit_at(t, position) & 1u << 8) {
        uint32_t base = base_of(t, position);
        if (base >= t->count || (unit_at(t, base) & 0x7fffffffu) >= t->texts_bytes) return false;
        if (++rules > MAX_NESTED_RULES) return false; /* or a loop */
    }
    if (t->rules[position] > rules) return true;
    t->rules[position] = (unsigned char)(rules + 1);
    if (!t->queued[position]) t->queue[t->queue_length++] = position;
    t->queued[position] = 1;
    return true;
}

/* Visits every node the library can reach. */
static bool walk_trie(trie *t) {
    size_t visits = 0;
    if (!reach(t, 0, 0)) return false;
    while (t->queue_length) {
        uint32_t position = t->queue[--t->queue_length], base = base_of(t, position);
        t->queued[position] = 0;
        if ((base | 0xffu) >= t->count || ++visits > MAX_TRIE_VISITS) return false; /* any byte may follow */
        for (uint32_t byte = 0; byte < 256; byte++)
            if ((unit_at(t, base ^ byte) & (1u << 31 | 0xff)) == byte && !reach(t, base ^ byte, t->rules[position] - 1))
                return false;
    }
    return true;
}

/* uint32 size of the trie in bytes, the trie, the replacement texts, each ending in NUL. */
static pi0_status check_charsmap(span map, const char *name, pi0_error *error) {
    size_t size = (size_t)(map.end - map.at);
    if (!size) return PI0_OK;
    uint32_t trie_bytes = 0;
    if (size > sizeof trie_bytes) memcpy(&trie_bytes, map.at, sizeof trie_bytes);
    bool good = trie_bytes && trie_bytes % 4 == 0 && trie_bytes < size - sizeof trie_bytes && map.end[-1] == 0;
    if (good) {
        trie t = {.units = map.at + sizeof trie_bytes,
                  .count = trie_bytes / 4,
                  .texts_bytes = size - sizeof trie_bytes - trie_bytes};
        t.rules = memory_zeroed(t.count, 1);
        t.queued = memory_zeroed(t.count, 1);
        t.queue = memory_allocate(t.count * sizeof *t.queue);
        bool memory = t.rules && t.queued && t.queue;
        if (memory) good = walk_trie(&t);
        memory_release(t.rules);
        memory_release(t.queued);
        memory_release(t.queue);
        if (!memory) return error_memory(error, t.count * sizeof *t.queue, name);
    }
    return good ? PI0_OK
                : error_set(error, PI0_ERROR_FORMAT, "%s: damaged normalisation rules in a SentencePiece model", name);
}

static pi0_status check_normalizer(span in, const char *name, pi0_error *error) {
    while (in.at < in.end) {
        field f;
        if (!read_field(&in, &f)) return error_set(error, PI0_ERROR_FORMAT, "%s: damaged SentencePiece model", name);
        if (f.number == 2 && f.wire_type == 2) TRY(check_charsmap(f.bytes, name, error));
    }
    return PI0_OK;
}

/* ---- pieces ---- */

typedef struct symbol_list {
    span *items;
    size_t count, capacity;
} symbol_list;

static pi0_status check_piece(symbol_list *symbols, span in, const char *name, pi0_error *error) {
    enum { USER_DEFINED = 4 };
    span text = {0};
    uint64_t type = 0;
    float score = 0;
    while (in.at < in.end) {
        field f;
        if (!read_field(&in, &f)) return error_set(error, PI0_ERROR_FORMAT, "%s: damaged SentencePiece model", name);
        if (f.number == 1 && f.wire_type == 2) text = f.bytes;
        if (f.number == 2 && f.wire_type == 5) memcpy(&score, &f.number_value, sizeof score);
        if (f.number == 3 && f.wire_type == 0) type = f.number_value;
    }
    size_t length = (size_t)(text.end - text.at);
    if (!length || length >= MAX_PIECE_BYTES || memchr(text.at, 0, length) ||
        !utf8_valid((const char *)text.at, length) || !isfinite(score))
        return error_set(error, PI0_ERROR_FORMAT,
                         "%s: a SentencePiece model with a piece that is no text or has no score", name);
    if (type != USER_DEFINED) return PI0_OK;
    if (symbols->count == symbols->capacity) {
        size_t capacity = symbols->capacity ? 2 * symbols->capacity : 256;
        span *grown = memory_resize(symbols->items, symbols->count * sizeof *grown, capacity * sizeof *grown);
        if (!grown) return error_memory(error, capacity * sizeof *grown, name);
        symbols->items = grown;
        symbols->capacity = capacity;
    }
    symbols->items[symbols->count++] = text;
    return PI0_OK;
}

static int compare_spans(const void *left, const void *right) {
    const span *a = left, *b = right;
    size_t a_length = (size_t)(a->end - a->at), b_length = (size_t)(b->end - b->at);
    int order = memcmp(a->at, b->at, a_length < b_length ? a_length : b_length);
    return order ? order : (a_length > b_length) - (a_length < b_length);
}

static bool is_prefix(const span *prefix, const span *text) {
    size_t length = (size_t)(prefix->end - prefix->at);
    return length <= (size_t)(text->end - text->at) && !memcmp(prefix->at, text->at, length);
}

/* Sorted, a symbol comes right after those that it begins with: they form a stack. */
static bool nests_too_deep(symbol_list *symbols) {
    const span *open[MAX_NESTED_SYMBOLS + 1];
    int depth = 0;
    if (symbols->count) qsort(symbols->items, symbols->count, sizeof *symbols->items, compare_spans);
    for (size_t i = 0; i < symbols->count; i++) {
        while (depth && !is_prefix(open[depth - 1], &symbols->items[i])) depth--;
        open[depth++] = &symbols->items[i];
        if (depth > MAX_NESTED_SYMBOLS) return true;
    }
    return false;
}

static pi0_status check_model(symbol_list *symbols, span in, const char *name, pi0_error *error) {
    size_t pieces = 0;
    while (in.at < in.end) {
        field f;
        if (!read_field(&in, &f))
            return error_set(error, PI0_ERROR_FORMAT, "%s: expected a SentencePiece model, found something else", name);
        if (f.wire_type != 2) continue;
        if (f.number == 1) {
            TRY(check_piece(symbols, f.bytes, name, error));
            pieces++;
        } else if (f.number == 3 || f.number == 5) {
            TRY(check_normalizer(f.bytes, name, error));
        }
    }
    if (!pieces) return error_set(error, PI0_ERROR_FORMAT, "%s: expected a SentencePiece model, found no pieces", name);
    if (nests_too_deep(symbols))
        return error_set(error, PI0_ERROR_UNSUPPORTED,
                         "%s: more than %d user-defined symbols of a SentencePiece model begin with each other", name,
                         MAX_NESTED_SYMBOLS);
    return PI0_OK;
}

pi0_status sentencepiece_check(const void *bytes, size_t size, const char *name, pi0_error *error) {
    symbol_list symbols = {0};
    pi0_status status = check_model(&symbols, (span){bytes, (const unsigned char *)bytes + size}, name, error);
    memory_release(symbols.items);
    return status;
}
