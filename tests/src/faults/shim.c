/* Preloaded into a relay process: records what the process does to the files under one folder, and makes some of it fail.
 *
 * POSTHORN_SHIM_ROOT     the folder (an absolute path without symbolic links)
 * POSTHORN_SHIM_LOG      where the record goes; unset: nothing is recorded
 * POSTHORN_SHIM_CONTROL  a file of at least 64 bytes that says what fails (see struct control), shared while the process runs
 *
 * The record (all integers little-endian, as the machine has them):
 *   op u32, path bytes u32, other path bytes u32, 0 u32, offset u64, size u64, data bytes u64, path, other path, data
 * `size` is the file's length after the operation, from which the reader learns of preallocation (fallocate is called without
 * the C library and is not seen here). A record is written with one call after the operation, and before the caller goes on;
 * a sync has one before it (begin) and one after it (end, only if it succeeded). So whoever reads the record's length after
 * being answered knows that everything that led to the answer stands before that. Each process begins with a start: syncs that
 * have begun before it never end.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, SYNC_BEGIN, SYNC_END, CUT, CREATE, RENAME, UNLINK, MAKE_DIR, REMOVE_DIR, DIR_BEGIN, DIR_END, START };

/* Calls in which the kernel may say that something has run out, as bits. Those on files, and only on files of the folder: */
enum {
    OPENS = 1,
    READS = 2,
    WRITES = 4,
    SYNCS = 8,
    CUTS = 16,
    RENAMES = 32,
    UNLINKS = 64,
    MAKES = 128,
    LISTS = 256,
    LOOKS = 512,
    /* and of the process: */
    DOUBLES = 1024, /* of a descriptor */
    ACCEPTS = 2048,
    WATCHES = 4096, /* a socket is added to epoll */
    RECEIVES = 8192,
    SENDS = 16384,
    THREADS = 32768,
    SOCKETS = 65536,
    EVENTS = 131072, /* epoll_create1, eventfd */
};

struct control {
    volatile uint32_t fail_sync_in; /* counts down at each sync of a file; at 1 it fails with EIO and does nothing */
    volatile uint32_t write_errno;  /* not 0: everything that changes a file fails with this */
    volatile uint32_t sync_micros;  /* each sync takes this much longer */
    volatile uint32_t syncs;        /* syncs of files so far */
    volatile uint32_t failed;       /* operations that were made to fail so far */
    volatile uint32_t open_errno;   /* not 0: every opening of a file fails with this */
    volatile uint32_t fail_folder_sync_in; /* as the first, for syncs of folders */
    volatile uint32_t denied;       /* these calls fail */
    volatile uint32_t denied_errno; /* with this */
    volatile uint32_t denied_times; /* so many times (counts down); UINT32_MAX: until it is said otherwise */
};

struct head {
    uint32_t op, path, other, zero;
    uint64_t offset, size, data;
};

static struct control nothing, *control = &nothing;
static char root[PATH_MAX];
static size_t root_len;
static int record_fd = -1;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void begin(void) {
    const char *text = getenv("POSTHORN_SHIM_ROOT");
    if (!text || strlen(text) >= sizeof root) return;
    strcpy(root, text);
    root_len = strlen(root);
    if ((text = getenv("POSTHORN_SHIM_LOG")))
        record_fd = syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if ((text = getenv("POSTHORN_SHIM_CONTROL"))) {
        int fd = syscall(SYS_openat, AT_FDCWD, text, O_RDWR | O_CLOEXEC, 0);
        void *page = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (page != MAP_FAILED) control = page;
        if (fd >= 0) syscall(SYS_close, fd);
    }
}

static int watched(const char *path) {
    pthread_once(&once, begin);
    return root_len && !strncmp(path, root, root_len) && (path[root_len] == '/' || !path[root_len]);
}

/* The path of an open file, if it is watched. Follows renames, as the kernel does. */
static int path_of(int fd, char *out) {
    char name[40];
    pthread_once(&once, begin);
    if (!root_len || fd == record_fd) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(name, out, PATH_MAX - 1);
    if (len <= 0) return 0;
    out[len] = 0;
    if (len > 10 && !strcmp(out + len - 10, " (deleted)")) return 0;
    return watched(out);
}

static int full_path(int dir, const char *path, char *out) {
    if (path[0] == '/' || dir == AT_FDCWD) {
        if (strlen(path) >= PATH_MAX) return 0;
        strcpy(out, path);
        return watched(out);
    }
    if (!path_of(dir, out) || strlen(out) + strlen(path) + 2 > PATH_MAX) return 0;
    strcat(strcat(out, "/"), path);
    return 1;
}

static void record(uint32_t op, const char *path, const char *other, uint64_t offset, uint64_t size, const void *data,
                   size_t len) {
    if (record_fd < 0) return;
    int before = errno;
    struct head head = {op, strlen(path), other ? strlen(other) : 0, 0, offset, size, len};
    struct iovec parts[4] = {{&head, sizeof head}, {(void *)path, head.path}, {(void *)other, head.other}, {(void *)data, len}};
    pthread_mutex_lock(&one_at_a_time);
    if (syscall(SYS_writev, record_fd, parts, 4) < 0) abort();
    pthread_mutex_unlock(&one_at_a_time);
    errno = before;
}

__attribute__((constructor)) static void at_load(void) {
    pthread_once(&once, begin);
    record(START, root, NULL, 0, 0, NULL, 0);
}

static uint64_t size_of(int fd) {
    struct stat stat;
    int before = errno;
    uint64_t size = fstat(fd, &stat) ? 0 : stat.st_size;
    errno = before;
    return size;
}

static int fails(uint32_t error) {
    if (!error) return 0;
    __sync_fetch_and_add(&control->failed, 1);
    errno = error;
    return 1;
}

static int denied(uint32_t call) {
    if (!(control->denied & call)) return 0;
    uint32_t left;
    do {
        left = control->denied_times;
        if (!left) return 0;
    } while (left != UINT32_MAX && !__sync_bool_compare_and_swap(&control->denied_times, left, left - 1));
    return fails(control->denied_errno);
}

static int refused(void) { return fails(control->write_errno); }

#define REAL(type, name, ...)                                              \
    static type (*real)(__VA_ARGS__);                                      \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset) {
    char path[PATH_MAX];
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    if (!path_of(fd, path)) return real(fd, data, len, offset);
    if (refused() || denied(WRITES)) return -1;
    ssize_t done = real(fd, data, len, offset);
    if (done > 0) record(WRITE, path, NULL, offset, size_of(fd), data, done);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset) { return pwrite64(fd, data, len, offset); }

ssize_t write(int fd, const void *data, size_t len) {
    char path[PATH_MAX];
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!path_of(fd, path)) return real(fd, data, len);
    if (refused() || denied(WRITES)) return -1;
    off64_t offset = lseek64(fd, 0, SEEK_CUR);
    if (fcntl(fd, F_GETFL) & O_APPEND) offset = size_of(fd);
    ssize_t done = real(fd, data, len);
    if (done > 0) record(WRITE, path, NULL, offset, size_of(fd), data, done);
    return done;
}

static int synced(int fd, int (*real)(int)) {
    char path[PATH_MAX];
    struct stat stat;
    if (!path_of(fd, path) || fstat(fd, &stat)) return real(fd);
    int dir = S_ISDIR(stat.st_mode);
    if (refused() || denied(SYNCS)) return -1;
    if (!dir) __sync_fetch_and_add(&control->syncs, 1);
    volatile uint32_t *fail_in = dir ? &control->fail_folder_sync_in : &control->fail_sync_in;
    if (*fail_in && __sync_fetch_and_sub(fail_in, 1) == 1) {
        __sync_fetch_and_add(&control->failed, 1);
        errno = EIO;
        return -1;
    }
    record(dir ? DIR_BEGIN : SYNC_BEGIN, path, NULL, 0, dir ? 0 : (uint64_t)stat.st_size, NULL, 0);
    if (control->sync_micros) usleep(control->sync_micros);
    int done = real(fd);
    if (!done) record(dir ? DIR_END : SYNC_END, path, NULL, 0, dir ? 0 : size_of(fd), NULL, 0);
    return done;
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return synced(fd, real);
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return synced(fd, real);
}

int ftruncate64(int fd, off64_t len) {
    char path[PATH_MAX];
    REAL(int, "ftruncate64", int, off64_t);
    if (!path_of(fd, path)) return real(fd, len);
    if (refused() || denied(CUTS)) return -1;
    int done = real(fd, len);
    if (!done) record(CUT, path, NULL, 0, len, NULL, 0);
    return done;
}

int ftruncate(int fd, off_t len) { return ftruncate64(fd, len); }

static int opened(int dir, const char *name, int flags, mode_t mode, int (*real)(int, const char *, int, ...)) {
    char path[PATH_MAX];
    struct stat stat;
    if (!full_path(dir, name, path)) return real(dir, name, flags, mode);
    if (fails(control->open_errno) || denied(OPENS)) return -1;
    if (!(flags & (O_CREAT | O_TRUNC))) return real(dir, name, flags, mode);
    int there = !fstatat(dir, name, &stat, 0);
    if ((!there || flags & O_TRUNC) && refused()) return -1;
    int fd = real(dir, name, flags, mode);
    if (fd >= 0 && !there) record(CREATE, path, NULL, 0, 0, NULL, 0);
    else if (fd >= 0 && flags & O_TRUNC) record(CUT, path, NULL, 0, 0, NULL, 0);
    return fd;
}

int openat64(int dir, const char *name, int flags, ...) {
    REAL(int, "openat64", int, const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(dir, name, flags, mode, real);
}

#define OPEN(function, dir, parameters, ...)                               \
    int function parameters {                                              \
        va_list rest;                                                      \
        va_start(rest, flags);                                             \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                      \
        return openat64(dir, name, flags, mode);                           \
    }

OPEN(openat, dir, (int dir, const char *name, int flags, ...))
OPEN(open64, AT_FDCWD, (const char *name, int flags, ...))
OPEN(open, AT_FDCWD, (const char *name, int flags, ...))

static int renamed(int dir, const char *name, int to_dir, const char *to, int (*act)(int, const char *, int, const char *)) {
    char path[PATH_MAX], other[PATH_MAX];
    if (!full_path(dir, name, path) || !full_path(to_dir, to, other)) return act(dir, name, to_dir, to);
    if (refused() || denied(RENAMES)) return -1;
    int done = act(dir, name, to_dir, to);
    if (!done) record(RENAME, path, other, 0, 0, NULL, 0);
    return done;
}

static int rename_really(int dir, const char *name, int to_dir, const char *to) {
    return syscall(SYS_renameat2, dir, name, to_dir, to, 0);
}

int rename(const char *name, const char *to) { return renamed(AT_FDCWD, name, AT_FDCWD, to, rename_really); }

int renameat(int dir, const char *name, int to_dir, const char *to) {
    return renamed(dir, name, to_dir, to, rename_really);
}

int unlinkat(int dir, const char *name, int flags) {
    char path[PATH_MAX];
    int known = full_path(dir, name, path);
    if (known && (refused() || denied(UNLINKS))) return -1;
    int done = syscall(SYS_unlinkat, dir, name, flags);
    if (known && !done) record(flags & AT_REMOVEDIR ? REMOVE_DIR : UNLINK, path, NULL, 0, 0, NULL, 0);
    return done;
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }

int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int dir, const char *name, mode_t mode) {
    char path[PATH_MAX];
    int known = full_path(dir, name, path);
    if (known && (refused() || denied(MAKES))) return -1;
    int done = syscall(SYS_mkdirat, dir, name, mode);
    if (known && !done) record(MAKE_DIR, path, NULL, 0, 0, NULL, 0);
    return done;
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

/* What the kernel copies by itself would be missing from the record: whoever copies a file reads and writes instead. */
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *to_at, size_t len, unsigned flags) {
    (void)from, (void)at, (void)to, (void)to_at, (void)len, (void)flags;
    errno = ENOSYS;
    return -1;
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t len) {
    (void)to, (void)from, (void)at, (void)len;
    errno = ENOSYS;
    return -1;
}

/* What follows is only made to fail: it changes no file. */

ssize_t pread64(int fd, void *data, size_t len, off64_t offset) {
    char path[PATH_MAX];
    REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
    if (control->denied & READS && path_of(fd, path) && denied(READS)) return -1;
    return real(fd, data, len, offset);
}

ssize_t pread(int fd, void *data, size_t len, off_t offset) { return pread64(fd, data, len, offset); }

ssize_t read(int fd, void *data, size_t len) {
    char path[PATH_MAX];
    REAL(ssize_t, "read", int, void *, size_t);
    if (control->denied & READS && path_of(fd, path) && denied(READS)) return -1;
    return real(fd, data, len);
}

DIR *opendir(const char *name) {
    char path[PATH_MAX];
    REAL(DIR *, "opendir", const char *);
    return full_path(AT_FDCWD, name, path) && denied(LISTS) ? NULL : real(name);
}

struct dirent64 *readdir64(DIR *dir) {
    char path[PATH_MAX];
    REAL(struct dirent64 *, "readdir64", DIR *);
    return control->denied & LISTS && path_of(dirfd(dir), path) && denied(LISTS) ? NULL : real(dir);
}

int statx(int dir, const char *name, int flags, unsigned mask, struct statx *out) {
    char path[PATH_MAX];
    /* Without a name it is asked whether there is such a call. (The header says that there always is one.) */
    const char *volatile given = name;
    if (given && control->denied & LOOKS && full_path(dir, name, path) && denied(LOOKS)) return -1;
    return syscall(SYS_statx, dir, name, flags, mask, out);
}

int fcntl64(int fd, int command, ...) {
    REAL(int, "fcntl64", int, int, ...);
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    int doubles = command == F_DUPFD || command == F_DUPFD_CLOEXEC;
    return doubles && denied(DOUBLES) ? -1 : real(fd, command, argument);
}

int fcntl(int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return fcntl64(fd, command, argument);
}

/* A function that fails when it is told to. */
#define DENIED(call, type, failed, function, parameters, types, ...) \
    type function parameters {                                       \
        REAL(type, #function, types);                                \
        return denied(call) ? failed : real(__VA_ARGS__);            \
    }
#define TYPES(...) __VA_ARGS__

DENIED(ACCEPTS, int, -1, accept4, (int fd, struct sockaddr *from, socklen_t *len, int flags),
       TYPES(int, struct sockaddr *, socklen_t *, int), fd, from, len, flags)
DENIED(RECEIVES, ssize_t, -1, recv, (int fd, void *data, size_t len, int flags), TYPES(int, void *, size_t, int), fd, data, len,
       flags)
DENIED(SENDS, ssize_t, -1, send, (int fd, const void *data, size_t len, int flags), TYPES(int, const void *, size_t, int), fd,
       data, len, flags)
DENIED(SENDS, ssize_t, -1, writev, (int fd, const struct iovec *parts, int count), TYPES(int, const struct iovec *, int), fd,
       parts, count)
DENIED(SOCKETS, int, -1, socket, (int domain, int type, int protocol), TYPES(int, int, int), domain, type, protocol)
DENIED(EVENTS, int, -1, epoll_create1, (int flags), TYPES(int), flags)
DENIED(EVENTS, int, -1, eventfd, (unsigned start, int flags), TYPES(unsigned, int), start, flags)
DENIED(THREADS, int, errno, pthread_create, (pthread_t * thread, const pthread_attr_t *how, void *(*run)(void *), void *argument),
       TYPES(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *), thread, how, run, argument)

int epoll_ctl(int epoll, int command, int fd, struct epoll_event *event) {
    REAL(int, "epoll_ctl", int, int, int, struct epoll_event *);
    return command == EPOLL_CTL_ADD && denied(WATCHES) ? -1 : real(epoll, command, fd, event);
}
