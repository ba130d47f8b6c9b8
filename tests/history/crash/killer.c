/* Kills the process at the n-th system call that changes files below a folder: before it, or in the middle of a write.
 *
 * Preloaded; crash_arm(root, n, torn) starts counting (n = 0: only count), crash_count() tells how far it got. What counts:
 * creating, writing, syncing, renaming, linking and removing files. Calls made by Python, Arrow and Rust all pass through here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[4096];
static long kill_at;
static int torn;
static atomic_long count;

void crash_arm(const char *folder, long n, int tear) {
    snprintf(root, sizeof root, "%s", folder);
    kill_at = n;
    torn = tear;
    atomic_store(&count, 0);
}

long crash_count(void) { return atomic_load(&count); }

static int ours(const char *path) { return root[0] && path && strncmp(path, root, strlen(root)) == 0; }

static int ours_fd(int fd) {
    char link[64], path[4096];
    if (!root[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return ours(path);
}

/* Whether this is the call to die at. */
static int due(void) { return atomic_fetch_add(&count, 1) + 1 == kill_at; }

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define POINT(mine) do { if ((mine) && due()) die(); } while (0)

static int writes(int flags) { return flags & (O_CREAT | O_TRUNC); }

#define OPEN(name)                                                     \
    int name(const char *path, int flags, ...) {                       \
        REAL(name);                                                    \
        va_list a; va_start(a, flags); mode_t m = va_arg(a, mode_t); va_end(a); \
        POINT(writes(flags) && ours(path));                            \
        return real(path, flags, m);                                   \
    }
#define OPENAT(name)                                                   \
    int name(int dir, const char *path, int flags, ...) {              \
        REAL(name);                                                    \
        va_list a; va_start(a, flags); mode_t m = va_arg(a, mode_t); va_end(a); \
        POINT(writes(flags) && ours(path));                            \
        return real(dir, path, flags, m);                              \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t n) {
    REAL(write);
    if (root[0] && ours_fd(fd) && due()) {
        if (torn && n > 1) real(fd, data, n / 2);
        die();
    }
    return real(fd, data, n);
}

#define PWRITE(name, off)                                              \
    ssize_t name(int fd, const void *data, size_t n, off at) {         \
        REAL(name);                                                    \
        if (root[0] && ours_fd(fd) && due()) {                         \
            if (torn && n > 1) real(fd, data, n / 2, at);              \
            die();                                                     \
        }                                                              \
        return real(fd, data, n, at);                                  \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *v, int n) { REAL(writev); POINT(ours_fd(fd)); return real(fd, v, n); }
int fsync(int fd) { REAL(fsync); POINT(ours_fd(fd)); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); POINT(ours_fd(fd)); return real(fd); }
int ftruncate(int fd, off_t n) { REAL(ftruncate); POINT(ours_fd(fd)); return real(fd, n); }
int ftruncate64(int fd, off64_t n) { REAL(ftruncate64); POINT(ours_fd(fd)); return real(fd, n); }
int rename(const char *a, const char *b) { REAL(rename); POINT(ours(b)); return real(a, b); }
int renameat(int d, const char *a, int e, const char *b) { REAL(renameat); POINT(ours(b)); return real(d, a, e, b); }
int renameat2(int d, const char *a, int e, const char *b, unsigned f) { REAL(renameat2); POINT(ours(b)); return real(d, a, e, b, f); }
int link(const char *a, const char *b) { REAL(link); POINT(ours(b)); return real(a, b); }
int linkat(int d, const char *a, int e, const char *b, int f) { REAL(linkat); POINT(ours(b)); return real(d, a, e, b, f); }
int unlink(const char *a) { REAL(unlink); POINT(ours(a)); return real(a); }
int unlinkat(int d, const char *a, int f) { REAL(unlinkat); POINT(ours(a)); return real(d, a, f); }
int mkdir(const char *a, mode_t m) { REAL(mkdir); POINT(ours(a)); return real(a, m); }
