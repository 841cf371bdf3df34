// Memory that processes of one host share, without a name in any directory: it is gone with the last process
// that has it. Linux; elsewhere everything here answers ENOTSUP. The Swift owner is Transport.SharedSegment.
#ifndef CSYSTEM_SHARED_MEMORY_H
#define CSYSTEM_SHARED_MEMORY_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// Makes `bytes` bytes of zeros that only this user can open and nobody can shrink, with all pages present,
// and maps them to be read and written. 0, or an errno.
int csystem_shared_create(size_t bytes, int *descriptor, void **address);
// Maps what another process made, by its process ID and descriptor, to be read. The numbers come from a peer
// that is not trusted: anything but such memory, of this user, of just this size and without holes,
// is refused and not even opened. 0, or an errno.
int csystem_shared_open(int process, int descriptor, size_t bytes, const void **address);
void csystem_shared_unmap(const void *address, size_t bytes);
// Gives the pages back though others may have them mapped: they find zeros there.
void csystem_shared_discard(int descriptor, size_t bytes);
// Asks the scheduler to let the calling thread, and those it starts, run soon after they wake, in exchange for
// short turns: for threads that pass messages on while others compute. Advice only.
void csystem_prefer_short_turns(void);
// What this process's PID namespace is called: processes with equal names see each other's /proc. 0 if unknown.
unsigned long long csystem_process_namespace(void);

#ifdef __cplusplus
}
#endif
#endif
