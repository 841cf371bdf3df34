#define _GNU_SOURCE
#include "counters.h"

#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>

static atomic_bool counting;
static atomic_uint_fast64_t allocations, allocated_bytes, largest_bytes, copied_bytes, filled_bytes;
static atomic_uint_fast64_t library_allocations, library_bytes;
static uint64_t faults_before;

static uint64_t minor_faults(void) {
  struct rusage usage;
  return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_minflt : 0;
}

// Code of the libraries that allocate as the processor or the moment suggests.
typedef struct {
  uintptr_t begin, end;
} code_range;
static code_range excluded[16];
static int excluded_count;

static int find_excluded(struct dl_phdr_info *info, size_t size, void *context) {
  static const char *const names[] = {"libdnnl", "libstdc++", "libzmq"};
  (void)size;
  (void)context;
  bool wanted = false;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (info->dlpi_name && strstr(info->dlpi_name, names[i])) wanted = true;
  for (int i = 0; wanted && i < info->dlpi_phnum; i++) {
    if (info->dlpi_phdr[i].p_type != PT_LOAD || !(info->dlpi_phdr[i].p_flags & PF_X) || excluded_count == 16) continue;
    uintptr_t begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
    excluded[excluded_count++] = (code_range){begin, begin + info->dlpi_phdr[i].p_memsz};
  }
  return 0;
}

void counters_start(void) {
  excluded_count = 0;
  dl_iterate_phdr(find_excluded, NULL);
  atomic_store(&library_allocations, 0);
  atomic_store(&library_bytes, 0);
  atomic_store(&allocations, 0);
  atomic_store(&allocated_bytes, 0);
  atomic_store(&largest_bytes, 0);
  atomic_store(&copied_bytes, 0);
  atomic_store(&filled_bytes, 0);
  faults_before = minor_faults();
  atomic_store(&counting, true);
}

counters counters_stop(void) {
  atomic_store(&counting, false);
  counters result = {
      .allocations = atomic_load(&allocations),
      .allocated_bytes = atomic_load(&allocated_bytes),
      .largest_bytes = atomic_load(&largest_bytes),
      .copied_bytes = atomic_load(&copied_bytes),
      .filled_bytes = atomic_load(&filled_bytes),
      .library_allocations = atomic_load(&library_allocations),
      .library_bytes = atomic_load(&library_bytes),
      .page_faults = minor_faults() - faults_before,
  };
  return result;
}

#if defined(__GLIBC__)

bool counters_available(void) { return true; }

static void count(size_t bytes, const void *caller) {
  if (!atomic_load_explicit(&counting, memory_order_relaxed)) return;
  for (int i = 0; i < excluded_count; i++) {
    if ((uintptr_t)caller < excluded[i].begin || (uintptr_t)caller >= excluded[i].end) continue;
    atomic_fetch_add_explicit(&library_allocations, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&library_bytes, bytes, memory_order_relaxed);
    return;
  }
  atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&allocated_bytes, bytes, memory_order_relaxed);
  uint_fast64_t largest = atomic_load_explicit(&largest_bytes, memory_order_relaxed);
  while (bytes > largest && !atomic_compare_exchange_weak(&largest_bytes, &largest, bytes)) {
  }
}

// What glibc keeps under these names for allocators in front of it.
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t number, size_t bytes);
extern void *__libc_realloc(void *memory, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

void *malloc(size_t bytes) {
  count(bytes, __builtin_return_address(0));
  return __libc_malloc(bytes);
}
void *calloc(size_t number, size_t bytes) {
  count(number * bytes, __builtin_return_address(0));
  return __libc_calloc(number, bytes);
}
void *realloc(void *memory, size_t bytes) {
  count(bytes, __builtin_return_address(0));
  return __libc_realloc(memory, bytes);
}
void *memalign(size_t alignment, size_t bytes) {
  count(bytes, __builtin_return_address(0));
  return __libc_memalign(alignment, bytes);
}
void *aligned_alloc(size_t alignment, size_t bytes) {
  count(bytes, __builtin_return_address(0));
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void **memory, size_t alignment, size_t bytes) {
  count(bytes, __builtin_return_address(0));
  if (alignment % sizeof(void *) != 0 || (alignment & (alignment - 1)) != 0 || alignment == 0) return EINVAL;
  void *result = __libc_memalign(alignment, bytes);
  if (result == NULL) return ENOMEM;
  *memory = result;
  return 0;
}

#else

bool counters_available(void) { return false; }

#endif

#if defined(__linux__)

// The linker sends our objects' calls of NAME to __wrap_NAME and those of __real_NAME to NAME.
extern void *__real_memcpy(void *destination, const void *source, size_t bytes);
extern void *__real_memmove(void *destination, const void *source, size_t bytes);
extern void *__real_memset(void *destination, int value, size_t bytes);

void *__wrap_memcpy(void *destination, const void *source, size_t bytes) {
  if (atomic_load_explicit(&counting, memory_order_relaxed))
    atomic_fetch_add_explicit(&copied_bytes, bytes, memory_order_relaxed);
  return __real_memcpy(destination, source, bytes);
}
void *__wrap_memmove(void *destination, const void *source, size_t bytes) {
  if (atomic_load_explicit(&counting, memory_order_relaxed))
    atomic_fetch_add_explicit(&copied_bytes, bytes, memory_order_relaxed);
  return __real_memmove(destination, source, bytes);
}
void *__wrap_memset(void *destination, int value, size_t bytes) {
  if (atomic_load_explicit(&counting, memory_order_relaxed))
    atomic_fetch_add_explicit(&filled_bytes, bytes, memory_order_relaxed);
  return __real_memset(destination, value, bytes);
}

#endif
