// CRC-32C (Castagnoli) with the processor's instruction, which Swift cannot reach without building a whole
// module for it. The Swift owner is Transport.FrameChecksum.
#ifndef CSYSTEM_CRC32C_H
#define CSYSTEM_CRC32C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// CRC-32C of `size` bytes, continued from `seed` (0 to begin). The same value with and without the instruction.
uint32_t csystem_crc32c(uint32_t seed, const void *bytes, size_t size);
// The table version alone: the specification that the fast one is compared with.
uint32_t csystem_crc32c_portable(uint32_t seed, const void *bytes, size_t size);

#ifdef __cplusplus
}
#endif
#endif
