/*
 * What reaches a person or a shell: errors and warnings as `pi0: ...`, a progress bar on a terminal, places
 * that cannot be written refused before the work, and a quick end on Ctrl-C.
 */
#ifndef PI0_CLI_TERMINAL_H
#define PI0_CLI_TERMINAL_H

#include "base/status.h"

/* -q leaves out warnings and the progress bar, -v adds notes. */
void terminal_set(bool verbose, bool quiet);

/* On SIGINT, SIGTERM and SIGHUP: remove registered temporaries and end with exit code 130, whatever is running. */
void terminal_catch_signals(void);

/* "pi0: message" on stderr; control characters of hostile file names are shown as '?'. */
__attribute__((format(printf, 1, 2))) void terminal_error(const char *format, ...);
__attribute__((format(printf, 1, 2))) void terminal_warning(const char *format, ...);
/* Reports a failed call; returns the exit code: 2 for PI0_ERROR_ARGUMENT, else 1. */
int terminal_fail(const pi0_error *error);

/* A pi0_log_function and a pi0_progress_function. */
void terminal_log(void *user, pi0_log_level level, const char *message);
int terminal_progress(void *user, const char *what, double fraction);
/* Takes the bar away; called before anything else is printed. */
void terminal_progress_end(void);

/* Shows the seconds that go by, on a terminal, during work that cannot say how far it is. Not nested. */
void terminal_busy_begin(const char *what);
void terminal_busy_end(void);

/* A path that a signal has to remove; forget it when the file is complete. Too many at once are not removed. */
void terminal_temporary_add(const char *path);
void terminal_temporary_forget(const char *path);

/* Refuses at once a place that cannot be written later: a directory, a missing folder, a read-only file or folder. */
pi0_status output_check(const char *path, pi0_error *error);
/* The same for a folder, which is made if only its last part is missing. */
pi0_status output_folder(const char *path, pi0_error *error);

#endif
