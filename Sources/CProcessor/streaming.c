#include "streaming.h"

#include <stdint.h>
#include <string.h>

static void add_plain(float *destination, const float *a, const float *b, size_t count) {
  for (size_t i = 0; i < count; i++) destination[i] = a[i] + b[i];
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx512f"))) static void add_avx512(float *destination, const float *a, const float *b,
                                                          size_t count) {
  size_t i = 0;
  for (; i < count && ((uintptr_t)(destination + i) & 63) != 0; i++) destination[i] = a[i] + b[i];
  for (; i + 16 <= count; i += 16)
    _mm512_stream_ps(destination + i, _mm512_add_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i)));
  _mm_sfence();
  add_plain(destination + i, a + i, b + i, count - i);
}

__attribute__((target("avx"))) static void add_avx(float *destination, const float *a, const float *b, size_t count) {
  size_t i = 0;
  for (; i < count && ((uintptr_t)(destination + i) & 31) != 0; i++) destination[i] = a[i] + b[i];
  for (; i + 8 <= count; i += 8)
    _mm256_stream_ps(destination + i, _mm256_add_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)));
  _mm_sfence();
  add_plain(destination + i, a + i, b + i, count - i);
}

// A line at a time, with what every x86-64 has.
static void copy_sse(char *destination, const char *source, size_t bytes) {
  size_t head = (64 - ((uintptr_t)destination & 63)) & 63;
  if (head > bytes) head = bytes;
  memcpy(destination, source, head);
  destination += head, source += head, bytes -= head;
  for (; bytes >= 64; bytes -= 64, destination += 64, source += 64) {
    __m128i p = _mm_loadu_si128((const __m128i *)source);
    __m128i q = _mm_loadu_si128((const __m128i *)(source + 16));
    __m128i r = _mm_loadu_si128((const __m128i *)(source + 32));
    __m128i s = _mm_loadu_si128((const __m128i *)(source + 48));
    _mm_stream_si128((__m128i *)destination, p);
    _mm_stream_si128((__m128i *)(destination + 16), q);
    _mm_stream_si128((__m128i *)(destination + 32), r);
    _mm_stream_si128((__m128i *)(destination + 48), s);
  }
  _mm_sfence();
  memcpy(destination, source, bytes);
}

void processor_add_streaming(float *destination, const float *a, const float *b, size_t count) {
  // A destination that is not aligned to its elements would never meet a line's beginning.
  if (((uintptr_t)destination & 3) != 0) return add_plain(destination, a, b, count);
  if (__builtin_cpu_supports("avx512f")) return add_avx512(destination, a, b, count);
  if (__builtin_cpu_supports("avx")) return add_avx(destination, a, b, count);
  add_plain(destination, a, b, count);
}
void processor_copy_streaming(void *destination, const void *source, size_t bytes) {
  copy_sse(destination, source, bytes);
}
#else
void processor_add_streaming(float *destination, const float *a, const float *b, size_t count) {
  add_plain(destination, a, b, count);
}
void processor_copy_streaming(void *destination, const void *source, size_t bytes) {
  memcpy(destination, source, bytes);
}
#endif
