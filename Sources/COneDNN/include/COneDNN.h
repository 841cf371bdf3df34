// Matrix products by oneDNN (C API of 2.6): one primitive per shape, any number of threads. Owner: Compute.
//
// The library's own structs hold arrays and unions that Swift imports badly, and its calls come in long fixed
// sequences; this shim is those sequences and nothing else.
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef enum { ONEDNN_FLOAT32 = 0, ONEDNN_BFLOAT16 = 1 } onednn_type;

// c[rows, columns] = a[rows, inner] b[inner, columns], or c += where accumulating. Strides count elements; a
// transposed operand has row stride 1.
typedef struct {
  int64_t rows, columns, inner;
  int64_t a_row_stride, a_column_stride;
  int64_t b_row_stride, b_column_stride;
  int64_t c_row_stride;
  onednn_type operand_type, result_type;
  int32_t accumulate;
} onednn_matmul_shape;

// One per thread: streams and memory objects must not be shared.
typedef struct onednn_lane onednn_lane;
// Any lane may execute it, several at a time.
typedef struct onednn_matmul onednn_matmul;

// All functions return 0 or a dnnl_status_t.
int onednn_lane_create(int index, onednn_lane **lane);
void onednn_lane_destroy(onednn_lane *lane);

// For lanes with an index in 0 ..< lane_count.
int onednn_matmul_create(const onednn_matmul_shape *shape, int lane_count, onednn_matmul **matmul);
void onednn_matmul_destroy(onednn_matmul *matmul);
size_t onednn_matmul_scratch_bytes(const onednn_matmul *matmul);
const char *onednn_matmul_implementation(const onednn_matmul *matmul);
// `scratch` has at least onednn_matmul_scratch_bytes bytes, 64-byte aligned, and belongs to this call alone.
int onednn_matmul_execute(
    const onednn_matmul *matmul, onednn_lane *lane, const void *a, const void *b, void *c, void *scratch);

// Tells the OpenMP runtime under oneDNN that the calling thread has no helpers.
int onednn_use_one_thread(void);

// dnnl_cpu_isa_t in effect, and whether it multiplies bfloat16.
int onednn_instruction_set(void);
const char *onednn_instruction_set_name(void);
int onednn_supports_bfloat16(void);
// For example "2.6.3".
const char *onednn_version_text(void);
