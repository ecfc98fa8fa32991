/* Preloaded into a process under test: counts what it does to files below a prefix, and at the
 * chosen call kills the process or fails the call; adds offsets to its wall clock.
 *
 * Everything is in a file that the test and the process both map (shim.py writes it), named by
 * MEZITE_TEST_FAULTS.  The environment is looked at again after each fork.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    volatile int64_t realtime_ns;
    volatile int64_t boottime_ns;
    volatile int32_t countdown; /* 0: nothing is armed */
    volatile int32_t mode;
    volatile int32_t kinds;
    volatile int32_t counted; /* calls of these kinds so far */
    volatile int32_t fired;
    char padding[28];
    char prefix[1024];
    char last[256]; /* what the call was that fired */
};

enum { KILL_BEFORE = 1, KILL_HALF = 2, KILL_AFTER = 3, NO_SPACE = 4, IO_ERROR = 5 };
enum { WRITE = 1, SYNC = 2, NAME = 4 };

static struct control *control;
static pid_t owner;

static struct control *get(void)
{
    pid_t pid = (pid_t)syscall(SYS_getpid);
    if (owner == pid)
        return control;
    /* A fork has its environment set a moment later: until it is there, nothing is remembered. */
    const char *path = getenv("MEZITE_TEST_FAULTS");
    if (path == NULL || *path == 0)
        return NULL;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0)
        return NULL;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    control = mapped == MAP_FAILED ? NULL : mapped;
    owner = pid;
    return control;
}

static void die(void)
{
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;)
        pause();
}

static int path_of(int fd, const char *name, char *out, size_t size)
{
    char link[64];
    size_t length = 0;
    if (name != NULL && name[0] == '/') {
        snprintf(out, size, "%s", name);
        return 1;
    }
    if (fd == AT_FDCWD) {
        snprintf(link, sizeof link, "/proc/self/cwd");
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    }
    ssize_t found = syscall(SYS_readlinkat, AT_FDCWD, link, out, size - 1);
    if (found < 0)
        return 0;
    length = (size_t)found;
    out[length] = 0;
    if (name != NULL)
        snprintf(out + length, size - length, "/%s", name);
    return 1;
}

/* The mode to act on now, or 0. */
static int due(int kind, const char *call, int fd, const char *name)
{
    struct control *now = get();
    char path[1400];
    if (now == NULL || now->prefix[0] == 0 || !(now->kinds & kind))
        return 0;
    if (!path_of(fd, name, path, sizeof path))
        return 0;
    if (strncmp(path, now->prefix, strlen(now->prefix)) != 0)
        return 0;
    __atomic_add_fetch(&now->counted, 1, __ATOMIC_SEQ_CST);
    if (now->countdown <= 0 || __atomic_sub_fetch(&now->countdown, 1, __ATOMIC_SEQ_CST) != 0)
        return 0;
    snprintf(now->last, sizeof now->last, "%s %.200s", call, path);
    now->fired = now->mode;
    return now->mode;
}

#define REAL(type, name, ...)                                                                      \
    static type (*real)(__VA_ARGS__);                                                              \
    if (real == NULL)                                                                              \
        real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name);

#define ACT(mode, failed, call)                                                                    \
    do {                                                                                           \
        int acting = (mode);                                                                       \
        if (acting == KILL_BEFORE)                                                                 \
            die();                                                                                 \
        if (acting == NO_SPACE || acting == IO_ERROR) {                                            \
            errno = acting == NO_SPACE ? ENOSPC : EIO;                                             \
            return failed;                                                                         \
        }                                                                                          \
        if (acting == KILL_HALF || acting == KILL_AFTER) {                                         \
            (void)!(call);                                                                         \
            die();                                                                                 \
        }                                                                                          \
    } while (0)

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(ssize_t, write, int, const void *, size_t)
    int mode = due(WRITE, "write", fd, NULL);
    ACT(mode, -1, real(fd, data, mode == KILL_HALF ? size / 2 : size));
    return real(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t)
    int mode = due(WRITE, "pwrite", fd, NULL);
    ACT(mode, -1, real(fd, data, mode == KILL_HALF ? size / 2 : size, at));
    return real(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t)
    int mode = due(WRITE, "pwrite", fd, NULL);
    ACT(mode, -1, real(fd, data, mode == KILL_HALF ? size / 2 : size, at));
    return real(fd, data, size, at);
}

int posix_fallocate(int fd, off_t at, off_t size)
{
    REAL(int, posix_fallocate, int, off_t, off_t)
    int mode = due(WRITE, "fallocate", fd, NULL);
    ACT(mode, errno, real(fd, at, size));
    return real(fd, at, size);
}

int posix_fallocate64(int fd, off64_t at, off64_t size)
{
    REAL(int, posix_fallocate64, int, off64_t, off64_t)
    int mode = due(WRITE, "fallocate", fd, NULL);
    ACT(mode, errno, real(fd, at, size));
    return real(fd, at, size);
}

int fsync(int fd)
{
    REAL(int, fsync, int)
    ACT(due(SYNC, "fsync", fd, NULL), -1, real(fd));
    return real(fd);
}

int fdatasync(int fd)
{
    REAL(int, fdatasync, int)
    ACT(due(SYNC, "fdatasync", fd, NULL), -1, real(fd));
    return real(fd);
}

int rename(const char *from, const char *to)
{
    REAL(int, rename, const char *, const char *)
    ACT(due(NAME, "rename", AT_FDCWD, to), -1, real(from, to));
    return real(from, to);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    REAL(int, renameat, int, const char *, int, const char *)
    ACT(due(NAME, "rename", to_fd, to), -1, real(from_fd, from, to_fd, to));
    return real(from_fd, from, to_fd, to);
}

int symlink(const char *target, const char *path)
{
    REAL(int, symlink, const char *, const char *)
    ACT(due(NAME, "symlink", AT_FDCWD, path), -1, real(target, path));
    return real(target, path);
}

int unlink(const char *path)
{
    REAL(int, unlink, const char *)
    ACT(due(NAME, "unlink", AT_FDCWD, path), -1, real(path));
    return real(path);
}

int unlinkat(int fd, const char *path, int flags)
{
    REAL(int, unlinkat, int, const char *, int)
    ACT(due(NAME, "unlink", fd, path), -1, real(fd, path, flags));
    return real(fd, path, flags);
}

int rmdir(const char *path)
{
    REAL(int, rmdir, const char *)
    ACT(due(NAME, "rmdir", AT_FDCWD, path), -1, real(path));
    return real(path);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(int, mkdir, const char *, mode_t)
    ACT(due(NAME, "mkdir", AT_FDCWD, path), -1, real(path, mode));
    return real(path, mode);
}

static void add(struct timespec *time, int64_t ns)
{
    int64_t total = (int64_t)time->tv_nsec + ns % 1000000000;
    time->tv_sec += ns / 1000000000;
    if (total < 0) {
        total += 1000000000;
        time->tv_sec -= 1;
    } else if (total >= 1000000000) {
        total -= 1000000000;
        time->tv_sec += 1;
    }
    time->tv_nsec = (long)total;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    REAL(int, clock_gettime, clockid_t, struct timespec *)
    int done = real(clock, time);
    struct control *now = done == 0 ? get() : NULL;
    if (now != NULL && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        add(time, now->realtime_ns);
    if (now != NULL && clock == CLOCK_BOOTTIME)
        add(time, now->boottime_ns);
    return done;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL)
        *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
