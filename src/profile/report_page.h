/*
 * The report page: one file of HTML with everything inside, drawn by its own script from JSON. `pi0 bench --html` and
 * `pi0 analyze --html` fill the same template, src/profile/report_page.html, which shows what is there of:
 *
 *     title, subtitle, facts [[name, value]], batch_size, notes [text]
 *     latency [{name, ms, published, min, p90, p99}], latency_text
 *     stages [{name, ms, percent, floor_ms, ops: [{name, ms, calls}]}], stages_text
 *     libraries: whose kernels, as stages; libraries_text
 *     ladder [{step, ms, delta_ms}]
 *     sweep [{batch_size, ms}], published_sweep [{name, rows: [{batch_size, ms}]}]
 *     roofline {flops_per_s, bytes_per_s (null: unknown), ops: [{name, stage, calls, ms, flops, bytes}]}: flops and
 *         bytes of one call, ms of all
 *     timeline {text, tracks [name], names [text], events [[track, start_us, duration_us, name, paint]]}
 *         (paint: PI0_OP_* or REPORT_PAGE_RANGE)
 *     tables [{id, title, text, columns, rows, delta}] (delta: the column that is a difference to the one two before)
 *
 * Figures that are not known are null.
 */
#ifndef PI0_PROFILE_REPORT_PAGE_H
#define PI0_PROFILE_REPORT_PAGE_H

#include "base/text.h"

enum { REPORT_PAGE_RANGE = 6, REPORT_PAGE_MAX_EVENTS = 100000 };

/* Puts the whole page; json is an object of `length` bytes as above. */
void report_page_put(text_buffer *text, const char *title, const char *json, size_t length);

#endif
