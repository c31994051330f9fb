/* The timing part of check_ops. */
#ifndef PI0_BENCH_TIMING_H
#define PI0_BENCH_TIMING_H

/* Handles the command line of `check_ops --bench`; returns the exit code. */
int time_ops(int argc, char **argv);

#endif
