/* Which token each row of a sampling step gets, and whom the row belongs to.
 *
 * A sampling kernel knows rows only. The request behind a row comes from the observer's batch (request ids in
 * row order) or, with the observer off, from what the framework's own metadata kernels said about the step:
 * request state slots, sequence lengths, and where the prompt is kept.
 */
#include <string.h>

#include "device/core.h"
#include "device/semantics.h"

#define MAX_SLOTS 8192

struct slot {
  struct rvt_request request;
  uint64_t token_ids_addr;
  uint32_t prompt_tokens;
  bool stale; /* a new prompt arrived; `request` is of the previous one */
};

static struct slot slots[MAX_SLOTS]; /* touched as far as slots are used */

static struct {
  uint32_t rows;
  bool unannounced; /* no observer has told a batch since */
  int32_t slot[MAX_SLOTS];
  int32_t seq_len[MAX_SLOTS];
  uint64_t seeds_addr, temperature_addr;
} step;

static struct rvt_sampled last;
static int32_t tokens[MAX_SLOTS];

/* Speculative decoding: the draft tokens of the step in progress. Whatever is sampled after they were verified is a
 * draft model's. */
bool rvt_drafting;
static struct {
  bool verified;
  uint32_t rows, steps; /* `steps` of a draft model behind its first */
  uint32_t rejected[MAX_SLOTS];
} drafts;

/* Constraints for the coming sampling step; `serial` tells stale ones from fresh ones without clearing. They hold
 * for one step: until the framework begins the next (V2 runner), the observer announces another batch, or, where
 * neither tells, for one choice of tokens. */
static uint32_t serial = 1;
static const struct rvt_batch *constrained_batch;
static struct {
  uint32_t mask_serial, mask_words;
  uint32_t allowed_serial, allowed_count;
  uint32_t *mask;
  int32_t *allowed;
} constraints[MAX_SLOTS];
static bool constrained;

static void forget_drafts(void) {
  drafts.verified = false;
  drafts.rows = drafts.steps = 0;
}

void rvt_step_begin(uint32_t rows, const int32_t *slot, const int32_t *seq_lens) {
  if (rows > MAX_SLOTS) rows = MAX_SLOTS;
  memcpy(step.slot, slot, rows * sizeof *slot);
  memcpy(step.seq_len, seq_lens, rows * sizeof *seq_lens);
  step.rows = rows;
  step.unannounced = true;
  serial++;
  constrained = false;
  forget_drafts();
}

void rvt_step_prompt(int32_t slot, uint64_t token_ids_addr, uint32_t prompt_tokens) {
  if (slot < 0 || slot >= MAX_SLOTS) return;
  slots[slot].token_ids_addr = token_ids_addr;
  slots[slot].prompt_tokens = prompt_tokens;
  slots[slot].stale = true;
}

void rvt_step_sampling(uint64_t seeds_addr, uint64_t temperature_addr) {
  step.seeds_addr = seeds_addr;
  step.temperature_addr = temperature_addr;
}

static void constrain(void) {
  const struct rvt_batch *batch = rvt_batch_current();
  if (constrained && batch != constrained_batch) serial++;
  constrained_batch = batch;
  constrained = true;
}

/* Grows geometrically; kept for the life of the process. */
static void *keep(void *old, uint32_t *room, uint32_t wanted, size_t element) {
  static char *arena;
  static size_t left;
  if (old && *room >= wanted) return old;
  size_t bytes = ((size_t)wanted * element + 63) & ~(size_t)63;
  if (left < bytes) {
    left = bytes > (4u << 20) ? bytes : 4u << 20;
    arena = rvt_persist(left);
    if (!arena) {
      left = 0;
      return NULL;
    }
  }
  void *p = arena;
  arena += bytes;
  left -= bytes;
  *room = wanted;
  return p;
}

void rvt_step_mask(uint32_t row, const uint32_t *mask, uint32_t words) {
  static uint32_t room[MAX_SLOTS];
  if (row >= MAX_SLOTS) return;
  uint32_t word = 0;
  while (word < words && mask[word] == UINT32_MAX) word++;
  if (word == words) return; /* everything is allowed: the row has no grammar */
  constrain();
  constraints[row].mask = keep(constraints[row].mask, &room[row], words, sizeof *mask);
  if (!constraints[row].mask) return;
  memcpy(constraints[row].mask, mask, words * sizeof *mask);
  constraints[row].mask_words = words;
  constraints[row].mask_serial = serial;
}

void rvt_step_allowed(uint32_t row, const int32_t *ids, uint32_t count) {
  static uint32_t room[MAX_SLOTS];
  if (row >= MAX_SLOTS) return;
  constrain();
  constraints[row].allowed = keep(constraints[row].allowed, &room[row], count, sizeof *ids);
  if (!constraints[row].allowed) return;
  memcpy(constraints[row].allowed, ids, count * sizeof *ids);
  constraints[row].allowed_count = count;
  constraints[row].allowed_serial = serial;
}

/* The request of a slot, from its prompt in memory; random sampling mixes in the slot's seed. */
static struct rvt_request *slot_request(int32_t index) {
  struct slot *slot = &slots[index];
  if (slot->stale) {
    int32_t *prompt = rvt_scratch(7, slot->prompt_tokens * sizeof *prompt + 8);
    rvt_read_i32(slot->token_ids_addr, prompt, slot->prompt_tokens);
    float temperature = 0;
    uint64_t seed = 0;
    if (step.temperature_addr) rvt_mem_read(step.temperature_addr + 4u * (unsigned)index, &temperature, 4);
    if (step.seeds_addr && temperature != 0) rvt_mem_read(step.seeds_addr + 8u * (unsigned)index, &seed, 8);
    slot->request = (struct rvt_request){.eos = -1};
    rvt_request_init(&slot->request, NULL, prompt, slot->prompt_tokens, seed);
    slot->stale = false;
  }
  return &slot->request;
}

void rvt_step_minimum(int32_t index, uint32_t min_len, const int32_t *stops, uint32_t count) {
  if (index < 0 || index >= MAX_SLOTS || !slots[index].token_ids_addr) return;
  struct rvt_request *request = slot_request(index);
  request->min_tokens = min_len > request->prompt_tokens ? min_len - request->prompt_tokens : 0;
  request->avoid_count = count < RVT_MAX_AVOID ? count : RVT_MAX_AVOID;
  memcpy(request->avoid, stops, request->avoid_count * sizeof *stops);
}

/* A row that nobody can name (warm-up steps): its number is its identity. */
static struct rvt_request *nameless(uint32_t row) {
  static struct rvt_request request;
  request = (struct rvt_request){.key = row, .eos = -1, .length = -1, .accept = -1};
  return &request;
}

/* Where a token of the step stands: `row` is its sequence, `logit` its row of logits, which with draft tokens is
 * another, `ahead` the number of query tokens of the sequence behind it. */
struct place {
  uint32_t row, logit, ahead;
};

/* `index` gets the output index, negative while the prompt is unfinished. */
static struct rvt_choice choice_at(struct place at, uint32_t vocab, int64_t *index) {
  struct rvt_choice choice = {.vocab = vocab};
  const struct rvt_batch *batch = rvt_batch_current();
  struct rvt_request *request = NULL;
  int64_t length = 0;
  if (batch->ids && at.row < batch->nseq) {
    request = rvt_request_find(batch->ids[at.row]);
    length = batch->seqs[at.row].kv_len;
  }
  if (at.row < step.rows) {
    int32_t slot = step.slot[at.row];
    if (!request && slot >= 0 && slot < MAX_SLOTS) request = slot_request(slot);
    length = step.seq_len[at.row];
  } else if (!request && at.row < batch->nseq) {
    length = batch->seqs[at.row].kv_len;
  }
  choice.request = request ? request : nameless(at.row);
  *index = length - (int64_t)at.ahead - (int64_t)choice.request->prompt_tokens;
  choice.output_index = *index > 0 ? (uint32_t)*index : 0;
  if (constrained && batch == constrained_batch && at.logit < MAX_SLOTS) {
    if (constraints[at.logit].mask_serial == serial) {
      choice.mask = constraints[at.logit].mask;
      choice.mask_words = constraints[at.logit].mask_words;
    }
    if (constraints[at.logit].allowed_serial == serial) {
      choice.allowed = constraints[at.logit].allowed;
      choice.allowed_count = constraints[at.logit].allowed_count;
    }
  }
  return choice;
}

struct rvt_choice rvt_row_choice(uint32_t row, uint32_t vocab) {
  int64_t index;
  return choice_at((struct place){row, row, 0}, vocab, &index);
}

const int32_t *rvt_sample_rows(uint32_t rows, uint32_t vocab, uint64_t where) {
  if (rows > MAX_SLOTS) rows = MAX_SLOTS;
  for (uint32_t row = 0; row < rows; row++) {
    int64_t index;
    struct rvt_choice choice = choice_at((struct place){row, row, 0}, vocab, &index);
    tokens[row] = rvt_oracle_token(&choice);
    if (!drafts.verified && index >= 0) choice.request->produced = (uint32_t)index + 1;
  }
  last = (struct rvt_sampled){.rows = rows, .vocab = vocab, .where = where, .tokens = tokens};
  if (step.rows == 0 && rvt_batch_current()->nseq == 0) constrained = false;
  return tokens;
}

uint32_t rvt_sample_drafts(const struct rvt_drafts *d, int32_t *out) {
  uint32_t n = 0;
  bool accepted = true;
  int64_t index = -1;
  struct rvt_choice choice;
  for (uint32_t i = 0; i <= d->count && accepted; i++) {
    choice = choice_at((struct place){d->row, d->first_logit + i, d->count - i}, d->vocab, &index);
    if (i == d->count) out[n++] = rvt_oracle_token(&choice);
    else
      out[n++] = rvt_oracle_verify(&choice, d->ids ? d->ids[i] : RVT_DRAFT_UNKNOWN, d->rates ? (double)d->rates[i] : -1,
                                   &accepted);
    if (d->first_logit + i < MAX_SLOTS) tokens[d->first_logit + i] = out[n - 1];
  }
  if (index >= 0) choice.request->produced = (uint32_t)index + 1;
  if (d->row < MAX_SLOTS) drafts.rejected[d->row] = d->count + 1 - n;
  return n;
}

void rvt_drafts_verified(uint32_t rows, uint32_t logits, uint32_t vocab) {
  rvt_drafting = true;
  drafts.verified = true;
  drafts.rows = rows < MAX_SLOTS ? rows : MAX_SLOTS;
  last = (struct rvt_sampled){.rows = logits < MAX_SLOTS ? logits : MAX_SLOTS, .vocab = vocab, .tokens = tokens};
}

void rvt_batch_correct(struct rvt_seq *seqs, uint32_t n, const char *const *ids) {
  for (uint32_t i = 0; i < n; i++) {
    const struct rvt_request *request = rvt_request_find(ids[i]);
    if (!request || !request->produced) continue;
    uint32_t computed = request->prompt_tokens + request->produced - 1;
    if (seqs[i].kv_len > computed + seqs[i].q_len) seqs[i].kv_len = computed + seqs[i].q_len;
  }
}

/* The V2 runner's kernels tell a step before the observer does: where they did not, another runner executes. */
void rvt_batch_announced(void) {
  if (!step.unannounced) step.rows = 0;
  step.unannounced = false;
  forget_drafts();
}

void rvt_drafter_step(void) {
  const struct rvt_batch *batch = rvt_batch_current();
  uint32_t n = batch->nseq;
  if (!n) return;
  struct rvt_seq *seqs = rvt_scratch(7, n * sizeof *seqs);
  for (uint32_t i = 0; i < n; i++) {
    uint32_t rejected = drafts.steps == 0 && i < drafts.rows ? drafts.rejected[i] : 0;
    seqs[i] = (struct rvt_seq){.q_len = 1, .kv_len = batch->seqs[i].kv_len - rejected + 1};
  }
  drafts.steps++;
  rvt_batch_of_drafter(seqs, n);
}

const struct rvt_sampled *rvt_sampled(void) { return &last; }

/* A copy to the host of bytes that nothing wrote: when it has the size of the tokens just sampled, and nothing
 * else was recognised on the way, these are they. */
bool rvt_oracle_read(uint64_t addr, void *out, size_t n) {
  if (last.rows == 0) return false;
  if (n == 8ull * last.rows) {
    for (uint32_t i = 0; i < last.rows; i++) ((int64_t *)out)[i] = last.tokens[i];
    return true;
  }
  if (n == 4ull * last.rows) {
    memcpy(out, last.tokens, n);
    return true;
  }
  return false;
}
