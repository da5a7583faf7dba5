/* Client of the predictor service, and the batch and model facts that observers hand over. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "device/core.h"

static int fd = -1;
static pthread_mutex_t wire_lock = PTHREAD_MUTEX_INITIALIZER;

static bool send_all(const void *data, size_t n) {
  const char *p = data;
  while (n) {
    ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    p += sent;
    n -= (size_t)sent;
  }
  return true;
}

static bool receive_all(void *data, size_t n) {
  char *p = data;
  while (n) {
    ssize_t got = recv(fd, p, n, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    p += got;
    n -= (size_t)got;
  }
  return true;
}

/* Without durations there is no run: any substitute would be a silently wrong number. */
static void connect_service(void) {
  if (fd >= 0) return;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  memcpy(address.sun_path, rvt_g.page->predictor_socket, sizeof address.sun_path - 1);
  fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
    rvt_fail("the predictor service does not answer at %s (%s)", address.sun_path, strerror(errno));
}

static void lost_service(void) { rvt_fail("the predictor service is gone, and durations with it: this run is over"); }

/* A forked child must not share its parent's connection. */
__attribute__((constructor)) static void watch_forks(void);
static void in_child(void) { fd = -1; }
static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

static size_t record_bytes(const struct rvt_asked *asked) {
  size_t n = sizeof(struct rvt_op) + asked->batch->nseq * sizeof(struct rvt_seq) + asked->item->op->name_len;
  return (n + 7) & ~(size_t)7;
}

static size_t put_record(char *out, const struct rvt_asked *asked) {
  const struct rvt_batch *batch = asked->batch;
  struct rvt_op op = *asked->item->op;
  op.nseq = batch->nseq;
  op.padded = batch->padded;
  op.ahead = asked->ahead;
  size_t total = record_bytes(asked), at = sizeof op;
  memset(out + total - 8, 0, 8);
  memcpy(out, &op, sizeof op);
  memcpy(out + at, batch->seqs, batch->nseq * sizeof(struct rvt_seq));
  at += batch->nseq * sizeof(struct rvt_seq);
  memcpy(out + at, asked->item->name, op.name_len);
  return total;
}

void rvt_predict(const struct rvt_asked *asked, uint32_t n, struct rvt_prediction *out) {
  size_t bytes = 8;
  for (uint32_t i = 0; i < n; i++) bytes += record_bytes(&asked[i]);
  char *message = malloc(bytes);
  if (!message) rvt_fail("no memory for a question to the predictor");
  uint32_t head[2] = {n, (uint32_t)(bytes - 8)};
  memcpy(message, head, 8);
  size_t at = 8;
  for (uint32_t i = 0; i < n; i++) at += put_record(message + at, &asked[i]);
  pthread_mutex_lock(&wire_lock);
  connect_service();
  if (!send_all(message, bytes) || !receive_all(head, 8) || head[0] != n || !receive_all(out, n * sizeof *out))
    lost_service();
  pthread_mutex_unlock(&wire_lock);
  free(message);
}

/* ---- observers ------------------------------------------------------------------------------------------- */

static _Atomic uint32_t model_index;

uint32_t rvt_model_index(void) { return atomic_load_explicit(&model_index, memory_order_relaxed); }

/* Models that were announced: with a draft model a framework goes to and fro between two in every step. */
#define KNOWN_MODELS 8
static struct {
  _Atomic uint64_t hash; /* written last */
  uint32_t index;
} known_models[KNOWN_MODELS];

static uint32_t ask_for_index(const char *json, uint32_t bytes) {
  uint32_t head[2] = {RVT_WIRE_MODEL, bytes};
  rvt_internal_begin();
  pthread_mutex_lock(&wire_lock);
  connect_service();
  if (!send_all(head, 8) || !send_all(json, bytes) || !receive_all(head, 8)) lost_service();
  pthread_mutex_unlock(&wire_lock);
  rvt_internal_end();
  return head[0];
}

/* Model facts as JSON (see rvt_op.h). Returns the model's index, 0 when no service took it. */
RVT_API uint32_t revati_observe_model(const char *json) {
  static _Atomic uint32_t turns;
  if (!json || rvt_init() || rvt_g.page->predictor_socket[0] == 0) return 0;
  uint32_t bytes = (uint32_t)strlen(json), index = 0;
  uint64_t hash = rvt_hash_bytes(json, bytes) | 1;
  for (uint32_t i = 0; i < KNOWN_MODELS && !index; i++) {
    if (atomic_load_explicit(&known_models[i].hash, memory_order_acquire) == hash) index = known_models[i].index;
  }
  if (!index) {
    index = ask_for_index(json, bytes);
    uint32_t at = atomic_fetch_add(&turns, 1) % KNOWN_MODELS;
    atomic_store(&known_models[at].hash, 0);
    known_models[at].index = index;
    atomic_store_explicit(&known_models[at].hash, hash, memory_order_release);
  }
  atomic_store(&model_index, index);
  return index;
}

/* An observer knows that the framework does something whose effect or duration nothing here reproduces. */
RVT_API void revati_observe_lacking(const char *what) {
  if (what && !rvt_init()) rvt_lacking(what);
}

#define KEPT_BATCHES 64
#define MAX_SEQS 16384

struct kept_batch {
  struct rvt_batch batch;
  struct rvt_seq *seqs;
  const char **ids;
  char *text;
  size_t room, text_room;
};
static struct kept_batch kept[KEPT_BATCHES];
static const struct rvt_batch no_batch;
static _Atomic(const struct rvt_batch *) current = &no_batch;
static uint32_t turn;
static pthread_mutex_t batch_lock = PTHREAD_MUTEX_INITIALIZER;

const struct rvt_batch *rvt_batch_current(void) { return atomic_load_explicit(&current, memory_order_acquire); }

uint64_t rvt_batch_hash(const struct rvt_seq *seqs, uint32_t n, uint32_t padded) {
  uint64_t hash = rvt_mix(rvt_hash_bytes(seqs, n * sizeof *seqs), padded);
  return hash ? hash : 1;
}

static bool keep_seqs(struct kept_batch *k, const struct rvt_seq *seqs, uint32_t n) {
  if (k->room < n) {
    size_t room = n * 2 < 256 ? 256 : n * 2;
    k->seqs = rvt_persist(room * sizeof *k->seqs);
    k->ids = rvt_persist(room * sizeof *k->ids);
    k->room = k->seqs && k->ids ? room : 0;
    if (!k->room) return false;
  }
  memcpy(k->seqs, seqs, n * sizeof *seqs);
  return true;
}

static bool keep_ids(struct kept_batch *k, const char *const *ids, uint32_t n) {
  size_t bytes = 0;
  for (uint32_t i = 0; i < n; i++) bytes += (ids[i] ? strlen(ids[i]) : 0) + 1;
  if (k->text_room < bytes) {
    k->text = rvt_persist(bytes * 2);
    k->text_room = k->text ? bytes * 2 : 0;
    if (!k->text) return false;
  }
  char *at = k->text;
  for (uint32_t i = 0; i < n; i++) {
    size_t len = ids[i] ? strlen(ids[i]) : 0;
    memcpy(at, ids[i] ? ids[i] : "", len + 1);
    k->ids[i] = at;
    at += len + 1;
  }
  return true;
}

static const struct rvt_batch *keep_batch(const struct rvt_seq *seqs, uint32_t n, uint32_t padded_tokens,
                                          const char *const *ids) {
  struct kept_batch *k = &kept[turn++ % KEPT_BATCHES];
  if (!keep_seqs(k, seqs, n) || (ids && !keep_ids(k, ids, n))) return NULL;
  if (RVT_UNLIKELY(rvt_drafting) && ids) rvt_batch_correct(k->seqs, n, ids);
  uint32_t tokens = 0;
  for (uint32_t i = 0; i < n; i++) tokens += seqs[i].q_len;
  k->batch = (struct rvt_batch){.nseq = n,
                                .padded = padded_tokens,
                                .tokens = tokens,
                                .hash = rvt_batch_hash(k->seqs, n, padded_tokens),
                                .seqs = k->seqs,
                                .ids = ids ? k->ids : NULL};
  atomic_store_explicit(&current, &k->batch, memory_order_release);
  return &k->batch;
}

/* The batch that the framework executes from now on: one entry per sequence, ids may be NULL. n = 0 clears it.
 * Returns 0, or -1 when the batch cannot be kept. */
RVT_API int revati_observe_batch(const struct rvt_seq *seqs, uint32_t n, uint32_t padded_tokens,
                                 const char *const *ids) {
  if (n > MAX_SEQS || (n && !seqs)) return -1;
  if (n == 0) {
    atomic_store(&current, &no_batch);
    return 0;
  }
  if (RVT_UNLIKELY(rvt_host_costing)) {
    rvt_host_cost_slow(RVT_HOST_STEP, 1);
    rvt_host_cost_slow(RVT_HOST_SEQUENCE, n);
  }
  pthread_mutex_lock(&batch_lock);
  const struct rvt_batch *batch = keep_batch(seqs, n, padded_tokens, ids);
  if (batch && rvt_step_logging) rvt_log_step(batch);
  pthread_mutex_unlock(&batch_lock);
  rvt_batch_announced();
  return batch ? 0 : -1;
}

void rvt_batch_of_drafter(const struct rvt_seq *seqs, uint32_t n) {
  pthread_mutex_lock(&batch_lock);
  keep_batch(seqs, n, n, NULL);
  pthread_mutex_unlock(&batch_lock);
}
