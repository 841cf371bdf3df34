#define _GNU_SOURCE
#include "CProcessor.h"
#include <errno.h>
#include <pthread.h>
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
bool processor_has_avx512_bf16(void) {
  unsigned a, b, c, d;
  return processor_has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
}
bool processor_has_amx_bf16(void) {
  unsigned a, b, c, d;
  if (!processor_has_avx512_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  bool has_bf16 = d & (1u << 22), has_tiles = d & (1u << 24);
  return has_bf16 && has_tiles && tiles_permitted();
}
#else
bool processor_has_avx2_fma(void) { return false; }
bool processor_has_avx512(void) { return false; }
bool processor_has_avx512_bf16(void) { return false; }
bool processor_has_amx_bf16(void) { return false; }
void processor_pause(void) { __asm__ volatile("" ::: "memory"); }
#endif

#if defined(__linux__)
// Larger than cpu_set_t: hosts with more than 1,024 processors exist.
enum { most_processors = 1 << 14 };

int processor_allowed(int *processors, int capacity) {
  cpu_set_t *set = CPU_ALLOC(most_processors);
  size_t size = CPU_ALLOC_SIZE(most_processors);
  int written = -1;
  if (set != NULL && sched_getaffinity(getpid(), size, set) == 0) {
    written = 0;
    for (int number = 0; number < most_processors && written < capacity; number++)
      if (CPU_ISSET_S(number, size, set)) processors[written++] = number;
  }
  CPU_FREE(set);
  return written;
}
int processor_tie_this_thread(const int *processors, int count) {
  cpu_set_t *set = CPU_ALLOC(most_processors);
  size_t size = CPU_ALLOC_SIZE(most_processors);
  if (set == NULL) return ENOMEM;
  CPU_ZERO_S(size, set);
  for (int index = 0; index < count; index++) CPU_SET_S(processors[index], size, set);
  int code = sched_setaffinity(0, size, set) == 0 ? 0 : errno;
  CPU_FREE(set);
  return code;
}
void processor_name_this_thread(const char *name) { (void)pthread_setname_np(pthread_self(), name); }
#else
void processor_name_this_thread(const char *name) { (void)name; }
int processor_allowed(int *processors, int capacity) {
  (void)processors, (void)capacity;
  return -1;
}
int processor_tie_this_thread(const int *processors, int count) {
  (void)processors, (void)count;
  return ENOTSUP;
}
#endif
