/* vLLM's speculative decoding: the rejection samplers of both model runners, and what their draft models keep.
 *
 * There are no logits to compare: whether a draft token is accepted, the oracle decides (oracle.c). A sampler's other
 * kernels prepare what the deciding one reads, and have no effect here. Triton kernels of vllm/v1/sample/
 * rejection_sampler.py and vllm/v1/spec_decode/utils.py (V1 runner) and vllm/v1/worker/gpu/spec_decode (V2 runner).
 */
#include <string.h>

#include "device/semantics.h"

#define DONE RVT_SEM_DONE
#define DEFAULT RVT_SEM_DEFAULT

#define MAX_DRAFTS 128 /* MAX_SPEC_LEN of vLLM */

/* Synthetic acceptance is vLLM's own: a rate for each position, which then holds instead of the oracle's. */
static const float *read_rates(uint64_t addr, uint32_t count, float *rates) {
  return addr && count && rvt_mem_read(addr, rates, count * sizeof *rates) ? rates : NULL;
}

/* --- V1 runner ----------------------------------------------------------------------------------------- */

/* rejection_greedy_sample_kernel and rejection_random_sample_kernel, of which each does the rows of its kind: here both
 * do all, with the same result. Rows of the output hold max_spec_len + 1 tokens, -1 behind the last one. */
static enum rvt_semantic_result verify(const struct rvt_launch *l, int max_spec_len, int rates_at) {
  enum { OUTPUT, CU_DRAFTS, DRAFTS };
  uint32_t rows = l->grid[0], width = (uint32_t)rvt_arg_int(l, max_spec_len) + 1;
  int32_t *end = rvt_scratch(1, rows * 4ull), *out = rvt_scratch(2, width * 4ull);
  int32_t *ids = rvt_scratch(3, width * 4ull);
  float *rates = rvt_scratch(4, width * 4ull);
  if (width > MAX_DRAFTS + 1 || !rvt_read_i32(rvt_arg_ptr(l, CU_DRAFTS), end, rows)) return DEFAULT;
  uint32_t vocab = rvt_sampled()->vocab; /* of the bonus tokens, sampled just now */
  for (uint32_t row = 0; row < rows; row++) {
    uint32_t begin = row ? (uint32_t)end[row - 1] : 0, count = (uint32_t)end[row] - begin;
    if (count >= width) return DEFAULT;
    bool known = count && rvt_read_i32(rvt_arg_ptr(l, DRAFTS) + 4ull * begin, ids, count);
    struct rvt_drafts drafts = {.row = row,
                                .first_logit = begin + row,
                                .count = count,
                                .vocab = vocab,
                                .ids = known ? ids : NULL,
                                .rates = read_rates(rvt_arg_ptr(l, rates_at), count, rates)};
    uint32_t n = rvt_sample_drafts(&drafts, out);
    memset(out + n, 0xFF, (width - n) * sizeof *out);
    rvt_mem_write(rvt_arg_ptr(l, OUTPUT) + 4ull * row * width, out, width * 4ull);
  }
  rvt_drafts_verified(rows, rows ? (uint32_t)end[rows - 1] + rows : 0, vocab);
  return DONE;
}

static enum rvt_semantic_result verify_greedy(const struct rvt_launch *l) { return verify(l, 6, 8); }
static enum rvt_semantic_result verify_random(const struct rvt_launch *l) { return verify(l, 9, 11); }

/* expand_kernel: a request's value at each of its draft tokens, with one value replaced (then floats: forgotten). */
static enum rvt_semantic_result expand(const struct rvt_launch *l) {
  enum { OUTPUT, INPUT, CU_TOKENS, FROM, TO };
  uint32_t rows = l->grid[0];
  uint64_t output = rvt_arg_ptr(l, OUTPUT);
  int32_t *end = rvt_scratch(1, rows * 4ull);
  if (!rvt_read_i32(rvt_arg_ptr(l, CU_TOKENS), end, rows)) {
    rvt_mem_forget_at(output);
    return DONE;
  }
  for (uint32_t row = 0; row < rows; row++) {
    uint32_t begin = row ? (uint32_t)end[row - 1] : 0, count = (uint32_t)end[row] - begin, value;
    if (!count || count > MAX_DRAFTS) continue;
    bool known = rvt_arg_int(l, FROM) == rvt_arg_int(l, TO) &&
                 rvt_mem_read(rvt_arg_ptr(l, INPUT) + 4ull * row, &value, sizeof value);
    if (known) rvt_mem_fill(output + 4ull * begin, &value, sizeof value, 4ull * count);
    else rvt_mem_forget(output + 4ull * begin, 4ull * count);
  }
  return DONE;
}

/* sample_recovered_tokens_kernel: what stands where a draft is rejected is the oracle's. */
static enum rvt_semantic_result forget_output(const struct rvt_launch *l) {
  rvt_mem_forget_at(rvt_arg_ptr(l, 0));
  return DONE;
}

/* eagle_prepare_next_token_padded_kernel: how many tokens each request got, which the runner reads back, and the last
 * of them, from rows with -1 behind the last one. A discarded request (its prompt is unfinished) got none. */
static enum rvt_semantic_result next_tokens(const struct rvt_launch *l) {
  enum { SAMPLED, DISCARD, BACKUP, NEXT, COUNTS, VOCAB, WIDTH, REQUESTS, STRIDE };
  uint32_t rows = l->grid[0];
  /* Integers that equal 1 are not passed, and the first of those that are is taken for the width: with one column it is
   * the number of requests. */
  int64_t width = rvt_bound(l)->at[REQUESTS] >= 0 ? rvt_arg_int(l, WIDTH) : 1, vocab = rvt_arg_int(l, VOCAB);
  if (width < 1 || width > MAX_DRAFTS + 1) return DEFAULT;
  int32_t *tokens = rvt_scratch(1, (uint64_t)width * 4);
  uint8_t *discard = rvt_scratch(2, rows);
  if (!rvt_mem_read(rvt_arg_ptr(l, DISCARD), discard, rows)) memset(discard, 0, rows);
  for (uint32_t row = 0; row < rows; row++) {
    int32_t count = 0, next = 0;
    bool known = rvt_read_i32(rvt_arg_ptr(l, SAMPLED) + 4ull * row * (uint64_t)width, tokens, (size_t)width);
    for (int64_t i = 0; i < width && known && !discard[row]; i++) {
      if (tokens[i] < 0 || tokens[i] >= vocab) continue;
      next = tokens[i];
      count++;
    }
    if (!known && !discard[row]) count = 1;
    bool named = count ? known : rvt_read_i32(rvt_arg_ptr(l, BACKUP) + 4ull * row, &next, 1);
    if (named) rvt_mem_write(rvt_arg_ptr(l, NEXT) + 4ull * row, &next, 4);
    else rvt_mem_forget(rvt_arg_ptr(l, NEXT) + 4ull * row, 4);
    rvt_mem_write(rvt_arg_ptr(l, COUNTS) + 4ull * row, &count, 4);
  }
  return DONE;
}

/* --- V2 runner ----------------------------------------------------------------------------------------- */

/* _rejection_kernel: accepted drafts and the token behind them, and how many were accepted. The draft ids are a draft
 * model's, which nobody computed. */
static enum rvt_semantic_result verify_slots(const struct rvt_launch *l) {
  enum { SAMPLED, STRIDE, ACCEPTED, VOCAB = 6, CU_LOGITS = 21, RATES = 26 };
  uint32_t rows = l->grid[0], width = (uint32_t)rvt_arg_int(l, STRIDE);
  int32_t *start = rvt_scratch(1, rows * 4ull + 4), *out = rvt_scratch(2, width * 4ull);
  int64_t *wide = rvt_scratch(3, width * 8ull);
  float *rates = rvt_scratch(4, width * 4ull);
  if (width > MAX_DRAFTS + 1 || !rvt_read_i32(rvt_arg_ptr(l, CU_LOGITS), start, rows + 1)) return DEFAULT;
  uint32_t vocab = (uint32_t)rvt_arg_int(l, VOCAB);
  for (uint32_t row = 0; row < rows; row++) {
    uint32_t count = (uint32_t)(start[row + 1] - start[row]) - 1;
    if (count >= width) return DEFAULT;
    struct rvt_drafts drafts = {.row = row,
                                .first_logit = (uint32_t)start[row],
                                .count = count,
                                .vocab = vocab,
                                .rates = read_rates(rvt_arg_ptr(l, RATES), count, rates)};
    uint32_t n = rvt_sample_drafts(&drafts, out);
    int32_t accepted = (int32_t)n - 1;
    for (uint32_t i = 0; i < n; i++) wide[i] = out[i];
    rvt_mem_write(rvt_arg_ptr(l, SAMPLED) + 8ull * row * width, wide, 8ull * n);
    rvt_mem_write(rvt_arg_ptr(l, ACCEPTED) + 4ull * row, &accepted, 4);
  }
  rvt_drafts_verified(rows, (uint32_t)start[rows], vocab);
  return DONE;
}

/* _insert_resampled_kernel: the token is there already; it is counted now. */
static enum rvt_semantic_result insert_resampled(const struct rvt_launch *l) {
  enum { SAMPLED, STRIDE, COUNTS };
  uint32_t rows = l->grid[0];
  int32_t *count = rvt_scratch(1, rows * 4ull);
  if (!rvt_read_i32(rvt_arg_ptr(l, COUNTS), count, rows)) return DEFAULT;
  for (uint32_t row = 0; row < rows; row++) count[row]++;
  rvt_mem_write(rvt_arg_ptr(l, COUNTS), count, rows * 4ull);
  return DONE;
}

/* _flatten_sampled_kernel: tokens by rows of logits, for logprobs. */
static enum rvt_semantic_result flatten(const struct rvt_launch *l) {
  enum { FLAT, SAMPLED, STRIDE, COUNTS, CU_LOGITS };
  uint32_t rows = l->grid[0];
  int64_t token, stride = rvt_arg_int(l, STRIDE);
  for (uint32_t row = 0; row < rows; row++) {
    int32_t start, count;
    if (!rvt_read_i32(rvt_arg_ptr(l, CU_LOGITS) + 4ull * row, &start, 1)) continue;
    if (!rvt_read_i32(rvt_arg_ptr(l, COUNTS) + 4ull * row, &count, 1) || count > stride) continue;
    for (int32_t i = 0; i < count; i++) {
      if (rvt_mem_read(rvt_arg_ptr(l, SAMPLED) + 8ull * (uint64_t)(row * stride + i), &token, 8))
        rvt_mem_write(rvt_arg_ptr(l, FLAT) + 8ull * (uint32_t)(start + i), &token, 8);
    }
  }
  return DONE;
}

/* --- draft models -------------------------------------------------------------------------------------- */

/* Kernels that make the inputs of a draft model's next token. What they write only its kernels read. */
static enum rvt_semantic_result next_draft(const struct rvt_launch *l) {
  (void)l;
  rvt_drafter_step();
  return DONE;
}

const struct rvt_entry rvt_entries_vllm_drafts[] = {
    {.pattern = "rejection_greedy_sample_kernel", .fn = verify_greedy, .signature = "PPPPPQJQQ"},
    {.pattern = "rejection_random_sample_kernel", .fn = verify_random, .signature = "PPPQPPPPPJJQ"},
    {.pattern = "expand_kernel", .fn = expand, .signature = "PPPJJ"},
    {.pattern = "sample_recovered_tokens_kernel", .fn = forget_output, .signature = "PPPQPPJ"},
    {.pattern = "eagle_prepare_next_token_padded_kernel", .fn = next_tokens, .signature = "PPPPPJIII"},
    {.pattern = "eagle_prepare_inputs_padded_kernel"},
    {.pattern = "copy_and_expand_eagle_inputs_kernel"},
    {.pattern = "eagle_step_slot_mapping_metadata_kernel", .fn = next_draft, .signature = "PPIPPPI"},
    {.pattern = "_rejection_kernel", .fn = verify_slots, .signature = "PJPPPPJPIPIPIPQIIPIPIPPPPPQQQII"},
    {.pattern = "_insert_resampled_kernel", .fn = insert_resampled, .signature = "PJPPIPIIPPP"},
    {.pattern = "_flatten_sampled_kernel", .fn = flatten, .signature = "PPJPP"},
    {.pattern = "_resample_kernel"},
    {.pattern = "_compute_local_logits_stats_kernel"},
    {.pattern = "_compute_cumulative_log_p_kernel"},
    {.pattern = "_compute_local_residual_mass_kernel"},
    {.pattern = "_gather_draft_sampled_kernel"},
    {.pattern = "_prepare_prefill_inputs_kernel", .signature = "PPPPPPPPPPPPPPPI"},
    {.pattern = "_prepare_decode_inputs_kernel", .fn = next_draft, .signature = "PIPPPPPPII", .second = "PIPPPPPPPII"},
    {.pattern = "_update_draft_inputs_kernel",
     .fn = next_draft,
     .signature = "PIPIPPPPPPIIII",
     .second = "PIPIPPPPPPPIIII"},
    {0},
};
