/* Runs whole processes one after the other, as a runtime runs a hook: the state on standard input, in a pipe whose writer
 * is gone. Prints for each how long it took in microseconds, its peak resident memory in KiB, and its
 * processor time in microseconds. Small and static, since
 * what a process was before exec counts as its own.
 *
 * spawn FD STATE PROGRAM [ARGUMENT...] [-- STATE PROGRAM [ARGUMENT...]]... */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static char state[2 << 20];
static int report;

static void must(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "%s\n", what);
        exit(1);
    }
}

static void run(char **argv)
{
    int file = open(argv[0], O_RDONLY), ends[2], status;
    must(file >= 0, argv[0]);
    ssize_t length = read(file, state, sizeof state);
    close(file);
    must(length >= 0 && !pipe2(ends, O_CLOEXEC), "no pipe");
    must(length <= 65536 || fcntl(ends[1], F_SETPIPE_SZ, length) >= length, "the state does not fit into a pipe");
    must(write(ends[1], state, length) == length, "the state was not written");
    close(ends[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[0], 0);
    struct timespec from, to;
    struct rusage usage;
    pid_t pid;
    clock_gettime(CLOCK_MONOTONIC, &from);
    must(!posix_spawn(&pid, argv[1], &actions, NULL, argv + 1, environ), argv[1]);
    must(wait4(pid, &status, 0, &usage) == pid, "wait4");
    clock_gettime(CLOCK_MONOTONIC, &to);
    close(ends[0]);
    if (status) {
        fprintf(stderr, "%s failed with %d on %s\n", argv[1], WEXITSTATUS(status), argv[0]);
        exit(1);
    }
    dprintf(report, "%.1f %ld %ld\n", (to.tv_sec - from.tv_sec) * 1e6 + (to.tv_nsec - from.tv_nsec) / 1e3, usage.ru_maxrss,
            (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000L + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

int main(int argc, char **argv)
{
    report = atoi(argv[1]);
    fcntl(report, F_SETFD, FD_CLOEXEC);
    for (int next = 2, first; next < argc; next++) {
        for (first = next; next < argc && strcmp(argv[next], "--"); next++)
            ;
        argv[next] = NULL;
        run(argv + first);
    }
    return 0;
}
