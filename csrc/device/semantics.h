/* The host semantics registry: kernels whose effect the host needs, emulated when they are launched.
 *
 * An entry names a kernel and a function. The list is short and explicit; every entry is there because a
 * framework reads the result back or because another entry needs it.
 */
#ifndef RVT_SEMANTICS_H
#define RVT_SEMANTICS_H

#include "device/device.h"
#include "device/oracle.h"

#define RVT_MAX_ARGS 40

/* One registry entry. `pattern`: a kernel whose name equals it, or, with `anywhere`, contains it.
 *
 * `signature` is for Triton kernels: one letter per Python parameter that is not a constexpr: P pointer,
 * Q pointer that may be None, I integer, J integer that is never 1 (a row of logits, a vocabulary). Triton leaves out
 * pointers that are None and integers that equal 1, so the parameters that arrive are matched against the signature by
 * their sizes in the cubin. `second` is an alternative signature, for kernels that change a parameter's type. */
struct rvt_entry {
  const char *pattern;
  bool anywhere;
  rvt_semantic_fn fn; /* NULL: no effect that the host can see, and nothing is forgotten */
  const char *signature, *second;
  bool (*accept)(const struct rvt_kernel *kernel); /* NULL: by name alone */
  uint8_t param_count; /* C++ kernels: sizes of the parameters, for the copy at graph capture */
  const uint16_t *param_bytes;
};

/* Per kernel: the entry plus where each signature letter arrived. */
struct rvt_bound {
  struct rvt_semantic semantic; /* first: the device layer holds a pointer to it */
  const struct rvt_entry *entry;
  int8_t at[RVT_MAX_ARGS]; /* parameter number, -1 = left out */
  uint8_t args;
  bool matched; /* false: the layout does not fit the signature */
  bool second;  /* matched the second signature */
};

static inline const struct rvt_bound *rvt_bound(const struct rvt_launch *l) {
  return (const struct rvt_bound *)(const void *)l->kernel->semantic;
}

/* Argument by position in the signature: pointers left out are 0, integers left out are 1. */
static inline uint64_t rvt_arg_ptr(const struct rvt_launch *l, int i) {
  int at = rvt_bound(l)->at[i];
  return at < 0 ? 0 : rvt_param_u64(l, at);
}
static inline int64_t rvt_arg_int(const struct rvt_launch *l, int i) {
  int at = rvt_bound(l)->at[i];
  if (at < 0) return 1;
  uint64_t v = rvt_param_u64(l, at);
  return l->kernel->params[at].bytes == 4 ? (int64_t)(int32_t)v : (int64_t)v;
}

/* Scratch memory of the calling thread's emulation, at least n bytes, kept between launches; slot 0..7. */
void *rvt_scratch(int slot, size_t n);

/* Reads n elements of 4 bytes; false when any byte is unknown. */
static inline bool rvt_read_i32(uint64_t addr, int32_t *out, size_t n) { return rvt_mem_read(addr, out, 4 * n); }

/* The request slots of a step's rows, which vLLM keeps in 4 or, since some release, 8 bytes each: a kernel's metadata
 * does not tell, the upload does. Returns which, 0 when any is unknown. */
uint32_t rvt_read_slots(const struct rvt_launch *l, int arg, int32_t *slots, uint32_t rows);

extern const struct rvt_entry rvt_entries_vllm[], rvt_entries_vllm_sample[], rvt_entries_vllm_drafts[],
    rvt_entries_torch[], rvt_entries_torch_topk[], rvt_entries_torch_integers[], rvt_entries_flashinfer[],
    rvt_entries_readers[];

/* What a ReduceOp of PyTorch's reduce_kernel reduces: `inputs` elements to each of `outputs`. */
struct rvt_reduction {
  uint64_t source, target;
  int32_t inputs, outputs;
};
bool rvt_torch_reduction(const void *op, struct rvt_reduction *out);

/* ---- the tokens of the sampling step in progress (sampled.c) -------------------------------------------- */

/* Chooses the tokens of a sampling step: row r belongs to the r-th sequence of the step. Kept until the next step, so
 * that whatever copies, casts or gathers them on the device can be answered. `where`: device buffer that holds or will
 * be reduced to them, 0 = none. */
const int32_t *rvt_sample_rows(uint32_t rows, uint32_t vocab, uint64_t where);

/* Draft tokens of a sequence (row of the step) that a rejection sampler verifies. Their rows of logits are first_logit
 * and those behind it; one more, the bonus token's, follows. */
struct rvt_drafts {
  uint32_t row, first_logit, count, vocab;
  const int32_t *ids; /* NULL: only kernels know them */
  const float *rates; /* probability of acceptance at each position; NULL = the oracle's */
};

/* The tokens that the sequence gets, at most count + 1, into `out`: accepted drafts, then one of the oracle's. Returns
 * how many. */
uint32_t rvt_sample_drafts(const struct rvt_drafts *drafts, int32_t *out);
/* All rows of the step, with so many logits, are verified. */
void rvt_drafts_verified(uint32_t rows, uint32_t logits, uint32_t vocab);
/* A draft model goes on to its next token: one query token of each sequence, whatever the framework's batch is. */
void rvt_drafter_step(void);

/* The tokens chosen last; with drafts, row by row of logits. */
struct rvt_sampled {
  uint32_t rows, vocab;
  uint64_t where;
  const int32_t *tokens;
};
const struct rvt_sampled *rvt_sampled(void);

/* Choice of a row of the current step, for alternatives in logprobs. */
struct rvt_choice rvt_row_choice(uint32_t row, uint32_t vocab);

/* A framework's kernels said what the step is: `slots` are request state slots (V2 runner). */
void rvt_step_begin(uint32_t rows, const int32_t *slots, const int32_t *seq_lens);
/* Where the prompt of a slot is kept in (host-visible) memory; read when needed. */
void rvt_step_prompt(int32_t slot, uint64_t token_ids_addr, uint32_t prompt_tokens);
/* Sampling parameters of the slots, by device address; 0 = none. */
void rvt_step_sampling(uint64_t seeds_addr, uint64_t temperature_addr);

/* min_tokens of a slot's request as the device knows it: no stop id before the sequence has min_len tokens. */
void rvt_step_minimum(int32_t slot, uint32_t min_len, const int32_t *stops, uint32_t count);

/* Grammar bitmask of a row of the coming sampling step. */
void rvt_step_mask(uint32_t row, const uint32_t *mask, uint32_t words);
/* allowed_token_ids of a row of the coming sampling step. */
void rvt_step_allowed(uint32_t row, const int32_t *ids, uint32_t count);

#endif
