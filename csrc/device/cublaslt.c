/* cuBLASLt: descriptors with attributes, one heuristic answer, and the matrix product itself.
 *
 * The opaque objects keep our fields inside the sizes of the public header (layout and preference 64 bytes,
 * operation descriptor 184 bytes in CUDA 12 and 256 in CUDA 13), because callers may place them on their stack.
 */
#include <stdlib.h>
#include <string.h>

#include "device/cublas.h"
#include "device/describe.h"

enum {
  LAYOUT_TYPE,
  LAYOUT_ORDER,
  LAYOUT_ROWS,
  LAYOUT_COLS,
  LAYOUT_LD,
  LAYOUT_BATCH_COUNT,
  LAYOUT_BATCH_OFFSET,
  LAYOUT_PLANE_OFFSET,
  LAYOUT_BATCH_MODE
};
enum { ORDER_COL = 0, ORDER_ROW = 1 };

struct lt_layout {
  uint32_t type;
  int32_t order;
  uint64_t rows, cols;
  int64_t ld;
  int32_t batch;
  uint32_t batch_mode;
  int64_t batch_offset, plane_offset;
};
_Static_assert(sizeof(struct lt_layout) <= 64, "cublasLtMatrixLayoutOpaque_t");

/* 39 attributes do not fit at 8 bytes each: pointers get a wide slot, enumerations one byte. */
enum { DESC_TRANSA = 3, DESC_EPILOGUE = 7, DESC_COUNT = 40 };

struct lt_desc {
  uint64_t wide[8];   /* pointers and strides, see wide_slot */
  uint8_t narrow[24]; /* enumerations, all below 256 */
};
_Static_assert(sizeof(struct lt_desc) <= 184, "cublasLtMatmulDescOpaque_t of CUDA 12");

/* Where an attribute lives: 0..7 wide, 8..31 narrow (minus 8), -1 accepted and not kept. */
static int slot_of(int attribute) {
  switch (attribute) {
  case 8: return 0;  /* bias pointer */
  case 11: return 1; /* epilogue aux pointer */
  case 21: return 2; /* amax of D */
  case 24: return 3; /* amax of aux */
  case 36: return 4; /* block scales of D */
  case 17: return 5; /* scale of A */
  case 18: return 6; /* scale of B */
  case 20: return 7; /* scale of D */
  case 0: return 8;
  case 1: return 9;
  case 2: return 10;
  case 3: return 11;
  case 4: return 12;
  case 5: return 13;
  case 6: return 14;
  case 7: return 15;
  case 22: return 16;
  case 25: return 17;
  case 26: return 18;
  case 31: return 19;
  case 32: return 20;
  case 33: return 21;
  case 34: return 22;
  case 35: return 23;
  case 37: return 24;
  default: return -1;
  }
}

struct lt_preference {
  uint64_t value[8];
};

/* --- library ------------------------------------------------------------------------------------------- */

struct lt_handle {
  uint64_t magic;
};
#define LT_MAGIC 0x72767462746cull

RVT_API int cublasLtCreate(struct lt_handle **out) {
  if (!out) return CUBLAS_INVALID_VALUE;
  if (rvt_device_count() <= 0) return CUBLAS_NOT_INITIALIZED;
  *out = calloc(1, sizeof **out);
  if (!*out) return CUBLAS_ALLOC_FAILED;
  (*out)->magic = LT_MAGIC;
  return CUBLAS_SUCCESS;
}

/* A cublasHandle_t is a valid cublasLtHandle_t: only free what cublasLtCreate made. */
RVT_API int cublasLtDestroy(struct lt_handle *handle) {
  if (!handle || handle->magic != LT_MAGIC) return CUBLAS_NOT_INITIALIZED;
  handle->magic = 0;
  free(handle);
  return CUBLAS_SUCCESS;
}

RVT_API size_t cublasLtGetVersion(void) { return rvt_cuda_major() >= 13 ? 130100 : 120804; }
RVT_API size_t cublasLtGetCudartVersion(void) { return rvt_cuda_major() >= 13 ? 13000 : 12080; }
RVT_API int cublasLtGetProperty(int type, int *value) {
  if (!value || type < 0 || type > 2) return CUBLAS_INVALID_VALUE;
  int version = (int)cublasLtGetVersion();
  *value = type == 0 ? version / 10000 : type == 1 ? version / 100 % 100 : version % 100;
  return CUBLAS_SUCCESS;
}
RVT_API const char *cublasLtGetStatusName(int status) {
  return status ? "CUBLAS_STATUS_ERROR" : "CUBLAS_STATUS_SUCCESS";
}
RVT_API const char *cublasLtGetStatusString(int status) { return cublasLtGetStatusName(status); }
RVT_RECORDED int cublasLtHeuristicsCacheSetCapacity(size_t capacity) { return CUBLAS_SUCCESS; }
RVT_API int cublasLtHeuristicsCacheGetCapacity(size_t *capacity) {
  if (!capacity) return CUBLAS_INVALID_VALUE;
  *capacity = 8192;
  return CUBLAS_SUCCESS;
}
RVT_RECORDED unsigned cublasLtDisableCpuInstructionsSetMask(unsigned mask) { return 0; }
RVT_RECORDED int cublasLtLoggerSetCallback(void *callback) { return CUBLAS_SUCCESS; }
RVT_RECORDED int cublasLtLoggerSetFile(void *file) { return CUBLAS_SUCCESS; }
RVT_RECORDED int cublasLtLoggerOpenFile(const char *file) { return CUBLAS_SUCCESS; }
RVT_RECORDED int cublasLtLoggerSetLevel(int level) { return CUBLAS_SUCCESS; }
RVT_RECORDED int cublasLtLoggerSetMask(int mask) { return CUBLAS_SUCCESS; }
RVT_RECORDED int cublasLtLoggerForceDisable(void) { return CUBLAS_SUCCESS; }

/* --- matrix layouts ------------------------------------------------------------------------------------ */

RVT_API int cublasLtMatrixLayoutInit_internal(struct lt_layout *layout, size_t size, int type, uint64_t rows,
                                              uint64_t cols, int64_t ld) {
  if (!layout || size < sizeof *layout) return CUBLAS_INVALID_VALUE;
  *layout = (struct lt_layout){.type = (uint32_t)type, .rows = rows, .cols = cols, .ld = ld, .batch = 1};
  return CUBLAS_SUCCESS;
}

RVT_API int cublasLtMatrixLayoutCreate(struct lt_layout **out, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  if (!out) return CUBLAS_INVALID_VALUE;
  *out = malloc(64);
  return *out ? cublasLtMatrixLayoutInit_internal(*out, 64, type, rows, cols, ld) : CUBLAS_ALLOC_FAILED;
}

RVT_API int cublasLtMatrixLayoutDestroy(struct lt_layout *layout) {
  free(layout);
  return CUBLAS_SUCCESS;
}

static void *layout_field(struct lt_layout *l, int attribute, size_t *bytes) {
  *bytes = 4;
  switch (attribute) {
  case LAYOUT_TYPE: return &l->type;
  case LAYOUT_ORDER: return &l->order;
  case LAYOUT_BATCH_COUNT: return &l->batch;
  case LAYOUT_BATCH_MODE: return &l->batch_mode;
  }
  *bytes = 8;
  switch (attribute) {
  case LAYOUT_ROWS: return &l->rows;
  case LAYOUT_COLS: return &l->cols;
  case LAYOUT_LD: return &l->ld;
  case LAYOUT_BATCH_OFFSET: return &l->batch_offset;
  case LAYOUT_PLANE_OFFSET: return &l->plane_offset;
  default: return NULL;
  }
}

RVT_API int cublasLtMatrixLayoutSetAttribute(struct lt_layout *layout, int attribute, const void *buffer, size_t size) {
  size_t bytes;
  void *field = layout && buffer ? layout_field(layout, attribute, &bytes) : NULL;
  if (!field || size < bytes) return CUBLAS_INVALID_VALUE;
  memcpy(field, buffer, bytes);
  return CUBLAS_SUCCESS;
}

RVT_API int cublasLtMatrixLayoutGetAttribute(struct lt_layout *layout, int attribute, void *buffer, size_t size,
                                             size_t *written) {
  size_t bytes;
  void *field = layout ? layout_field(layout, attribute, &bytes) : NULL;
  if (!field) return CUBLAS_INVALID_VALUE;
  if (written) *written = bytes;
  if (size == 0 && written) return CUBLAS_SUCCESS;
  if (size < bytes || !buffer) return CUBLAS_INVALID_VALUE;
  memcpy(buffer, field, bytes);
  return CUBLAS_SUCCESS;
}

/* --- operation descriptors ----------------------------------------------------------------------------- */

RVT_API int cublasLtMatmulDescInit_internal(struct lt_desc *desc, size_t size, int compute, int scale_type) {
  if (!desc || size < sizeof *desc) return CUBLAS_INVALID_VALUE;
  memset(desc, 0, sizeof *desc);
  desc->narrow[0] = (uint8_t)compute;
  desc->narrow[1] = (uint8_t)scale_type;
  desc->narrow[slot_of(DESC_EPILOGUE) - 8] = 1; /* CUBLASLT_EPILOGUE_DEFAULT */
  return CUBLAS_SUCCESS;
}

RVT_API int cublasLtMatmulDescCreate(struct lt_desc **out, int compute, int scale_type) {
  if (!out) return CUBLAS_INVALID_VALUE;
  *out = malloc(256);
  return *out ? cublasLtMatmulDescInit_internal(*out, 256, compute, scale_type) : CUBLAS_ALLOC_FAILED;
}

RVT_API int cublasLtMatmulDescDestroy(struct lt_desc *desc) {
  free(desc);
  return CUBLAS_SUCCESS;
}

RVT_API int cublasLtMatmulDescSetAttribute(struct lt_desc *desc, int attribute, const void *buffer, size_t size) {
  if (!desc || !buffer || attribute < 0 || attribute >= DESC_COUNT) return CUBLAS_INVALID_VALUE;
  int slot = slot_of(attribute);
  if (slot >= 8) {
    uint32_t value = 0;
    memcpy(&value, buffer, size > 4 ? 4 : size);
    desc->narrow[slot - 8] = (uint8_t)value;
    /* Epilogue bits go up to 0x1FF (BGRADA): the low byte is what the shape of the work depends on. */
  } else if (slot >= 0) {
    if (size < 8) return CUBLAS_INVALID_VALUE;
    memcpy(&desc->wide[slot], buffer, 8);
  }
  return CUBLAS_SUCCESS;
}

RVT_API int cublasLtMatmulDescGetAttribute(struct lt_desc *desc, int attribute, void *buffer, size_t size,
                                           size_t *written) {
  if (!desc || attribute < 0 || attribute >= DESC_COUNT) return CUBLAS_INVALID_VALUE;
  int slot = slot_of(attribute);
  size_t bytes = slot >= 0 && slot < 8 ? 8 : attribute == 25 ? 1 : 4;
  if (written) *written = bytes;
  if (size == 0 && written) return CUBLAS_SUCCESS;
  if (!buffer || size < bytes) return CUBLAS_INVALID_VALUE;
  uint64_t value = slot < 0 ? 0 : slot < 8 ? desc->wide[slot] : desc->narrow[slot - 8];
  memcpy(buffer, &value, bytes);
  return CUBLAS_SUCCESS;
}

/* --- preferences and heuristics ------------------------------------------------------------------------ */

RVT_API int cublasLtMatmulPreferenceInit_internal(struct lt_preference *preference, size_t size) {
  if (!preference || size < 64) return CUBLAS_INVALID_VALUE;
  memset(preference, 0, 64);
  return CUBLAS_SUCCESS;
}

RVT_API int cublasLtMatmulPreferenceCreate(struct lt_preference **out) {
  if (!out) return CUBLAS_INVALID_VALUE;
  *out = calloc(1, 64);
  return *out ? CUBLAS_SUCCESS : CUBLAS_ALLOC_FAILED;
}

RVT_API int cublasLtMatmulPreferenceDestroy(struct lt_preference *preference) {
  free(preference);
  return CUBLAS_SUCCESS;
}

RVT_API int cublasLtMatmulPreferenceSetAttribute(struct lt_preference *preference, int attribute, const void *buffer,
                                                 size_t size) {
  if (!preference || !buffer) return CUBLAS_INVALID_VALUE;
  if (attribute == 1 && size >= 8) memcpy(&preference->value[1], buffer, 8); /* workspace limit */
  return CUBLAS_SUCCESS;
}

RVT_API int cublasLtMatmulPreferenceGetAttribute(struct lt_preference *preference, int attribute, void *buffer,
                                                 size_t size, size_t *written) {
  if (!preference || attribute != 1) return CUBLAS_INVALID_VALUE;
  if (written) *written = 8;
  if (buffer && size >= 8) memcpy(buffer, &preference->value[1], 8);
  return CUBLAS_SUCCESS;
}

struct lt_algo {
  uint64_t data[8];
};
struct lt_heuristic {
  struct lt_algo algo;
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

/* One algorithm answers every request: which kernels the real library would pick is the predictor's business. */
static const struct lt_algo only_algo = {.data = {0x5256544c54000001ull}};

RVT_API int cublasLtMatmulAlgoGetHeuristic(void *handle, struct lt_desc *desc, struct lt_layout *a, struct lt_layout *b,
                                           struct lt_layout *c, struct lt_layout *d, struct lt_preference *preference,
                                           int wanted, struct lt_heuristic *results, int *found) {
  if (!handle || !desc || !a || !b || !d || !results || !found || wanted < 1) return CUBLAS_INVALID_VALUE;
  memset(results, 0, sizeof *results);
  results->algo = only_algo;
  results->waves = 1.0f;
  *found = 1;
  return CUBLAS_SUCCESS;
}

RVT_API int cublasLtMatmulAlgoGetIds(void *handle, int compute, int scale, int at, int bt, int ct, int dt, int wanted,
                                     int *ids, int *found) {
  if (!ids || !found || wanted < 1) return CUBLAS_INVALID_VALUE;
  ids[0] = 1;
  *found = 1;
  return CUBLAS_SUCCESS;
}

RVT_API int cublasLtMatmulAlgoInit(void *handle, int compute, int scale, int at, int bt, int ct, int dt, int id,
                                   struct lt_algo *algo) {
  if (!algo) return CUBLAS_INVALID_VALUE;
  *algo = only_algo;
  return CUBLAS_SUCCESS;
}

RVT_API int cublasLtMatmulAlgoCheck(void *handle, struct lt_desc *desc, struct lt_layout *a, struct lt_layout *b,
                                    struct lt_layout *c, struct lt_layout *d, const struct lt_algo *algo,
                                    struct lt_heuristic *result) {
  int found;
  return cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, c, d, NULL, 1, result, &found);
}

RVT_RECORDED int cublasLtMatmulAlgoConfigSetAttribute(struct lt_algo *algo, int attribute, const void *buffer,
                                                      size_t size) {
  return algo && buffer ? CUBLAS_SUCCESS : CUBLAS_INVALID_VALUE;
}

RVT_RECORDED int cublasLtMatmulAlgoConfigGetAttribute(const struct lt_algo *algo, int attribute, void *buffer,
                                                      size_t size, size_t *written) {
  if (!algo || !buffer) return CUBLAS_INVALID_VALUE;
  memset(buffer, 0, size);
  if (written) *written = size;
  return CUBLAS_SUCCESS;
}

RVT_RECORDED int cublasLtMatmulAlgoCapGetAttribute(const struct lt_algo *algo, int attribute, void *buffer, size_t size,
                                                   size_t *written) {
  return cublasLtMatmulAlgoConfigGetAttribute(algo, attribute, buffer, size, written);
}

/* --- the product --------------------------------------------------------------------------------------- */

RVT_API int cublasLtMatmul(void *handle, struct lt_desc *desc, const void *alpha, const void *a, struct lt_layout *la,
                           const void *b, struct lt_layout *lb, const void *beta, const void *c, struct lt_layout *lc,
                           void *d, struct lt_layout *ld, const struct lt_algo *algo, void *workspace,
                           size_t workspace_bytes, void *stream) {
  if (!handle) return CUBLAS_NOT_INITIALIZED;
  if (!desc || !la || !lb || !ld || !d) return CUBLAS_INVALID_VALUE;
  bool transposed_a = desc->narrow[slot_of(DESC_TRANSA) - 8] != 0;
  int epilogue = desc->narrow[slot_of(DESC_EPILOGUE) - 8];
  struct rvt_gemm gemm = {
      .m = (int64_t)ld->rows,
      .n = (int64_t)ld->cols,
      .k = (int64_t)(transposed_a ? la->rows : la->cols),
      .batch = ld->batch > 0 ? ld->batch : 1,
      .lda = la->ld,
      .ldb = lb->ld,
      .ldc = ld->ld,
      .stride_c = ld->batch_offset,
      .c = d,
      .a_type = (int)la->type,
      .b_type = (int)lb->type,
      .c_type = (int)ld->type,
      .compute = desc->narrow[0],
      .epilogue = epilogue == 1 ? 0 : epilogue,
  };
  if (ld->order == ORDER_ROW) rvt_gemm_of_row_major(&gemm);
  struct rvt_stream *where = rvt_stream_resolve(stream);
  int status = rvt_cublas_gemm(where, &gemm);
  /* What an epilogue writes beside D: the auxiliary matrix and the maxima. Small ones were maybe known. */
  if (status == CUBLAS_SUCCESS && !rvt_stream_is_capturing(where)) {
    for (int i = 1; i <= 4; i++) {
      if (desc->wide[i]) rvt_mem_forget_at(desc->wide[i]);
    }
  }
  return status;
}

/* --- matrix transform: a copy -------------------------------------------------------------------------- */

struct lt_transform {
  uint64_t data[8];
};

RVT_API int cublasLtMatrixTransformDescInit_internal(struct lt_transform *desc, size_t size, int scale_type) {
  if (!desc || size < 64) return CUBLAS_INVALID_VALUE;
  memset(desc, 0, 64);
  return CUBLAS_SUCCESS;
}
RVT_API int cublasLtMatrixTransformDescCreate(struct lt_transform **out, int scale_type) {
  if (!out) return CUBLAS_INVALID_VALUE;
  *out = calloc(1, 64);
  return *out ? CUBLAS_SUCCESS : CUBLAS_ALLOC_FAILED;
}
RVT_API int cublasLtMatrixTransformDescDestroy(struct lt_transform *desc) {
  free(desc);
  return CUBLAS_SUCCESS;
}
RVT_RECORDED int cublasLtMatrixTransformDescSetAttribute(struct lt_transform *desc, int attribute, const void *buffer,
                                                         size_t size) {
  return desc && buffer ? CUBLAS_SUCCESS : CUBLAS_INVALID_VALUE;
}
RVT_API int cublasLtMatrixTransform(void *handle, struct lt_transform *desc, const void *alpha, const void *a,
                                    struct lt_layout *la, const void *beta, const void *b, struct lt_layout *lb,
                                    void *c, struct lt_layout *lc, void *stream) {
  if (!handle || !lc || !c) return CUBLAS_INVALID_VALUE;
  uint64_t bytes = lc->rows * lc->cols * rvt_cublas_bits((int)lc->type) / 8;
  struct rvt_op op = {.kind = RVT_OP_COPY, .p = {(int64_t)bytes, RVT_COPY_D2D}};
  struct rvt_forget forget = {.addr = (uint64_t)c, .bytes = bytes};
  struct rvt_stream *where = rvt_stream_resolve(stream);
  if (!where) return CUBLAS_INVALID_VALUE;
  return rvt_submit_op(where, &op, NULL, rvt_effect_forget, &forget, sizeof forget) ? CUBLAS_EXECUTION_FAILED
                                                                                    : CUBLAS_SUCCESS;
}
