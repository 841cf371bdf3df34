// Counts heap allocations and copies of the whole test process while counting is on.
//
// Allocations: malloc and its relatives are defined here and forward to glibc's own, so calls from every library
// are seen. Copies: the linker wraps memcpy, memmove and memset (see Package.swift), so calls from our own objects
// are seen and those inside shared libraries are not.
#ifndef TESTS_COUNTERS_H
#define TESTS_COUNTERS_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  uint64_t allocations;       // calls that gave memory, but those made by the libraries below
  uint64_t allocated_bytes;   // what they asked for
  uint64_t largest_bytes;     // the largest of them
  uint64_t library_allocations;  // made in oneDNN, libzmq and the C++ runtime, which depend on processor and moment
  uint64_t library_bytes;
  uint64_t copied_bytes;      // by memcpy and memmove
  uint64_t filled_bytes;      // by memset
  uint64_t page_faults;       // minor ones, of all threads
} counters;

// Whether this platform can count; without it all counts are zero.
bool counters_available(void);
void counters_start(void);
counters counters_stop(void);

#ifdef __cplusplus
}
#endif
#endif
