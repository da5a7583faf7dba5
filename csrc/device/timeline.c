/* Streams as numbers: when each is free again, in virtual time.
 *
 * Work starts at the latest of: its launch, the end of the stream's earlier work, and what the legacy default
 * stream's rules add. Nothing here costs the host anything until somebody waits.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "device/core.h"

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t load(_Atomic int64_t *a) { return atomic_load_explicit(a, memory_order_acquire); }

/* When a copy that could start at start_ns finds the engine free. A copy that waits for its stream does not hold the
 * engine: what is ready earlier and fits in before it goes first. */
static int64_t engine_free(struct rvt_copy_engine *e, int64_t start_ns, int64_t duration_ns) {
  return start_ns + duration_ns <= load(&e->start_ns) ? start_ns : max64(start_ns, load(&e->end_ns));
}

int64_t rvt_timeline_push(struct rvt_stream *s, int64_t duration_ns, int engine) {
  struct rvt_device *d = rvt_dev(s->device);
  int64_t earliest = rvt_now_ns();
  if (s->is_legacy) earliest = max64(earliest, load(&d->blocking_ready_ns));
  else if (!s->non_blocking) earliest = max64(earliest, load(&d->legacy_ready_ns));
  int64_t ready = load(&s->ready_ns), start, end;
  do {
    start = max64(earliest, ready);
    if (engine >= 0) start = engine_free(&d->engine[engine], start, duration_ns);
    end = start + duration_ns;
  } while (
      !atomic_compare_exchange_weak_explicit(&s->ready_ns, &ready, end, memory_order_acq_rel, memory_order_acquire));
  if (engine >= 0 && end > load(&d->engine[engine].end_ns)) {
    atomic_store_explicit(&d->engine[engine].start_ns, start, memory_order_release);
    rvt_atomic_max(&d->engine[engine].end_ns, end);
  }
  if (s->is_legacy) rvt_atomic_max(&d->legacy_ready_ns, end);
  else if (!s->non_blocking) rvt_atomic_max(&d->blocking_ready_ns, end);
  rvt_atomic_max(&d->all_ready_ns, end);
  return end;
}

int64_t rvt_stream_ready_ns(struct rvt_stream *s) {
  struct rvt_device *d = rvt_dev(s->device);
  int64_t t = load(&s->ready_ns);
  if (s->is_legacy) t = max64(t, load(&d->blocking_ready_ns));
  return t;
}

void rvt_stream_not_before(struct rvt_stream *s, int64_t t_ns) {
  struct rvt_device *d = rvt_dev(s->device);
  rvt_atomic_max(&s->ready_ns, t_ns);
  if (s->is_legacy) rvt_atomic_max(&d->legacy_ready_ns, t_ns);
  else if (!s->non_blocking) rvt_atomic_max(&d->blocking_ready_ns, t_ns);
}

int64_t rvt_device_ready_ns(int ordinal) { return load(&rvt_dev(ordinal)->all_ready_ns); }

/* ---- stream objects -------------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct rvt_stream *free_streams;
static uint64_t next_stream_id = 1;

int rvt_stream_create(int ordinal, unsigned flags, int priority, struct rvt_stream **out) {
  pthread_mutex_lock(&lock);
  struct rvt_stream *s = free_streams;
  if (s) free_streams = s->next_free;
  else s = rvt_persist(sizeof *s);
  if (s) {
    struct rvt_node **frontier = s->frontier;
    uint32_t room = s->frontier_room;
    memset(s, 0, sizeof *s);
    s->frontier = frontier;
    s->frontier_room = room;
    s->id = next_stream_id++;
  }
  pthread_mutex_unlock(&lock);
  if (!s) return RVT_E_OUT_OF_MEMORY;
  s->magic = RVT_MAGIC_STREAM;
  s->device = (int16_t)ordinal;
  s->flags = flags;
  s->non_blocking = flags & 1;
  s->priority = priority > 0 ? 0 : priority < -5 ? -5 : priority;
  s->ctx = &rvt_dev(ordinal)->primary;
  *out = s;
  return RVT_OK;
}

struct rvt_stream *rvt_stream_legacy(int ordinal) {
  struct rvt_device *d = rvt_dev(ordinal);
  if (RVT_LIKELY(d->legacy != NULL)) return d->legacy;
  struct rvt_stream *s;
  if (rvt_stream_create(ordinal, 0, 0, &s)) return NULL;
  s->is_legacy = true;
  struct rvt_stream *expected = NULL;
  __atomic_compare_exchange_n(&d->legacy, &expected, s, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
  return d->legacy;
}

static struct rvt_stream *stream_per_thread(void) {
  struct rvt_stream **slot = &rvt_t.per_thread[rvt_t.device];
  if (!*slot) rvt_stream_create(rvt_t.device, 0, 0, slot);
  return *slot;
}

struct rvt_stream *rvt_stream_resolve(void *handle) {
  uintptr_t v = (uintptr_t)handle;
  if (v > 2) {
    struct rvt_stream *s = handle;
    return RVT_LIKELY(s->magic == RVT_MAGIC_STREAM && !s->destroyed) ? s : NULL;
  }
  if (rvt_enter()) return NULL;
  return v == 2 ? stream_per_thread() : rvt_stream_legacy(rvt_t.device);
}

int rvt_stream_device(const struct rvt_stream *s) { return s->device; }

bool rvt_stream_is_capturing(const struct rvt_stream *s) {
  return atomic_load_explicit(&((struct rvt_stream *)s)->capture, memory_order_acquire) != NULL;
}

static void stream_destroy(struct rvt_stream *s) {
  pthread_mutex_lock(&lock);
  s->destroyed = true;
  /* Host functions of the stream may still be due; such a stream is not reused. */
  if (atomic_load(&s->callbacks) == 0) {
    s->next_free = free_streams;
    free_streams = s;
  }
  pthread_mutex_unlock(&lock);
}

int rvt_stream_destroy(void *handle) {
  struct rvt_stream *s = handle;
  if ((uintptr_t)handle <= 2 || s->magic != RVT_MAGIC_STREAM || s->destroyed) return RVT_E_INVALID_HANDLE;
  stream_destroy(s);
  return RVT_OK;
}

/* ---- waiting --------------------------------------------------------------------------------------------- */

/* Host functions run on a thread of ours; the wait for them is an ordinary futex wait, seen by the clock. */
static pthread_mutex_t callback_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t callback_done = PTHREAD_COND_INITIALIZER;

static void wait_callbacks(struct rvt_stream *s) {
  if (RVT_LIKELY(atomic_load_explicit(&s->callbacks, memory_order_acquire) == 0)) return;
  pthread_mutex_lock(&callback_lock);
  while (atomic_load(&s->callbacks)) pthread_cond_wait(&callback_done, &callback_lock);
  pthread_mutex_unlock(&callback_lock);
}

int rvt_wait_stream(struct rvt_stream *s, const char *what) {
  rvt_wait_until_ns(rvt_stream_ready_ns(s), what);
  wait_callbacks(s);
  return RVT_OK;
}

int rvt_stream_synchronize(struct rvt_stream *s) {
  if (rvt_stream_is_capturing(s)) return RVT_E_CAPTURE_UNSUPPORTED;
  return rvt_wait_stream(s, "cudaStreamSynchronize");
}

static _Atomic uint32_t callbacks_pending;

int rvt_wait_device(int ordinal, const char *what) {
  rvt_wait_until_ns(rvt_device_ready_ns(ordinal), what);
  if (RVT_LIKELY(atomic_load(&callbacks_pending) == 0)) return RVT_OK;
  pthread_mutex_lock(&callback_lock);
  while (atomic_load(&callbacks_pending)) pthread_cond_wait(&callback_done, &callback_lock);
  pthread_mutex_unlock(&callback_lock);
  return RVT_OK;
}

/* Ready now, or the time at which it will be (a poll of the clock). */
int rvt_stream_query(struct rvt_stream *s) {
  if (rvt_stream_is_capturing(s)) return RVT_E_CAPTURE_UNSUPPORTED;
  int64_t t = rvt_stream_ready_ns(s);
  if (t > rvt_now_ns()) {
    rvt_poll_ns(t);
    return RVT_E_NOT_READY;
  }
  if (atomic_load(&s->callbacks)) {
    rvt_poll_ns(INT64_MAX);
    return RVT_E_NOT_READY;
  }
  return RVT_OK;
}

/* ---- host functions -------------------------------------------------------------------------------------- */

struct host_call {
  int64_t at_ns;
  struct rvt_stream *stream;
  void (*fn)(void *);
  void *arg;
  struct host_call *next;
};
static struct host_call *calls, *calls_tail; /* FIFO, ordered by at_ns on insertion */
static pthread_cond_t call_added = PTHREAD_COND_INITIALIZER;
static bool thread_started;

static void run_call(struct host_call *c) {
  rvt_wait_until_ns(c->at_ns, "cudaLaunchHostFunc");
  c->fn(c->arg);
  /* What the function did is done now; work behind it in the stream cannot have ended before. */
  rvt_stream_not_before(c->stream, rvt_now_ns());
  pthread_mutex_lock(&callback_lock);
  atomic_fetch_sub(&c->stream->callbacks, 1);
  atomic_fetch_sub(&callbacks_pending, 1);
  pthread_cond_broadcast(&callback_done);
  pthread_mutex_unlock(&callback_lock);
  free(c);
}

static void *host_call_thread(void *unused) {
  for (;;) {
    pthread_mutex_lock(&callback_lock);
    while (!calls) pthread_cond_wait(&call_added, &callback_lock);
    struct host_call *c = calls;
    calls = c->next;
    if (!calls) calls_tail = NULL;
    pthread_mutex_unlock(&callback_lock);
    run_call(c);
  }
  return unused;
}

static void insert_by_time(struct host_call *c) {
  struct host_call **at = &calls;
  while (*at && (*at)->at_ns <= c->at_ns) at = &(*at)->next;
  c->next = *at;
  *at = c;
}

int rvt_host_call_at(struct rvt_stream *s, int64_t at_ns, void (*fn)(void *), void *arg) {
  struct host_call *c = malloc(sizeof *c);
  if (!c) return RVT_E_OUT_OF_MEMORY;
  *c = (struct host_call){.at_ns = at_ns, .stream = s, .fn = fn, .arg = arg};
  int rc = RVT_OK;
  pthread_mutex_lock(&callback_lock);
  if (!thread_started) {
    pthread_t thread;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attr, host_call_thread, NULL)) rc = RVT_E_UNKNOWN;
    else thread_started = true;
    pthread_attr_destroy(&attr);
  }
  if (rc == RVT_OK) {
    atomic_fetch_add(&s->callbacks, 1);
    atomic_fetch_add(&callbacks_pending, 1);
    insert_by_time(c);
    pthread_cond_signal(&call_added);
  }
  pthread_mutex_unlock(&callback_lock);
  if (rc) free(c);
  return rc;
}

int rvt_stream_host_func(struct rvt_stream *s, void (*fn)(void *), void *arg) {
  rvt_progress();
  if (rvt_stream_is_capturing(s)) return rvt_capture_host(s, fn, arg);
  return rvt_host_call_at(s, rvt_timeline_push(s, 0, RVT_ENGINE_NONE), fn, arg);
}

/* ---- ops ------------------------------------------------------------------------------------------------- */

void rvt_effect_forget(const void *ctx, struct rvt_stream *s, bool replay) {
  const struct rvt_forget *f = ctx;
  rvt_mem_forget(f->addr, f->bytes);
}

static int engine_of(const struct rvt_op *op) {
  if (op->kind != RVT_OP_COPY) return RVT_ENGINE_NONE;
  return op->p[1] == RVT_COPY_H2D ? RVT_ENGINE_H2D : op->p[1] == RVT_COPY_D2H ? RVT_ENGINE_D2H : RVT_ENGINE_NONE;
}

int rvt_submit_op(struct rvt_stream *s, struct rvt_op *op, const char *name, rvt_effect_fn effect, const void *ctx,
                  size_t ctx_bytes) {
  op->gpu = (uint32_t)rvt_dev(s->device)->gpu;
  op->model = rvt_model_index();
  op->name_len = name ? (uint32_t)strlen(name) : 0;
  uint64_t key = rvt_op_key(op, name ? rvt_hash_bytes(name, op->name_len) : 0);
  rvt_progress();
  if (rvt_stream_is_capturing(s)) return rvt_capture_op(s, op, key, name, effect, ctx, ctx_bytes);
  if (effect) effect(ctx, s, false);
  struct rvt_price price = rvt_price_op(op, key, name);
  int64_t end_ns = rvt_timeline_push(s, price.duration_ns, engine_of(op));
  rvt_account(s->device, &price);
  if (RVT_UNLIKELY(rvt_step_logging)) rvt_log_work(s, price.family, end_ns, price.duration_ns);
  return RVT_OK;
}
