#ifndef CSYSTEM_PROCESSES_H
#define CSYSTEM_PROCESSES_H

// Asks the kernel to send SIGTERM to this process when its parent ends.
void csystem_terminate_with_parent(void);

#endif
