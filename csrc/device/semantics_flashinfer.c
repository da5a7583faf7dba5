/* FlashInfer's sampling kernels (flashinfer/data/include/flashinfer/sampling.cuh): the default sampler of vLLM and
 * SGLang for top-k, top-p and min-p. The token comes from the oracle; `valid` says that rejection sampling ended. */
#include <string.h>

#include "device/semantics.h"

/* Parameter numbers of a kernel: the sampled ids, the flags, the vocabulary size. */
struct layout {
  uint8_t output, valid, vocab;
};

static enum rvt_semantic_result sample(const struct rvt_launch *l, struct layout at) {
  uint32_t rows = l->grid[0];
  uint32_t vocab = *(const uint32_t *)l->params[at.vocab];
  uint64_t output = *(const uint64_t *)l->params[at.output];
  const int32_t *tokens = rvt_sample_rows(rows, vocab, 0);
  rows = rvt_sampled()->rows;
  /* Template arguments end in the element and the id type: ...ffiE or ...flE. */
  if (strstr(l->kernel->name, "flEE") || strstr(l->kernel->name, "flEv")) {
    int64_t *wide = rvt_scratch(0, rows * 8ull);
    for (uint32_t i = 0; i < rows; i++) wide[i] = tokens[i];
    rvt_mem_write(output, wide, rows * 8ull);
  } else {
    rvt_mem_write(output, tokens, rows * 4ull);
  }
  if (at.valid) {
    uint64_t valid = *(const uint64_t *)l->params[at.valid];
    uint8_t yes = 1;
    if (valid) rvt_mem_fill(valid, &yes, 1, rows);
  }
  return RVT_SEM_DONE;
}

static enum rvt_semantic_result from_logits(const struct rvt_launch *l) { return sample(l, (struct layout){1, 0, 3}); }
static enum rvt_semantic_result from_probs(const struct rvt_launch *l) { return sample(l, (struct layout){1, 2, 4}); }
static enum rvt_semantic_result top_k(const struct rvt_launch *l) { return sample(l, (struct layout){1, 2, 6}); }
static enum rvt_semantic_result top_p(const struct rvt_launch *l) { return sample(l, (struct layout){1, 2, 6}); }
static enum rvt_semantic_result min_p(const struct rvt_launch *l) { return sample(l, (struct layout){2, 3, 6}); }
static enum rvt_semantic_result top_k_top_p(const struct rvt_launch *l) { return sample(l, (struct layout){3, 4, 8}); }

static const uint16_t from_logits_bytes[] = {8, 8, 8, 4, 8, 8, 8, 8};
static const uint16_t from_probs_bytes[] = {8, 8, 8, 8, 4, 8, 8, 8, 8};
static const uint16_t top_k_bytes[] = {8, 8, 8, 8, 8, 4, 4, 8, 8, 8, 8};
static const uint16_t top_k_top_p_bytes[] = {8, 8, 8, 8, 8, 8, 4, 4, 4, 8, 8, 8, 8};

#define SIZES(array) .param_count = sizeof array / sizeof *array, .param_bytes = array

const struct rvt_entry rvt_entries_flashinfer[] = {
    {.pattern = "24SamplingFromLogitsKernelI", .anywhere = true, .fn = from_logits, SIZES(from_logits_bytes)},
    {.pattern = "30TopKTopPSamplingFromProbKernelI", .anywhere = true, .fn = top_k_top_p, SIZES(top_k_top_p_bytes)},
    {.pattern = "26TopKSamplingFromProbKernelI", .anywhere = true, .fn = top_k, SIZES(top_k_bytes)},
    {.pattern = "26TopPSamplingFromProbKernelI", .anywhere = true, .fn = top_p, SIZES(top_k_bytes)},
    {.pattern = "26MinPSamplingFromProbKernelI", .anywhere = true, .fn = min_p, SIZES(top_k_bytes)},
    {.pattern = "22SamplingFromProbKernelI", .anywhere = true, .fn = from_probs, SIZES(from_probs_bytes)},
    {0},
};
