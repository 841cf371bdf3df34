#include "processes.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

// A process that has lost its parent gets another one. The kernel's PR_SET_PDEATHSIG would tell at once, but it is for
// threads: forgotten with the thread that asked for it, and sent when the thread that started this process ends.
static void *watch_parent(void *started_by) {
  const pid_t parent = (pid_t)(long)started_by;
  const struct timespec pause = {.tv_sec = 0, .tv_nsec = 100 * 1000 * 1000};
  while (getppid() == parent) nanosleep(&pause, 0);
  kill(getpid(), SIGKILL);
  return 0;
}

void csystem_terminate_with_parent(void) {
  pthread_t thread;
  if (pthread_create(&thread, 0, watch_parent, (void *)(long)getppid()) == 0) pthread_detach(thread);
}
