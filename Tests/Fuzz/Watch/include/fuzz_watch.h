// What a fuzzing process and the one that watches it share: a page that says which input is being decoded, and
// the heap that this input has taken. The allocator's names are defined here, so only the fuzz program links it.
#ifndef TESTS_FUZZ_WATCH_H
#define TESTS_FUZZ_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FUZZ_INPUT_BYTES = 1 << 20, FUZZ_MESSAGE_BYTES = 1024 };

typedef struct {
  uint64_t index;       // of the input that is being decoded
  uint64_t done;        // inputs that were decoded to the end
  uint64_t accepted;    // of them: those in which the decoder found nothing wrong
  uint64_t peak_bytes;  // the most heap that one input took
  uint64_t kept_bytes;  // heap that inputs have taken and not given back, all together
  uint32_t finding;     // not 0: the process saw for itself that something is wrong, as `message` says
  uint32_t input_bytes;
  char message[FUZZ_MESSAGE_BYTES];
  uint8_t input[FUZZ_INPUT_BYTES];
} fuzz_page;

// Maps the page in a file that is made (or was made) for it; NULL when that fails.
fuzz_page *fuzz_page_open(const char *path, bool create);

// The input that the page holds: Swift does not see arrays that are so long.
const uint8_t *fuzz_input(const fuzz_page *page);

// Says that the input is going to be decoded, and begins to count the heap of the calling thread.
void fuzz_begin(fuzz_page *page, uint64_t index, const uint8_t *input, size_t count);
// Ends the count; the peak of this input above what was allocated before it.
uint64_t fuzz_end(fuzz_page *page);

// Bounds the address space of this process, forbids core files, and makes it end with its parent.
void fuzz_limit(uint64_t address_bytes);
// CPU time that a process has used so far, in milliseconds; 0 when it is gone.
uint64_t fuzz_cpu_milliseconds(int32_t process);
// Whether this process counts its heap: on other platforms peaks are 0.
bool fuzz_counts_heap(void);

#endif
