/* pi0 analyze: stage and op breakdown of a Chrome trace. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "profile/trace_report.h"

enum { MAX_ROWS = 1000000, DEFAULT_ROWS = 25, DEFAULT_KERNELS_PER_OP = 6, NOT_GIVEN = -1 };

typedef struct analyze_options {
    common_options common;
    const char *trace, *compare, *html;
    trace_limits limits; /* NOT_GIVEN: 25 rows of text, all rows of JSON */
} analyze_options;

/* Limits as asked, or `rows` (and per_op) where nothing was asked. */
static trace_limits limits_or(const trace_limits *asked, int rows, int per_op) {
    trace_limits limits = *asked;
    int *values[] = {&limits.kernels, &limits.counts, &limits.runtime, &limits.ops};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        if (*values[i] == NOT_GIVEN) *values[i] = rows;
    if (limits.kernels_per_op == NOT_GIVEN) limits.kernels_per_op = per_op;
    return limits;
}

static void warn(const trace_report *report) {
    for (int i = 0; i < report->note_count; i++) terminal_warning("%s: %s", report->name, report->notes[i]);
}

static int no_memory(void) {
    terminal_error("out of memory");
    return EXIT_FAILED;
}

static int write_html(const analyze_options *options, const trace_report *a, const trace_report *b) {
    trace_limits limits = limits_or(&options->limits, DEFAULT_ROWS, DEFAULT_KERNELS_PER_OP);
    text_buffer page = {0};
    pi0_error error;
    trace_report_html(a, b, &limits, &page);
    if (page.failed) {
        memory_release(page.bytes);
        return no_memory();
    }
    pi0_status status = file_write(options->html, page.bytes, page.size, &error);
    memory_release(page.bytes);
    return status == PI0_OK ? EXIT_DONE : terminal_fail(&error);
}

static int print(const analyze_options *options, const trace_report *a, const trace_report *b) {
    bool json = options->common.json;
    trace_limits limits =
        json ? limits_or(&options->limits, -1, -1) : limits_or(&options->limits, DEFAULT_ROWS, DEFAULT_KERNELS_PER_OP);
    text_buffer text = {0};
    if (b)
        (json ? trace_compare_json : trace_compare_text)(a, b, &limits, &text);
    else
        (json ? trace_report_json : trace_report_text)(a, &limits, &text);
    bool done = !text.failed;
    if (done) fwrite(text.bytes, 1, text.size, stdout);
    memory_release(text.bytes);
    return done ? EXIT_DONE : no_memory();
}

static int analyze(const analyze_options *options) {
    pi0_error error;
    trace_report reports[2] = {{0}, {0}};
    const char *paths[2] = {options->trace, options->compare};
    int count = options->compare ? 2 : 1, exit_code = EXIT_DONE;
    if (options->html && output_check(options->html, &error) != PI0_OK) return terminal_fail(&error);
    for (int i = 0; i < count && exit_code == EXIT_DONE; i++) {
        if (trace_report_open(&reports[i], paths[i], &error) != PI0_OK)
            exit_code = terminal_fail(&error);
        else
            warn(&reports[i]);
    }
    const trace_report *second = count == 2 ? &reports[1] : NULL;
    if (exit_code == EXIT_DONE && options->html) exit_code = write_html(options, &reports[0], second);
    if (exit_code == EXIT_DONE) exit_code = print(options, &reports[0], second);
    for (int i = 0; i < count; i++) trace_report_release(&reports[i]);
    return exit_code;
}

int command_analyze(int argc, char **argv) {
    analyze_options options = {.common = common_options_default(),
                               .limits = {NOT_GIVEN, NOT_GIVEN, NOT_GIVEN, NOT_GIVEN, NOT_GIVEN}};
#define ROWS(flag, field, text)                                                                                        \
    {.name = flag, .kind = OPTION_INT, .target = &options.limits.field, .value = "N", .help = text, .maximum = MAX_ROWS}
    const option rows[] = {
        ROWS("--top-kernels", kernels, "kernels by time (default: 25; all of them with --json)"),
        ROWS("--top-count", counts, "kernels by number of calls (default: 25)"),
        ROWS("--top-runtime", runtime, "runtime calls by time (default: 25; all of them with --json)"),
        ROWS("--top-ops", ops,
             "CPU ops by the time of the kernels they launched, with shapes (default: 25; all of them with --json)"),
        ROWS("--kernels-per-op", kernels_per_op, "kernels listed under each CPU op (default: 6)"),
        {0},
    };
#undef ROWS
    const option files[] = {
        {.name = "--compare",
         .kind = OPTION_TEXT,
         .target = &options.compare,
         .value = "FILE2",
         .help = "a second trace, set beside the first: stage by stage, op by op, kernel by kernel"},
        {.name = "--html",
         .kind = OPTION_TEXT,
         .target = &options.html,
         .value = "FILE",
         .help =
             "write a page that needs no network: stages, ops, kernels and a timeline of one inference to zoom into"},
        {0},
    };
    const option_group groups[] = {{"output", files}, {"rows of the tables", rows}, {NULL, NULL}};
    const command_line line = {
        .name = "analyze",
        .summary = "stage and op breakdown of a Chrome trace, ours or anybody's",
        .description =
            "Reads Chrome traces (JSON, plain or gzip; - is standard input): those of `pi0 bench --profile`, of\n"
            "PyTorch's profiler on CUDA and ROCm, and rocprofv3 extracts that hold kernels and nothing else. Where a\n"
            "trace does not say which kernel belongs to which stage, the repetition of the kernels does: 27 ViT "
            "layers\n"
            "for each pass over the images, 17 or 18 prefill layers, 18 expert layers a denoise step. A figure that a\n"
            "trace cannot give is null (\"-\" in the tables), never a guess.",
        .examples = "  pi0 analyze trace.json                       tables of totals, stages, ops and kernels\n"
                    "  zcat trace.json.gz | pi0 analyze - --json    for scripts\n"
                    "  pi0 analyze new.json --compare old.json      what became faster, and where\n"
                    "  pi0 analyze trace.json --html report.html    a page to look at and to pass on\n",
        .operand = "FILE",
        .operand_value = &options.trace,
        .groups = groups,
        .common = &options.common,
    };
    int exit_code;
    if (!options_parse(&line, argc, argv, &exit_code)) return exit_code;
    if (options.compare && strcmp(options.compare, "-") == 0 && strcmp(options.trace, "-") == 0)
        return options_refuse("analyze", "only one of the two traces can come from standard input");
    return analyze(&options);
}
