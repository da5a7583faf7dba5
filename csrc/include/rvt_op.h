/* How the shim describes one unit of GPU work, and what the predictor service answers.
 *
 * The shim does not know operators: it reports what it sees (a cuBLAS call, a kernel by name and launch
 * configuration, a copy, a collective) together with the batch that the framework is executing. The
 * predictor service (Python, revati_predictors) maps that to an operator and a duration. Both sides read
 * this file; the Python mirror is predictors/revati_predictors/wire.py and a test compares them.
 *
 * Wire (unix stream socket, little endian): request = u32 count, u32 bytes, `count` records; reply = u32
 * count, u32 0, `count` struct rvt_prediction in order. A record is struct rvt_op, then nseq struct rvt_seq,
 * then name_len bytes of name, padded to 8 bytes.
 *
 * Model facts (revati_observe_model) travel on the same socket: u32 count = RVT_WIRE_MODEL, u32 bytes, then
 * that many bytes of JSON; the reply is u32 model index (> 0), u32 0. Later records name it in rvt_op.model.
 */
#ifndef RVT_OP_H
#define RVT_OP_H

#include <stdint.h>

#define RVT_OP_VERSION 1
#define RVT_OP_PARAMS 16
#define RVT_WIRE_MODEL 0xFFFFFFFFu

enum rvt_op_kind {
  RVT_OP_KERNEL = 0,     /* name; p: grid x y z, block x y z, dynamic shared bytes, bytes touched or -1 */
  RVT_OP_GEMM = 1,       /* p: m n k batch, epilogue, lda ldb ldc; y[m,n] = x[m,k] W[n,k]^T, row-major view */
  RVT_OP_COPY = 2,       /* p: bytes, enum rvt_copy_kind */
  RVT_OP_MEMSET = 3,     /* p: bytes */
  RVT_OP_COLLECTIVE = 4, /* name: "all_reduce"...; p: bytes per rank, ranks, nodes */
  RVT_OP_GRAPH = 5,      /* overhead of one graph launch on the device; p: nodes */
};

enum rvt_copy_kind { RVT_COPY_H2H = 0, RVT_COPY_H2D = 1, RVT_COPY_D2H = 2, RVT_COPY_D2D = 3, RVT_COPY_P2P = 4 };

enum rvt_dtype {
  RVT_DT_NONE = 0,
  RVT_DT_F32 = 1,
  RVT_DT_F16 = 2,
  RVT_DT_BF16 = 3,
  RVT_DT_F8E4M3 = 4,
  RVT_DT_F8E5M2 = 5,
  RVT_DT_F4E2M1 = 6,
  RVT_DT_I8 = 7,
  RVT_DT_I32 = 8,
  RVT_DT_F64 = 9,
  RVT_DT_TF32 = 10,
};

struct rvt_seq {
  uint32_t q_len;  /* query tokens of this sequence in this step */
  uint32_t kv_len; /* keys, the query tokens included */
};

struct rvt_op {
  uint16_t kind;     /* enum rvt_op_kind */
  uint16_t dtype;    /* of the inputs, enum rvt_dtype */
  uint16_t dtype_w;  /* of the weights or the KV cache, if another */
  uint16_t dtype_o;  /* of the output */
  uint32_t gpu;      /* ordinal within the run */
  uint32_t model;    /* which model the framework runs: index into the facts it announced, 0 = none */
  uint32_t nseq;     /* sequences behind the record: the batch in execution, 0 when unknown */
  uint32_t name_len; /* bytes of kernel or collective name */
  uint32_t padded;   /* tokens after padding (graph size), 0 when unknown */
  uint32_t ahead;    /* 1: nobody has launched this yet, and perhaps nobody will; it counts in no statistics */
  int64_t p[RVT_OP_PARAMS];
};

enum rvt_source { RVT_SRC_MEASURED = 0, RVT_SRC_INTERPOLATED = 1, RVT_SRC_EXTRAPOLATED = 2, RVT_SRC_FALLBACK = 3 };

enum rvt_family {
  RVT_FAM_OTHER = 0,
  RVT_FAM_GEMM = 1,
  RVT_FAM_ATTENTION = 2,
  RVT_FAM_MLA = 3,
  RVT_FAM_MOE = 4,
  RVT_FAM_QUANT = 5,
  RVT_FAM_NORM = 6,
  RVT_FAM_ACTIVATION = 7,
  RVT_FAM_ROPE = 8,
  RVT_FAM_EMBEDDING = 9,
  RVT_FAM_SAMPLING = 10,
  RVT_FAM_KV_WRITE = 11,
  RVT_FAM_ELEMENTWISE = 12,
  RVT_FAM_COPY = 13,
  RVT_FAM_COLLECTIVE = 14,
  RVT_FAM_METADATA = 15,
  RVT_FAM_COUNT = 16,
};

#define RVT_PRED_NEEDS_BATCH 1u  /* the duration depends on nseq/q_len/kv_len: the memo key must include them */
#define RVT_PRED_NEEDS_TOKENS 2u /* depends on the number of scheduled tokens only */
#define RVT_PRED_NEEDS_SEQS 4u   /* depends on nseq only */
#define RVT_PRED_NEEDS_ANY 7u
#define RVT_PRED_OPERATOR(flags) ((flags) >> 16) /* adds to rvt_device_page.operator_ns at this index; 0: to none */

struct rvt_prediction {
  int64_t duration_ns;
  int64_t lo_ns; /* 80 % interval */
  int64_t hi_ns;
  uint16_t family; /* enum rvt_family */
  uint16_t source; /* enum rvt_source */
  uint32_t flags;  /* RVT_PRED_* */
};

#endif
