/* Events: a virtual time, or a place in a capture. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "device/core.h"
#include "device/event.h"

#define EVENT_DISABLE_TIMING 2u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct rvt_event *free_events;

int rvt_event_create(int ordinal, unsigned flags, struct rvt_event **out) {
  if (flags & ~7u) return RVT_E_INVALID_VALUE;
  pthread_mutex_lock(&lock);
  struct rvt_event *e = free_events;
  if (e) free_events = e->next_free;
  else e = rvt_persist(sizeof *e);
  pthread_mutex_unlock(&lock);
  if (!e) return RVT_E_OUT_OF_MEMORY;
  memset(e, 0, sizeof *e);
  e->magic = RVT_MAGIC_EVENT;
  e->flags = flags;
  e->device = (int16_t)ordinal;
  atomic_store(&e->time_ns, -1);
  *out = e;
  return RVT_OK;
}

bool rvt_event_valid(const struct rvt_event *e) { return e && e->magic == RVT_MAGIC_EVENT && !e->destroyed; }

void rvt_event_drop_capture(struct rvt_event *e) {
  free(e->frontier);
  e->frontier = NULL;
  e->frontier_count = 0;
  e->capture = NULL;
}

int rvt_event_destroy(struct rvt_event *e) {
  if (!rvt_event_valid(e)) return RVT_E_INVALID_HANDLE;
  rvt_event_drop_capture(e);
  pthread_mutex_lock(&lock);
  e->destroyed = true;
  e->next_free = free_events;
  free_events = e;
  pthread_mutex_unlock(&lock);
  return RVT_OK;
}

int rvt_event_record(struct rvt_event *e, struct rvt_stream *s, bool external) {
  if (!rvt_event_valid(e) || !s) return RVT_E_INVALID_HANDLE;
  if (rvt_stream_is_capturing(s)) {
    return external ? rvt_capture_event_node(s, e, true) : rvt_capture_event_record(s, e);
  }
  if (RVT_UNLIKELY(e->capture != NULL)) rvt_event_drop_capture(e);
  rvt_host_cost(RVT_HOST_EVENT);
  int64_t ready = rvt_stream_ready_ns(s), now = rvt_now_ns();
  /* An event in a blocking stream is behind earlier work of the legacy stream, too. */
  if (!s->is_legacy && !s->non_blocking) {
    int64_t legacy = atomic_load_explicit(&rvt_dev(s->device)->legacy_ready_ns, memory_order_acquire);
    if (legacy > ready) ready = legacy;
  }
  atomic_store_explicit(&e->stream, s, memory_order_relaxed);
  atomic_store_explicit(&e->time_ns, ready > now ? ready : now, memory_order_release);
  return RVT_OK;
}

int rvt_event_wait(struct rvt_stream *s, struct rvt_event *e, bool external) {
  if (!rvt_event_valid(e) || !s) return RVT_E_INVALID_HANDLE;
  if (e->capture && !external) return rvt_capture_event_wait(s, e);
  if (rvt_stream_is_capturing(s)) {
    if (external) return rvt_capture_event_node(s, e, false);
    /* An event recorded before the capture: an error on the real thing when it is still pending. */
    return atomic_load(&e->time_ns) < 0 ? RVT_OK : RVT_E_CAPTURE_ISOLATION;
  }
  rvt_host_cost(RVT_HOST_EVENT);
  int64_t t = atomic_load_explicit(&e->time_ns, memory_order_acquire);
  if (t > 0) rvt_stream_not_before(s, t);
  return RVT_OK;
}

/* Host functions queued before the record must have run as well. */
static bool callbacks_due(struct rvt_event *e) {
  struct rvt_stream *s = atomic_load_explicit(&e->stream, memory_order_relaxed);
  return s && RVT_UNLIKELY(atomic_load(&s->callbacks) != 0);
}

int rvt_event_query(struct rvt_event *e) {
  if (!rvt_event_valid(e)) return RVT_E_INVALID_HANDLE;
  if (e->capture) return RVT_E_CAPTURED_EVENT;
  int64_t t = atomic_load_explicit(&e->time_ns, memory_order_acquire);
  if (t > rvt_now_ns()) {
    rvt_poll_ns(t);
    return RVT_E_NOT_READY;
  }
  return RVT_OK;
}

int rvt_event_synchronize(struct rvt_event *e) {
  if (!rvt_event_valid(e)) return RVT_E_INVALID_HANDLE;
  if (e->capture) return RVT_E_CAPTURED_EVENT;
  rvt_wait_until_ns(atomic_load_explicit(&e->time_ns, memory_order_acquire), "cudaEventSynchronize");
  if (callbacks_due(e)) rvt_wait_stream(atomic_load(&e->stream), "cudaEventSynchronize");
  return RVT_OK;
}

/* Two records with nothing between them are still two time stamps: programs divide by what they measured (inductor's
 * benchmarks do). CUDA documents a resolution of about half a microsecond. */
#define TICK_NS 500

int rvt_event_elapsed(struct rvt_event *from, struct rvt_event *to, float *ms) {
  if (!rvt_event_valid(from) || !rvt_event_valid(to) || !ms) return RVT_E_INVALID_HANDLE;
  if ((from->flags | to->flags) & EVENT_DISABLE_TIMING) return RVT_E_INVALID_HANDLE;
  int64_t a = atomic_load(&from->time_ns), b = atomic_load(&to->time_ns);
  if (a < 0 || b < 0) return RVT_E_INVALID_HANDLE;
  int64_t now = rvt_now_ns();
  if (a > now || b > now) return RVT_E_NOT_READY;
  int64_t ns = a == b && from != to ? TICK_NS : b - a;
  *ms = (float)((double)ns * 1e-6);
  return RVT_OK;
}
