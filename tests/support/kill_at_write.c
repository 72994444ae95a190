/* Preloaded into a process, kills it inside one of the calls that change files.

   A call's kind is the operation and the path below `folder`, with `#` for numbers and for random
   names (16 hexadecimal digits or more). From ncap_arm(folder, kind, at, half, log) on, the process
   ends with SIGKILL in the `at`-th call of that kind (from 1; 0: never): a write is done by half if
   `half`, it and any other call else not at all. The kind of each call is a line of the file
   descriptor `log` (-1: none). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { RANDOM = 16, LONGEST = 2 * PATH_MAX };
static char folder[PATH_MAX], wanted[LONGEST];
static long fatal;
static int by_half, journal = -1;
static atomic_long count;

void ncap_arm(const char *path, const char *kind, long at, int half, int log) {
  snprintf(wanted, sizeof wanted, "%s", kind);
  fatal = at;
  by_half = half;
  journal = log;
  count = 0;
  snprintf(folder, sizeof folder, "%s", path);
}

static void kind_of(const char *name, const char *path, char *kind) {
  size_t n = snprintf(kind, LONGEST, "%s ", name);
  while (*path && n + 1 < LONGEST) {
    size_t digits = strspn(path, "0123456789"), hex = strspn(path, "0123456789abcdef");
    size_t skipped = hex >= RANDOM ? hex : digits;
    kind[n++] = skipped ? '#' : *path;
    path += skipped ? skipped : 1;
  }
  kind[n] = 0;
}

/* Whether this is the call to die in: `name` of the file or folder at `path`. */
static int dying(const char *name, const char *path) {
  char kind[LONGEST];
  if (!folder[0] || strncmp(path, folder, strlen(folder))) return 0;
  kind_of(name, path + strlen(folder), kind);
  if (journal >= 0) dprintf(journal, "%s\n", kind);
  return !strcmp(kind, wanted) && atomic_fetch_add(&count, 1) + 1 == fatal;
}

/* The same for what a file descriptor stands for, or a path relative to it. */
static int dying_at(const char *name, int fd, const char *rest) {
  char link[64], path[2 * PATH_MAX];
  if (!folder[0]) return 0;
  if (rest && (rest[0] == '/' || fd == AT_FDCWD)) return dying(name, rest);
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, PATH_MAX);
  if (size < 0) return 0;
  snprintf(path + size, sizeof path - size, "%s%s", rest ? "/" : "", rest ? rest : "");
  return dying(name, path);
}

static void die(void) { kill(getpid(), SIGKILL); }

/* The C library's own function, looked up once: dlsym takes a lock that a thread may hold. */
#define REAL(name)                                                              \
  ({                                                                            \
    static __typeof__(&name) found;                                             \
    if (!found) found = (__typeof__(&name))dlsym(RTLD_NEXT, #name);             \
    found;                                                                      \
  })
#define CHANGE(name, parameters, arguments, fatal_here) \
  int name parameters {                                 \
    if (fatal_here) die();                              \
    return REAL(name) arguments;                        \
  }

ssize_t write(int fd, const void *data, size_t size) {
  if (dying_at("write", fd, NULL)) {
    if (by_half) REAL(write)(fd, data, size / 2);
    die();
  }
  return REAL(write)(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t place) {
  if (dying_at("pwrite", fd, NULL)) {
    if (by_half) REAL(pwrite)(fd, data, size / 2, place);
    die();
  }
  return REAL(pwrite)(fd, data, size, place);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t place) {
  return pwrite(fd, data, size, place);
}

ssize_t writev(int fd, const struct iovec *parts, int number) {
  if (dying_at("writev", fd, NULL)) {
    if (by_half) REAL(writev)(fd, parts, number / 2);
    die();
  }
  return REAL(writev)(fd, parts, number);
}

CHANGE(fsync, (int fd), (fd), dying_at("fsync", fd, NULL))
CHANGE(fdatasync, (int fd), (fd), dying_at("fdatasync", fd, NULL))
CHANGE(ftruncate, (int fd, off_t size), (fd, size), dying_at("ftruncate", fd, NULL))
CHANGE(rename, (const char *from, const char *to), (from, to), dying("rename", to))
CHANGE(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to),
       dying_at("rename", b, to))
CHANGE(unlink, (const char *path), (path), dying("unlink", path))
CHANGE(unlinkat, (int fd, const char *path, int flags), (fd, path, flags),
       dying_at("unlink", fd, path))
CHANGE(rmdir, (const char *path), (path), dying("rmdir", path))
CHANGE(mkdir, (const char *path, mode_t mode), (path, mode), dying("mkdir", path))
CHANGE(mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode),
       dying_at("mkdir", fd, path))
