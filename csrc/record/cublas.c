/* Matrix products of cuBLAS. What other cuBLAS calls launch is seen in the driver, kernel by kernel. */
#include <string.h>

#include "device/describe.h"
#include "record/record.h"

typedef void *cublas_t;

static void *stream_of(cublas_t handle) {
  int (*get)(cublas_t, void **) = RVT_KEPT("cublasGetStream_v2");
  void *stream = NULL;
  return get && get(handle, &stream) == 0 ? stream : NULL;
}

/* CUBLAS_TF32_TENSOR_OP_MATH on the handle turns FP32 products into TF32 ones. */
static int compute_of(cublas_t handle, int compute) {
  int (*get)(cublas_t, int *) = RVT_KEPT("cublasGetMathMode");
  int mode = 0;
  if (compute != CUBLAS_COMPUTE_32F || !get || get(handle, &mode)) return compute;
  return (mode & 0xF) == 3 ? CUBLAS_COMPUTE_32F_FAST_TF32 : compute;
}

#define SHAPE .m = m, .n = n, .k = k, .lda = lda, .ldb = ldb, .ldc = ldc
#define PRODUCT(function, parameters, arguments, ...)                                                     \
  RVT_SUBMITS(function, parameters, arguments, stream_of(h), struct rvt_gemm gemm = {SHAPE, __VA_ARGS__}; \
              gemm.compute = compute_of(h, gemm.compute); rvt_describe_gemm(&op, &gemm))
#define EX .a_type = at, .b_type = bt, .c_type = ct, .compute = compute

#define GEMM_EX(function, integer)                                                                                \
  PRODUCT(function,                                                                                               \
          (cublas_t h, int ta, int tb, integer m, integer n, integer k, const void *alpha, const void *a, int at, \
           integer lda, const void *b, int bt, integer ldb, const void *beta, void *c, int ct, integer ldc,       \
           int compute, int algo),                                                                                \
          (h, ta, tb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc, compute, algo), .batch = 1, EX)
GEMM_EX(cublasGemmEx, int)
GEMM_EX(cublasGemmEx_64, int64_t)

PRODUCT(cublasSgemmEx,
        (cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int at, int lda,
         const void *b, int bt, int ldb, const void *beta, void *c, int ct, int ldc),
        (h, ta, tb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc), .batch = 1, .a_type = at, .b_type = bt,
        .c_type = ct, .compute = CUBLAS_COMPUTE_32F)

#define GEMM_STRIDED_EX(function, integer)                                                                         \
  PRODUCT(function,                                                                                                \
          (cublas_t h, int ta, int tb, integer m, integer n, integer k, const void *alpha, const void *a, int at,  \
           integer lda, long long sa, const void *b, int bt, integer ldb, long long sb, const void *beta, void *c, \
           int ct, integer ldc, long long sc, integer batch, int compute, int algo),                               \
          (h, ta, tb, m, n, k, alpha, a, at, lda, sa, b, bt, ldb, sb, beta, c, ct, ldc, sc, batch, compute, algo), \
          .batch = batch, EX)
GEMM_STRIDED_EX(cublasGemmStridedBatchedEx, int)
GEMM_STRIDED_EX(cublasGemmStridedBatchedEx_64, int64_t)

PRODUCT(cublasGemmBatchedEx,
        (cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *const *a, int at, int lda,
         const void *const *b, int bt, int ldb, const void *beta, void *const *c, int ct, int ldc, int batch,
         int compute, int algo),
        (h, ta, tb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc, batch, compute, algo), .batch = batch, EX)

/* The typed forms: one element type decides everything. */
#define TYPED(function, type, compute_type)                                                                           \
  PRODUCT(function,                                                                                                   \
          (cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int lda, const void *b, \
           int ldb, const void *beta, void *c, int ldc),                                                              \
          (h, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc), .batch = 1, .a_type = type, .b_type = type,      \
          .c_type = type, .compute = compute_type)
TYPED(cublasHgemm, CUDA_R_16F, CUBLAS_COMPUTE_16F)
TYPED(cublasSgemm_v2, CUDA_R_32F, CUBLAS_COMPUTE_32F)
TYPED(cublasDgemm_v2, CUDA_R_64F, CUBLAS_COMPUTE_64F)
TYPED(cublasCgemm_v2, CUDA_C_32F, CUBLAS_COMPUTE_32F)
TYPED(cublasZgemm_v2, CUDA_C_64F, CUBLAS_COMPUTE_64F)

#define TYPED_STRIDED(function, type, compute_type)                                                                  \
  PRODUCT(function,                                                                                                  \
          (cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int lda, long long sa, \
           const void *b, int ldb, long long sb, const void *beta, void *c, int ldc, long long sc, int batch),       \
          (h, ta, tb, m, n, k, alpha, a, lda, sa, b, ldb, sb, beta, c, ldc, sc, batch), .batch = batch,              \
          .a_type = type, .b_type = type, .c_type = type, .compute = compute_type)
TYPED_STRIDED(cublasHgemmStridedBatched, CUDA_R_16F, CUBLAS_COMPUTE_16F)
TYPED_STRIDED(cublasSgemmStridedBatched, CUDA_R_32F, CUBLAS_COMPUTE_32F)
TYPED_STRIDED(cublasDgemmStridedBatched, CUDA_R_64F, CUBLAS_COMPUTE_64F)
TYPED_STRIDED(cublasCgemmStridedBatched, CUDA_C_32F, CUBLAS_COMPUTE_32F)
TYPED_STRIDED(cublasZgemmStridedBatched, CUDA_C_64F, CUBLAS_COMPUTE_64F)

#define TYPED_BATCHED(function, type, compute_type)                                                           \
  PRODUCT(function,                                                                                           \
          (cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *const *a, int lda, \
           const void *const *b, int ldb, const void *beta, void *const *c, int ldc, int batch),              \
          (h, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, batch), .batch = batch, .a_type = type,   \
          .b_type = type, .c_type = type, .compute = compute_type)
TYPED_BATCHED(cublasHgemmBatched, CUDA_R_16F, CUBLAS_COMPUTE_16F)
TYPED_BATCHED(cublasSgemmBatched, CUDA_R_32F, CUBLAS_COMPUTE_32F)

/* ---- cuBLASLt: the shape is in opaque descriptors, which the library itself reads -----------------------------------
 */

enum { LAYOUT_TYPE, LAYOUT_ORDER, LAYOUT_ROWS, LAYOUT_COLS, LAYOUT_LD, LAYOUT_BATCH };
enum { DESC_COMPUTE = 0, DESC_TRANSA = 3, DESC_EPILOGUE = 7 };
enum { ORDER_ROW = 1, EPILOGUE_DEFAULT = 1 };

typedef int (*get_attribute)(const void *, int, void *, size_t, size_t *);

static int64_t layout(const void *of, int attribute, size_t bytes) {
  get_attribute get = RVT_KEPT("cublasLtMatrixLayoutGetAttribute");
  uint64_t value = 0;
  size_t written;
  return of && get && get(of, attribute, &value, bytes, &written) == 0 ? (int64_t)value : 0;
}

static int desc(const void *of, int attribute) {
  get_attribute get = RVT_KEPT("cublasLtMatmulDescGetAttribute");
  uint32_t value = 0;
  size_t written;
  return of && get && get(of, attribute, &value, sizeof value, &written) == 0 ? (int)value : 0;
}

static void describe_lt(struct rvt_op *op, const void *how, const void *la, const void *lb, const void *ld) {
  bool row_major = layout(ld, LAYOUT_ORDER, 4) == ORDER_ROW;
  int epilogue = desc(how, DESC_EPILOGUE), batch = (int)layout(ld, LAYOUT_BATCH, 4);
  struct rvt_gemm gemm = {.m = layout(ld, LAYOUT_ROWS, 8),
                          .n = layout(ld, LAYOUT_COLS, 8),
                          .k = layout(la, desc(how, DESC_TRANSA) ? LAYOUT_ROWS : LAYOUT_COLS, 8),
                          .batch = batch > 0 ? batch : 1,
                          .lda = layout(la, LAYOUT_LD, 8),
                          .ldb = layout(lb, LAYOUT_LD, 8),
                          .ldc = layout(ld, LAYOUT_LD, 8),
                          .a_type = (int)layout(la, LAYOUT_TYPE, 4),
                          .b_type = (int)layout(lb, LAYOUT_TYPE, 4),
                          .c_type = (int)layout(ld, LAYOUT_TYPE, 4),
                          .compute = desc(how, DESC_COMPUTE),
                          .epilogue = epilogue == EPILOGUE_DEFAULT ? 0 : epilogue};
  if (row_major) rvt_gemm_of_row_major(&gemm);
  rvt_describe_gemm(op, &gemm);
}

RVT_SUBMITS(cublasLtMatmul,
            (void *h, void *how, const void *alpha, const void *a, void *la, const void *b, void *lb, const void *beta,
             const void *c, void *lc, void *d, void *ld, const void *algo, void *workspace, size_t workspace_bytes,
             void *stream),
            (h, how, alpha, a, la, b, lb, beta, c, lc, d, ld, algo, workspace, workspace_bytes, stream), stream,
            describe_lt(&op, how, la, lb, ld))
RVT_SUBMITS(cublasLtMatrixTransform,
            (void *h, void *how, const void *alpha, const void *a, void *la, const void *beta, const void *b, void *lb,
             void *c, void *lc, void *stream),
            (h, how, alpha, a, la, beta, b, lb, c, lc, stream), stream, op.kind = RVT_OP_COPY;
            op.p[0] = layout(lc, LAYOUT_ROWS, 8) * layout(lc, LAYOUT_COLS, 8) *
                      rvt_cublas_bits((int)layout(lc, LAYOUT_TYPE, 4)) / 8;
            op.p[1] = RVT_COPY_D2D)
