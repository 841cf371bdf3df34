#define _GNU_SOURCE
#include "fuzz_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#if defined(__linux__)
#include <signal.h>
#include <sys/prctl.h>
#endif

// Only the thread that decodes counts, so plain numbers do.
static _Thread_local bool counting;
static int64_t live_bytes, peak_bytes, live_before;

fuzz_page *fuzz_page_open(const char *path, bool create) {
  int file = open(path, O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_TRUNC : 0), 0600);
  if (file < 0) return NULL;
  void *page = MAP_FAILED;
  if (!create || ftruncate(file, sizeof(fuzz_page)) == 0)
    page = mmap(NULL, sizeof(fuzz_page), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  return page == MAP_FAILED ? NULL : page;
}

const uint8_t *fuzz_input(const fuzz_page *page) { return page->input; }

void fuzz_begin(fuzz_page *page, uint64_t index, const uint8_t *input, size_t count) {
  page->index = index;
  page->input_bytes = (uint32_t)(count < FUZZ_INPUT_BYTES ? count : FUZZ_INPUT_BYTES);
  if (count > 0) memcpy(page->input, input, page->input_bytes);
  live_before = peak_bytes = live_bytes;
  counting = true;
}

uint64_t fuzz_end(fuzz_page *page) {
  counting = false;
  uint64_t peak = (uint64_t)(peak_bytes - live_before);
  if (peak > page->peak_bytes) page->peak_bytes = peak;
  page->kept_bytes = live_bytes > 0 ? (uint64_t)live_bytes : 0;
  page->done++;
  return peak;
}

void fuzz_limit(uint64_t address_bytes) {
  struct rlimit limit = {address_bytes, address_bytes};
  setrlimit(RLIMIT_AS, &limit);
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
#if defined(__linux__)
  prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
}

uint64_t fuzz_cpu_milliseconds(int32_t process) {
#if defined(__linux__)
  char path[64], line[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", process);
  FILE *file = fopen(path, "re");
  if (file == NULL) return 0;
  const char *found = fgets(line, sizeof line, file);
  fclose(file);
  // The name stands in parentheses and may hold blanks; user and system time are the 14th and 15th field.
  const char *rest = found ? strrchr(line, ')') : NULL;
  unsigned long user = 0, system = 0;
  if (rest == NULL ||
      sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
    return 0;
  return (uint64_t)(user + system) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
#else
  (void)process;
  return 0;
#endif
}

#if defined(__GLIBC__)
#include <malloc.h>

bool fuzz_counts_heap(void) { return true; }

static inline void *took(void *memory) {
  if (counting && memory != NULL) {
    live_bytes += (int64_t)malloc_usable_size(memory);
    if (live_bytes > peak_bytes) peak_bytes = live_bytes;
  }
  return memory;
}
static inline void gives(void *memory) {
  if (counting && memory != NULL) live_bytes -= (int64_t)malloc_usable_size(memory);
}

// What glibc keeps under these names for allocators in front of it.
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t number, size_t bytes);
extern void *__libc_realloc(void *memory, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);
extern void __libc_free(void *memory);

void *malloc(size_t bytes) { return took(__libc_malloc(bytes)); }
void *calloc(size_t number, size_t bytes) { return took(__libc_calloc(number, bytes)); }
void *realloc(void *memory, size_t bytes) {
  size_t before = counting && memory != NULL ? malloc_usable_size(memory) : 0;
  void *result = __libc_realloc(memory, bytes);
  if (counting && (result != NULL || bytes == 0)) live_bytes -= (int64_t)before;
  return took(result);
}
void *memalign(size_t alignment, size_t bytes) { return took(__libc_memalign(alignment, bytes)); }
void *aligned_alloc(size_t alignment, size_t bytes) { return took(__libc_memalign(alignment, bytes)); }
int posix_memalign(void **memory, size_t alignment, size_t bytes) {
  if (alignment % sizeof(void *) != 0 || (alignment & (alignment - 1)) != 0 || alignment == 0) return EINVAL;
  void *result = took(__libc_memalign(alignment, bytes));
  if (result == NULL) return ENOMEM;
  *memory = result;
  return 0;
}
void free(void *memory) {
  gives(memory);
  __libc_free(memory);
}

#else

bool fuzz_counts_heap(void) { return false; }

#endif
