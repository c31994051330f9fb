/* The sub-commands: each takes its own name as argv[0] and returns the exit code. */
#ifndef PI0_CLI_COMMANDS_H
#define PI0_CLI_COMMANDS_H

int command_infer(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_verify(int argc, char **argv);
int command_synth(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_analyze(int argc, char **argv);
int command_serve(int argc, char **argv);
int command_devices(int argc, char **argv);

#endif
