// Vector instructions for the kernels. Owner: Kernels.
//
// Swift 6.3 lowers most operators of SIMD16 (fused multiply-add, shifts, comparisons, selection, square root, products
// with a scalar) lane by lane and leaves it to LLVM to find the vector again, which takes long and sometimes fails.
// These are the same operations as one instruction each. They are inlined into the caller, so they use the instruction
// set that each build of the kernels is compiled for.
#pragma once
#include <stdint.h>

typedef float vector_float16 __attribute__((ext_vector_type(16)));
typedef float vector_float8 __attribute__((ext_vector_type(8)));
typedef double vector_double8 __attribute__((ext_vector_type(8)));
typedef uint16_t vector_ushort16 __attribute__((ext_vector_type(16)));
typedef int32_t vector_int16 __attribute__((ext_vector_type(16)));
typedef uint32_t vector_uint16 __attribute__((ext_vector_type(16)));
typedef uint16_t vector_ushort8 __attribute__((ext_vector_type(8)));
typedef uint32_t vector_uint8 __attribute__((ext_vector_type(8)));

#define VECTOR_INLINE static inline __attribute__((always_inline))

VECTOR_INLINE vector_float16 vector_splat(float x) { return (vector_float16)(x); }
VECTOR_INLINE vector_float16 vector_add(vector_float16 x, vector_float16 y) { return x + y; }
VECTOR_INLINE vector_float16 vector_subtract(vector_float16 x, vector_float16 y) { return x - y; }
VECTOR_INLINE vector_float16 vector_multiply(vector_float16 x, vector_float16 y) { return x * y; }
VECTOR_INLINE vector_float16 vector_divide(vector_float16 x, vector_float16 y) { return x / y; }
// x y + sum, rounded once.
VECTOR_INLINE vector_float16 vector_multiply_add(vector_float16 x, vector_float16 y, vector_float16 sum) {
  return __builtin_elementwise_fma(x, y, sum);
}
VECTOR_INLINE vector_float8 vector_multiply_add_8(float x, vector_float8 y, vector_float8 sum) {
  return __builtin_elementwise_fma((vector_float8)(x), y, sum);
}
VECTOR_INLINE vector_float16 vector_square_root(vector_float16 x) { return __builtin_elementwise_sqrt(x); }

// Brings a line of memory, which may lie beyond what is allocated, into the first-level cache.
VECTOR_INLINE void vector_prefetch(const float *x) { __builtin_prefetch(x, 0, 3); }

// x 2^k, where k is the integer in the low significand bits of `integer`, and the result is a normal number.
VECTOR_INLINE vector_float16 vector_add_exponent(vector_float16 x, vector_float16 integer) {
  return (vector_float16)((vector_uint16)x + ((vector_uint16)integer << 23));
}

// bfloat16 to float32: the upper half of the bits.
VECTOR_INLINE vector_float16 vector_from_bfloat16(vector_ushort16 x) {
  return (vector_float16)(__builtin_convertvector(x, vector_uint16) << 16);
}
VECTOR_INLINE vector_float8 vector_from_bfloat16_8(vector_ushort8 x) {
  return (vector_float8)(__builtin_convertvector(x, vector_uint8) << 16);
}
// float32 to bfloat16: to nearest, ties to even; a NaN is made quiet, so that rounding cannot carry it into a number.
#define VECTOR_TO_BFLOAT16(name, lanes)                                          \
  VECTOR_INLINE vector_ushort##lanes name(vector_float##lanes x) {               \
    vector_uint##lanes bits = (vector_uint##lanes)x;                             \
    vector_uint##lanes rounded = bits + 0x7FFF + ((bits >> 16) & 1);             \
    vector_uint##lanes kept = x == x ? rounded : (bits | 0x00400000);            \
    return __builtin_convertvector(kept >> 16, vector_ushort##lanes);            \
  }
VECTOR_TO_BFLOAT16(vector_to_bfloat16, 16)
VECTOR_TO_BFLOAT16(vector_to_bfloat16_8, 8)

// A NaN in x is lost to y.
VECTOR_INLINE vector_float16 vector_minimum(vector_float16 x, vector_float16 y) { return x < y ? x : y; }
VECTOR_INLINE vector_float16 vector_maximum(vector_float16 x, vector_float16 y) { return x > y ? x : y; }

// `then` in the lanes where x < y, or where x is a number.
VECTOR_INLINE vector_float16 vector_where_less(
    vector_float16 x, vector_float16 y, vector_float16 then, vector_float16 otherwise) {
  return x < y ? then : otherwise;
}
VECTOR_INLINE vector_float16 vector_where_number(vector_float16 x, vector_float16 then, vector_float16 otherwise) {
  return x == x ? then : otherwise;
}

// Whether the interval lower ..< upper of any lane holds `index`, and `then` in the lanes whose interval does, else 0.
VECTOR_INLINE int vector_any_within(vector_int16 lower, vector_int16 upper, int32_t index) {
  return __builtin_reduce_or((lower <= index) & (index < upper)) != 0;
}
VECTOR_INLINE vector_float16 vector_where_within(
    vector_int16 lower, vector_int16 upper, int32_t index, vector_float16 then) {
  return ((lower <= index) & (index < upper)) ? then : (vector_float16)(0.0f);
}

// Halves folded on halves: the same order whatever the width of the registers.
VECTOR_INLINE float vector_total(vector_float16 x) {
  vector_float8 eight = x.lo + x.hi;
  __auto_type four = eight.lo + eight.hi;
  __auto_type two = four.lo + four.hi;
  return two.x + two.y;
}
VECTOR_INLINE float vector_largest(vector_float16 x) {
  vector_float8 eight = x.lo > x.hi ? x.lo : x.hi;
  __auto_type four = eight.lo > eight.hi ? eight.lo : eight.hi;
  __auto_type two = four.lo > four.hi ? four.lo : four.hi;
  return two.x > two.y ? two.x : two.y;
}

// Adds the squares of both halves.
VECTOR_INLINE vector_double8 vector_add_squares(vector_double8 sum, vector_float16 x) {
  vector_double8 low = __builtin_convertvector(x.lo, vector_double8);
  vector_double8 high = __builtin_convertvector(x.hi, vector_double8);
  return sum + (low * low + high * high);
}
VECTOR_INLINE double vector_total_double(vector_double8 x) {
  __auto_type four = x.lo + x.hi;
  __auto_type two = four.lo + four.hi;
  return two.x + two.y;
}

// Sixteen (eight, four) lines of sixteen elements of 32 bits become sixteen lines of sixteen (eight, four). Strides are
// bytes. Those of 16 bits, which `halves` says, are bfloat16 and become float32.
// Macros: a call that passes a vector has another convention in each instruction set, and clang warns of that.
#define VECTOR_LOAD_LINE(line, source)               \
  if (halves) {                                      \
    vector_ushort16 half;                            \
    __builtin_memcpy(&half, source, sizeof half);    \
    line = (vector_float16)(__builtin_convertvector(half, vector_uint16) << 16); \
  } else {                                           \
    __builtin_memcpy(&line, source, sizeof line);    \
  }
#define VECTOR_INTERLEAVE_LOW(x, y) __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define VECTOR_INTERLEAVE_HIGH(x, y) \
  __builtin_shufflevector(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
VECTOR_INLINE void vector_transpose16(
    const void *source, long stride, void *target, long target_stride, int halves) {
  vector_float16 r[16], t[16];
  const char *lines = source;
  for (int i = 0; i < 16; i++) VECTOR_LOAD_LINE(r[i], lines + i * stride)
  // Four rounds of interleaving halves with the line half of all lines further on transpose a square of 2^4.
  for (int round = 0; round < 4; round++) {
    for (int i = 0; i < 8; i++) {
      t[2 * i] = VECTOR_INTERLEAVE_LOW(r[i], r[i + 8]);
      t[2 * i + 1] = VECTOR_INTERLEAVE_HIGH(r[i], r[i + 8]);
    }
    for (int i = 0; i < 16; i++) r[i] = t[i];
  }
  for (int i = 0; i < 16; i++) __builtin_memcpy((char *)target + i * target_stride, &r[i], sizeof r[i]);
}
VECTOR_INLINE void vector_transpose8(const void *source, long stride, void *target, long target_stride, int halves) {
  vector_float16 r[8], t[8];
  const char *lines = source;
  for (int i = 0; i < 8; i++) VECTOR_LOAD_LINE(r[i], lines + i * stride)
  // Three rounds leave two target lines in each vector.
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < 4; i++) {
      t[2 * i] = VECTOR_INTERLEAVE_LOW(r[i], r[i + 4]);
      t[2 * i + 1] = VECTOR_INTERLEAVE_HIGH(r[i], r[i + 4]);
    }
    for (int i = 0; i < 8; i++) r[i] = t[i];
  }
  for (int i = 0; i < 8; i++) {
    vector_float8 lower = r[i].lo, upper = r[i].hi;
    __builtin_memcpy((char *)target + 2 * i * target_stride, &lower, sizeof lower);
    __builtin_memcpy((char *)target + (2 * i + 1) * target_stride, &upper, sizeof upper);
  }
}
VECTOR_INLINE void vector_transpose4(const void *source, long stride, void *target, long target_stride, int halves) {
  vector_float16 r[4], t[4];
  const char *lines = source;
  for (int i = 0; i < 4; i++) VECTOR_LOAD_LINE(r[i], lines + i * stride)
  // Two rounds leave four target lines in each vector.
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < 2; i++) {
      t[2 * i] = VECTOR_INTERLEAVE_LOW(r[i], r[i + 2]);
      t[2 * i + 1] = VECTOR_INTERLEAVE_HIGH(r[i], r[i + 2]);
    }
    for (int i = 0; i < 4; i++) r[i] = t[i];
  }
  for (int i = 0; i < 4; i++) {
    const char *four = (const char *)&r[i];
    for (int k = 0; k < 4; k++) __builtin_memcpy((char *)target + (4 * i + k) * target_stride, four + 16 * k, 16);
  }
}

// Two rows of sixteen (or eight) elements of 16 bits become sixteen (or eight) pairs, the first row's in the lower halves.
VECTOR_INLINE void vector_pack_pairs16(const void *first, const void *second, void *target) {
  vector_ushort16 low, high;
  __builtin_memcpy(&low, first, sizeof low);
  __builtin_memcpy(&high, second, sizeof high);
  vector_uint16 pairs = __builtin_convertvector(low, vector_uint16) | __builtin_convertvector(high, vector_uint16) << 16;
  __builtin_memcpy(target, &pairs, sizeof pairs);
}
VECTOR_INLINE void vector_pack_pairs8(const void *first, const void *second, void *target) {
  vector_ushort8 low, high;
  __builtin_memcpy(&low, first, sizeof low);
  __builtin_memcpy(&high, second, sizeof high);
  vector_uint8 pairs = __builtin_convertvector(low, vector_uint8) | __builtin_convertvector(high, vector_uint8) << 16;
  __builtin_memcpy(target, &pairs, sizeof pairs);
}

#ifdef __AVX512BF16__
// sum + the products of the two bfloat16 numbers in each lane.
VECTOR_INLINE vector_float16 vector_add_pairs(vector_float16 sum, vector_float16 x, vector_float16 y) {
  typedef __bf16 bfloat32 __attribute__((vector_size(64)));
  return (vector_float16)__builtin_ia32_dpbf16ps_512(sum, (bfloat32)x, (bfloat32)y);
}
#endif
