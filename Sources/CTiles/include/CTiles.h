// Tile instructions of x86 (AMX) for bfloat16. Owner: KernelsAMX.
//
// The number of a tile register is part of the instruction, so these must be compiler builtins with constants, which
// Swift does not import; each function is the shortest sequence that leaves the registers' content to nobody else.
// A "strip" is 32 rows (left operand) or 32 columns (right operand), a "step" 32 elements of the summed dimension; a
// packed step is two tiles of 16 lines of 64 bytes, 2 KiB in all.
#pragma once
#if defined(__AMX_BF16__)
#include <immintrin.h>
#include <stdint.h>

#define TILES_INLINE static inline __attribute__((always_inline))

// Eight tiles of 16 lines of 64 bytes, on the calling thread, until tiles_release.
TILES_INLINE void tiles_configure(void) {
  struct __attribute__((packed)) {
    uint8_t palette, start_row, reserved[14];
    uint16_t line_bytes[16];
    uint8_t lines[16];
  } configuration = {.palette = 1};
  for (int tile = 0; tile < 8; tile++) {
    configuration.line_bytes[tile] = 64;
    configuration.lines[tile] = 16;
  }
  _tile_loadconfig(&configuration);
}
TILES_INLINE void tiles_release(void) { _tile_release(); }

// Asks the first-level cache for a tile: 16 lines of 64 bytes, `line` bytes apart.
TILES_INLINE void tiles_prefetch(const char *tile, long line) {
  for (int i = 0; i < 16; i++) _mm_prefetch(tile + i * line, _MM_HINT_T0);
}

// Lines of a 32 x 32 block somewhere in memory that will soon be read or written: `first` (null for none), `line` bytes
// apart, `bytes` long (64 or 128).
struct tiles_lines {
  const void *first;
  long line;
  int bytes;
};

// Two of the block's lines, from line 2 * step on; nothing where there are no more.
TILES_INLINE void tiles_prefetch_lines(struct tiles_lines block, long step, int for_write) {
  if (!block.first || step >= 16) return;
  const char *line = (const char *)block.first + 2 * step * block.line;
  for (int i = 0; i < 2; i++, line += block.line) {
    if (for_write) __builtin_prefetch(line, 1); else __builtin_prefetch(line, 0);
    if (block.bytes == 64) continue;
    if (for_write) __builtin_prefetch(line + 64, 1); else __builtin_prefetch(line + 64, 0);
  }
}

// c[32, 32] = initial[32, 32] (zero where null) + left strip x right strip, float32, summed step by step.
// All strides are bytes: between the lines of a tile, between steps, and from the left strip's first tile to its
// second. The right strip is packed.
// Both strips are longer than the first-level cache, and neither the processor's own prefetching nor the few loads that
// it has in flight bring 64 lines a step from the second: each step asks for those of the step after the next, and for
// some of the lines that will be written, and read, elsewhere.
TILES_INLINE void tiles_multiply(
    const void *left, long left_line, long left_step, long left_second, const void *right, long steps,
    const float *initial, long initial_line, float *c, long c_line, struct tiles_lines written,
    struct tiles_lines read) {
  const char *upper = (const char *)left, *lower = upper + left_second, *b = (const char *)right;
  if (initial) {
    const char *from = (const char *)initial;
    _tile_loadd(0, from, initial_line);
    _tile_loadd(1, from + 64, initial_line);
    _tile_loadd(2, from + 16 * initial_line, initial_line);
    _tile_loadd(3, from + 16 * initial_line + 64, initial_line);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (long step = 0; step < steps; step++) {
    _tile_loadd(6, b, 64);
    _tile_loadd(4, upper, left_line);
    tiles_prefetch(upper + 2 * left_step, left_line);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + 1024, 64);
    tiles_prefetch(b + 4096, 64);
    _tile_dpbf16ps(1, 4, 7);
    tiles_prefetch_lines(written, step, 1);
    tiles_prefetch_lines(read, step, 0);
    _tile_loadd(5, lower, left_line);
    tiles_prefetch(lower + 2 * left_step, left_line);
    _tile_dpbf16ps(2, 5, 6);
    tiles_prefetch(b + 4096 + 1024, 64);
    _tile_dpbf16ps(3, 5, 7);
    upper += left_step;
    lower += left_step;
    b += 2048;
  }
  char *to = (char *)c;
  _tile_stored(0, to, c_line);
  _tile_stored(1, to + 64, c_line);
  _tile_stored(2, to + 16 * c_line, c_line);
  _tile_stored(3, to + 16 * c_line + 64, c_line);
}

// A block[32, 32] of float32 without gaps to bfloat16 lines.
TILES_INLINE void tiles_narrow(const float *block, void *lines, long line_bytes) {
  for (int line = 0; line < 32; line++) {
    __m512bh narrow = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(block + line * 32 + 16), _mm512_loadu_ps(block + line * 32));
    _mm512_storeu_si512((char *)lines + line * line_bytes, (__m512i)narrow);
  }
}

// 16 lines of 16 32-bit elements become 16 columns.
TILES_INLINE void tiles_transpose(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; i++) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

// One packed step from a block of 32 x 32 bfloat16, `source` with lines `line` bytes apart.

// Left operand, the block's lines are its rows.
TILES_INLINE void tiles_pack_left(const void *source, long line, void *packed) {
  for (int i = 0; i < 32; i++)
    _mm512_storeu_si512((char *)packed + i * 64, _mm512_loadu_si512((const char *)source + i * line));
}

// Right operand, the block's lines are its columns.
TILES_INLINE void tiles_pack_right_transposed(const void *source, long line, void *packed) {
  for (int half = 0; half < 2; half++) {
    __m512i r[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512((const char *)source + (half * 16 + i) * line);
    tiles_transpose(r);
    for (int i = 0; i < 16; i++) _mm512_storeu_si512((char *)packed + half * 1024 + i * 64, r[i]);
  }
}

// Pairs (x[i], y[i]) of the lower and the upper half of two lines.
TILES_INLINE __m512i tiles_pairs(__m512i x, __m512i y, int half) {
  __m256i a = half ? _mm512_extracti64x4_epi64(x, 1) : _mm512_castsi512_si256(x);
  __m256i b = half ? _mm512_extracti64x4_epi64(y, 1) : _mm512_castsi512_si256(y);
  return _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
}

// Right operand, the block's lines are steps of the sum.
TILES_INLINE void tiles_pack_right(const void *source, long line, void *packed) {
  for (int i = 0; i < 16; i++) {
    __m512i x = _mm512_loadu_si512((const char *)source + 2 * i * line);
    __m512i y = _mm512_loadu_si512((const char *)source + (2 * i + 1) * line);
    _mm512_storeu_si512((char *)packed + i * 64, tiles_pairs(x, y, 0));
    _mm512_storeu_si512((char *)packed + 1024 + i * 64, tiles_pairs(x, y, 1));
  }
}

// Left operand, the block's lines are steps of the sum.
TILES_INLINE void tiles_pack_left_transposed(const void *source, long line, void *packed) {
  for (int half = 0; half < 2; half++) {
    __m512i r[16];
    for (int i = 0; i < 16; i++) {
      __m512i x = _mm512_loadu_si512((const char *)source + 2 * i * line);
      __m512i y = _mm512_loadu_si512((const char *)source + (2 * i + 1) * line);
      r[i] = tiles_pairs(x, y, half);
    }
    tiles_transpose(r);
    for (int i = 0; i < 16; i++) _mm512_storeu_si512((char *)packed + half * 1024 + i * 64, r[i]);
  }
}
#endif
