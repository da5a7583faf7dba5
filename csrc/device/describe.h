/* How calls become operators (struct rvt_op), and operators become keys: what the virtual device and the recorder
 * (csrc/record) must do alike. Pure functions, no state.
 */
#ifndef RVT_DESCRIBE_H
#define RVT_DESCRIBE_H

#include <stddef.h>

#include "device/cublas.h"
#include "include/rvt_op.h"

static inline uint64_t rvt_mix(uint64_t h, uint64_t v) {
  __uint128_t m = (__uint128_t)(h ^ v ^ 0x9E3779B97F4A7C15ull) * 0xD6E8FEB86659FD93ull;
  return (uint64_t)m ^ (uint64_t)(m >> 64);
}
uint64_t rvt_hash_bytes(const void *p, size_t n);

/* Key of an op without its batch; name_hash 0 when unnamed. */
uint64_t rvt_op_key(const struct rvt_op *op, uint64_t name_hash);

/* Each sets kind, types and p of a zeroed op. */
void rvt_describe_kernel(struct rvt_op *op, const uint32_t grid[3], const uint32_t block[3], uint32_t shared_bytes,
                         uint32_t name_len);
void rvt_describe_gemm(struct rvt_op *op, const struct rvt_gemm *g);
/* From a product given by row-major layouts to cuBLAS's own terms: C^T = op(B)^T op(A)^T. */
void rvt_gemm_of_row_major(struct rvt_gemm *g);
/* False: NCCL knows no such type. */
bool rvt_describe_collective(struct rvt_op *op, size_t count, int nccl_type, int ranks);

#endif
