/* What cublas*.c share: how a cuBLAS call becomes an operator of the virtual device. */
#ifndef RVT_CUBLAS_H
#define RVT_CUBLAS_H

#include "device/device.h"

enum {
  CUBLAS_SUCCESS = 0,
  CUBLAS_NOT_INITIALIZED = 1,
  CUBLAS_ALLOC_FAILED = 3,
  CUBLAS_INVALID_VALUE = 7,
  CUBLAS_EXECUTION_FAILED = 13,
  CUBLAS_NOT_SUPPORTED = 15,
};

/* cudaDataType_t (library_types.h) */
enum {
  CUDA_R_32F = 0,
  CUDA_R_64F = 1,
  CUDA_R_16F = 2,
  CUDA_R_8I = 3,
  CUDA_C_32F = 4,
  CUDA_C_64F = 5,
  CUDA_C_16F = 6,
  CUDA_R_8U = 8,
  CUDA_R_32I = 10,
  CUDA_R_16BF = 14,
  CUDA_C_16BF = 15,
  CUDA_R_8F_E4M3 = 28,
  CUDA_R_8F_E5M2 = 29,
  CUDA_R_8F_UE8M0 = 30,
  CUDA_R_6F_E2M3 = 31,
  CUDA_R_6F_E3M2 = 32,
  CUDA_R_4F_E2M1 = 33,
};

/* cublasComputeType_t: the one that changes which unit computes */
enum {
  CUBLAS_COMPUTE_16F = 64,
  CUBLAS_COMPUTE_32F = 68,
  CUBLAS_COMPUTE_64F = 70,
  CUBLAS_COMPUTE_32I = 72,
  CUBLAS_COMPUTE_32F_FAST_TF32 = 77
};

/* One matrix product as cuBLAS states it: column-major C[m,n] = op(A)[m,k] op(B)[k,n]. */
struct rvt_gemm {
  int64_t m, n, k, batch;
  int64_t lda, ldb, ldc;
  int64_t stride_c;    /* elements between the results of a batch */
  const void *c;       /* result; NULL: `c_array` */
  const void *c_array; /* device array of result pointers */
  int a_type, b_type, c_type;
  int compute;
  int epilogue; /* cublasLtEpilogue_t bits, 0 = none */
};

uint16_t rvt_cublas_dtype(int cuda_type);
unsigned rvt_cublas_bits(int cuda_type);

/* Submits the product; returns a cublasStatus_t. */
int rvt_cublas_gemm(struct rvt_stream *stream, const struct rvt_gemm *gemm);

#endif
