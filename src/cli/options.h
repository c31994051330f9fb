/*
 * The command line: options are rows of tables that say name, kind, range, help and where the value goes. One parser
 * reads them, refuses what does not fit and prints --help from the same rows, defaults included.
 */
#ifndef PI0_CLI_OPTIONS_H
#define PI0_CLI_OPTIONS_H

#include "base/status.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

typedef enum option_kind {
    OPTION_FLAG,   /* bool *: becomes true */
    OPTION_UNFLAG, /* bool *: becomes false ("--no-graph") */
    OPTION_INT,    /* int *, within minimum..maximum */
    OPTION_SEED,   /* uint64_t * */
    OPTION_FLOAT,  /* double *, finite, within minimum..maximum */
    OPTION_TEXT,   /* const char **: points into argv */
    OPTION_CHOICE, /* int *: minimum + the word's place in `value`, "auto|cpu|cuda" */
    OPTION_INTS,   /* option_ints *: "1,2,3", each within minimum..maximum */
    OPTION_FLOATS, /* option_floats *: "0.1,-2" */
    OPTION_PAIRS,  /* option_pairs *: KEY=VALUE, may be given many times */
} option_kind;

typedef struct option_ints {
    int *values; /* NULL: not given */
    int count;
} option_ints;

typedef struct option_floats {
    double *values; /* NULL: not given */
    int count;
} option_floats;

typedef struct option_pairs {
    struct option_pair {
        const char *key, *value;
    } *pairs; /* point into argv */
    int count;
} option_pairs;

typedef struct option {
    const char *name; /* "--batch-size"; two spellings of one option: "--num-steps|--steps" */
    option_kind kind;
    void *target;      /* its value before parsing is the default that --help shows */
    const char *value; /* what --help calls the value: "N", "FILE"; the words of an OPTION_CHOICE */
    const char *help;
    double minimum, maximum; /* a default outside them means "not given" and is not shown */
    const char *environment; /* a variable that gives the default, or NULL */
    bool *given;             /* becomes true when the command line has the option; or NULL */
} option;

/* Options of one heading; the table ends with a row whose name is NULL. */
typedef struct option_group {
    const char *title;
    const option *options;
} option_group;

typedef struct command_line {
    const char *name;           /* "verify" */
    const char *summary;        /* one line */
    const char *description;    /* paragraphs for --help, or NULL */
    const char *examples;       /* lines for --help */
    const char *operand;        /* "GOLDEN.safetensors": the one argument that is no option, required; or NULL */
    const char **operand_value; /* receives it */
    const option_group *groups; /* ends with a title of NULL; the common options are added by the parser */
    struct common_options *common;
} command_line;

/* Options that every command takes. */
typedef struct common_options {
    int backend; /* pi0_backend */
    int device;
    int precision; /* pi0_precision */
    int threads;
    int rope;    /* pi0_rope */
    int kernels; /* pi0_kernels */
    bool json, verbose, quiet;
} common_options;

/* Options of commands that load a model. */
typedef struct model_options {
    const char *checkpoint;
    int model;   /* pi0_model; AUTO when not given */
    int weights; /* 0 bf16, 1 f32 */
} model_options;

enum { MODEL_OPTION_COUNT = 3 };

common_options common_options_default(void);
model_options model_options_default(void);
/* Fills the rows (and the end mark) of a group for these options. */
void model_options_table(option rows[MODEL_OPTION_COUNT + 1], model_options *model);

/*
 * argv[0] is the command's name. true: go on. false: stop with *exit_code (after --help, --version, or a mistake that
 * has been reported). -v and -q take effect at once. Free lists and pairs with options_release in either case.
 */
bool options_parse(const command_line *line, int argc, char **argv, int *exit_code);
void options_release(const command_line *line);

/* Reports wrong usage with a pointer to --help; returns EXIT_USAGE. */
__attribute__((format(printf, 2, 3))) int options_refuse(const char *command, const char *format, ...);

/* The nearest of count names to a mistyped one, or NULL when none is near. */
const char *options_nearest(const char *word, const char *const *names, size_t count);

/* Engine options as these flags ask; log and progress go to the terminal. */
pi0_engine_options options_engine(const common_options *common, const model_options *model);

/* "pi0", "cuda", "bf16": the words of the command line for the library's numbers. */
const char *options_backend_name(pi0_backend backend);
const char *options_precision_name(pi0_precision precision);

#endif
