#define _GNU_SOURCE
#include "CProcessor.h"
#include <errno.h>
#include <sched.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__x86_64__)
bool processor_has_avx2_fma(void) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
bool processor_has_avx512(void) {
  return processor_has_avx2_fma() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
      && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd");
}
void processor_pause(void) { __builtin_ia32_pause(); }

// Linux keeps the tile registers (state component 18) from a process until it asks for them.
static bool tiles_permitted(void) {
#if defined(__linux__)
  return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18) == 0;
#else
  return false;
#endif
}
bool processor_has_amx_bf16(void) {
  unsigned a, b, c, d;
  if (!processor_has_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  bool has_bf16 = d & (1u << 22), has_tiles = d & (1u << 24);
  if (!has_bf16 || !has_tiles || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return false;
  bool converts = a & (1u << 5);  // AVX512_BF16
  return converts && tiles_permitted();
}
#else
bool processor_has_avx2_fma(void) { return false; }
bool processor_has_avx512(void) { return false; }
bool processor_has_amx_bf16(void) { return false; }
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
