// What Swift cannot ask the processor or the C library for. Owner: Compute.
#pragma once
#include <stdbool.h>

#include "streaming.h"

// CPUID behind compiler builtins: whether both the processor and the operating system have the instruction set.
bool processor_has_avx2_fma(void);
bool processor_has_avx512(void);
bool processor_has_avx512_bf16(void);
// AMX tiles for bfloat16 and AVX512_BF16, and the operating system's permission to use them, which this asks for.
bool processor_has_amx_bf16(void);

// The pause instruction: `_mm_pause` is an intrinsic, which Swift does not import.
void processor_pause(void);

// sched_setaffinity and sched_getaffinity take macro-built sets (CPU_SET), which Swift does not import.
// The processors that the process's main thread may use, ascending; at most `capacity` are written. Returns how many were
// written, or -1.
int processor_allowed(int *processors, int capacity);
// Returns 0 or an errno value.
int processor_tie_this_thread(const int *processors, int count);

// pthread_setname_np is hidden behind _GNU_SOURCE. At most 15 characters.
void processor_name_this_thread(const char *name);
