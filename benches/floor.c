/* What prestart cannot do without: the same kind of system calls for one volume, in the same order, and nothing else. It
 * parses nothing but the pid, compares nothing with what it expects, plans nothing and undoes nothing.
 *
 * floor LAB BUNDLE VOLUME TARGET RECORD       the state on standard input; LAB has config.json, work and bare/records
 * floor list                                  prints the system calls after main, but for exit_group */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *calls[] = {
    "close_range", "poll", "read", "read", "umask", "rt_sigprocmask", "statx",  /* the state */
    "openat2", "statx", "openat2", "statx", "openat2", "statx", "openat2", "statx",  /* /, var, lib, LAB */
    "openat2", "statx", "read", "close",  /* the configuration */
    "openat2", "openat2", "statx", "read", "close",  /* the bundle */
    "pidfd_open", "openat", "openat", "read", "close", "openat", "read", "close", "openat",  /* who the container is */
    "openat2", "statx", "openat2", "statx", "openat2", "openat", "flock",  /* work_dir, the record */
    "openat2", "statx", "write",  /* the volume */
    "openat2", "statx", "mkdirat", "openat2", "flock", "openat", "write",  /* the lease */
    "open_tree", "mount_setattr", "setns", "openat2", "statx", "openat2", "move_mount", "setns", "write",
};

static char buffer[65536];

static int must(long answer, const char *what)
{
    if (answer < 0) {
        fprintf(stderr, "%s: %s\n", what, strerror(errno));
        exit(1);
    }
    return answer;
}

static int at(int dir, const char *path, long flags, long resolve)
{
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS | resolve};
    return must(syscall(SYS_openat2, dir, path, &how, sizeof how), path);
}

static int below(int dir, const char *path, long flags)
{
    return at(dir, path, flags, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH);
}

static struct statx look(int fd)
{
    struct statx stat;
    must(syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID, &stat), "statx");
    return stat;
}

static int directory(int dir, const char *path)
{
    int fd = below(dir, path, O_PATH | O_DIRECTORY);
    look(fd);
    return fd;
}

static void load(int fd, int checked)
{
    if (checked)
        look(fd);
    must(read(fd, buffer, sizeof buffer), "read");
    close(fd);
}

int main(int argc, char **argv)
{
    if (argc == 2) {
        for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
            puts(calls[i]);
        return 0;
    }
    must(argc == 6 ? 0 : -1, "usage");
    const char *bundle = argv[2], *volume = argv[3], *target = argv[4], *record = argv[5];
    char path[4096], text[400];
    memset(text, 'x', sizeof text);

    must(syscall(SYS_close_range, 3, ~0U, 0), "close_range");
    struct pollfd input = {.fd = 0, .events = POLLIN};
    must(poll(&input, 1, 5000), "poll");
    ssize_t length = must(read(0, buffer, sizeof buffer - 1), "read");
    must(read(0, buffer + length, 1), "read");
    buffer[length] = 0;
    const char *key = strstr(buffer, "\"pid\":");
    int pid = key ? atoi(key + 6) : -1;
    umask(0);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    struct statx unused;
    must(syscall(SYS_statx, AT_FDCWD, "/proc/self/ns/user", 0, STATX_BASIC_STATS, &unused), "statx");

    int root = at(AT_FDCWD, "/", O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
    look(root);
    int lab = root;
    snprintf(path, sizeof path, "%s", argv[1]);
    for (char *name = strtok(path, "/"); name; name = strtok(NULL, "/"))
        lab = directory(lab, name);
    load(below(lab, "config.json", O_RDONLY | O_NONBLOCK), 1);
    load(below(at(AT_FDCWD, bundle, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0), "config.json", O_RDONLY | O_NONBLOCK), 1);

    must(syscall(SYS_pidfd_open, pid, 0), "pidfd_open");
    snprintf(path, sizeof path, "/proc/%d/ns/mnt", pid);
    int there = must(open(path, O_RDONLY | O_CLOEXEC), path);
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    load(must(open(path, O_RDONLY | O_CLOEXEC), path), 0);
    load(must(open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC), "boot_id"), 0);
    int here = must(open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC), "ns/mnt");

    int work = directory(lab, "work");
    int records = below(directory(lab, "bare"), "records", O_RDONLY | O_DIRECTORY);
    int file = must(openat(records, record, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600), record);
    must(flock(file, LOCK_EX), "flock");
    snprintf(path, sizeof path, "volumes/roles/default/%s", volume);
    int source = below(work, path, O_RDONLY | O_DIRECTORY);
    struct statx what = look(source);
    must(write(file, text, sizeof text), "write");

    int leases = directory(root, "run/fs-isolator/leases");
    snprintf(path, sizeof path, "%x-%llx", what.stx_dev_major << 8 | what.stx_dev_minor, (unsigned long long)what.stx_ino);
    must(mkdirat(leases, path, 0700), path);
    int holders = below(leases, path, O_RDONLY | O_DIRECTORY);
    must(flock(holders, LOCK_EX), "flock");
    must(write(must(openat(holders, record, O_WRONLY | O_CREAT | O_CLOEXEC, 0600), record), text, 330), "write");

    int tree = must(syscall(SYS_open_tree, source, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE),
                    "open_tree");
    struct mount_attr slave = {.propagation = 1 << 19 /* MS_SLAVE */};
    must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &slave, sizeof slave), "mount_setattr");
    must(setns(there, CLONE_NEWNS), "setns");
    snprintf(path, sizeof path, "%s/rootfs", bundle);
    int rootfs = at(AT_FDCWD, path, O_PATH | O_DIRECTORY, 0);
    look(rootfs);
    int point = at(rootfs, target, O_PATH, RESOLVE_IN_ROOT);
    must(syscall(SYS_move_mount, tree, "", point, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH), "move_mount");
    must(setns(here, CLONE_NEWNS), "setns");
    must(write(file, text, sizeof text), "write");
    return 0;
}
