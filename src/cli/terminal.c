#define _GNU_SOURCE // NOLINT(bugprone-reserved-identifier): _Fork
#include "cli/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/options.h"

/* glibc's fork() takes locks that a signal handler may find taken. */
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 34)
#define FORK_IN_HANDLER _Fork
#else
#define FORK_IN_HANDLER fork
#endif

/*
 * The command's only file-scope state: a signal handler can be told nothing else. A slot's path is complete before
 * `used` says so, and the handler does nothing but stat, unlink, fork, write and _exit.
 */
enum { MAX_TEMPORARIES = 16, BAR_WIDTH = 30 };
static struct temporary {
    char path[PATH_MAX];
    volatile sig_atomic_t used;
} temporaries[MAX_TEMPORARIES];
static volatile sig_atomic_t bar_shown;
static bool is_verbose, is_quiet;

void terminal_set(bool verbose, bool quiet) {
    is_verbose = verbose;
    is_quiet = quiet;
}

/* Giving back the blocks of a file of gigabytes takes the kernel more than a second, and whoever closes the file last
 * waits for it: with a large temporary a child, which inherits the open file, outlives this process to do the waiting.
 * The names go before either ends. */
static void leave_closing_to_child(void) {
    enum { LARGE = 64 << 20, ATTEMPTS = 500 };
    bool large = false;
    struct stat status;
    for (int i = 0; i < MAX_TEMPORARIES; i++) {
        if (!temporaries[i].used || stat(temporaries[i].path, &status) != 0) continue;
        if (!S_ISREG(status.st_mode) || status.st_size < LARGE) continue;
        large |= open(temporaries[i].path, O_RDONLY | O_CLOEXEC) >= 0; /* it may be complete and closed */
    }
    pid_t parent = getpid();
    if (!large || FORK_IN_HANDLER() != 0) return;
    for (int file = STDIN_FILENO; file <= STDERR_FILENO; file++) close(file); /* nobody shall wait for their end */
    const struct timespec pause = {.tv_nsec = 10000000};
    for (int i = 0; i < ATTEMPTS && getppid() == parent; i++) nanosleep(&pause, NULL);
    _exit(0);
}

static void end_at_once(int signal_number) {
    (void)signal_number;
    leave_closing_to_child();
    for (int i = MAX_TEMPORARIES - 1; i >= 0; i--) /* what was made last goes first: files before their directory */
        if (temporaries[i].used && unlink(temporaries[i].path) != 0 && errno == EISDIR) rmdir(temporaries[i].path);
    static const char clear[] = "\r\033[K";
    if (bar_shown && write(STDERR_FILENO, clear, sizeof clear - 1) < 0) _exit(EXIT_INTERRUPTED);
    _exit(EXIT_INTERRUPTED);
}

void terminal_catch_signals(void) {
    struct sigaction action = {.sa_handler = end_at_once};
    sigfillset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file over `ulimit -f` is an error of write(), like a full disk */
}

void terminal_temporary_add(const char *path) {
    size_t length = strlen(path);
    for (int i = 0; i < MAX_TEMPORARIES && length < PATH_MAX; i++) {
        if (temporaries[i].used) continue;
        memcpy(temporaries[i].path, path, length + 1);
        temporaries[i].used = 1;
        return;
    }
}

void terminal_temporary_forget(const char *path) {
    for (int i = 0; i < MAX_TEMPORARIES; i++)
        if (temporaries[i].used && strcmp(temporaries[i].path, path) == 0) temporaries[i].used = 0;
}

static void print_line(const char *prefix, const char *message) {
    terminal_progress_end();
    fprintf(stderr, "pi0: %s", prefix);
    for (const char *at = message; *at; at++) {
        unsigned char byte = (unsigned char)*at;
        bool plain = (byte >= 0x20 && byte != 0x7f) || (byte == '\n' && at[1]);
        putc(plain ? byte : '?', stderr);
    }
    putc('\n', stderr);
}

static void print_formatted(const char *prefix, const char *format, va_list arguments) {
    char message[2000];
    vsnprintf(message, sizeof message, format, arguments);
    print_line(prefix, message);
}

void terminal_error(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_formatted("", format, arguments);
    va_end(arguments);
}

void terminal_warning(const char *format, ...) {
    if (is_quiet) return;
    va_list arguments;
    va_start(arguments, format);
    print_formatted("warning: ", format, arguments);
    va_end(arguments);
}

int terminal_fail(const pi0_error *error) {
    print_line("", error->message);
    return error->status == PI0_ERROR_ARGUMENT ? EXIT_USAGE : EXIT_FAILED;
}

void terminal_log(void *user, pi0_log_level level, const char *message) {
    (void)user;
    if (level == PI0_LOG_ERROR)
        print_line("", message);
    else if (level == PI0_LOG_WARNING && !is_quiet)
        print_line("warning: ", message);
    else if (level == PI0_LOG_INFO && is_verbose)
        print_line("", message);
    else if (level == PI0_LOG_DEBUG && is_verbose)
        print_line("debug: ", message);
}

int terminal_progress(void *user, const char *what, double fraction) {
    (void)user;
    if (is_quiet || !isatty(STDERR_FILENO)) return 0;
    if (!(fraction >= 0)) fraction = 0;
    if (fraction >= 1) {
        terminal_progress_end();
        return 0;
    }
    char bar[BAR_WIDTH + 1];
    int filled = (int)(fraction * BAR_WIDTH);
    for (int i = 0; i < BAR_WIDTH; i++) bar[i] = i < filled ? '#' : '.';
    bar[BAR_WIDTH] = 0;
    bar_shown = 1;
    fprintf(stderr, "\r\033[K%s [%s] %3.0f %%", what, bar, fraction * 100);
    fflush(stderr);
    return 0;
}

void terminal_progress_end(void) {
    if (!bar_shown) return;
    fputs("\r\033[K", stderr);
    bar_shown = 0;
}

static struct busy {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t end;
    const char *what; /* NULL: nothing is running */
} busy = {.lock = PTHREAD_MUTEX_INITIALIZER, .end = PTHREAD_COND_INITIALIZER};

static void *show_seconds(void *user) {
    (void)user;
    int64_t start = clock_ns();
    pthread_mutex_lock(&busy.lock);
    while (busy.what) {
        struct timespec next;
        clock_gettime(CLOCK_REALTIME, &next);
        next.tv_sec++;
        pthread_cond_timedwait(&busy.end, &busy.lock, &next);
        if (!busy.what) break;
        bar_shown = 1;
        fprintf(stderr, "\r\033[K%s: %.0f s", busy.what, (double)(clock_ns() - start) * 1e-9);
        fflush(stderr);
    }
    pthread_mutex_unlock(&busy.lock);
    return NULL;
}

void terminal_busy_begin(const char *what) {
    if (is_quiet || !isatty(STDERR_FILENO)) return;
    busy.what = what;
    if (pthread_create(&busy.thread, NULL, show_seconds, NULL) != 0) busy.what = NULL;
}

void terminal_busy_end(void) {
    if (!busy.what) return;
    pthread_mutex_lock(&busy.lock);
    busy.what = NULL;
    pthread_cond_signal(&busy.end);
    pthread_mutex_unlock(&busy.lock);
    pthread_join(busy.thread, NULL);
    terminal_progress_end();
}

/* ---- output files ---- */

/* "a/b.npy" -> "a" into folder[size] */
static pi0_status folder_of(const char *path, char *folder, size_t size, pi0_error *error) {
    const char *slash = strrchr(path, '/');
    size_t length = slash == path ? 1 : slash ? (size_t)(slash - path) : 1;
    if (length >= size) return error_set(error, PI0_ERROR_ARGUMENT, "%.100s...: the path is too long", path);
    memcpy(folder, slash ? path : ".", length);
    folder[length] = 0;
    return PI0_OK;
}

/* Permission bits are looked at as well as asked about: to root every file looks writable, but one that its owner made
 * read-only is meant to stay as it is. */
static bool writable(const char *path, const struct stat *status) {
    return (status->st_mode & 0222) != 0 && access(path, W_OK) == 0;
}

static pi0_status check_place(const char *path, pi0_error *error) {
    char folder[PATH_MAX];
    struct stat status;
    if (!path[0] || path[strlen(path) - 1] == '/')
        return error_set(error, PI0_ERROR_ARGUMENT, "expected the name of a file to write, found '%s'", path);
    if (stat(path, &status) == 0) {
        if (S_ISDIR(status.st_mode))
            return error_set(error, PI0_ERROR_IO, "%s: expected a file to write, found a directory", path);
        if (!S_ISREG(status.st_mode))
            return error_set(error, PI0_ERROR_IO, "%s: expected a file to write, found something else", path);
        if (!writable(path, &status)) return error_set(error, PI0_ERROR_IO, "%s: cannot write: read-only", path);
    }
    TRY(folder_of(path, folder, sizeof folder, error));
    if (stat(folder, &status) != 0)
        return error_set(error, PI0_ERROR_IO, "%s: cannot write: %s: %s", path, folder, strerror(errno));
    if (!S_ISDIR(status.st_mode))
        return error_set(error, PI0_ERROR_IO, "%s: cannot write: %s is no directory", path, folder);
    if (!writable(folder, &status))
        return error_set(error, PI0_ERROR_IO, "%s: cannot write: the directory %s is read-only", path, folder);
    return PI0_OK;
}

pi0_status output_check(const char *path, pi0_error *error) {
    TRY(check_place(path, error));
    char probe[PATH_MAX];
    if (snprintf(probe, sizeof probe, "%s.%ld.tmp", path, (long)getpid()) >= (int)sizeof probe)
        return error_set(error, PI0_ERROR_ARGUMENT, "%.100s...: the path is too long", path);
    /* only making a file tells the rest: a file system mounted read-only, one that is full of files */
    int file = open(probe, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) return error_set(error, PI0_ERROR_IO, "%s: cannot write: %s", path, strerror(errno));
    close(file);
    unlink(probe);
    return PI0_OK;
}

pi0_status output_folder(const char *path, pi0_error *error) {
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return error_set(error, PI0_ERROR_IO, "%s: cannot make the directory: %s", path, strerror(errno));
    char probe[PATH_MAX];
    if (snprintf(probe, sizeof probe, "%s/0", path) >= (int)sizeof probe)
        return error_set(error, PI0_ERROR_ARGUMENT, "%.100s...: the path is too long", path);
    return output_check(probe, error);
}
