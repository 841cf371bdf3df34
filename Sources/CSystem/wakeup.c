#include "wakeup.h"

#include <errno.h>
#include <stdint.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/eventfd.h>

int csystem_wakeup_open(int *wait_descriptor, int *signal_descriptor) {
  int descriptor = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (descriptor < 0) return errno;
  *wait_descriptor = *signal_descriptor = descriptor;
  return 0;
}
#else
#include <fcntl.h>

int csystem_wakeup_open(int *wait_descriptor, int *signal_descriptor) {
  int ends[2];
  if (pipe(ends) != 0) return errno;
  for (int i = 0; i < 2; i++) {
    fcntl(ends[i], F_SETFL, O_NONBLOCK);
    fcntl(ends[i], F_SETFD, FD_CLOEXEC);
  }
  *wait_descriptor = ends[0];
  *signal_descriptor = ends[1];
  return 0;
}
#endif

void csystem_wakeup_close(int wait_descriptor, int signal_descriptor) {
  close(wait_descriptor);
  if (signal_descriptor != wait_descriptor) close(signal_descriptor);
}

void csystem_wakeup_signal(int signal_descriptor) {
  // Eight bytes are one event of an eventfd; a full pipe or counter is signalled already.
  uint64_t one = 1;
  while (write(signal_descriptor, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

void csystem_wakeup_drain(int wait_descriptor) {
  uint64_t events[8];
  for (;;) {
    ssize_t count = read(wait_descriptor, events, sizeof events);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
  }
}
