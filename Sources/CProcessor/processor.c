#define _GNU_SOURCE
#include "CProcessor.h"
#include <errno.h>
#include <sched.h>

#if defined(__x86_64__)
bool processor_has_avx2_fma(void) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
bool processor_has_avx512(void) {
  return processor_has_avx2_fma() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
      && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd");
}
void processor_pause(void) { __builtin_ia32_pause(); }
#else
bool processor_has_avx2_fma(void) { return false; }
bool processor_has_avx512(void) { return false; }
void processor_pause(void) { __asm__ volatile("" ::: "memory"); }
#endif

#if defined(__linux__)
int processor_pin_this_thread(int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  return sched_setaffinity(0, sizeof set, &set) == 0 ? 0 : errno;
}
#else
int processor_pin_this_thread(int processor) {
  (void)processor;
  return ENOTSUP;
}
#endif
