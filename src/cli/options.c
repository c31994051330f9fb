#include "cli/options.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cli/terminal.h"

enum { MAX_OPTIONS = 96, COMMON_OPTION_COUNT = 12, HELP_COLUMN = 34, HELP_WIDTH = 110 };

static const char backend_words[] = "auto|cpu|cuda|hip";
static const char precision_words[] = "auto|f32|bf16|fp8";

common_options common_options_default(void) { return (common_options){0}; }

model_options model_options_default(void) { return (model_options){.checkpoint = "synthetic:1"}; }

void model_options_table(option rows[MODEL_OPTION_COUNT + 1], model_options *model) {
    const option table[MODEL_OPTION_COUNT + 1] = {
        {.name = "--checkpoint",
         .kind = OPTION_TEXT,
         .target = &model->checkpoint,
         .value = "DIR",
         .help = "a directory in openpi's or lerobot's layout, or synthetic[:SEED]: weights made up in memory"},
        {.name = "--model",
         .kind = OPTION_CHOICE,
         .target = &model->model,
         .value = "pi0|pi05|tiny-pi0|tiny-pi05",
         .help = "which synthetic model; a checkpoint on disk says itself what it is (default: the config's family, "
                 "else pi0)",
         .minimum = PI0_MODEL_PI0},
        {.name = "--weights",
         .kind = OPTION_CHOICE,
         .target = &model->weights,
         .value = "bf16|f32",
         .help = "f32 keeps float32 matrices of a checkpoint that are no bf16 numbers; bf16 rounds them"},
        {0},
    };
    memcpy(rows, table, sizeof table);
}

static void common_options_table(option rows[COMMON_OPTION_COUNT], common_options *common, bool *help, bool *version) {
    const option table[COMMON_OPTION_COUNT] = {
        {.name = "--backend",
         .kind = OPTION_CHOICE,
         .target = &common->backend,
         .value = backend_words,
         .help = "where to compute; auto takes a GPU where there is one"},
        {.name = "--device",
         .kind = OPTION_INT,
         .target = &common->device,
         .value = "N",
         .help = "which of the backend's devices",
         .maximum = 1023},
        {.name = "--precision",
         .kind = OPTION_CHOICE,
         .target = &common->precision,
         .value = precision_words,
         .help = "auto: bf16 where the hardware multiplies bf16, else f32; never fp8"},
        {.name = "--threads",
         .kind = OPTION_INT,
         .target = &common->threads,
         .value = "N",
         .help = "CPU threads of one inference; 0: all that the process may use",
         .maximum = 4096},
        {.name = "--rope",
         .kind = OPTION_CHOICE,
         .target = &common->rope,
         .value = "exact|openpi-torch-bf16",
         .help = "RoPE frequencies: float32, or rounded as openpi's PyTorch bf16 mode rounds them"},
        {.name = "--kernels",
         .kind = OPTION_CHOICE,
         .target = &common->kernels,
         .value = "auto|portable",
         .help = "portable: plain kernels that run on any machine of the backend"},
        {.name = "--json", .kind = OPTION_FLAG, .target = &common->json, .help = "JSON on stdout instead of text"},
        {.name = "-v|--verbose", .kind = OPTION_FLAG, .target = &common->verbose, .help = "say more on stderr"},
        {.name = "-q|--quiet", .kind = OPTION_FLAG, .target = &common->quiet, .help = "no warnings, no progress bar"},
        {.name = "-h|--help", .kind = OPTION_FLAG, .target = help, .help = "this text"},
        {.name = "--version", .kind = OPTION_FLAG, .target = version, .help = "the version"},
        {0},
    };
    memcpy(rows, table, sizeof table);
}

/* All rows of a command, its own groups first. */
typedef struct table {
    const command_line *line;
    const option *rows[MAX_OPTIONS];
    int count;
    option common[COMMON_OPTION_COUNT];
    bool help, version;
} table;

static void add_rows(table *table, const option *rows) {
    for (; rows->name && table->count < MAX_OPTIONS; rows++) table->rows[table->count++] = rows;
}

static void table_make(table *table, const command_line *line) {
    *table = (struct table){.line = line};
    for (const option_group *group = line->groups; group->title; group++) add_rows(table, group->options);
    common_options_table(table->common, line->common, &table->help, &table->version);
    add_rows(table, table->common);
}

/* ---- words joined by '|' ---- */

/* Copies word `index` into word[size]; false when there are not that many. */
static bool word_at(const char *words, int index, char *word, size_t size) {
    for (; index > 0; index--) {
        words = strchr(words, '|');
        if (!words) return false;
        words++;
    }
    snprintf(word, size, "%.*s", (int)strcspn(words, "|"), words);
    return true;
}

static int word_find(const char *words, const char *text) {
    char word[64];
    for (int i = 0; word_at(words, i, word, sizeof word); i++)
        if (strcmp(word, text) == 0) return i;
    return -1;
}

/* Edit distance of two short words. */
static size_t distance(const char *a, const char *b) {
    enum { LONGEST = 63 };
    size_t n = strlen(a), m = strlen(b), row[LONGEST + 1];
    if (n > LONGEST || m > LONGEST) return SIZE_MAX;
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            size_t added = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = replaced < added ? replaced : added;
        }
    }
    return row[m];
}

const char *options_nearest(const char *word, const char *const *names, size_t count) {
    const char *nearest = NULL;
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        size_t d = distance(word, names[i]);
        if (d < least) {
            least = d;
            nearest = names[i];
        }
    }
    return least <= 2 || (least != SIZE_MAX && least * 3 <= strlen(word)) ? nearest : NULL;
}

/* ---- messages ---- */

static int refuse(const char *command, const char *format, va_list arguments) {
    char message[1200];
    vsnprintf(message, sizeof message, format, arguments);
    terminal_error("%s (see `pi0 %s --help`)", message, command);
    return EXIT_USAGE;
}

int options_refuse(const char *command, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int exit_code = refuse(command, format, arguments);
    va_end(arguments);
    return exit_code;
}

/* What a mistake in one value is reported against: "--steps" or "the environment's NUM_STEPS". */
typedef struct place {
    const table *table;
    char name[80];
} place;

__attribute__((format(printf, 2, 3))) static bool bad(const place *place, const char *format, ...) {
    char message[1000];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    options_refuse(place->table->line->name, "%s: %s", place->name, message);
    return false;
}

/* ---- values ---- */

static bool read_integer(const char *text, const char **end, long long *value) {
    char *stop;
    errno = 0;
    *value = strtoll(text, &stop, 10);
    *end = stop;
    return stop != text && errno == 0 && (*text == '-' || (*text >= '0' && *text <= '9'));
}

static bool in_range(const place *place, const option *option, double value) {
    if (value >= option->minimum && value <= option->maximum) return true;
    if (option->maximum >= INT_MAX) return bad(place, "expected at least %g, found %g", option->minimum, value);
    return bad(place, "expected %g to %g, found %g", option->minimum, option->maximum, value);
}

static bool set_int(const place *place, const option *option, const char *text) {
    const char *end;
    long long value;
    if (!read_integer(text, &end, &value) || *end) return bad(place, "expected a whole number, found '%s'", text);
    if (!in_range(place, option, (double)value)) return false;
    *(int *)option->target = (int)value;
    return true;
}

static bool set_seed(const place *place, const option *option, const char *text) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (end == text || *end || errno || *text < '0' || *text > '9')
        return bad(place, "expected a whole number from 0 to 18446744073709551615, found '%s'", text);
    *(uint64_t *)option->target = value;
    return true;
}

static bool set_float(const place *place, const option *option, const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value)) return bad(place, "expected a number, found '%s'", text);
    if (!in_range(place, option, value)) return false;
    *(double *)option->target = value;
    return true;
}

static bool set_choice(const place *place, const option *option, const char *text) {
    int index = word_find(option->value, text);
    if (index < 0) return bad(place, "expected one of %s, found '%s'", option->value, text);
    *(int *)option->target = (int)option->minimum + index;
    return true;
}

static size_t list_length(const char *text) {
    size_t count = 1;
    for (; *text; text++) count += *text == ',';
    return count;
}

static bool set_ints(const place *place, const option *option, const char *text) {
    option_ints *list = option->target;
    int *values = memory_allocate(list_length(text) * sizeof *values);
    if (!values) return bad(place, "out of memory");
    memory_release(list->values);
    *list = (option_ints){.values = values};
    for (const char *at = text;; at++) {
        const char *end;
        long long value;
        if (!read_integer(at, &end, &value) || (*end && *end != ','))
            return bad(place, "expected whole numbers joined by commas, found '%s'", text);
        if (!in_range(place, option, (double)value)) return false;
        values[list->count++] = (int)value;
        at = end;
        if (!*at) return true;
    }
}

static bool set_floats(const place *place, const option *option, const char *text) {
    option_floats *list = option->target;
    double *values = memory_allocate(list_length(text) * sizeof *values);
    if (!values) return bad(place, "out of memory");
    memory_release(list->values);
    *list = (option_floats){.values = values};
    for (const char *at = text;; at++) {
        char *end;
        double value = strtod(at, &end);
        if (end == at || (*end && *end != ','))
            return bad(place, "expected numbers joined by commas, found '%s'", text);
        values[list->count++] = value;
        at = end;
        if (!*at) return true;
    }
}

static bool add_pair(const place *place, const option *option, char *text) {
    option_pairs *list = option->target;
    char *equals = strchr(text, '=');
    if (!equals || equals == text || !equals[1]) return bad(place, "expected %s, found '%s'", option->value, text);
    size_t bytes = (size_t)list->count * sizeof *list->pairs;
    struct option_pair *pairs = memory_resize(list->pairs, bytes, bytes + sizeof *pairs);
    if (!pairs) return bad(place, "out of memory");
    list->pairs = pairs;
    *equals = 0;
    for (int i = 0; i < list->count; i++)
        if (strcmp(pairs[i].key, text) == 0) return bad(place, "'%s' is given twice", text);
    pairs[list->count++] = (struct option_pair){.key = text, .value = equals + 1};
    return true;
}

static bool takes_value(const option *option) { return option->kind != OPTION_FLAG && option->kind != OPTION_UNFLAG; }

static bool set_value(const place *place, const option *option, char *text) {
    switch (option->kind) {
    case OPTION_FLAG:
        *(bool *)option->target = true;
        return true;
    case OPTION_UNFLAG:
        *(bool *)option->target = false;
        return true;
    case OPTION_INT:
        return set_int(place, option, text);
    case OPTION_SEED:
        return set_seed(place, option, text);
    case OPTION_FLOAT:
        return set_float(place, option, text);
    case OPTION_TEXT:
        *(const char **)option->target = text;
        return true;
    case OPTION_CHOICE:
        return set_choice(place, option, text);
    case OPTION_INTS:
        return set_ints(place, option, text);
    case OPTION_FLOATS:
        return set_floats(place, option, text);
    case OPTION_PAIRS:
        return add_pair(place, option, text);
    }
    return false;
}

/* ---- --help ---- */

/* Prints text from column HELP_COLUMN on, broken at blanks. */
static void print_wrapped(const char *text, int column) {
    for (int width = HELP_WIDTH - HELP_COLUMN; *text;) {
        int length = (int)strlen(text);
        if (length > width) {
            length = width;
            while (length > 0 && text[length] != ' ') length--;
            if (length == 0) length = (int)strcspn(text, " ");
        }
        printf("%*s%.*s\n", HELP_COLUMN - column, "", length, text);
        text += length;
        text += strspn(text, " ");
        column = 0;
    }
}

static void default_text(const option *option, char *text, size_t size) {
    text[0] = 0;
    char word[64];
    int number;
    double real;
    switch (option->kind) {
    case OPTION_INT:
        number = *(int *)option->target;
        if (number >= option->minimum && number <= option->maximum) snprintf(text, size, " (default %d)", number);
        break;
    case OPTION_FLOAT:
        real = *(double *)option->target;
        if (real >= option->minimum && real <= option->maximum) snprintf(text, size, " (default %g)", real);
        break;
    case OPTION_SEED:
        snprintf(text, size, " (default %llu)", (unsigned long long)*(uint64_t *)option->target);
        break;
    case OPTION_TEXT:
        if (*(const char **)option->target) snprintf(text, size, " (default %s)", *(const char **)option->target);
        break;
    case OPTION_CHOICE:
        number = *(int *)option->target - (int)option->minimum;
        if (number >= 0 && word_at(option->value, number, word, sizeof word))
            snprintf(text, size, " (default %s)", word);
        break;
    default:
        break;
    }
}

static void print_rows(const option *rows) {
    for (; rows->name; rows++) {
        char names[96], fallback[160], text[700];
        int used = 0;
        for (const char *at = rows->name; *at && used < (int)sizeof names - 3; at++) {
            if (*at == '|') names[used++] = ',';
            names[used++] = *at == '|' ? ' ' : *at;
        }
        names[used] = 0;
        int column = printf("  %s%s%s", names, rows->value ? " " : "", rows->value ? rows->value : "");
        if (column >= HELP_COLUMN) {
            putchar('\n');
            column = 0;
        }
        default_text(rows, fallback, sizeof fallback);
        snprintf(text, sizeof text, "%s%s%s%s%s", rows->help, rows->environment ? "; environment " : "",
                 rows->environment ? rows->environment : "", rows->kind == OPTION_PAIRS ? "; may be repeated" : "",
                 fallback);
        print_wrapped(text, column);
    }
}

static void print_help(const table *table) {
    const command_line *line = table->line;
    printf("pi0 %s: %s\n\nusage: pi0 %s%s%s [options]\n", line->name, line->summary, line->name,
           line->operand ? " " : "", line->operand ? line->operand : "");
    if (line->description) printf("\n%s\n", line->description);
    if (line->examples) printf("\nexamples:\n%s", line->examples);
    for (const option_group *group = line->groups; group->title; group++) {
        printf("\n%s:\n", group->title);
        print_rows(group->options);
    }
    printf("\ncommon:\n");
    print_rows(table->common);
}

/* ---- parsing ---- */

static const option *find_option(const table *table, const char *name) {
    for (int i = 0; i < table->count; i++)
        if (word_find(table->rows[i]->name, name) >= 0) return table->rows[i];
    return NULL;
}

static int unknown_option(const table *table, const char *name) {
    char names[MAX_OPTIONS * 2][64];
    const char *pointers[MAX_OPTIONS * 2];
    size_t count = 0;
    for (int i = 0; i < table->count; i++)
        for (int j = 0; count < MAX_OPTIONS * 2 && word_at(table->rows[i]->name, j, names[count], 64); j++) {
            pointers[count] = names[count];
            count++;
        }
    const char *nearest = options_nearest(name, pointers, count);
    if (nearest) return options_refuse(table->line->name, "unknown option %s; did you mean %s?", name, nearest);
    return options_refuse(table->line->name, "unknown option %s", name);
}

/* A variable that stands for a flag: 1 or true sets it, 0 or false does not. */
static bool flag_from_environment(const place *place, const option *option, const char *text) {
    bool on = strcmp(text, "1") == 0 || strcmp(text, "true") == 0;
    if (!on && strcmp(text, "0") != 0 && strcmp(text, "false") != 0)
        return bad(place, "expected 0 or 1, found '%s'", text);
    return !on || set_value(place, option, NULL);
}

/* Defaults from the environment, before the command line. */
static bool read_environment(const table *table) {
    for (int i = 0; i < table->count; i++) {
        const option *option = table->rows[i];
        char *text = option->environment ? getenv(option->environment) : NULL;
        if (!text || !*text) continue;
        place place = {.table = table};
        snprintf(place.name, sizeof place.name, "the environment's %s", option->environment);
        if (!(takes_value(option) ? set_value(&place, option, text) : flag_from_environment(&place, option, text)))
            return false;
    }
    return true;
}

static bool is_option(const char *word) {
    return word[0] == '-' && word[1] && !(word[1] >= '0' && word[1] <= '9') && word[1] != '.';
}

/* Handles argv[*i] and what belongs to it. */
static bool parse_option(const table *table, int argc, char **argv, int *i) {
    char *word = argv[*i];
    place place = {.table = table};
    char *equals = word[1] == '-' ? strchr(word, '=') : NULL;
    size_t length = equals ? (size_t)(equals - word) : strlen(word);
    snprintf(place.name, sizeof place.name, "%.*s", length < 79 ? (int)length : 79, word);
    const option *option = find_option(table, place.name);
    if (!option) {
        unknown_option(table, place.name);
        return false;
    }
    if (option->given) *option->given = true;
    if (!takes_value(option)) return equals ? bad(&place, "takes no value") : set_value(&place, option, NULL);
    if (equals) return set_value(&place, option, equals + 1);
    bool missing = *i + 1 >= argc || strncmp(argv[*i + 1], "--", 2) == 0;
    if (missing) return bad(&place, "expected a value: %s %s", place.name, option->value);
    return set_value(&place, option, argv[++*i]);
}

bool options_parse(const command_line *line, int argc, char **argv, int *exit_code) {
    table table;
    table_make(&table, line);
    *exit_code = EXIT_USAGE;

    /* --help shows the defaults, so it must be seen before other options replace them */
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help(&table);
            *exit_code = EXIT_DONE;
            return false;
        }
    if (!read_environment(&table)) return false;
    for (int i = 1; i < argc; i++) {
        if (is_option(argv[i])) {
            if (!parse_option(&table, argc, argv, &i)) return false;
        } else if (line->operand && !*line->operand_value) {
            *line->operand_value = argv[i];
        } else {
            options_refuse(line->name, "unexpected argument '%s'", argv[i]);
            return false;
        }
    }
    if (table.version) {
        printf("pi0 %s\n", pi0_version());
        *exit_code = EXIT_DONE;
        return false;
    }
    if (line->operand && !*line->operand_value) {
        options_refuse(line->name, "expected %s", line->operand);
        return false;
    }
    terminal_set(line->common->verbose, line->common->quiet);
    return true;
}

void options_release(const command_line *line) {
    for (const option_group *group = line->groups; group->title; group++)
        for (const option *row = group->options; row->name; row++) {
            if (row->kind == OPTION_INTS) {
                memory_release(((option_ints *)row->target)->values);
                *(option_ints *)row->target = (option_ints){0};
            } else if (row->kind == OPTION_FLOATS) {
                memory_release(((option_floats *)row->target)->values);
                *(option_floats *)row->target = (option_floats){0};
            } else if (row->kind == OPTION_PAIRS) {
                memory_release(((option_pairs *)row->target)->pairs);
                *(option_pairs *)row->target = (option_pairs){0};
            }
        }
}

pi0_engine_options options_engine(const common_options *common, const model_options *model) {
    pi0_engine_options options;
    pi0_engine_options_default(&options);
    options.checkpoint = model->checkpoint;
    options.model = (pi0_model)model->model;
    options.keep_f32_weights = model->weights == 1;
    options.backend = (pi0_backend)common->backend;
    options.device = common->device;
    options.precision = (pi0_precision)common->precision;
    options.threads = common->threads;
    options.rope = (pi0_rope)common->rope;
    options.kernels = (pi0_kernels)common->kernels;
    options.log = terminal_log;
    options.progress = terminal_progress;
    return options;
}

const char *options_backend_name(pi0_backend backend) {
    static const char *const names[] = {"auto", "cpu", "cuda", "hip"};
    return names[backend];
}

const char *options_precision_name(pi0_precision precision) {
    static const char *const names[] = {"auto", "f32", "bf16", "fp8"};
    return names[precision];
}
