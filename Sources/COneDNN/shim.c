#define _GNU_SOURCE
#include "COneDNN.h"
#include <dlfcn.h>
#include <dnnl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

// The processor is one engine for the whole program; it is never destroyed.
static dnnl_engine_t engine;
static dnnl_status_t engine_status;
static pthread_once_t engine_once = PTHREAD_ONCE_INIT;
static void make_engine(void) { engine_status = dnnl_engine_create(&engine, dnnl_cpu, 0); }

static dnnl_status_t ensure_engine(void) {
  pthread_once(&engine_once, make_engine);
  return engine_status;
}

struct onednn_lane {
  dnnl_stream_t stream;
  int index;
};

enum { operand_count = 4 };
static const int argument_kinds[operand_count] = {
    DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};

// Memory objects are reused with new addresses: each lane has its own, made at its first call.
typedef struct {
  dnnl_memory_t memory[operand_count];
} lane_memory;

struct onednn_matmul {
  dnnl_primitive_t primitive;
  dnnl_memory_desc_t a, b, c, scratch;
  int lane_count;
  lane_memory *lanes;
  size_t scratch_bytes;
  const char *implementation;
  dnnl_primitive_desc_t descriptor;
};

int onednn_lane_create(int index, onednn_lane **result) {
  dnnl_status_t status = ensure_engine();
  if (status != dnnl_success) return status;
  onednn_lane *lane = calloc(1, sizeof *lane);
  if (!lane) return dnnl_out_of_memory;
  status = dnnl_stream_create(&lane->stream, engine, dnnl_stream_default_flags);
  if (status != dnnl_success) {
    free(lane);
    return status;
  }
  lane->index = index;
  *result = lane;
  return dnnl_success;
}

void onednn_lane_destroy(onednn_lane *lane) {
  if (!lane) return;
  dnnl_stream_destroy(lane->stream);
  free(lane);
}

static dnnl_data_type_t data_type(onednn_type type) { return type == ONEDNN_BFLOAT16 ? dnnl_bf16 : dnnl_f32; }

static dnnl_status_t describe(
    dnnl_memory_desc_t *result, onednn_type type, int64_t rows, int64_t columns, int64_t row_stride,
    int64_t column_stride) {
  dnnl_dims_t dimensions = {rows, columns};
  dnnl_dims_t strides = {row_stride, column_stride};
  return dnnl_memory_desc_init_by_strides(result, 2, dimensions, data_type(type), strides);
}

static dnnl_status_t create_primitive(const onednn_matmul_shape *shape, onednn_matmul *matmul) {
  dnnl_status_t status = describe(
      &matmul->a, shape->operand_type, shape->rows, shape->inner, shape->a_row_stride, shape->a_column_stride);
  if (status != dnnl_success) return status;
  status = describe(
      &matmul->b, shape->operand_type, shape->inner, shape->columns, shape->b_row_stride, shape->b_column_stride);
  if (status != dnnl_success) return status;
  status = describe(&matmul->c, shape->result_type, shape->rows, shape->columns, shape->c_row_stride, 1);
  if (status != dnnl_success) return status;
  dnnl_matmul_desc_t operation;
  status = dnnl_matmul_desc_init(&operation, &matmul->a, &matmul->b, NULL, &matmul->c);
  if (status != dnnl_success) return status;

  dnnl_primitive_attr_t attributes = NULL;
  dnnl_post_ops_t after = NULL;
  status = dnnl_primitive_attr_create(&attributes);
  if (status == dnnl_success)
    status = dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user);
  if (status == dnnl_success && shape->accumulate) {
    status = dnnl_post_ops_create(&after);
    if (status == dnnl_success) status = dnnl_post_ops_append_sum(after, 1.0f);
    if (status == dnnl_success) status = dnnl_primitive_attr_set_post_ops(attributes, after);
  }
  if (status == dnnl_success)
    status = dnnl_primitive_desc_create(&matmul->descriptor, &operation, attributes, engine, NULL);
  if (after) dnnl_post_ops_destroy(after);
  if (attributes) dnnl_primitive_attr_destroy(attributes);
  if (status != dnnl_success) return status;

  const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(matmul->descriptor, dnnl_query_scratchpad_md, 0);
  matmul->scratch = *scratch;
  matmul->scratch_bytes = dnnl_memory_desc_get_size(scratch);
  matmul->implementation = "";
  dnnl_primitive_desc_query(matmul->descriptor, dnnl_query_impl_info_str, 0, (void *)&matmul->implementation);
  return dnnl_primitive_create(&matmul->primitive, matmul->descriptor);
}

int onednn_matmul_create(const onednn_matmul_shape *shape, int lane_count, onednn_matmul **result) {
  dnnl_status_t status = ensure_engine();
  if (status != dnnl_success) return status;
  onednn_matmul *matmul = calloc(1, sizeof *matmul);
  if (!matmul) return dnnl_out_of_memory;
  matmul->lane_count = lane_count;
  matmul->lanes = calloc((size_t)lane_count, sizeof *matmul->lanes);
  if (!matmul->lanes) {
    free(matmul);
    return dnnl_out_of_memory;
  }
  // The number of threads at creation decides the blocking, and so the bits.
  onednn_use_one_thread();
  status = create_primitive(shape, matmul);
  if (status != dnnl_success) {
    onednn_matmul_destroy(matmul);
    return status;
  }
  *result = matmul;
  return dnnl_success;
}

void onednn_matmul_destroy(onednn_matmul *matmul) {
  if (!matmul) return;
  if (matmul->primitive) dnnl_primitive_destroy(matmul->primitive);
  if (matmul->descriptor) dnnl_primitive_desc_destroy(matmul->descriptor);
  for (int lane = 0; lane < matmul->lane_count; lane++)
    for (int i = 0; i < operand_count; i++)
      if (matmul->lanes[lane].memory[i]) dnnl_memory_destroy(matmul->lanes[lane].memory[i]);
  free(matmul->lanes);
  free(matmul);
}

size_t onednn_matmul_scratch_bytes(const onednn_matmul *matmul) { return matmul->scratch_bytes; }
const char *onednn_matmul_implementation(const onednn_matmul *matmul) { return matmul->implementation; }

int onednn_matmul_execute(
    const onednn_matmul *matmul, onednn_lane *lane, const void *a, const void *b, void *c, void *scratch) {
  const dnnl_memory_desc_t *descriptions[operand_count] = {&matmul->a, &matmul->b, &matmul->c, &matmul->scratch};
  void *addresses[operand_count] = {(void *)a, (void *)b, c, scratch};
  dnnl_memory_t *memory = matmul->lanes[lane->index].memory;
  dnnl_exec_arg_t arguments[operand_count];
  for (int i = 0; i < operand_count; i++) {
    dnnl_status_t status = memory[i] ? dnnl_memory_set_data_handle(memory[i], addresses[i])
                                     : dnnl_memory_create(&memory[i], descriptions[i], engine, addresses[i]);
    if (status != dnnl_success) return status;
    arguments[i].arg = argument_kinds[i];
    arguments[i].memory = memory[i];
  }
  dnnl_status_t status = dnnl_primitive_execute(matmul->primitive, lane->stream, operand_count, arguments);
  return status == dnnl_success ? dnnl_stream_wait(lane->stream) : status;
}

// oneDNN links the OpenMP runtime of its own build; looking the symbol up avoids a second one.
static void (*set_threads)(int);
static pthread_once_t set_threads_once = PTHREAD_ONCE_INIT;
static void find_set_threads(void) { *(void **)&set_threads = dlsym(RTLD_DEFAULT, "omp_set_num_threads"); }

int onednn_use_one_thread(void) {
  pthread_once(&set_threads_once, find_set_threads);
  if (set_threads) {
    set_threads(1);
    return 0;
  }
  return dnnl_version()->cpu_runtime == DNNL_RUNTIME_SEQ ? 0 : -1;
}

int onednn_instruction_set(void) { return (int)dnnl_get_effective_cpu_isa(); }

const char *onednn_instruction_set_name(void) {
  switch (dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_sse41: return "sse41";
    case dnnl_cpu_isa_avx: return "avx";
    case dnnl_cpu_isa_avx2: return "avx2";
    case dnnl_cpu_isa_avx2_vnni: return "avx2-vnni";
    case dnnl_cpu_isa_avx512_core: return "avx512";
    case dnnl_cpu_isa_avx512_core_vnni: return "avx512-vnni";
    case dnnl_cpu_isa_avx512_core_bf16: return "avx512-bf16";
    case dnnl_cpu_isa_avx512_core_amx: return "amx-bf16";
    default: return "generic";
  }
}

int onednn_supports_bfloat16(void) {
  switch (dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_avx512_core:
    case dnnl_cpu_isa_avx512_core_vnni:
    case dnnl_cpu_isa_avx512_core_bf16:
    case dnnl_cpu_isa_avx512_core_amx: return 1;
    default: return 0;
  }
}

static char version_text[32];
static pthread_once_t version_once = PTHREAD_ONCE_INIT;
static void make_version_text(void) {
  const dnnl_version_t *version = dnnl_version();
  snprintf(version_text, sizeof version_text, "%d.%d.%d", version->major, version->minor, version->patch);
}

const char *onednn_version_text(void) {
  pthread_once(&version_once, make_version_text);
  return version_text;
}
