// What Swift cannot ask the processor or the C library for. Owner: Compute.
#pragma once
#include <stdbool.h>

#include "streaming.h"

// CPUID behind compiler builtins: whether both the processor and the operating system have the instruction set.
bool processor_has_avx2_fma(void);
bool processor_has_avx512(void);
// AMX tiles for bfloat16 and AVX512_BF16, and the operating system's permission to use them, which this asks for.
bool processor_has_amx_bf16(void);

// The pause instruction: `_mm_pause` is an intrinsic, which Swift does not import.
void processor_pause(void);

// sched_setaffinity takes a macro-built set (CPU_SET), which Swift does not import. Returns 0 or an errno value.
int processor_pin_this_thread(int processor);
