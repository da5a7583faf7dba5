/* vLLM's sampling kernels (Triton; vllm/v1/worker/gpu/sample and structured_outputs.py).
 *
 * No logits exist: kernels that shape them have no effect except through what they tell the oracle (allowed
 * tokens, grammar masks); kernels that choose a token get it from the oracle.
 */
#include <string.h>

#include "device/semantics.h"

#define DONE RVT_SEM_DONE
#define DEFAULT RVT_SEM_DEFAULT

/* _gumbel_sample_kernel: per row and block of the vocabulary the local winner. Every block names the same token, and
 * the gather of the best block that follows is answered from the chosen rows. */
static enum rvt_semantic_result gumbel_sample(const struct rvt_launch *l) {
  enum {
    ARGMAX,
    ARGMAX_STRIDE,
    MAX,
    MAX_STRIDE,
    PROCESSED,
    PROCESSED_STRIDE,
    COLUMN,
    LOGITS,
    LOGITS_STRIDE,
    IDX_MAPPING,
    SEEDS,
    POS,
    TEMPERATURE,
    VOCAB
  };
  int cache = rvt_bound(l)->second ? 3 : 0; /* PROCESSED has become a cache with a second stride and a source */
  uint32_t rows = l->grid[0], blocks = l->grid[1];
  rvt_step_sampling(rvt_arg_ptr(l, SEEDS + cache), rvt_arg_ptr(l, TEMPERATURE + cache));
  uint64_t argmax = rvt_arg_ptr(l, ARGMAX);
  const int32_t *tokens = rvt_sample_rows(rows, (uint32_t)rvt_arg_int(l, VOCAB + cache), argmax);
  uint64_t stride = (uint64_t)rvt_arg_int(l, ARGMAX_STRIDE);
  rvt_mem_forget(argmax, 8ull * rows * stride);
  rvt_mem_forget(rvt_arg_ptr(l, MAX), 4ull * rows * stride);
  if (blocks == 1) { /* nothing to gather: the local winners are the result */
    for (uint32_t row = 0; row < rows; row++) {
      int64_t token = tokens[row];
      rvt_mem_write(argmax + 8ull * row * stride, &token, 8);
    }
  }
  return DONE;
}

/* _apply_grammar_bitmask_kernel: one mask per listed row of logits, or per listed request (one row each: with several,
 * that is with drafts, the list also counts positions, by a stride that is a constant of the compiled kernel). */
static enum rvt_semantic_result grammar_bitmask(const struct rvt_launch *l) {
  enum { LOGITS, LOGITS_STRIDE, INDICES, BITMASK, BITMASK_STRIDE, VOCAB, CU_LOGITS = INDICES + 1 };
  int by_request = rvt_bound(l)->second ? 1 : 0; /* lists requests, whose rows CU_LOGITS tells */
  uint32_t masks = l->grid[0], words = (uint32_t)rvt_arg_int(l, BITMASK_STRIDE + by_request);
  int32_t *row = rvt_scratch(1, masks * 4ull);
  uint32_t *mask = rvt_scratch(2, words * 4ull);
  if (!rvt_read_i32(rvt_arg_ptr(l, INDICES), row, masks)) return DONE;
  for (uint32_t i = 0; i < masks; i++) {
    if (by_request && !rvt_read_i32(rvt_arg_ptr(l, CU_LOGITS) + 4ull * (uint32_t)row[i], &row[i], 1)) continue;
    if (rvt_mem_read(rvt_arg_ptr(l, BITMASK + by_request) + 4ull * i * words, mask, words * 4ull)) {
      rvt_step_mask((uint32_t)row[i], mask, words);
    }
  }
  return DONE;
}

/* xgrammar's Triton kernel, as vLLM's V1 runner uses it: one mask per row, or per listed row. */
static enum rvt_semantic_result xgrammar_bitmask(const struct rvt_launch *l) {
  enum { LOGITS, BITMASK, INDICES, ROWS, VOCAB, LOGITS_STRIDE, BITMASK_STRIDE };
  uint32_t rows = (uint32_t)rvt_arg_int(l, ROWS), words = (uint32_t)rvt_arg_int(l, BITMASK_STRIDE);
  uint64_t indices = rvt_arg_ptr(l, INDICES);
  uint32_t *mask = rvt_scratch(2, words * 4ull);
  for (uint32_t i = 0; i < rows && rows <= 8192; i++) {
    int32_t row = (int32_t)i;
    if (indices && !rvt_read_i32(indices + 4ull * i, &row, 1)) continue;
    if (rvt_mem_read(rvt_arg_ptr(l, BITMASK) + 4ull * (uint32_t)row * words, mask, words * 4ull)) {
      rvt_step_mask((uint32_t)row, mask, words);
    }
  }
  return DONE;
}

/* _bias_kernel: allowed ids restrict which token may come, stop ids may not come before a minimal length. */
static enum rvt_semantic_result logit_bias(const struct rvt_launch *l) {
  enum {
    LOGITS,
    LOGITS_STRIDE,
    VOCAB,
    IDX_MAPPING,
    COUNT,
    ALLOWED,
    ALLOWED_STRIDE,
    BIASES,
    BIAS_IDS,
    BIAS_IDS_STRIDE,
    BIAS,
    BIAS_STRIDE,
    POS,
    MIN_LENS,
    STOPS,
    STOP_IDS,
    STOP_STRIDE
  };
  int restore = rvt_bound(l)->second ? 1 : 0; /* rows whose stop ids come back when nothing else is allowed */
  uint32_t rows = l->grid[0];
  int32_t *slot = rvt_scratch(1, rows * 4ull);
  if (!rvt_read_slots(l, IDX_MAPPING, slot, rows)) return DONE;
  for (uint32_t i = 0; i < rows; i++) {
    int32_t count = 0, stops = 0, min_len = 0, stop_ids[RVT_MAX_AVOID];
    uint64_t at = 4ull * (unsigned)slot[i];
    if (slot[i] >= 0 && rvt_read_i32(rvt_arg_ptr(l, STOPS) + at, &stops, 1) && stops > 0) {
      if (stops > RVT_MAX_AVOID) stops = RVT_MAX_AVOID;
      rvt_read_i32(rvt_arg_ptr(l, MIN_LENS) + at, &min_len, 1);
      uint64_t from =
          rvt_arg_ptr(l, STOP_IDS + restore) + 4ull * (uint64_t)(slot[i] * rvt_arg_int(l, STOP_STRIDE + restore));
      if (rvt_read_i32(from, stop_ids, (size_t)stops))
        rvt_step_minimum(slot[i], (uint32_t)min_len, stop_ids, (uint32_t)stops);
    }
    if (slot[i] < 0 || !rvt_read_i32(rvt_arg_ptr(l, COUNT) + 4ull * (unsigned)slot[i], &count, 1) || count <= 0)
      continue;
    int32_t *ids = rvt_scratch(2, (uint64_t)count * 4);
    uint64_t from = rvt_arg_ptr(l, ALLOWED) + 4ull * (uint64_t)(slot[i] * rvt_arg_int(l, ALLOWED_STRIDE));
    if (rvt_read_i32(from, ids, (size_t)count)) rvt_step_allowed(i, ids, (uint32_t)count);
  }
  return DONE;
}

/* --- logprobs ------------------------------------------------------------------------------------------ */

/* Prompt logprobs use the same kernels as sampling logprobs, in chunks of rows. After
 * _prompt_logprobs_token_ids_kernel the rows are prompt positions until all of them were served. */
static struct {
  uint64_t token_ids; /* device buffer of the ids (int64) */
  uint32_t tokens, served;
} prompt;

static enum rvt_semantic_result prompt_logprobs_token_ids(const struct rvt_launch *l) {
  enum { IDS, QUERY_START, IDX_MAPPING, COMPUTED, ALL_TOKENS, STRIDE };
  uint32_t rows = l->grid[0];
  int32_t *slot = rvt_scratch(1, rows * 4ull), *start = rvt_scratch(2, rows * 4ull + 4);
  if (!rvt_read_slots(l, IDX_MAPPING, slot, rows)) return DEFAULT;
  if (!rvt_read_i32(rvt_arg_ptr(l, QUERY_START), start, rows + 1)) return DEFAULT;
  for (uint32_t i = 0; i < rows; i++) {
    int32_t computed = 0, count = start[i + 1] - start[i];
    if (slot[i] < 0 || count <= 0) continue;
    rvt_read_i32(rvt_arg_ptr(l, COMPUTED) + 4ull * (unsigned)slot[i], &computed, 1);
    int32_t *narrow = rvt_scratch(3, (uint64_t)count * 4);
    int64_t *ids = rvt_scratch(4, (uint64_t)count * 8);
    rvt_read_i32(rvt_arg_ptr(l, ALL_TOKENS) + 4ull * (uint64_t)(slot[i] * rvt_arg_int(l, STRIDE) + computed + 1),
                 narrow, (size_t)count);
    for (int32_t j = 0; j < count; j++) ids[j] = narrow[j];
    rvt_mem_write(rvt_arg_ptr(l, IDS) + 8ull * (unsigned)start[i], ids, (uint64_t)count * 8);
  }
  prompt.token_ids = rvt_arg_ptr(l, IDS);
  prompt.tokens = (uint32_t)start[rows];
  prompt.served = 0;
  return DONE;
}

/* _topk_log_softmax_kernel(out, logits, stride, ids[rows, 1 + k], ...): log-probabilities of the listed ids. The list
 * is the token itself and k best ids, which torch's topk left unknown: both are made up here, consistently. The token
 * is the most likely one; the values fall off and sum to less than one. */
static enum rvt_semantic_result topk_log_softmax(const struct rvt_launch *l) {
  enum { OUT, LOGITS, LOGITS_STRIDE, IDS, TOPK, VOCAB, IDS_STRIDE = IDS + 1 };
  int strided = rvt_bound(l)->second ? 1 : 0;
  uint32_t rows = l->grid[0], columns = (uint32_t)rvt_arg_int(l, TOPK + strided);
  uint32_t vocab = (uint32_t)rvt_arg_int(l, VOCAB + strided);
  uint64_t ids_stride = strided ? (uint64_t)rvt_arg_int(l, IDS_STRIDE) : columns;
  const struct rvt_sampled *chosen = rvt_sampled();
  bool of_prompt = prompt.served < prompt.tokens;
  int64_t *ids = rvt_scratch(1, columns * 8ull);
  float *values = rvt_scratch(2, columns * 4ull);
  for (uint32_t row = 0; row < rows; row++) {
    struct rvt_choice choice = rvt_row_choice(of_prompt ? 0 : row, vocab);
    int64_t token = 0;
    if (of_prompt) {
      rvt_mem_read(prompt.token_ids + 8ull * (prompt.served + row), &token, 8);
      choice.output_index = prompt.served + row;
      choice.mask = NULL;
    } else {
      token = row < chosen->rows ? chosen->tokens[row] : rvt_oracle_token(&choice);
    }
    bool known = rvt_mem_read(rvt_arg_ptr(l, IDS) + 8ull * row * ids_stride, ids, columns * 8ull);
    for (uint32_t i = 0; i < columns; i++) {
      if (!known) ids[i] = i < 2 ? token : rvt_oracle_alternative(&choice, i - 2, (int32_t)token);
      values[i] = rvt_oracle_logprob(i < 2 ? 0 : i - 1);
    }
    if (!known) rvt_mem_write(rvt_arg_ptr(l, IDS) + 8ull * row * ids_stride, ids, columns * 8ull);
    rvt_mem_write(rvt_arg_ptr(l, OUT) + 4ull * row * columns, values, columns * 4ull);
  }
  return DONE;
}

/* _ranks_kernel: the listed token is the most likely one. Ends the rows of a chunk. */
static enum rvt_semantic_result ranks(const struct rvt_launch *l) {
  enum { OUT };
  int64_t first = 1;
  rvt_mem_fill(rvt_arg_ptr(l, OUT), &first, 8, 8ull * l->grid[0]);
  if (prompt.served < prompt.tokens) prompt.served += l->grid[0];
  return DONE;
}

/* _fill_logprob_token_ids_kernel: the token, then the request's own list of ids or the top k. */
static enum rvt_semantic_result fill_logprob_ids(const struct rvt_launch *l) {
  enum { OUT, OUT_STRIDE, VALID, VALID_STRIDE, SAMPLED, TOPK, TOPK_STRIDE, IDX_MAPPING, COUNT, LIST, LIST_STRIDE };
  uint32_t rows = l->grid[0];
  int64_t columns = rvt_arg_int(l, OUT_STRIDE);
  if (columns < 1 || columns > 4096) return DEFAULT;
  int32_t *slot = rvt_scratch(1, rows * 4ull), *list = rvt_scratch(2, (uint64_t)columns * 4);
  int64_t *ids = rvt_scratch(3, (uint64_t)columns * 8);
  uint8_t *valid = rvt_scratch(4, (uint64_t)columns);
  const struct rvt_sampled *chosen = rvt_sampled();
  if (!rvt_read_slots(l, IDX_MAPPING, slot, rows)) return DEFAULT;
  for (uint32_t row = 0; row < rows; row++) {
    int32_t count = 0;
    if (slot[row] >= 0) rvt_read_i32(rvt_arg_ptr(l, COUNT) + 4ull * (unsigned)slot[row], &count, 1);
    if (count > columns - 1) count = (int32_t)columns - 1;
    struct rvt_choice choice = rvt_row_choice(row, chosen->vocab);
    memset(valid, count ? 0 : 1, (size_t)columns);
    ids[0] = row < chosen->rows ? chosen->tokens[row] : 0;
    if (count > 0) {
      rvt_read_i32(rvt_arg_ptr(l, LIST) + 4ull * (uint64_t)(slot[row] * rvt_arg_int(l, LIST_STRIDE)), list,
                   (size_t)count);
    }
    for (int64_t i = 1; i < columns; i++) {
      ids[i] = i <= count ? list[i - 1] : rvt_oracle_alternative(&choice, (uint32_t)i, (int32_t)ids[0]);
    }
    memset(valid, 1, (size_t)(count ? count + 1 : columns));
    rvt_mem_write(rvt_arg_ptr(l, OUT) + 8ull * (uint64_t)(row * columns), ids, (size_t)columns * 8);
    rvt_mem_write(rvt_arg_ptr(l, VALID) + (uint64_t)(row * rvt_arg_int(l, VALID_STRIDE)), valid, (size_t)columns);
  }
  return DONE;
}

/* _num_nans_kernel: logits are never NaN. */
static enum rvt_semantic_result num_nans(const struct rvt_launch *l) {
  enum { LOGITS, STRIDE, OUT };
  int32_t none = 0;
  rvt_mem_fill(rvt_arg_ptr(l, OUT), &none, 4, 4ull * l->grid[0]);
  return DONE;
}

const struct rvt_entry rvt_entries_vllm_sample[] = {
    {.pattern = "_gumbel_sample_kernel",
     .fn = gumbel_sample,
     .signature = "PIPIQJQPJPPPPJ",
     .second = "PIPIQIIQQIPJPPPPJ"},
    {.pattern = "_apply_grammar_bitmask_kernel", .fn = grammar_bitmask, .signature = "PJPPJJ", .second = "PJPPPJJ"},
    {.pattern = "apply_token_bitmask_inplace_kernel", .fn = xgrammar_bitmask, .signature = "PPQIJJJ"},
    {.pattern = "_bias_kernel", .fn = logit_bias, .signature = "PJJPPPJPPJPJPPPPJ", .second = "PJJPPPJPPJPJPPPPPJ"},
    {.pattern = "_topk_log_softmax_kernel", .fn = topk_log_softmax, .signature = "PPJPIJ", .second = "PPJPIIJ"},
    {.pattern = "_ranks_kernel", .fn = ranks, .signature = "PPJPJ"},
    {.pattern = "_fill_logprob_token_ids_kernel", .fn = fill_logprob_ids, .signature = "PJPJPPIPPPJ"},
    {.pattern = "_prompt_logprobs_token_ids_kernel", .fn = prompt_logprobs_token_ids, .signature = "PPPPPJ"},
    {.pattern = "_num_nans_kernel", .fn = num_nans, .signature = "PJPJ"},
    /* Shape logits only. */
    {.pattern = "_temperature_kernel"},
    {.pattern = "_min_p_kernel"},
    {.pattern = "_penalties_kernel"},
    {.pattern = "_bad_words_kernel"},
    {.pattern = "_bincount_kernel"},
    {.pattern = "_topk_topp_kernel"},
    {0},
};
