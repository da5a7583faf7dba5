/* See describe.h. */
#include <string.h>

#include "device/describe.h"

uint64_t rvt_hash_bytes(const void *data, size_t n) {
  const unsigned char *p = data;
  uint64_t h = n;
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t v;
    memcpy(&v, p, 8);
    h = rvt_mix(h, v);
  }
  uint64_t v = 0;
  memcpy(&v, p, n);
  return rvt_mix(h, v);
}

uint64_t rvt_op_key(const struct rvt_op *op, uint64_t name_hash) {
  uint64_t h = name_hash ^ 0xA5A5A5A5DEADBEEFull;
  h = rvt_mix(h, (uint64_t)op->kind | (uint64_t)op->dtype << 16 | (uint64_t)op->dtype_w << 32 |
                     (uint64_t)op->dtype_o << 48);
  h = rvt_mix(h, op->gpu | (uint64_t)op->model << 32);
  for (int i = 0; i < 8; i += 2) h = rvt_mix(h + (uint64_t)op->p[i] * 0x9FB21C651E98DF25ull, (uint64_t)op->p[i + 1]);
  if (op->kind != RVT_OP_KERNEL)
    for (int i = 8; i < RVT_OP_PARAMS; i++) h = rvt_mix(h, (uint64_t)op->p[i]);
  return h ? h : 1;
}

void rvt_describe_kernel(struct rvt_op *op, const uint32_t grid[3], const uint32_t block[3], uint32_t shared_bytes,
                         uint32_t name_len) {
  op->kind = RVT_OP_KERNEL;
  op->name_len = name_len;
  op->p[0] = grid[0], op->p[1] = grid[1], op->p[2] = grid[2];
  op->p[3] = block[0], op->p[4] = block[1], op->p[5] = block[2];
  op->p[6] = shared_bytes;
  op->p[7] = -1;
}

/* ---- cuBLAS ------------------------------------------------------------------------------------------------ */

uint16_t rvt_cublas_dtype(int cuda_type) {
  switch (cuda_type) {
  case CUDA_R_32F:
  case CUDA_C_32F: return RVT_DT_F32;
  case CUDA_R_64F:
  case CUDA_C_64F: return RVT_DT_F64;
  case CUDA_R_16F:
  case CUDA_C_16F: return RVT_DT_F16;
  case CUDA_R_16BF:
  case CUDA_C_16BF: return RVT_DT_BF16;
  case CUDA_R_8F_E4M3: return RVT_DT_F8E4M3;
  case CUDA_R_8F_E5M2: return RVT_DT_F8E5M2;
  case CUDA_R_4F_E2M1: return RVT_DT_F4E2M1;
  case CUDA_R_8I:
  case CUDA_R_8U: return RVT_DT_I8;
  case CUDA_R_32I: return RVT_DT_I32;
  default: return RVT_DT_NONE;
  }
}

unsigned rvt_cublas_bits(int cuda_type) {
  switch (cuda_type) {
  case CUDA_C_64F: return 128;
  case CUDA_R_64F:
  case CUDA_C_32F: return 64;
  case CUDA_R_32F:
  case CUDA_R_32I:
  case CUDA_C_16F:
  case CUDA_C_16BF: return 32;
  case CUDA_R_16F:
  case CUDA_R_16BF: return 16;
  case CUDA_R_4F_E2M1: return 4;
  default: return 8;
  }
}

/* Mapping: frameworks keep row-major tensors and ask for y[M,N] = x[M,K] W[N,K]^T. cuBLAS is column-major, so
 * they call it as C[m,n] = op(A)[m,k] op(B)[k,n] with C = y^T, A = W, B = x^T, hence M = n, N = m, K = k, x = B
 * and W = A. The operator is recorded in the row-major view: p = {n, m, k, ...}, dtype = B's, dtype_w = A's.
 */
void rvt_describe_gemm(struct rvt_op *op, const struct rvt_gemm *g) {
  op->kind = RVT_OP_GEMM;
  bool tf32 = g->compute == CUBLAS_COMPUTE_32F_FAST_TF32 && g->a_type == CUDA_R_32F;
  op->dtype = tf32 ? RVT_DT_TF32 : rvt_cublas_dtype(g->b_type);
  op->dtype_w = tf32 ? RVT_DT_TF32 : rvt_cublas_dtype(g->a_type);
  op->dtype_o = rvt_cublas_dtype(g->c_type);
  op->p[0] = g->n; /* row-major view */
  op->p[1] = g->m;
  op->p[2] = g->k;
  op->p[3] = g->batch;
  op->p[4] = g->epilogue;
  op->p[5] = g->ldb;
  op->p[6] = g->lda;
  op->p[7] = g->ldc;
}

void rvt_gemm_of_row_major(struct rvt_gemm *g) {
  struct rvt_gemm as_given = *g;
  g->m = as_given.n;
  g->n = as_given.m;
  g->lda = as_given.ldb;
  g->ldb = as_given.lda;
  g->a_type = as_given.b_type;
  g->b_type = as_given.a_type;
}

/* ---- NCCL -------------------------------------------------------------------------------------------------- */

static size_t type_bytes(int type) {
  static const uint8_t bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1}; /* ncclInt8 ... ncclBfloat16, float8 types */
  return type >= 0 && type < (int)sizeof bytes ? bytes[type] : 0;
}

static uint16_t type_of(int type) {
  static const uint8_t types[] = {RVT_DT_I8,  RVT_DT_I8,  RVT_DT_I32, RVT_DT_I32,  RVT_DT_NONE,   RVT_DT_NONE,
                                  RVT_DT_F16, RVT_DT_F32, RVT_DT_F64, RVT_DT_BF16, RVT_DT_F8E4M3, RVT_DT_F8E5M2};
  return type >= 0 && type < (int)sizeof types ? types[type] : RVT_DT_NONE;
}

bool rvt_describe_collective(struct rvt_op *op, size_t count, int nccl_type, int ranks) {
  size_t element = type_bytes(nccl_type);
  op->kind = RVT_OP_COLLECTIVE;
  op->dtype = op->dtype_o = type_of(nccl_type);
  op->p[0] = (int64_t)(count * element);
  op->p[1] = ranks;
  op->p[2] = 1;
  return element != 0;
}
