/* cuBLAS: matrix-vector products, dot products and triangular solves, priced as thin matrix products. */
#include "device/cublas.h"

struct cublas_handle;
typedef struct cublas_handle *cublas_t;
int cublasGemmEx(cublas_t, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int,
                 const void *, void *, int, int, int, int);
int cublasGetPointerMode_v2(cublas_t, int *);

/* y = op(A) x: one column. op(A) is m x n or n x m. */
static int gemv(cublas_t h, int type, int compute, int trans, int m, int n, int lda, void *y, int incy) {
  int rows = trans ? n : m, inner = trans ? m : n;
  return cublasGemmEx(h, trans, 0, rows, 1, inner, NULL, NULL, type, lda, NULL, type, inner, NULL, y, type,
                      rows * (incy > 0 ? incy : -incy), compute, 0);
}

/* The result of a dot product goes to a device scalar, or in host pointer mode to the caller, who would have
 * waited for it: it reads zero. */
static int dot(cublas_t h, int type, int compute, int n, void *result, unsigned bytes) {
  int mode = 0;
  int status = cublasGetPointerMode_v2(h, &mode);
  if (status) return status;
  if (mode == 0) __builtin_memset(result, 0, bytes);
  return cublasGemmEx(h, 0, 0, 1, 1, n, NULL, NULL, type, 1, NULL, type, n, NULL, mode ? result : NULL, type, 1,
                      compute, 0);
}

/* op(A) X = B solved in place of B: as many operations as the product of the same shape, halved by the triangle. */
static int trsm(cublas_t h, int type, int compute, int side, int m, int n, int lda, void *b, int ldb) {
  int inner = (side ? n : m) / 2 + 1;
  return cublasGemmEx(h, 0, 0, m, n, inner, NULL, NULL, type, lda, NULL, type, ldb, NULL, b, type, ldb, compute, 0);
}

RVT_API int cublasSgemv_v2(cublas_t h, int t, int m, int n, const void *al, const void *a, int lda, const void *x,
                           int incx, const void *be, void *y, int incy) {
  return gemv(h, CUDA_R_32F, CUBLAS_COMPUTE_32F, t, m, n, lda, y, incy);
}
RVT_API int cublasDgemv_v2(cublas_t h, int t, int m, int n, const void *al, const void *a, int lda, const void *x,
                           int incx, const void *be, void *y, int incy) {
  return gemv(h, CUDA_R_64F, CUBLAS_COMPUTE_64F, t, m, n, lda, y, incy);
}
RVT_API int cublasCgemv_v2(cublas_t h, int t, int m, int n, const void *al, const void *a, int lda, const void *x,
                           int incx, const void *be, void *y, int incy) {
  return gemv(h, CUDA_C_32F, CUBLAS_COMPUTE_32F, t, m, n, lda, y, incy);
}
RVT_API int cublasZgemv_v2(cublas_t h, int t, int m, int n, const void *al, const void *a, int lda, const void *x,
                           int incx, const void *be, void *y, int incy) {
  return gemv(h, CUDA_C_64F, CUBLAS_COMPUTE_64F, t, m, n, lda, y, incy);
}
RVT_API int cublasSdot_v2(cublas_t h, int n, const void *x, int incx, const void *y, int incy, void *result) {
  return dot(h, CUDA_R_32F, CUBLAS_COMPUTE_32F, n, result, 4);
}
RVT_API int cublasDdot_v2(cublas_t h, int n, const void *x, int incx, const void *y, int incy, void *result) {
  return dot(h, CUDA_R_64F, CUBLAS_COMPUTE_64F, n, result, 8);
}
RVT_API int cublasCdotu_v2(cublas_t h, int n, const void *x, int incx, const void *y, int incy, void *result) {
  return dot(h, CUDA_C_32F, CUBLAS_COMPUTE_32F, n, result, 8);
}
RVT_API int cublasCdotc_v2(cublas_t h, int n, const void *x, int incx, const void *y, int incy, void *result) {
  return dot(h, CUDA_C_32F, CUBLAS_COMPUTE_32F, n, result, 8);
}
RVT_API int cublasZdotu_v2(cublas_t h, int n, const void *x, int incx, const void *y, int incy, void *result) {
  return dot(h, CUDA_C_64F, CUBLAS_COMPUTE_64F, n, result, 16);
}
RVT_API int cublasZdotc_v2(cublas_t h, int n, const void *x, int incx, const void *y, int incy, void *result) {
  return dot(h, CUDA_C_64F, CUBLAS_COMPUTE_64F, n, result, 16);
}
RVT_API int cublasDotEx(cublas_t h, int n, const void *x, int xt, int incx, const void *y, int yt, int incy,
                        void *result, int rt, int et) {
  return dot(h, rt, CUBLAS_COMPUTE_32F, n, result, rvt_cublas_bits(rt) / 8);
}
RVT_API int cublasStrsm_v2(cublas_t h, int side, int uplo, int t, int diag, int m, int n, const void *al, const void *a,
                           int lda, void *b, int ldb) {
  return trsm(h, CUDA_R_32F, CUBLAS_COMPUTE_32F, side, m, n, lda, b, ldb);
}
RVT_API int cublasDtrsm_v2(cublas_t h, int side, int uplo, int t, int diag, int m, int n, const void *al, const void *a,
                           int lda, void *b, int ldb) {
  return trsm(h, CUDA_R_64F, CUBLAS_COMPUTE_64F, side, m, n, lda, b, ldb);
}
RVT_API int cublasCtrsm_v2(cublas_t h, int side, int uplo, int t, int diag, int m, int n, const void *al, const void *a,
                           int lda, void *b, int ldb) {
  return trsm(h, CUDA_C_32F, CUBLAS_COMPUTE_32F, side, m, n, lda, b, ldb);
}
RVT_API int cublasZtrsm_v2(cublas_t h, int side, int uplo, int t, int diag, int m, int n, const void *al, const void *a,
                           int lda, void *b, int ldb) {
  return trsm(h, CUDA_C_64F, CUBLAS_COMPUTE_64F, side, m, n, lda, b, ldb);
}
