#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/sched.h>
#include <sys/syscall.h>

static int reserve(int file, size_t bytes) {
  int code;
  do code = fallocate(file, 0, 0, (off_t)bytes);
  while (code != 0 && errno == EINTR);
  return code;
}

int csystem_shared_create(size_t bytes, int *descriptor, void **address) {
  int file = memfd_create("transfusion", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file < 0) return errno;
  int code = 0;
  void *memory = MAP_FAILED;
  // The pages are reserved first: a mapping without them would end the process at the first touch.
  if (fchmod(file, 0600) != 0 || ftruncate(file, (off_t)bytes) != 0 || reserve(file, bytes) != 0 ||
      fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0 ||
      (memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0)) == MAP_FAILED) {
    code = errno;
    close(file);
    return code;
  }
  *descriptor = file;
  *address = memory;
  return 0;
}

int csystem_shared_open(int process, int descriptor, size_t bytes, const void **address) {
  char path[64];
  struct stat status;
  if (process <= 0 || descriptor < 0) return EINVAL;
  snprintf(path, sizeof path, "/proc/%d/fd/%d", process, descriptor);
  // Only looked at first: opening a device or a pipe would have effects.
  int place = open(path, O_PATH | O_CLOEXEC);
  if (place < 0) return errno;
  int code = 0, file = -1;
  if (fstat(place, &status) != 0) {
    code = errno;
  } else if (!S_ISREG(status.st_mode) || status.st_uid != geteuid() || (uint64_t)status.st_size != bytes ||
             (uint64_t)status.st_blocks * 512 < bytes) {
    // Holes would be filled with memory of ours.
    code = EPERM;
  } else {
    snprintf(path, sizeof path, "/proc/self/fd/%d", place);
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) code = errno;
  }
  close(place);
  if (code != 0) return code;
  // Without the seal its owner could cut it off under our hands, which would end this process.
  int seals = fcntl(file, F_GET_SEALS);
  void *memory = MAP_FAILED;
  if (seals < 0 || !(seals & F_SEAL_SHRINK)) {
    code = EPERM;
  } else if ((memory = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0)) == MAP_FAILED) {
    code = errno;
  }
  close(file);
  if (code == 0) *address = memory;
  return code;
}

void csystem_shared_discard(int descriptor, size_t bytes) {
  fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes);
}

struct scheduling {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};

void csystem_prefer_short_turns(void) {
  struct scheduling now;
  if (syscall(SYS_sched_getattr, 0, &now, sizeof now, 0) != 0 || now.policy != SCHED_NORMAL) return;
  now.size = sizeof now;
  // Nanoseconds; the least that the scheduler takes.
  now.runtime = 100000;
  syscall(SYS_sched_setattr, 0, &now, 0);
}

unsigned long long csystem_process_namespace(void) {
  struct stat status;
  return stat("/proc/self/ns/pid", &status) == 0 ? (unsigned long long)status.st_ino : 0;
}
#else
int csystem_shared_create(size_t bytes, int *descriptor, void **address) { return ENOTSUP; }
void csystem_shared_discard(int descriptor, size_t bytes) {}
int csystem_shared_open(int process, int descriptor, size_t bytes, const void **address) { return ENOTSUP; }
void csystem_prefer_short_turns(void) {}
unsigned long long csystem_process_namespace(void) { return 0; }
#endif

void csystem_shared_unmap(const void *address, size_t bytes) { munmap((void *)address, bytes); }
