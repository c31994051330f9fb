/* Interned strings with a running total each: kernel names, runtime calls, CPU ops, shapes. */
#ifndef PI0_PROFILE_TRACE_NAMES_H
#define PI0_PROFILE_TRACE_NAMES_H

#include <stddef.h>
#include <stdint.h>

#define TRACE_NO_NAME UINT32_MAX

typedef struct trace_name {
    const char *text; /* valid UTF-8, NUL-terminated; lives as long as the table */
    uint32_t length;
    uint32_t hash;
    uint64_t calls;
    double total_us, total_low; /* the sum and what rounding took from it (Neumaier) */
} trace_name;

typedef struct trace_names {
    trace_name *names;
    uint32_t count, capacity;
    uint32_t *slots; /* name + 1, 0 empty */
    uint32_t slot_count;
    char *block; /* text is cut from blocks that are chained through their first bytes */
    size_t block_used, block_size, text_bytes;
    uint32_t overflow; /* id + 1 of the name that stands for all beyond the limits; 0: not needed so far */
} trace_names;

/*
 * The id of a name, 0.. in order of appearance; bytes that are no UTF-8 become U+FFFD. Beyond 2^19 names or 64 MiB of
 * text all further ones share one id, so that memory stays bounded and totals exact. TRACE_NO_NAME: out of memory.
 */
uint32_t trace_names_add(trace_names *names, const char *text, size_t length);
void trace_names_count(trace_names *names, uint32_t id, double us);
double trace_name_us(const trace_name *name);
void trace_names_release(trace_names *names);

/* Adds value to a sum kept in two doubles. */
static inline void trace_sum(double *sum, double *low, double value) {
    double total = *sum + value;
    double large = *sum >= value ? *sum : value, small = *sum >= value ? value : *sum;
    *low += (large - total) + small;
    *sum = total;
}

/* For hash tables: 64-bit mix of bytes. */
uint64_t trace_hash(const char *bytes, size_t length);

#endif
