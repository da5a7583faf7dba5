/* Durations from CUDA events around each call, where CUPTI is missing.
 *
 * Less exact than CUPTI on a card: on an idle stream the interval holds the time from the first event to the kernel's
 * arrival, too. The driver's functions are used throughout, because the runtime's would change what the program reads
 * from cudaGetLastError.
 */
#include <pthread.h>
#include <stdlib.h>

#include "record/record.h"

#define RING 4096u /* calls of one thread that have not been read */

struct timed {
  void *begin, *end; /* made at the first use of the slot, on `device` */
  uint32_t device;
  uint16_t flags;
  uint64_t correlation, exec;
  int64_t host_ns;
};
struct rvt_events {
  struct timed slots[RING];
  _Atomic uint64_t head, tail; /* calls begun, calls read */
  pthread_mutex_t reading;
  struct rvt_events *next;
};
static _Atomic(struct rvt_events *) all_rings;

bool rvt_times_nodes(void) {
  static _Atomic int wanted = -1;
  int w = atomic_load_explicit(&wanted, memory_order_relaxed);
  if (w < 0) atomic_store(&wanted, w = getenv("REVATI_RECORD_NODES") != NULL);
  return w;
}

/* ---- events -------------------------------------------------------------------------------------------------- */

static bool make_event(void **event) {
  /* The runtime first: it makes the device's context current, if none is yet. */
  int (*make)(void **, unsigned) = RVT_KEPT("cudaEventCreateWithFlags");
  if (!make) make = RVT_KEPT("cuEventCreate");
  int mode = rvt_capture_relax();
  bool made = make && make(event, 0) == 0;
  rvt_capture_restore(mode);
  return made;
}

#define EXTERNAL 1u /* CU_EVENT_RECORD_EXTERNAL: a node of the captured graph, recorded at each replay */

static bool record_event(void *event, void *stream, bool in_graph) {
  int (*plain)(void *, void *) = RVT_KEPT("cuEventRecord");
  int (*node)(void *, void *, unsigned) = RVT_KEPT("cuEventRecordWithFlags");
  return in_graph ? node && node(event, stream, EXTERNAL) == 0 : plain && plain(event, stream) == 0;
}

bool rvt_event_between(void *begin, void *end, int64_t *ns) {
  int (*elapsed)(float *, void *, void *) = RVT_KEPT("cuEventElapsedTime");
  float ms;
  if (!elapsed || elapsed(&ms, begin, end)) return false;
  *ns = (int64_t)((double)ms * 1e6 + 0.5);
  return true;
}

static bool ended(void *event, bool wait) {
  int (*ask)(void *) = wait ? RVT_KEPT("cuEventSynchronize") : RVT_KEPT("cuEventQuery");
  return ask && ask(event) == 0;
}

/* ---- the ring -------------------------------------------------------------------------------------------------- */

static struct rvt_events *my_ring(void) {
  if (RVT_LIKELY(rvt_here.events != NULL)) return rvt_here.events;
  struct rvt_events *ring = calloc(1, sizeof *ring);
  if (!ring) return NULL;
  pthread_mutex_init(&ring->reading, NULL);
  ring->next = atomic_load(&all_rings);
  while (!atomic_compare_exchange_weak(&all_rings, &ring->next, ring)) {
  }
  return rvt_here.events = ring;
}

static void write_work(const struct timed *t, int64_t ns) {
  struct rvt_record *r = rvt_reserve();
  if (!r) return;
  *r = (struct rvt_record){.type = RVT_REC_WORK,
                           .method = RVT_METHOD_EVENT,
                           .correlation = t->correlation,
                           .begin_ns = t->host_ns,
                           .end_ns = t->host_ns + ns,
                           .graph = t->exec,
                           .device = (uint16_t)t->device};
  rvt_commit();
}

/* Reads in the order of submission and stops at the first that has not ended, unless it may wait. */
static void drain(struct rvt_events *ring, uint64_t waits_below) {
  if (pthread_mutex_trylock(&ring->reading)) return;
  int mode = rvt_capture_relax();
  uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire), tail = atomic_load(&ring->tail);
  for (; tail < head; tail++) {
    struct timed *t = &ring->slots[tail % RING];
    int64_t ns;
    if (!t->correlation) continue; /* the call failed */
    if (!ended(t->end, tail < waits_below)) {
      if (tail >= waits_below) break;
      continue; /* an error: its duration is unknown */
    }
    if (!rvt_event_between(t->begin, t->end, &ns)) continue;
    write_work(t, ns);
    if (t->exec) rvt_graph_read_nodes(t->exec, t->correlation);
  }
  atomic_store_explicit(&ring->tail, tail, memory_order_release);
  rvt_capture_restore(mode);
  pthread_mutex_unlock(&ring->reading);
}

void rvt_events_drain(enum rvt_drain which) {
  if (which == RVT_DRAIN_MINE) {
    if (rvt_here.events) drain(rvt_here.events, UINT64_MAX);
    return;
  }
  for (struct rvt_events *ring = atomic_load(&all_rings); ring; ring = ring->next)
    if (atomic_load(&ring->head) != atomic_load(&ring->tail)) drain(ring, which == RVT_DRAIN_ALL ? UINT64_MAX : 0);
}

/* ---- around a call --------------------------------------------------------------------------------------------- */

static void before_node(struct rvt_call *call) {
  if (!rvt_times_nodes() || !make_event(&call->begin) || !make_event(&call->end)) call->begin = call->end = NULL;
  else if (!record_event(call->begin, call->stream, true)) call->begin = NULL;
}

void rvt_events_before(struct rvt_call *call) {
  call->begin = call->end = NULL;
  if (call->flags & RVT_CALL_UNTIMED) return;
  if (call->flags & RVT_CALL_CAPTURED) {
    before_node(call);
    return;
  }
  struct rvt_events *ring = my_ring();
  if (!ring) return;
  uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
  if (RVT_UNLIKELY(head - atomic_load_explicit(&ring->tail, memory_order_acquire) >= RING - 1)) {
    drain(ring, head - RING / 2); /* nothing waited for so long: the older half must have ended */
    if (head - atomic_load(&ring->tail) >= RING - 1) return;
  }
  struct timed *t = &ring->slots[head % RING];
  if (RVT_UNLIKELY(!t->end || t->device != rvt_here.device)) {
    t->end = NULL;
    t->device = rvt_here.device;
    if (!make_event(&t->begin) || !make_event(&t->end)) return;
  }
  if (!record_event(t->begin, call->stream, false)) return;
  call->begin = t->begin;
  call->end = t->end;
}

void rvt_events_after(struct rvt_call *call, bool failed) {
  if (!call->begin) return;
  bool captured = call->flags & RVT_CALL_CAPTURED;
  bool put = !failed && record_event(call->end, call->stream, captured);
  if (captured) {
    if (!put) call->begin = NULL;
    return;
  }
  struct rvt_events *ring = rvt_here.events;
  uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
  struct timed *t = &ring->slots[head % RING];
  t->correlation = put ? call->correlation : 0;
  t->exec = call->flags & RVT_CALL_GRAPH ? call->graph : 0;
  t->host_ns = call->begin_ns;
  atomic_store_explicit(&ring->head, head + 1, memory_order_release);
}
