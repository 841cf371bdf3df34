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

// The instruction takes three cycles and can be started in each: three independent streams use all of it. The
// checksum of a concatenation is that of the front, moved over as many zero bytes as the back has, xor that of
// the back; the move is linear, so a table for each byte of the checksum does it.
enum { STREAM_LONG = 4096, STREAM_SHORT = 256 };
static uint32_t move_long[4][256];
static uint32_t move_short[4][256];
static pthread_once_t move_once = PTHREAD_ONCE_INIT;

static void fill_move(uint32_t move[4][256], size_t zeros) {
  uint32_t bit[32];
  for (int i = 0; i < 32; i++) {
    uint32_t crc = 1u << i;
    for (size_t byte = 0; byte < zeros; byte++) crc = (crc >> 8) ^ table[0][crc & 0xFF];
    bit[i] = crc;
  }
  for (int byte = 0; byte < 4; byte++)
    for (int value = 0; value < 256; value++) {
      uint32_t crc = 0;
      for (int i = 0; i < 8; i++)
        if (value >> i & 1) crc ^= bit[8 * byte + i];
      move[byte][value] = crc;
    }
}

static void fill_moves(void) {
  pthread_once(&table_once, fill_table);
  fill_move(move_long, STREAM_LONG);
  fill_move(move_short, STREAM_SHORT);
}

static inline uint64_t moved(const uint32_t move[4][256], uint64_t crc) {
  return move[0][crc & 0xFF] ^ move[1][crc >> 8 & 0xFF] ^ move[2][crc >> 16 & 0xFF] ^ move[3][crc >> 24 & 0xFF];
}

static inline uint64_t word_at(const unsigned char *p) {
  uint64_t word;
  memcpy(&word, p, 8);
  return word;
}

__attribute__((target("sse4.2"))) static inline uint64_t three_streams(
    uint64_t crc, const unsigned char *p, size_t stream, const uint32_t move[4][256]) {
  uint64_t second = 0, third = 0;
  for (size_t i = 0; i < stream; i += 8) {
    crc = _mm_crc32_u64(crc, word_at(p + i));
    second = _mm_crc32_u64(second, word_at(p + stream + i));
    third = _mm_crc32_u64(third, word_at(p + 2 * stream + i));
  }
  crc = moved(move, crc) ^ second;
  return moved(move, crc) ^ third;
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_instruction(uint32_t seed, const void *bytes, size_t size) {
  const unsigned char *p = bytes;
  uint64_t crc = (uint32_t)~seed;
  if (size >= 3 * STREAM_SHORT) pthread_once(&move_once, fill_moves);
  for (; size >= 3 * STREAM_LONG; size -= 3 * STREAM_LONG, p += 3 * STREAM_LONG)
    crc = three_streams(crc, p, STREAM_LONG, move_long);
  for (; size >= 3 * STREAM_SHORT; size -= 3 * STREAM_SHORT, p += 3 * STREAM_SHORT)
    crc = three_streams(crc, p, STREAM_SHORT, move_short);
  for (; size >= 8; size -= 8, p += 8) crc = _mm_crc32_u64(crc, word_at(p));
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
