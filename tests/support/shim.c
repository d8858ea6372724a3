/* Loaded into a process by LD_PRELOAD: a disk that fails, and a clock that jumps.

   WINNOW_FAULT_PATH, WINNOW_FAULT_AFTER: reads of a file whose path ends so fail with EIO beyond so many bytes,
   WINNOW_FAULT_COMMAND: in processes alone whose command line holds this.
   WINNOW_FAULT_CLOCK: the wall clock jumps by that many seconds, back or forth, every second. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static int is_meant(void) {
  static int meant = -1;
  const char *command = getenv("WINNOW_FAULT_COMMAND");
  if (meant < 0) {
    char line[4096];
    FILE *file = fopen("/proc/self/cmdline", "r");
    size_t length = file == NULL ? 0 : fread(line, 1, sizeof line, file);
    if (file != NULL) fclose(file);
    meant = command == NULL || memmem(line, length, command, strlen(command)) != NULL;
  }
  return meant;
}

static int is_failing(int descriptor, off_t end) {
  const char *suffix = getenv("WINNOW_FAULT_PATH");
  if (suffix == NULL || !is_meant()) return 0;
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < (ssize_t)strlen(suffix)) return 0;
  path[length] = '\0';
  return strcmp(path + length - strlen(suffix), suffix) == 0 && end > atoll(getenv("WINNOW_FAULT_AFTER"));
}

ssize_t read(int descriptor, void *buffer, size_t size) {
  static ssize_t (*next)(int, void *, size_t);
  if (next == NULL) next = dlsym(RTLD_NEXT, "read");
  if (getenv("WINNOW_FAULT_PATH") != NULL) {
    off_t place = lseek(descriptor, 0, SEEK_CUR);
    if (place >= 0 && is_failing(descriptor, place + 1)) {
      errno = EIO;
      return -1;
    }
  }
  return next(descriptor, buffer, size);
}

ssize_t pread64(int descriptor, void *buffer, size_t size, off64_t offset) {
  static ssize_t (*next)(int, void *, size_t, off64_t);
  if (next == NULL) next = dlsym(RTLD_NEXT, "pread64");
  if (is_failing(descriptor, offset + 1)) {
    errno = EIO;
    return -1;
  }
  return next(descriptor, buffer, size, offset);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*next)(clockid_t, struct timespec *);
  if (next == NULL) next = dlsym(RTLD_NEXT, "clock_gettime");
  int status = next(clock, now);
  const char *jump = getenv("WINNOW_FAULT_CLOCK");
  if (status == 0 && clock == CLOCK_REALTIME && jump != NULL) now->tv_sec += (now->tv_sec % 3 - 1) * atol(jump);
  return status;
}
