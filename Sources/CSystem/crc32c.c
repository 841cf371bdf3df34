#include "crc32c.h"

#include <pthread.h>
#include <string.h>

static uint32_t table[8][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void fill_table(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) ? 0x82F63B78u : 0);
    table[0][i] = crc;
  }
  for (uint32_t i = 0; i < 256; i++)
    for (int slice = 1; slice < 8; slice++)
      table[slice][i] = (table[slice - 1][i] >> 8) ^ table[0][table[slice - 1][i] & 0xFF];
}

uint32_t csystem_crc32c_portable(uint32_t seed, const void *bytes, size_t size) {
  pthread_once(&table_once, fill_table);
  const unsigned char *p = bytes;
  uint32_t crc = ~seed;
  for (; size >= 8; size -= 8, p += 8) {
    uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
    crc = table[7][low & 0xFF] ^ table[6][low >> 8 & 0xFF] ^ table[5][low >> 16 & 0xFF] ^ table[4][low >> 24] ^
          table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
  }
  for (; size > 0; size--, p++) crc = (crc >> 8) ^ table[0][(crc ^ *p) & 0xFF];
  return ~crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>

__attribute__((target("sse4.2"))) static uint32_t crc32c_instruction(uint32_t seed, const void *bytes, size_t size) {
  const unsigned char *p = bytes;
  uint64_t crc = (uint32_t)~seed;
  for (; size >= 8; size -= 8, p += 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    crc = _mm_crc32_u64(crc, word);
  }
  uint32_t tail = (uint32_t)crc;
  for (; size > 0; size--, p++) tail = _mm_crc32_u8(tail, *p);
  return ~tail;
}

uint32_t csystem_crc32c(uint32_t seed, const void *bytes, size_t size) {
  return __builtin_cpu_supports("sse4.2") ? crc32c_instruction(seed, bytes, size)
                                          : csystem_crc32c_portable(seed, bytes, size);
}
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>

uint32_t csystem_crc32c(uint32_t seed, const void *bytes, size_t size) {
  const unsigned char *p = bytes;
  uint32_t crc = ~seed;
  for (; size >= 8; size -= 8, p += 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    crc = __crc32cd(crc, word);
  }
  for (; size > 0; size--, p++) crc = __crc32cb(crc, *p);
  return ~crc;
}
#else
uint32_t csystem_crc32c(uint32_t seed, const void *bytes, size_t size) {
  return csystem_crc32c_portable(seed, bytes, size);
}
#endif
