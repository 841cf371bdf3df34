#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "durability.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int csystem_reserve(int descriptor, int64_t bytes) {
#ifdef __linux__
  while (bytes > 0 && fallocate(descriptor, 0, 0, bytes) != 0) {
    if (errno == EINTR) continue;
    // glibc's posix_fallocate would write every block here: the later writes report a full disk just as well.
    return errno == EOPNOTSUPP || errno == ENOSYS ? 0 : errno;
  }
#endif
  return 0;
}

void csystem_forget_cached(int descriptor) {
#ifdef __linux__
  posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
#endif
}

int csystem_flush(int descriptor) {
#ifdef __APPLE__
  // fsync leaves the bytes in the drive's cache there.
  if (fcntl(descriptor, F_FULLFSYNC) == 0) return 0;
#endif
  while (fsync(descriptor) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}
