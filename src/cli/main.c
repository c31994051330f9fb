/* pi0: the one command; finds the sub-command and hands over. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "pi0.h"

typedef struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} command;

static const command commands[] = {
    {"infer", "one inference; images, prompt, state in; actions out", command_infer},
    {"bench", "latency and stage breakdown on this machine", command_bench},
    {"serve", "policy server: openpi's clients connect unchanged", command_serve},
    {"verify", "run a golden problem and compare", command_verify},
    {"synth", "write a synthetic checkpoint in openpi's layout", command_synth},
    {"inspect", "what is in a checkpoint: layout, sizes, dtypes, missing and unused tensors, statistics",
     command_inspect},
    {"analyze", "stage and op breakdown of a Chrome trace, ours or anybody's", command_analyze},
    {"devices", "backends and devices found, with what each can do", command_devices},
};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static const command *find(const char *name) {
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static void print_help(FILE *file) {
    fprintf(file,
            "pi0 %s: runs the pi0 and pi0.5 robot policies: camera images, a prompt and a state in, actions out.\n\n"
            "usage: pi0 COMMAND [options]\n\ncommands:\n",
            pi0_version());
    for (size_t i = 0; i < COMMAND_COUNT; i++) fprintf(file, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(file,
            "\n"
            "examples:\n"
            "  pi0 bench                                         the full model with synthetic weights: how fast?\n"
            "  pi0 infer --image base_0_rgb=a.png --tokens 5,6   one inference of the bare model\n"
            "  pi0 infer --config pi0_aloha_sim --checkpoint DIR --tokenizer FILE --image cam_high=top.png\n"
            "  pi0 COMMAND --help                                options and examples of a command\n"
            "\n"
            "exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted\n");
}

static int unknown(const char *word) {
    const char *names[COMMAND_COUNT];
    for (size_t i = 0; i < COMMAND_COUNT; i++) names[i] = commands[i].name;
    const char *nearest = options_nearest(word, names, COMMAND_COUNT);
    if (nearest)
        terminal_error("unknown command '%s'; did you mean '%s'?", word, nearest);
    else
        terminal_error("unknown command '%s'; `pi0 --help` lists the commands", word);
    return EXIT_USAGE;
}

static int dispatch(int argc, char **argv) {
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    const char *word = argv[1];
    if (strcmp(word, "--version") == 0) {
        printf("pi0 %s\n", pi0_version());
        return EXIT_DONE;
    }
    bool help = strcmp(word, "help") == 0;
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || (help && argc == 2)) {
        print_help(stdout);
        return EXIT_DONE;
    }
    if (help) {
        const command *asked = find(argv[2]);
        char flag[] = "--help", *arguments[] = {argv[2], flag, NULL};
        return asked ? asked->run(2, arguments) : unknown(argv[2]);
    }
    const command *command = find(word);
    return command ? command->run(argc - 1, argv + 1) : unknown(word);
}

int main(int argc, char **argv) {
    terminal_catch_signals();
    int exit_code = dispatch(argc, argv);
    terminal_progress_end();
    if (fflush(stdout) != 0 || ferror(stdout)) {
        terminal_error("cannot write to standard output");
        if (exit_code == EXIT_DONE) exit_code = EXIT_FAILED;
    }
    return exit_code;
}
