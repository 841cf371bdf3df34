// What durable files need of the kernel beyond POSIX, with the same meaning wherever it is missing.
#ifndef CSYSTEM_DURABILITY_H
#define CSYSTEM_DURABILITY_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Reserves space for the first `bytes` bytes of a file, so that writing them cannot meet a full disk.
// 0, or an errno; a file system that cannot reserve counts as success.
int csystem_reserve(int descriptor, int64_t bytes);
// Drops a file's clean pages, so that the next read comes from the disk. Advice only.
void csystem_forget_cached(int descriptor);
// Flushes a file to the disk itself. 0, or an errno.
int csystem_flush(int descriptor);

#ifdef __cplusplus
}
#endif
#endif
