// Vector instructions that Swift's SIMD types compile to one call per lane (Swift 6.3). Owner: Kernels.
//
// Inlined into the caller, so they use the instruction set that each build of the kernels is compiled for.
#pragma once
#include <stdint.h>

typedef float vector_float16 __attribute__((ext_vector_type(16)));
typedef uint16_t vector_ushort16 __attribute__((ext_vector_type(16)));
typedef uint32_t vector_uint16 __attribute__((ext_vector_type(16)));
typedef double vector_double8 __attribute__((ext_vector_type(8)));
typedef float vector_float8 __attribute__((ext_vector_type(8)));

#define VECTOR_INLINE static inline __attribute__((always_inline))

// SIMD16.squareRoot() tests each lane and calls sqrtf.
VECTOR_INLINE vector_float16 vector_square_root(vector_float16 x) { return __builtin_elementwise_sqrt(x); }

// SIMD16(truncatingIfNeeded:) converts lane by lane, out of line.
VECTOR_INLINE vector_uint16 vector_widen(vector_ushort16 x) { return __builtin_convertvector(x, vector_uint16); }
VECTOR_INLINE vector_ushort16 vector_truncate(vector_uint16 x) { return __builtin_convertvector(x, vector_ushort16); }

// pointwiseMin and pointwiseMax compare lane by lane. A NaN in x is lost to y.
VECTOR_INLINE vector_float16 vector_minimum(vector_float16 x, vector_float16 y) { return x < y ? x : y; }
VECTOR_INLINE vector_float16 vector_maximum(vector_float16 x, vector_float16 y) { return x > y ? x : y; }

// SIMD16.replacing(with:where:) on a comparison: sixteen times the code to compile, and to inline.
VECTOR_INLINE vector_float16 vector_where_less(
    vector_float16 x, vector_float16 y, vector_float16 then, vector_float16 otherwise) {
  return x < y ? then : otherwise;
}
VECTOR_INLINE vector_float16 vector_where_number(vector_float16 x, vector_float16 then, vector_float16 otherwise) {
  return x == x ? then : otherwise;
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

// SIMD8<Double>(SIMD8<Float>) converts lane by lane. Adds the squares of both halves.
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
