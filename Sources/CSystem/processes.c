#include "processes.h"

#include <signal.h>

#ifdef __linux__
#include <sys/prctl.h>
#endif

// Swift cannot call variadic prctl.
void csystem_terminate_with_parent(void) {
#ifdef __linux__
  prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
}
