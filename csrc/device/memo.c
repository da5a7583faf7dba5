/* Durations: a look-up table in front of the predictor service.
 *
 * A key is the op without its batch; where the service said that the duration depends on the batch, the entry
 * under that key only says so and the batch (or a size of it) makes a second key. Readers take no lock: an
 * entry is valid when its key reads the same before and after its fields.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "device/core.h"

#define SLOTS (1u << 18)
#define WAYS 4u

struct entry {
  _Atomic uint64_t key; /* 0 = free */
  _Atomic int64_t duration_ns;
  _Atomic uint64_t meta; /* family | source << 16 | flags << 32 */
};

static struct entry table[SLOTS]; /* 6 MiB of zero pages until used */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t next_victim;

static bool find(uint64_t key, struct rvt_price *out) {
  for (uint32_t i = 0; i < WAYS; i++) {
    struct entry *e = &table[(key + i) & (SLOTS - 1)];
    if (atomic_load_explicit(&e->key, memory_order_acquire) != key) continue;
    int64_t duration = atomic_load_explicit(&e->duration_ns, memory_order_relaxed);
    uint64_t meta = atomic_load_explicit(&e->meta, memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&e->key, memory_order_relaxed) != key) return false;
    *out = (struct rvt_price){duration, (uint16_t)meta, (uint16_t)(meta >> 16), (uint32_t)(meta >> 32)};
    return true;
  }
  return false;
}

static void put(uint64_t key, const struct rvt_price *p) {
  pthread_mutex_lock(&lock);
  struct entry *victim = NULL;
  for (uint32_t i = 0; i < WAYS && !victim; i++) {
    struct entry *e = &table[(key + i) & (SLOTS - 1)];
    uint64_t k = atomic_load_explicit(&e->key, memory_order_relaxed);
    if (k == 0 || k == key) victim = e;
  }
  if (!victim) victim = &table[(key + next_victim++ % WAYS) & (SLOTS - 1)];
  atomic_store_explicit(&victim->key, 0, memory_order_release);
  atomic_thread_fence(memory_order_seq_cst);
  atomic_store_explicit(&victim->duration_ns, p->duration_ns, memory_order_relaxed);
  atomic_store_explicit(&victim->meta, p->family | (uint64_t)p->source << 16 | (uint64_t)p->flags << 32,
                        memory_order_relaxed);
  atomic_store_explicit(&victim->key, key, memory_order_release);
  pthread_mutex_unlock(&lock);
}

static uint64_t batch_key(uint64_t key, uint32_t flags, const struct rvt_batch *batch) {
  uint64_t what = flags & RVT_PRED_NEEDS_BATCH    ? batch->hash
                  : flags & RVT_PRED_NEEDS_TOKENS ? (uint64_t)batch->tokens << 32 | batch->padded
                                                  : batch->nseq;
  uint64_t h = rvt_mix(key, what);
  return h ? h : 1;
}

/* Where it fails, `out` has the flags of the key, as far as they are known. */
static bool look_up(uint64_t key, const struct rvt_batch *batch, struct rvt_price *out) {
  out->flags = 0;
  if (!find(key, out)) return false;
  if (!(out->flags & RVT_PRED_NEEDS_ANY)) return true;
  return find(batch_key(key, out->flags, batch), out);
}

/* Without a service every op takes the constant; a graph adds nothing of its own. */
static struct rvt_price constant_price(const struct rvt_op *op) {
  static const uint16_t family[] = {RVT_FAM_OTHER, RVT_FAM_GEMM,       RVT_FAM_COPY,
                                    RVT_FAM_COPY,  RVT_FAM_COLLECTIVE, RVT_FAM_OTHER};
  int64_t ns = op->kind == RVT_OP_GRAPH ? 0 : rvt_g.page->constant_kernel_ns;
  return (struct rvt_price){ns, family[op->kind <= RVT_OP_GRAPH ? op->kind : 0], RVT_SRC_FALLBACK, 0};
}

static struct rvt_price keep(const struct rvt_asked *asked, const struct rvt_prediction *p) {
  struct rvt_price price = {p->duration_ns, (uint16_t)(p->family % RVT_MAX_FAMILIES),
                            (uint16_t)(p->source % RVT_MAX_SOURCES), p->flags};
  if (!asked->ahead) put(asked->item->key, &price);
  if (p->flags & RVT_PRED_NEEDS_ANY) put(batch_key(asked->item->key, p->flags, asked->batch), &price);
  return price;
}

#define BATCH_MISSES 512u
#define STEPS_AHEAD 4u
#define STEPS_AHEAD_MOST 16u
#define SEQS_AHEAD 1024u

/* A batch of decodes some steps later: as many keys more in every sequence. */
static struct rvt_batch later(const struct rvt_batch *batch, uint32_t steps, struct rvt_seq *seqs) {
  struct rvt_batch then = *batch;
  for (uint32_t i = 0; i < batch->nseq; i++) seqs[i] = (struct rvt_seq){1, batch->seqs[i].kv_len + steps};
  then.seqs = seqs;
  then.hash = rvt_batch_hash(seqs, batch->nseq, batch->padded);
  return then;
}

/* While nothing but decodes runs, each step asks the same as the one before, of a later batch: what the next steps will
 * ask goes with this question, and twice as much of it where all that went with the last one was of use. Appends to the
 * `n` asked; returns their new number. */
static uint32_t ask_ahead(struct rvt_asked *asked, uint32_t n, const struct rvt_batch *batch) {
  static struct rvt_seq seqs[STEPS_AHEAD_MOST + 1][SEQS_AHEAD];
  static struct rvt_batch batches[STEPS_AHEAD_MOST];
  static uint64_t last, expected; /* the batch of the last question, and the one after all that went with it */
  static uint32_t steps;
  bool wanted = false;
  for (uint32_t i = 0; i < n; i++) wanted |= asked[i].item->price.flags & RVT_PRED_NEEDS_BATCH;
  if (!wanted || batch->nseq == 0 || batch->tokens != batch->nseq || batch->nseq > SEQS_AHEAD) return n;
  if (batch->hash == expected) steps = steps < STEPS_AHEAD_MOST ? steps * 2 : steps;
  else if (batch->hash != last) steps = STEPS_AHEAD;
  uint32_t count = n;
  for (uint32_t step = 0; step < steps; step++) {
    batches[step] = later(batch, step + 1, seqs[step]);
    for (uint32_t i = 0; i < n && count < BATCH_MISSES; i++)
      if (asked[i].item->price.flags & RVT_PRED_NEEDS_BATCH)
        asked[count++] = (struct rvt_asked){asked[i].item, &batches[step], true};
  }
  last = batch->hash;
  expected = later(batch, steps + 1, seqs[steps]).hash;
  return count;
}

/* Asks the service about the items that the table does not know. */
static void resolve_misses(struct rvt_priced **missing, uint32_t n, const struct rvt_batch *batch) {
  static struct rvt_asked asked[BATCH_MISSES]; /* these and ask_ahead's under the predictor's own lock */
  static struct rvt_prediction answers[BATCH_MISSES];
  static pthread_mutex_t miss_lock = PTHREAD_MUTEX_INITIALIZER;
  rvt_internal_begin();
  pthread_mutex_lock(&miss_lock);
  for (uint32_t i = 0; i < n; i++) asked[i] = (struct rvt_asked){missing[i], batch, false};
  uint32_t count = ask_ahead(asked, n, batch);
  rvt_predict(asked, count, answers);
  for (uint32_t i = 0; i < count; i++) {
    struct rvt_price price = keep(&asked[i], &answers[i]);
    if (!asked[i].ahead) asked[i].item->price = price;
  }
  pthread_mutex_unlock(&miss_lock);
  rvt_internal_end();
  __atomic_fetch_add(&rvt_g.page->memo_misses, n, __ATOMIC_RELAXED);
}

void rvt_price_many(struct rvt_priced *items, uint32_t n) {
  const struct rvt_batch *batch = rvt_batch_current();
  if (rvt_g.page->predictor_socket[0] == 0) {
    for (uint32_t i = 0; i < n; i++) items[i].price = constant_price(items[i].op);
    return;
  }
  struct rvt_priced *missing[BATCH_MISSES];
  uint32_t count = 0;
  for (uint32_t i = 0; i < n; i++) {
    if (look_up(items[i].key, batch, &items[i].price)) continue;
    missing[count++] = &items[i];
    if (count == BATCH_MISSES) {
      resolve_misses(missing, count, batch);
      count = 0;
    }
  }
  if (count) resolve_misses(missing, count, batch);
}

struct rvt_price rvt_price_op(const struct rvt_op *op, uint64_t key, const char *name) {
  struct rvt_price price;
  if (rvt_g.page->predictor_socket[0] == 0) return constant_price(op);
  if (RVT_LIKELY(look_up(key, rvt_batch_current(), &price))) {
    __atomic_fetch_add(&rvt_g.page->memo_hits, 1, __ATOMIC_RELAXED);
    return price;
  }
  struct rvt_priced item = {.op = op, .key = key, .name = name};
  rvt_price_many(&item, 1);
  return item.price;
}

void rvt_account_many(const struct rvt_price *p, uint32_t launches) {
  struct rvt_device_page *page = rvt_g.page;
  uint64_t ns = (uint64_t)p->duration_ns * launches;
  uint32_t index = RVT_PRED_OPERATOR(p->flags);
  __atomic_fetch_add(&page->time_ns[p->family][p->source], ns, __ATOMIC_RELAXED);
  __atomic_fetch_add(&page->launches[p->family], launches, __ATOMIC_RELAXED);
  if (index && index < RVT_MAX_OPERATORS) __atomic_fetch_add(&page->operator_ns[index], ns, __ATOMIC_RELAXED);
}

void rvt_account(int ordinal, const struct rvt_price *p) {
  rvt_account_many(p, 1);
  __atomic_fetch_add(&rvt_g.page->use[rvt_dev(ordinal)->gpu].busy_ns, (uint64_t)p->duration_ns, __ATOMIC_RELAXED);
}
