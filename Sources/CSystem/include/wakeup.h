// A descriptor that poll() can wait for and any thread can signal: eventfd on Linux, a pipe elsewhere.
// Swift's Glibc module does not show eventfd. The Swift owner is Transport.Waker.
#ifndef CSYSTEM_WAKEUP_H
#define CSYSTEM_WAKEUP_H

#ifdef __cplusplus
extern "C" {
#endif

// 0, or an errno. Both descriptors may be the same one.
int csystem_wakeup_open(int *wait_descriptor, int *signal_descriptor);
void csystem_wakeup_close(int wait_descriptor, int signal_descriptor);
// Any thread; never blocks.
void csystem_wakeup_signal(int signal_descriptor);
// Takes back all signals so far; never blocks.
void csystem_wakeup_drain(int wait_descriptor);

#ifdef __cplusplus
}
#endif
#endif
