/*
 * Traces: whatever the bytes are, the analyzer ends with an error or with an answer, and every form of the answer can
 * be made.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/memory.h"
#include "profile/trace_report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    trace_source *source;
    trace_report report = {0};
    if (trace_source_memory(&source, data, size, NULL) != PI0_OK) return 0;
    if (trace_report_make(&report, source, "fuzz", NULL) == PI0_OK) {
        trace_limits limits = {5, 5, 5, 5, 2};
        text_buffer text = {0};
        trace_report_text(&report, &limits, &text);
        trace_report_json(&report, &limits, &text);
        trace_report_html(&report, NULL, &limits, &text);
        trace_compare_text(&report, &report, &limits, &text);
        trace_compare_json(&report, &report, &limits, &text);
        if (text.failed) abort();
        memory_release(text.bytes);
    }
    trace_report_release(&report);
    trace_source_close(&source);
    return 0;
}
