/*
 * A request as a tree of values: what msgpack-numpy carries (spec/serving 2), and what the command line builds.
 * Types are kept as sent, because the reference behaves differently for a list, an integer array or a text array.
 */
#ifndef PI0_POLICY_VALUE_H
#define PI0_POLICY_VALUE_H

#include "base/status.h"

typedef enum value_kind {
    VALUE_NULL,
    VALUE_BOOL,
    VALUE_INT,   /* -2^63 .. 2^63-1 */
    VALUE_UINT,  /* above 2^63-1 only */
    VALUE_FLOAT, /* float64 */
    VALUE_TEXT,  /* UTF-8, may hold NUL */
    VALUE_BYTES,
    VALUE_LIST,
    VALUE_MAP,    /* keys are text, seldom bytes; order kept */
    VALUE_ARRAY,  /* numpy array */
    VALUE_SCALAR, /* numpy scalar: an array of rank 0 by another name */
} value_kind;

/* numpy element kinds, with the item size beside it: 'u' 1 2 4 8, 'i' 1 2 4 8, 'b' 1, 'f' 2 4 8, 'U' 4n (UTF-32), 'S'
 * n. */
enum { VALUE_MAX_RANK = 8 };

typedef struct value value;

typedef struct value_array {
    char kind;      /* 'u' 'i' 'b' 'f' 'U' 'S' */
    int item_bytes; /* of one element */
    int rank;
    int64_t shape[VALUE_MAX_RANK];
    size_t bytes;
    const void *data; /* C order, native little-endian (big-endian input is swapped when decoded); maybe unaligned */
    bool big_endian;  /* it was sent so, and the encoder sends it so */
} value_array;

struct value {
    value_kind kind;
    union {
        bool boolean;
        int64_t integer;
        uint64_t unsigned_integer;
        double number;
        struct {
            const char *data; /* NUL follows data[length] */
            size_t length;
        } text; /* VALUE_TEXT, VALUE_BYTES */
        struct {
            size_t count;
            const value *items; /* VALUE_LIST: count; VALUE_MAP: count values */
            const value *keys;  /* VALUE_MAP: count keys, VALUE_TEXT or VALUE_BYTES */
        } list;
        value_array array; /* VALUE_ARRAY, VALUE_SCALAR */
    };
};

/* The value under the text `key` of a map, or NULL (also if it is no map); the last one wins where a key stands twice.
 */
const value *value_find(const value *map, const char *key);
/* "float32 array [224, 224, 3]", "text", "list of 7": for error messages; returns text. */
char *value_describe(const value *v, char *text, size_t size);
/* Element i of an array or scalar of kind u, i, b or f, as double; 0 for text and bytes. */
double value_array_number(const value_array *array, size_t index);
size_t value_array_count(const value_array *array);

/* Limits on what a message may hold; checked before anything is taken for it. */
typedef struct wire_limits {
    int max_depth;    /* maps and lists in each other: 32, at most 64 */
    size_t max_items; /* values in the whole tree: 65536 */
    size_t max_bytes; /* of the message: 256 MiB */
} wire_limits;
wire_limits wire_limits_default(void);

/* A decoded message: the tree and the memory behind it. Arrays may point into the message itself, which is copied. */
typedef struct wire_message {
    value *root;
    void *memory;
} wire_message;

/* msgpack-numpy bytes -> tree. Refuses truncated or trailing bytes, bad UTF-8, keys that are neither text nor bytes,
 * extensions, unknown dtypes, shapes that do not match the data, anything over the limits (NULL: the default ones).
 * On failure there is nothing to release. */
pi0_status wire_decode(wire_message *message, const void *bytes, size_t size, const wire_limits *limits,
                       pi0_error *error);
/* The same without a copy: texts and arrays point into bytes[size], which is changed on the way (texts are moved to
 * make room for their NUL, numbers turned to this machine's order) and has to outlive the message. */
pi0_status wire_decode_in_place(wire_message *message, void *bytes, size_t size, const wire_limits *limits,
                                pi0_error *error);
void wire_release(wire_message *message);

/* Growing output buffer of the encoder; release bytes with memory_release. */
typedef struct wire_buffer {
    unsigned char *bytes;
    size_t size, capacity;
    bool failed; /* out of memory: the other calls do nothing from then on */
} wire_buffer;
/* The same bytes openpi-client's packer writes. An array's data: C order, native. */
void wire_put_map(wire_buffer *buffer, size_t count);
void wire_put_list(wire_buffer *buffer, size_t count);
void wire_put_text(wire_buffer *buffer, const char *text);
void wire_put_float(wire_buffer *buffer, double number);
void wire_put_value(wire_buffer *buffer, const value *v); /* a whole tree */
void wire_put_array(wire_buffer *buffer, char kind, int item_bytes, int rank, const int64_t *shape, const void *data);

#endif
