/* vLLM's V2 model runner (vllm/v1/worker/gpu): the kernels that keep request state on the device.
 *
 * The runner uploads changes through host-mapped staging buffers, computes positions and lengths on the device,
 * and reads back how many tokens each request got. Its state must therefore be right for the scheduler to
 * advance. Written against vLLM 0.25.1 and 0.32.0; the names and signatures are those of their Triton kernels,
 * the newer one's second where they differ.
 */
#include <string.h>

#include "device/semantics.h"

#define DONE RVT_SEM_DONE
#define DEFAULT RVT_SEM_DEFAULT

/* Copies n 4-byte elements between addresses in pieces that fit a small buffer. */
static void copy_i32(uint64_t to, uint64_t from, uint32_t n) {
  int32_t *piece = rvt_scratch(0, 4096 * sizeof *piece);
  for (uint32_t done = 0; done < n; done += 4096) {
    uint32_t take = n - done < 4096 ? n - done : 4096;
    if (rvt_read_i32(from + 4ull * done, piece, take)) rvt_mem_write(to + 4ull * done, piece, 4ull * take);
    else rvt_mem_forget(to + 4ull * done, 4ull * take);
  }
}

/* _apply_write_kernel: row `index` of the tensor gets `contents` from column `start` on; one program per write. */
static enum rvt_semantic_result apply_write(const struct rvt_launch *l) {
  enum { OUTPUT, STRIDE, INDICES, STARTS, CONTENTS, CU_LENS, GROUPS };
  uint32_t writes = l->grid[0];
  int32_t *index = rvt_scratch(1, writes * 4ull), *start = rvt_scratch(2, writes * 4ull);
  int32_t *end = rvt_scratch(3, writes * 4ull), *group = rvt_scratch(4, writes * 4ull);
  uint64_t contents = rvt_arg_ptr(l, CONTENTS), groups = rvt_arg_ptr(l, GROUPS);
  if (!rvt_read_i32(rvt_arg_ptr(l, INDICES), index, writes) || !rvt_read_i32(rvt_arg_ptr(l, STARTS), start, writes) ||
      !rvt_read_i32(rvt_arg_ptr(l, CU_LENS), end, writes)) {
    return DEFAULT;
  }
  if (groups && !rvt_read_i32(groups, group, writes)) return DEFAULT;
  for (uint32_t i = 0; i < writes; i++) {
    int32_t begin = i ? end[i - 1] : 0;
    uint64_t output = rvt_arg_ptr(l, OUTPUT);
    int64_t stride;
    if (groups) { /* several tensors: arrays of pointers and of strides on the device */
      if (!rvt_mem_read(rvt_arg_ptr(l, OUTPUT) + 8ull * (unsigned)group[i], &output, 8)) continue;
      if (!rvt_mem_read(rvt_arg_ptr(l, STRIDE) + 8ull * (unsigned)group[i], &stride, 8)) continue;
    } else {
      stride = rvt_arg_int(l, STRIDE);
    }
    if (end[i] <= begin) continue;
    copy_i32(output + 4ull * (uint64_t)(index[i] * stride + start[i]), contents + 4ull * (unsigned)begin,
             (uint32_t)(end[i] - begin));
  }
  return DONE;
}

/* _prepare_prefill_inputs_kernel: copies prompt tokens into input_ids, which nobody reads back; what matters is
 * where the prompts are. */
static enum rvt_semantic_result prepare_prefill_inputs(const struct rvt_launch *l) {
  enum { INPUT_IDS, NEXT, IDX_MAPPING, QUERY_START, ALL_TOKENS, STRIDE, PREFILL_LENS, COMPUTED };
  int ahead = rvt_bound(l)->second ? 2 : 0; /* NEXT has a stride and a number of tokens to look ahead */
  uint32_t rows = l->grid[0];
  int32_t *slot = rvt_scratch(1, rows * 4ull);
  if (!rvt_read_slots(l, IDX_MAPPING + ahead, slot, rows)) return DONE;
  int64_t stride = rvt_arg_int(l, STRIDE + ahead);
  for (uint32_t i = 0; i < rows; i++) {
    int32_t prefill = 0, computed = 0;
    if (slot[i] < 0) continue;
    rvt_read_i32(rvt_arg_ptr(l, PREFILL_LENS + ahead) + 4ull * (unsigned)slot[i], &prefill, 1);
    rvt_read_i32(rvt_arg_ptr(l, COMPUTED + ahead) + 4ull * (unsigned)slot[i], &computed, 1);
    if (computed >= prefill) continue;
    rvt_step_prompt(slot[i], rvt_arg_ptr(l, ALL_TOKENS + ahead) + 4ull * (uint64_t)(slot[i] * stride),
                    (uint32_t)prefill);
  }
  return DONE;
}

int revati_observe_batch(const struct rvt_seq *seqs, uint32_t n, uint32_t padded_tokens, const char *const *ids);

/* _prepare_pos_seq_lens_kernel: seq_len = computed + scheduled tokens; rows behind the batch read 0. This is also
 * where the batch composition becomes known when no observer tells it. */
static enum rvt_semantic_result prepare_pos_seq_lens(const struct rvt_launch *l) {
  enum { POS, SEQ_LENS, IDX_MAPPING, QUERY_START, COMPUTED, MAX_REQS };
  uint32_t rows = l->grid[0] - 1;
  int64_t room = rvt_arg_int(l, MAX_REQS);
  if (room < rows) return DEFAULT;
  int32_t *slot = rvt_scratch(1, rows * 4ull + 4), *start = rvt_scratch(2, rows * 4ull + 4);
  int32_t *seq_lens = rvt_scratch(3, (uint64_t)room * 4);
  if (!rvt_read_slots(l, IDX_MAPPING, slot, rows)) return DEFAULT;
  if (!rvt_read_i32(rvt_arg_ptr(l, QUERY_START), start, rows + 1)) return DEFAULT;
  memset(seq_lens, 0, (uint64_t)room * 4);
  for (uint32_t i = 0; i < rows; i++) {
    int32_t computed = 0;
    if (slot[i] >= 0) rvt_read_i32(rvt_arg_ptr(l, COMPUTED) + 4ull * (unsigned)slot[i], &computed, 1);
    seq_lens[i] = computed + start[i + 1] - start[i];
  }
  rvt_mem_write(rvt_arg_ptr(l, SEQ_LENS), seq_lens, (uint64_t)room * 4);
  rvt_step_begin(rows, slot, seq_lens);
  if (!rvt_requests_announced() && rows) {
    struct rvt_seq *seqs = rvt_scratch(4, rows * sizeof *seqs);
    for (uint32_t i = 0; i < rows; i++) {
      seqs[i] = (struct rvt_seq){.q_len = (uint32_t)(start[i + 1] - start[i]), .kv_len = (uint32_t)seq_lens[i]};
    }
    revati_observe_batch(seqs, rows, 0, NULL);
  }
  return DONE;
}

/* _combine_sampled_and_draft_tokens_kernel: of its results only the logits indices matter to other emulations. */
static enum rvt_semantic_result combine_sampled(const struct rvt_launch *l) {
  enum { INPUT_IDS, IDX_MAPPING, LAST, QUERY_START, SEQ_LENS, PREFILL_LEN, DRAFT, DRAFT_STRIDE, CU_LOGITS, INDICES };
  uint32_t rows = l->grid[0];
  int32_t *start = rvt_scratch(1, rows * 4ull + 4), *logits = rvt_scratch(2, rows * 4ull + 4);
  if (!rvt_read_i32(rvt_arg_ptr(l, QUERY_START), start, rows + 1)) return DONE;
  if (!rvt_read_i32(rvt_arg_ptr(l, CU_LOGITS), logits, rows + 1)) return DONE;
  for (uint32_t i = 0; i < rows; i++) {
    int32_t count = logits[i + 1] - logits[i];
    for (int32_t j = 0; j < count && count <= 64; j++) {
      int64_t index = start[i + 1] - count + j;
      rvt_mem_write(rvt_arg_ptr(l, INDICES) + 8ull * (unsigned)(logits[i] + j), &index, 8);
    }
  }
  return DONE;
}

/* _get_num_sampled_and_rejected_kernel: nothing is sampled while a prompt is unfinished. */
static enum rvt_semantic_result num_sampled_and_rejected(const struct rvt_launch *l) {
  enum { SAMPLED, REJECTED, SEQ_LENS, CU_LOGITS, IDX_MAPPING, PREFILL_LEN };
  uint32_t rows = l->grid[0];
  int32_t *sampled = rvt_scratch(1, rows * 4ull), *rejected = rvt_scratch(2, rows * 4ull);
  int32_t *seq_len = rvt_scratch(3, rows * 4ull), *slot = rvt_scratch(4, rows * 4ull);
  int32_t *logits = rvt_scratch(5, rows * 4ull + 4);
  if (!rvt_read_i32(rvt_arg_ptr(l, SEQ_LENS), seq_len, rows) || !rvt_read_slots(l, IDX_MAPPING, slot, rows)) {
    return DEFAULT;
  }
  bool counted = rvt_read_i32(rvt_arg_ptr(l, SAMPLED), sampled, rows);
  bool mapped = rvt_read_i32(rvt_arg_ptr(l, CU_LOGITS), logits, rows + 1);
  for (uint32_t i = 0; i < rows; i++) {
    int32_t prefill = 0;
    if (slot[i] >= 0) rvt_read_i32(rvt_arg_ptr(l, PREFILL_LEN) + 4ull * (unsigned)slot[i], &prefill, 1);
    bool unfinished = seq_len[i] < prefill;
    if (!counted) sampled[i] = 1;
    if (unfinished) sampled[i] = 0;
    rejected[i] = unfinished ? 0 : (mapped ? logits[i + 1] - logits[i] : 1) - sampled[i];
  }
  rvt_mem_write(rvt_arg_ptr(l, SAMPLED), sampled, rows * 4ull);
  rvt_mem_write(rvt_arg_ptr(l, REJECTED), rejected, rows * 4ull);
  return DONE;
}

/* _post_update_kernel: advances the request state by the tokens of this step. The histogram for penalties
 * (gigabytes) is left alone: penalties change logits, and there are none. */
static enum rvt_semantic_result post_update(const struct rvt_launch *l) {
  enum {
    IDX_MAPPING,
    COMPUTED,
    LAST,
    BINS,
    BINS_STRIDE,
    SAMPLED,
    SAMPLED_STRIDE,
    NUM_SAMPLED,
    NUM_REJECTED,
    QUERY_START,
    ALL_TOKENS,
    ALL_STRIDE,
    TOTAL_LEN
  };
  uint32_t rows = l->grid[0];
  int32_t *slot = rvt_scratch(1, rows * 4ull), *sampled = rvt_scratch(2, rows * 4ull);
  int32_t *rejected = rvt_scratch(3, rows * 4ull), *start = rvt_scratch(4, rows * 4ull + 4);
  uint64_t query_start = rvt_arg_ptr(l, QUERY_START);
  if (!rvt_read_slots(l, IDX_MAPPING, slot, rows)) return DEFAULT;
  if (!rvt_read_i32(rvt_arg_ptr(l, NUM_SAMPLED), sampled, rows)) return DEFAULT;
  if (!rvt_read_i32(rvt_arg_ptr(l, NUM_REJECTED), rejected, rows)) memset(rejected, 0, rows * 4ull);
  memset(start, 0, rows * 4ull + 4);
  if (query_start) rvt_read_i32(query_start, start, rows + 1);
  const struct rvt_sampled *chosen = rvt_sampled();
  for (uint32_t i = 0; i < rows; i++) {
    if (slot[i] < 0) continue;
    uint64_t at = 4ull * (unsigned)slot[i];
    int32_t total = 0, computed = 0;
    rvt_read_i32(rvt_arg_ptr(l, TOTAL_LEN) + at, &total, 1);
    for (int32_t j = 0; j < sampled[i]; j++) {
      int64_t token = 0;
      uint64_t from = rvt_arg_ptr(l, SAMPLED) + 8ull * (uint64_t)(i * rvt_arg_int(l, SAMPLED_STRIDE) + j);
      if (!rvt_mem_read(from, &token, 8) && sampled[i] == 1 && i < chosen->rows) token = chosen->tokens[i];
      int32_t narrow = (int32_t)token;
      rvt_mem_write(rvt_arg_ptr(l, ALL_TOKENS) + 4ull * (uint64_t)(slot[i] * rvt_arg_int(l, ALL_STRIDE) + total + j),
                    &narrow, 4);
      if (j + 1 == sampled[i]) rvt_mem_write(rvt_arg_ptr(l, LAST) + 8ull * (unsigned)slot[i], &token, 8);
    }
    if (sampled[i] > 0) {
      total += sampled[i];
      rvt_mem_write(rvt_arg_ptr(l, TOTAL_LEN) + at, &total, 4);
    }
    int32_t delta = start[i + 1] - start[i] - rejected[i];
    if (delta && rvt_read_i32(rvt_arg_ptr(l, COMPUTED) + at, &computed, 1)) {
      computed += delta;
      rvt_mem_write(rvt_arg_ptr(l, COMPUTED) + at, &computed, 4);
    }
  }
  return DONE;
}

/* _post_update_num_computed_tokens_kernel */
static enum rvt_semantic_result post_update_computed(const struct rvt_launch *l) {
  enum { IDX_MAPPING, COMPUTED, QUERY_START };
  uint32_t rows = l->grid[0];
  int32_t *slot = rvt_scratch(1, rows * 4ull), *start = rvt_scratch(2, rows * 4ull + 4);
  if (!rvt_read_slots(l, IDX_MAPPING, slot, rows)) return DEFAULT;
  if (!rvt_read_i32(rvt_arg_ptr(l, QUERY_START), start, rows + 1)) return DEFAULT;
  for (uint32_t i = 0; i < rows; i++) {
    int32_t computed = 0;
    uint64_t at = rvt_arg_ptr(l, COMPUTED) + 4ull * (unsigned)slot[i];
    if (slot[i] < 0 || !rvt_read_i32(at, &computed, 1)) continue;
    computed += start[i + 1] - start[i];
    rvt_mem_write(at, &computed, 4);
  }
  return DONE;
}

/* _expand_idx_mapping_kernel: request slot and local position of every logit (speculative decoding). */
static enum rvt_semantic_result expand_idx_mapping(const struct rvt_launch *l) {
  enum { IDX_MAPPING, EXPANDED, LOCAL_POS, CU_LOGITS };
  uint32_t rows = l->grid[0];
  int32_t *slot = rvt_scratch(1, rows * 4ull), *logits = rvt_scratch(2, rows * 4ull + 4);
  uint64_t bytes = rvt_read_slots(l, IDX_MAPPING, slot, rows);
  if (!bytes) return DEFAULT;
  if (!rvt_read_i32(rvt_arg_ptr(l, CU_LOGITS), logits, rows + 1)) return DEFAULT;
  rvt_mem_forget(rvt_arg_ptr(l, EXPANDED), bytes * (unsigned)logits[rows]);
  for (uint32_t i = 0; i < rows; i++) {
    int64_t wide = slot[i];
    for (int32_t at = logits[i], pos = 0; at < logits[i + 1]; at++, pos++) {
      rvt_mem_write(rvt_arg_ptr(l, EXPANDED) + bytes * (unsigned)at, &wide, bytes);
      rvt_mem_write(rvt_arg_ptr(l, LOCAL_POS) + 4ull * (unsigned)at, &pos, 4);
    }
  }
  return DONE;
}

/* Kernels that fill attention metadata, which only other kernels read: no effect, and their inputs stay known. */
const struct rvt_entry rvt_entries_vllm[] = {
    {.pattern = "_apply_write_kernel", .fn = apply_write, .signature = "PIPPPPQ", .second = "PPPPPPP"},
    {.pattern = "_prepare_prefill_inputs_kernel",
     .fn = prepare_prefill_inputs,
     .signature = "PPPPPJPP",
     .second = "PPIIPPPJPP"},
    {.pattern = "_prepare_pos_seq_lens_kernel", .fn = prepare_pos_seq_lens, .signature = "PPPPPI"},
    {.pattern = "_combine_sampled_and_draft_tokens_kernel", .fn = combine_sampled, .signature = "PPPPPPPIPP"},
    {.pattern = "_get_num_sampled_and_rejected_kernel", .fn = num_sampled_and_rejected, .signature = "PPPPPP"},
    {.pattern = "_post_update_kernel", .fn = post_update, .signature = "PPPQJPIPPQPJP"},
    {.pattern = "_post_update_num_computed_tokens_kernel", .fn = post_update_computed, .signature = "PPP"},
    {.pattern = "_expand_idx_mapping_kernel", .fn = expand_idx_mapping, .signature = "PPPP"},
    {.pattern = "_gather_block_tables_kernel"},
    {.pattern = "_compute_slot_mappings_kernel"},
    {.pattern = "_compute_slot_mapping_kernel"},
    {.pattern = "_zero_kv_blocks_kernel"},
    {0},
};
