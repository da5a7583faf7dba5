/* cuBLAS: handles and matrix products.
 *
 * Nothing is computed. A product becomes one RVT_OP_GEMM with its true shape, whatever kernels (split-K, batched)
 * the real library would have used, and its result becomes unknown bytes.
 */
#include <stdlib.h>
#include <string.h>

#include "device/cublas.h"
#include "device/describe.h"

#define CUBLAS_MAGIC 0x72767442u

struct cublas_handle {
  uint32_t magic;
  int device;
  void *stream;
  uint64_t workspace_bytes; /* charged to the card for this handle */
  int pointer_mode, math_mode, atomics_mode, sm_count_target;
};
typedef struct cublas_handle *cublas_t;

static bool valid(cublas_t handle) { return handle && handle->magic == CUBLAS_MAGIC; }

struct gemm_result {
  const void *c, *array;
  uint64_t bytes, stride_bytes;
  int64_t batch;
};

/* The results of a product are unknown bytes. */
static void forget_result(const void *ctx, struct rvt_stream *stream, bool replay) {
  const struct gemm_result *r = ctx;
  if (r->c && r->stride_bytes <= r->bytes * 2) { /* dense batch: one range */
    rvt_mem_forget((uint64_t)r->c, r->stride_bytes * (uint64_t)(r->batch - 1) + r->bytes);
    return;
  }
  for (int64_t i = 0; i < r->batch; i++) {
    uint64_t address = (uint64_t)r->c + r->stride_bytes * (uint64_t)i;
    if (!r->c && !rvt_mem_read((uint64_t)r->array + 8 * (uint64_t)i, &address, 8)) return;
    rvt_mem_forget(address, r->bytes);
  }
}

int rvt_cublas_gemm(struct rvt_stream *stream, const struct rvt_gemm *g) {
  if (!stream) return CUBLAS_INVALID_VALUE;
  if (g->m < 0 || g->n < 0 || g->k < 0 || g->batch < 0) return CUBLAS_INVALID_VALUE;
  if (g->m == 0 || g->n == 0 || g->batch == 0) return CUBLAS_SUCCESS; /* as the real library: nothing launched */
  struct rvt_op op = {0};
  rvt_describe_gemm(&op, g);
  unsigned bits = rvt_cublas_bits(g->c_type);
  struct gemm_result result = {
      .c = g->c,
      .array = g->c_array,
      .bytes = ((uint64_t)(g->n - 1) * (uint64_t)g->ldc + (uint64_t)g->m) * bits / 8,
      .stride_bytes = (uint64_t)(g->stride_c > 0 ? g->stride_c : 0) * bits / 8,
      .batch = g->batch,
  };
  int error = rvt_submit_op(stream, &op, NULL, forget_result, &result, sizeof result);
  return error ? CUBLAS_EXECUTION_FAILED : CUBLAS_SUCCESS;
}

/* --- handles ------------------------------------------------------------------------------------------- */

/* The library's default workspace, allocated with the handle (cuBLAS documentation of cublasSetWorkspace). */
static uint64_t default_workspace_bytes(int device) {
  const struct rvt_gpu *gpu = rvt_gpu(device);
  return (gpu && gpu->cc_major >= 9 ? 32ull : 4ull) << 20;
}

RVT_API int cublasCreate_v2(cublas_t *out) {
  if (!out) return CUBLAS_INVALID_VALUE;
  if (rvt_device_count() <= 0) return CUBLAS_NOT_INITIALIZED;
  int device = rvt_current_device();
  uint64_t bytes = default_workspace_bytes(device);
  if (!rvt_charge_bytes(device, bytes)) return CUBLAS_ALLOC_FAILED;
  cublas_t handle = calloc(1, sizeof *handle);
  if (!handle) {
    rvt_release_bytes(device, bytes);
    return CUBLAS_ALLOC_FAILED;
  }
  *handle = (struct cublas_handle){.magic = CUBLAS_MAGIC, .device = device, .workspace_bytes = bytes};
  *out = handle;
  return CUBLAS_SUCCESS;
}

RVT_API int cublasDestroy_v2(cublas_t handle) {
  if (!valid(handle)) return CUBLAS_NOT_INITIALIZED;
  rvt_release_bytes(handle->device, handle->workspace_bytes);
  handle->magic = 0;
  free(handle);
  return CUBLAS_SUCCESS;
}

RVT_API int cublasGetVersion_v2(cublas_t handle, int *version) {
  if (!version) return CUBLAS_INVALID_VALUE;
  *version = rvt_cuda_major() >= 13 ? 130100 : 120804;
  return CUBLAS_SUCCESS;
}

RVT_API int cublasGetProperty(int type, int *value) {
  if (!value || type < 0 || type > 2) return CUBLAS_INVALID_VALUE;
  int version = 0;
  cublasGetVersion_v2(NULL, &version);
  *value = type == 0 ? version / 10000 : type == 1 ? version / 100 % 100 : version % 100;
  return CUBLAS_SUCCESS;
}

RVT_API size_t cublasGetCudartVersion(void) { return rvt_cuda_major() >= 13 ? 13000 : 12080; }

RVT_API const char *cublasGetStatusName(int status) {
  switch (status) {
  case CUBLAS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
  case CUBLAS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
  case CUBLAS_ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
  case CUBLAS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
  case CUBLAS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
  case CUBLAS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
  default: return "CUBLAS_STATUS_UNKNOWN";
  }
}
RVT_API const char *cublasGetStatusString(int status) { return cublasGetStatusName(status); }

RVT_API int cublasSetStream_v2(cublas_t handle, void *stream) {
  if (!valid(handle)) return CUBLAS_NOT_INITIALIZED;
  handle->stream = stream;
  return CUBLAS_SUCCESS;
}
RVT_API int cublasGetStream_v2(cublas_t handle, void **stream) {
  if (!valid(handle)) return CUBLAS_NOT_INITIALIZED;
  *stream = handle->stream;
  return CUBLAS_SUCCESS;
}
RVT_RECORDED int cublasSetWorkspace_v2(cublas_t handle, void *workspace, size_t bytes) {
  return valid(handle) ? CUBLAS_SUCCESS : CUBLAS_NOT_INITIALIZED;
}
RVT_API int cublasSetPointerMode_v2(cublas_t handle, int mode) {
  if (!valid(handle)) return CUBLAS_NOT_INITIALIZED;
  handle->pointer_mode = mode;
  return CUBLAS_SUCCESS;
}
RVT_API int cublasGetPointerMode_v2(cublas_t handle, int *mode) {
  if (!valid(handle)) return CUBLAS_NOT_INITIALIZED;
  *mode = handle->pointer_mode;
  return CUBLAS_SUCCESS;
}
RVT_API int cublasSetMathMode(cublas_t handle, int mode) {
  if (!valid(handle)) return CUBLAS_NOT_INITIALIZED;
  handle->math_mode = mode;
  return CUBLAS_SUCCESS;
}
RVT_API int cublasGetMathMode(cublas_t handle, int *mode) {
  if (!valid(handle)) return CUBLAS_NOT_INITIALIZED;
  *mode = handle->math_mode;
  return CUBLAS_SUCCESS;
}
RVT_API int cublasSetAtomicsMode(cublas_t handle, int mode) {
  if (!valid(handle)) return CUBLAS_NOT_INITIALIZED;
  handle->atomics_mode = mode;
  return CUBLAS_SUCCESS;
}
RVT_API int cublasGetAtomicsMode(cublas_t handle, int *mode) {
  if (!valid(handle)) return CUBLAS_NOT_INITIALIZED;
  *mode = handle->atomics_mode;
  return CUBLAS_SUCCESS;
}
RVT_API int cublasSetSmCountTarget(cublas_t handle, int count) {
  if (!valid(handle)) return CUBLAS_NOT_INITIALIZED;
  handle->sm_count_target = count;
  return CUBLAS_SUCCESS;
}
RVT_API int cublasGetSmCountTarget(cublas_t handle, int *count) {
  if (!valid(handle)) return CUBLAS_NOT_INITIALIZED;
  *count = handle->sm_count_target;
  return CUBLAS_SUCCESS;
}
RVT_RECORDED int cublasLoggerConfigure(int on, int to_stdout, int to_stderr, const char *file) {
  return CUBLAS_SUCCESS;
}
RVT_RECORDED int cublasSetLoggerCallback(void *callback) { return CUBLAS_SUCCESS; }

/* --- matrix products ----------------------------------------------------------------------------------- */

static int product(cublas_t handle, struct rvt_gemm gemm) {
  if (!valid(handle)) return CUBLAS_NOT_INITIALIZED;
  /* CUBLAS_TF32_TENSOR_OP_MATH on the handle turns FP32 products into TF32 ones. */
  if ((handle->math_mode & 0xF) == 3 && gemm.compute == CUBLAS_COMPUTE_32F) gemm.compute = CUBLAS_COMPUTE_32F_FAST_TF32;
  return rvt_cublas_gemm(rvt_stream_resolve(handle->stream), &gemm);
}

RVT_API int cublasGemmEx(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int at,
                         int lda, const void *b, int bt, int ldb, const void *beta, void *c, int ct, int ldc,
                         int compute, int algo) {
  return product(h, (struct rvt_gemm){.m = m,
                                      .n = n,
                                      .k = k,
                                      .batch = 1,
                                      .lda = lda,
                                      .ldb = ldb,
                                      .ldc = ldc,
                                      .c = c,
                                      .a_type = at,
                                      .b_type = bt,
                                      .c_type = ct,
                                      .compute = compute});
}

RVT_API int cublasGemmEx_64(cublas_t h, int ta, int tb, int64_t m, int64_t n, int64_t k, const void *alpha,
                            const void *a, int at, int64_t lda, const void *b, int bt, int64_t ldb, const void *beta,
                            void *c, int ct, int64_t ldc, int compute, int algo) {
  return product(h, (struct rvt_gemm){.m = m,
                                      .n = n,
                                      .k = k,
                                      .batch = 1,
                                      .lda = lda,
                                      .ldb = ldb,
                                      .ldc = ldc,
                                      .c = c,
                                      .a_type = at,
                                      .b_type = bt,
                                      .c_type = ct,
                                      .compute = compute});
}

RVT_API int cublasSgemmEx(cublas_t h, int ta, int tb, int m, int n, int k, const float *alpha, const void *a, int at,
                          int lda, const void *b, int bt, int ldb, const float *beta, void *c, int ct, int ldc) {
  return cublasGemmEx(h, ta, tb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc, CUBLAS_COMPUTE_32F, 0);
}

RVT_API int cublasGemmStridedBatchedEx(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha,
                                       const void *a, int at, int lda, long long sa, const void *b, int bt, int ldb,
                                       long long sb, const void *beta, void *c, int ct, int ldc, long long sc,
                                       int batch, int compute, int algo) {
  return product(h, (struct rvt_gemm){.m = m,
                                      .n = n,
                                      .k = k,
                                      .batch = batch,
                                      .lda = lda,
                                      .ldb = ldb,
                                      .ldc = ldc,
                                      .c = c,
                                      .stride_c = sc,
                                      .a_type = at,
                                      .b_type = bt,
                                      .c_type = ct,
                                      .compute = compute});
}

RVT_API int cublasGemmStridedBatchedEx_64(cublas_t h, int ta, int tb, int64_t m, int64_t n, int64_t k,
                                          const void *alpha, const void *a, int at, int64_t lda, long long sa,
                                          const void *b, int bt, int64_t ldb, long long sb, const void *beta, void *c,
                                          int ct, int64_t ldc, long long sc, int64_t batch, int compute, int algo) {
  return product(h, (struct rvt_gemm){.m = m,
                                      .n = n,
                                      .k = k,
                                      .batch = batch,
                                      .lda = lda,
                                      .ldb = ldb,
                                      .ldc = ldc,
                                      .c = c,
                                      .stride_c = sc,
                                      .a_type = at,
                                      .b_type = bt,
                                      .c_type = ct,
                                      .compute = compute});
}

RVT_API int cublasGemmBatchedEx(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha,
                                const void *const *a, int at, int lda, const void *const *b, int bt, int ldb,
                                const void *beta, void *const *c, int ct, int ldc, int batch, int compute, int algo) {
  return product(h, (struct rvt_gemm){.m = m,
                                      .n = n,
                                      .k = k,
                                      .batch = batch,
                                      .lda = lda,
                                      .ldb = ldb,
                                      .ldc = ldc,
                                      .c_array = c,
                                      .a_type = at,
                                      .b_type = bt,
                                      .c_type = ct,
                                      .compute = compute});
}

/* The typed forms: one element type decides everything. */
static int typed(cublas_t h, int type, int compute, int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb,
                 const void *c, int64_t ldc, int64_t sc, int64_t batch) {
  return product(h, (struct rvt_gemm){.m = m,
                                      .n = n,
                                      .k = k,
                                      .batch = batch,
                                      .lda = lda,
                                      .ldb = ldb,
                                      .ldc = ldc,
                                      .c = c,
                                      .stride_c = sc,
                                      .a_type = type,
                                      .b_type = type,
                                      .c_type = type,
                                      .compute = compute});
}

RVT_API int cublasHgemm(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int lda,
                        const void *b, int ldb, const void *beta, void *c, int ldc) {
  return typed(h, CUDA_R_16F, CUBLAS_COMPUTE_16F, m, n, k, lda, ldb, c, ldc, 0, 1);
}
RVT_API int cublasSgemm_v2(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int lda,
                           const void *b, int ldb, const void *beta, void *c, int ldc) {
  return typed(h, CUDA_R_32F, CUBLAS_COMPUTE_32F, m, n, k, lda, ldb, c, ldc, 0, 1);
}
RVT_API int cublasDgemm_v2(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int lda,
                           const void *b, int ldb, const void *beta, void *c, int ldc) {
  return typed(h, CUDA_R_64F, CUBLAS_COMPUTE_64F, m, n, k, lda, ldb, c, ldc, 0, 1);
}
RVT_API int cublasCgemm_v2(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int lda,
                           const void *b, int ldb, const void *beta, void *c, int ldc) {
  return typed(h, CUDA_C_32F, CUBLAS_COMPUTE_32F, m, n, k, lda, ldb, c, ldc, 0, 1);
}
RVT_API int cublasZgemm_v2(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int lda,
                           const void *b, int ldb, const void *beta, void *c, int ldc) {
  return typed(h, CUDA_C_64F, CUBLAS_COMPUTE_64F, m, n, k, lda, ldb, c, ldc, 0, 1);
}
RVT_API int cublasHgemmStridedBatched(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                                      int lda, long long sa, const void *b, int ldb, long long sb, const void *beta,
                                      void *c, int ldc, long long sc, int batch) {
  return typed(h, CUDA_R_16F, CUBLAS_COMPUTE_16F, m, n, k, lda, ldb, c, ldc, sc, batch);
}
RVT_API int cublasSgemmStridedBatched(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                                      int lda, long long sa, const void *b, int ldb, long long sb, const void *beta,
                                      void *c, int ldc, long long sc, int batch) {
  return typed(h, CUDA_R_32F, CUBLAS_COMPUTE_32F, m, n, k, lda, ldb, c, ldc, sc, batch);
}
RVT_API int cublasDgemmStridedBatched(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                                      int lda, long long sa, const void *b, int ldb, long long sb, const void *beta,
                                      void *c, int ldc, long long sc, int batch) {
  return typed(h, CUDA_R_64F, CUBLAS_COMPUTE_64F, m, n, k, lda, ldb, c, ldc, sc, batch);
}
RVT_API int cublasCgemmStridedBatched(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                                      int lda, long long sa, const void *b, int ldb, long long sb, const void *beta,
                                      void *c, int ldc, long long sc, int batch) {
  return typed(h, CUDA_C_32F, CUBLAS_COMPUTE_32F, m, n, k, lda, ldb, c, ldc, sc, batch);
}
RVT_API int cublasZgemmStridedBatched(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                                      int lda, long long sa, const void *b, int ldb, long long sb, const void *beta,
                                      void *c, int ldc, long long sc, int batch) {
  return typed(h, CUDA_C_64F, CUBLAS_COMPUTE_64F, m, n, k, lda, ldb, c, ldc, sc, batch);
}
RVT_API int cublasSgemmBatched(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *const *a,
                               int lda, const void *const *b, int ldb, const void *beta, void *const *c, int ldc,
                               int batch) {
  return cublasGemmBatchedEx(h, ta, tb, m, n, k, alpha, a, CUDA_R_32F, lda, b, CUDA_R_32F, ldb, beta, c, CUDA_R_32F,
                             ldc, batch, CUBLAS_COMPUTE_32F, 0);
}
RVT_API int cublasHgemmBatched(cublas_t h, int ta, int tb, int m, int n, int k, const void *alpha, const void *const *a,
                               int lda, const void *const *b, int ldb, const void *beta, void *const *c, int ldc,
                               int batch) {
  return cublasGemmBatchedEx(h, ta, tb, m, n, k, alpha, a, CUDA_R_16F, lda, b, CUDA_R_16F, ldb, beta, c, CUDA_R_16F,
                             ldc, batch, CUBLAS_COMPUTE_16F, 0);
}
