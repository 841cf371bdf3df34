#ifndef CSYSTEM_PROCESSES_H
#define CSYSTEM_PROCESSES_H

// Asks the kernel to end this process (SIGKILL) when its parent ends.
void csystem_terminate_with_parent(void);
// Tells the processor that the caller waits in a loop.
static inline void csystem_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

#endif
