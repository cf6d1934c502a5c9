/* Times one attach to a running container as a whole process, in turn with the bare system calls for it in C: what a
 * program needs that checks nothing, writes nothing down and holds nothing. Medians in microseconds.
 *
 * attach ROUNDS PID SOURCE TARGET ATTACH... -- DETACH...: the commands attach and detach at another path. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
int umount2(const char *target, int flags);

static long must(long answer, const char *call)
{
    if (answer < 0) {
        fprintf(stderr, "%s: %s\n", call, strerror(errno));
        exit(1);
    }
    return answer;
}

static void enter(const char *pid)
{
    int process = must(syscall(SYS_pidfd_open, atoi(pid), 0), "pidfd_open");
    must(setns(process, CLONE_NEWNS), "setns");
}

/* The bare attach: slave, recursive, below the container's root. */
static int bare(const char *pid, const char *source, const char *target)
{
    struct mount_attr attributes = {.propagation = 1 << 19 /* MS_SLAVE */};
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    int tree = must(syscall(SYS_open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE), "open_tree");
    must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes), "mount_setattr");
    enter(pid);
    int root = must(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), "open");
    int point = must(syscall(SYS_openat2, root, target, &how, sizeof how), "openat2");
    must(syscall(SYS_move_mount, tree, "", point, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH), "move_mount");
    return 0;
}

static int take_out(const char *pid, const char *target)
{
    enter(pid);
    must(umount2(target, 2 /* MNT_DETACH */), "umount2");
    return 0;
}

static double run(char **argv)
{
    struct timespec from, to;
    pid_t child;
    int status;
    clock_gettime(CLOCK_MONOTONIC, &from);
    if (posix_spawn(&child, argv[0], NULL, NULL, argv, environ) || waitpid(child, &status, 0) < 0 || status) {
        fprintf(stderr, "%s %s failed\n", argv[0], argv[1]);
        exit(1);
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    return (to.tv_sec - from.tv_sec) * 1e6 + (to.tv_nsec - from.tv_nsec) / 1e3;
}

static int compare(const void *a, const void *b)
{
    double d = *(double *)a - *(double *)b;
    return d < 0 ? -1 : d > 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && !strcmp(argv[1], "bare"))
        return bare(argv[2], argv[3], argv[4]);
    if (argc == 4 && !strcmp(argv[1], "out"))
        return take_out(argv[2], argv[3]);
    int rounds = atoi(argv[1]);
    char *in_c[] = {"/proc/self/exe", "bare", argv[2], argv[3], argv[4], NULL};
    char *out_c[] = {"/proc/self/exe", "out", argv[2], argv[4], NULL};
    char **attach = argv + 5, **detach = attach;
    while (strcmp(*detach, "--"))
        detach++;
    *detach++ = NULL;
    double *c = malloc(rounds * sizeof *c), *ours = malloc(rounds * sizeof *ours);
    for (int i = 0; i < rounds; i++) {
        c[i] = run(in_c);
        run(out_c);
        ours[i] = run(attach);
        run(detach);
    }
    qsort(c, rounds, sizeof *c, compare);
    qsort(ours, rounds, sizeof *ours, compare);
    printf("%-10s %8.0f us\n%-10s %8.0f us\nratio %.2f\n", "bare C", c[rounds / 2], "attach", ours[rounds / 2],
           ours[rounds / 2] / c[rounds / 2]);
    return 0;
}
