/* pi0 inspect: what is in a checkpoint, complete or not. */
#include "cli/inspect.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "cli/commands.h"
#include "cli/json.h"
#include "cli/options.h"
#include "cli/terminal.h"

enum { MAX_PATTERN = 400 };

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static json_t *tensor_json(const tensor *tensor) {
    json_t *shape = json_array();
    for (int i = 0; i < tensor->rank; i++) json_array_append_new(shape, json_integer(tensor->shape[i]));
    return json_pack("{s:s, s:s, s:o}", "name", tensor->name, "dtype", tensor_dtype_name(tensor->dtype), "shape",
                     shape);
}

static const char *family_word(const checkpoint *checkpoint) {
    return checkpoint_config(checkpoint)->family == PI0_FAMILY_PI05 ? "pi05" : "pi0";
}

/* Takes over `statistics`. */
static int print_json(const checkpoint *checkpoint, json_t *statistics) {
    json_t *tensors = json_array(), *missing = json_array(), *unfit = json_array(), *unused = json_array();
    for (size_t i = 0; i < checkpoint_count(checkpoint); i++)
        json_array_append_new(tensors, tensor_json(checkpoint_at(checkpoint, i)));
    for (size_t i = 0; i < checkpoint_missing_count(checkpoint); i++)
        json_array_append_new(missing, json_string(checkpoint_missing(checkpoint, i)));
    for (size_t i = 0; i < checkpoint_unfit_count(checkpoint); i++) {
        const unfit_tensor *tensor = checkpoint_unfit(checkpoint, i);
        json_array_append_new(unfit, json_pack("{s:s, s:s, s:s}", "name", tensor->name, "expected", tensor->expected,
                                               "found", tensor->found));
    }
    for (size_t i = 0; i < checkpoint_unused_count(checkpoint); i++)
        json_array_append_new(unused, json_string(checkpoint_unused(checkpoint, i)));
    return json_print(json_pack(
        "{s:s, s:s, s:I, s:o, s:o, s:o, s:o, s:o}", "layout", checkpoint_layout_name(checkpoint_get_layout(checkpoint)),
        "family", family_word(checkpoint), "parameters", (json_int_t)checkpoint_parameters(checkpoint), "tensors",
        tensors, "missing", missing, "unfit", unfit, "unused", unused, "norm_stats", statistics));
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

static void print_sizes(const checkpoint *checkpoint) {
    const model_config *c = checkpoint_config(checkpoint);
    char heads[40] = "an unknown number of heads";
    if (c->vit.heads) snprintf(heads, sizeof heads, "%d heads of %d", c->vit.heads, c->vit.head_dim);
    printf("checkpoint  %s\n", checkpoint_path(checkpoint));
    printf("layout      %s\n", checkpoint_layout_name(checkpoint_get_layout(checkpoint)));
    printf("family      %s\n", c->family == PI0_FAMILY_PI05 ? "pi0.5" : "pi0");
    printf("parameters  %" PRId64 " that inference reads\n", checkpoint_parameters(checkpoint));
    printf("vision      %d layers, width %d, MLP %d, %s, %d tokens of a %d x %d image\n", c->vit.layers, c->vit.width,
           c->vit.mlp, heads, c->vit.tokens, c->vit.image_size, c->vit.image_size);
    printf("language    %d layers, width %d, MLP %d, %d heads of %d, vocabulary %d\n", c->language.layers,
           c->language.width, c->language.mlp, c->language.heads, c->language.head_dim, c->vocabulary);
    printf("expert      %d layers, width %d, MLP %d, action width %d\n", c->expert.layers, c->expert.width,
           c->expert.mlp, c->action_dim);
}

static void print_dtypes(const checkpoint *checkpoint) {
    size_t counts[DTYPE_COUNT] = {0}, bytes[DTYPE_COUNT] = {0};
    for (size_t i = 0; i < checkpoint_count(checkpoint); i++) {
        const tensor *tensor = checkpoint_at(checkpoint, i);
        counts[tensor->dtype]++;
        bytes[tensor->dtype] += tensor->bytes;
    }
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (counts[i])
            printf("%-10s  %zu tensors, %.1f MB\n", tensor_dtype_name((tensor_dtype)i), counts[i],
                   (double)bytes[i] * 1e-6);
}

/* The name with every layer number as '*'. */
static void name_pattern(const char *name, char pattern[MAX_PATTERN]) {
    size_t used = 0;
    while (*name && used + 1 < MAX_PATTERN) {
        size_t digits = strspn(name, "0123456789");
        bool whole = digits && used && pattern[used - 1] == '.' && name[digits] == '.';
        pattern[used++] = whole ? '*' : *name;
        name += whole ? digits : 1;
    }
    pattern[used] = 0;
}

typedef struct kind {
    char pattern[MAX_PATTERN];
    const tensor *first;
    size_t count;
} kind;

static bool same_kind(const kind *kind, const char *pattern, const tensor *tensor) {
    return kind->first->dtype == tensor->dtype && kind->first->rank == tensor->rank &&
           !memcmp(kind->first->shape, tensor->shape, sizeof tensor->shape) && !strcmp(kind->pattern, pattern);
}

/* One line for all layers' tensors of one name, type and shape. */
static int print_tensors(const checkpoint *checkpoint) {
    size_t count = checkpoint_count(checkpoint), used = 0;
    kind *kinds = memory_zeroed(count, sizeof *kinds);
    if (!kinds) {
        terminal_error("out of memory");
        return EXIT_FAILED;
    }
    for (size_t i = 0; i < count; i++) {
        const tensor *tensor = checkpoint_at(checkpoint, i);
        name_pattern(tensor->name, kinds[used].pattern);
        size_t at = 0;
        while (at < used && !same_kind(&kinds[at], kinds[used].pattern, tensor)) at++;
        if (at == used) kinds[used++].first = tensor;
        kinds[at].count++;
    }
    printf("\ntensors\n");
    for (size_t i = 0; i < used; i++) {
        char shape[200];
        printf("  %4zu x %-7s %-20s %s\n", kinds[i].count, tensor_dtype_name(kinds[i].first->dtype),
               tensor_shape_text(kinds[i].first, shape, sizeof shape), kinds[i].pattern);
    }
    memory_release(kinds);
    return EXIT_DONE;
}

static void print_names(const char *title, const checkpoint *checkpoint, size_t count,
                        const char *(*name)(const struct checkpoint *, size_t)) {
    printf("\n%s:%s\n", title, count ? "" : " none");
    for (size_t i = 0; i < count; i++) printf("  %s\n", name(checkpoint, i));
}

static void print_fields(const json_t *fields) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)fields, name, value) {
        if (json_is_array(value))
            printf(" %s[%zu]", name, json_array_size(value));
        else
            printf(" %s", name);
    }
}

/* openpi: {"state": {"mean": [...]}} */
static void print_norm_stats(const json_t *entries) {
    const char *key;
    json_t *entry;
    json_object_foreach((json_t *)entries, key, entry) {
        printf("    %s:", key);
        print_fields(entry);
        putchar('\n');
    }
}

/* lerobot: {"observation.state.mean": [...]}, sorted by name; one line for the statistics of a feature. */
static void print_state_file(const json_t *tensors) {
    const char *name, *feature = "";
    size_t length = 0;
    json_t *numbers;
    json_object_foreach((json_t *)tensors, name, numbers) {
        const char *dot = strrchr(name, '.');
        size_t this_length = dot ? (size_t)(dot - name) : strlen(name);
        if (this_length != length || strncmp(name, feature, length))
            printf("%s    %.*s:", *feature ? "\n" : "", (int)this_length, name);
        printf(" %s[%zu]", dot ? dot + 1 : "", json_array_size(numbers));
        feature = name;
        length = this_length;
    }
    if (*feature) putchar('\n');
}

static void print_statistics(const json_t *statistics) {
    const char *id;
    json_t *content;
    printf("\nstatistics:%s\n", json_object_size(statistics) ? "" : " none");
    json_object_foreach((json_t *)statistics, id, content) {
        const json_t *entries = json_object_get(content, "norm_stats");
        printf("  %s%s\n", id, json_is_null(content) ? ": cannot be read" : "");
        if (entries)
            print_norm_stats(entries);
        else
            print_state_file(content);
    }
}

static int print_text(const checkpoint *checkpoint, const json_t *statistics) {
    print_sizes(checkpoint);
    print_dtypes(checkpoint);
    int exit_code = print_tensors(checkpoint);
    print_names("missing (inference needs them)", checkpoint, checkpoint_missing_count(checkpoint), checkpoint_missing);
    printf("\nunfit (inference takes them in another form):%s\n", checkpoint_unfit_count(checkpoint) ? "" : " none");
    for (size_t i = 0; i < checkpoint_unfit_count(checkpoint); i++) {
        const unfit_tensor *unfit = checkpoint_unfit(checkpoint, i);
        printf("  %s: expected %s, found %s\n", unfit->name, unfit->expected, unfit->found);
    }
    print_names("unused (inference does not read them)", checkpoint, checkpoint_unused_count(checkpoint),
                checkpoint_unused);
    print_statistics(statistics);
    return exit_code;
}

int command_inspect(int argc, char **argv) {
    common_options common = common_options_default();
    model_options model = {0};
    option rows[MODEL_OPTION_COUNT + 1];
    model_options_table(rows, &model);
    const option options[] = {rows[1], {0}};
    const command_line line = {
        .name = "inspect",
        .summary =
            "what is in a checkpoint: family, layout, dtypes, shapes, missing, unfit and unused tensors, statistics",
        .description =
            "DIR is a checkpoint directory in openpi's or lerobot's layout, or synthetic[:SEED]. Missing\n"
            "and unfit tensors are listed, not refused; the exit code is 1 only where a file cannot be read.",
        .examples = "  pi0 inspect ~/checkpoints/pi0_base\n"
                    "  pi0 inspect ~/checkpoints/pi0_base --json\n",
        .operand = "DIR",
        .operand_value = &model.checkpoint,
        .groups = (const option_group[]){{"inspect", options}, {NULL, NULL}},
        .common = &common,
    };
    int exit_code;
    if (!options_parse(&line, argc, argv, &exit_code)) return exit_code;
    pi0_error error;
    checkpoint *checkpoint;
    log_sink log = {.function = terminal_log};
    if (checkpoint_open_lenient(&checkpoint, model.checkpoint, (pi0_model)model.model, &log, &error) != PI0_OK)
        return terminal_fail(&error);
    int failures;
    json_t *statistics = inspect_statistics(checkpoint, &failures);
    if (common.json)
        exit_code = print_json(checkpoint, statistics);
    else {
        exit_code = print_text(checkpoint, statistics);
        json_decref(statistics);
    }
    checkpoint_close(&checkpoint);
    return failures && exit_code == EXIT_DONE ? EXIT_FAILED : exit_code;
}
