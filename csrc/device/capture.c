/* Stream capture: work goes into a graph instead of onto the timeline. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "device/event.h"
#include "device/graph.h"

/* Captures are short and rare next to launches: one lock for all of their state. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t next_id = 1;

static struct rvt_capture *capture_of(struct rvt_stream *s) {
  return atomic_load_explicit(&s->capture, memory_order_acquire);
}

static int set_frontier(struct rvt_stream *s, struct rvt_node *const *nodes, uint32_t n) {
  if (n > s->frontier_room) {
    struct rvt_node **grown = realloc(s->frontier, n * 2 * sizeof *grown);
    if (!grown) return RVT_E_OUT_OF_MEMORY;
    s->frontier = grown;
    s->frontier_room = n * 2;
  }
  if (n) memmove(s->frontier, nodes, n * sizeof *nodes);
  s->frontier_count = n;
  return RVT_OK;
}

static int add_to_frontier(struct rvt_stream *s, struct rvt_node *node) {
  for (uint32_t i = 0; i < s->frontier_count; i++)
    if (s->frontier[i] == node) return RVT_OK;
  if (s->frontier_count == s->frontier_room) {
    uint32_t room = s->frontier_room ? s->frontier_room * 2 : 8;
    struct rvt_node **grown = realloc(s->frontier, room * sizeof *grown);
    if (!grown) return RVT_E_OUT_OF_MEMORY;
    s->frontier = grown;
    s->frontier_room = room;
  }
  s->frontier[s->frontier_count++] = node;
  return RVT_OK;
}

static int join(struct rvt_capture *c, struct rvt_stream *s) {
  if (c->joined_count == c->joined_room) {
    uint32_t room = c->joined_room ? c->joined_room * 2 : 8;
    struct rvt_stream **grown = realloc(c->joined, room * sizeof *grown);
    if (!grown) return RVT_E_OUT_OF_MEMORY;
    c->joined = grown;
    c->joined_room = room;
  }
  c->joined[c->joined_count++] = s;
  s->frontier_count = 0;
  atomic_store_explicit(&s->capture, c, memory_order_release);
  return RVT_OK;
}

int rvt_capture_begin(struct rvt_stream *s, int mode, struct rvt_graph *into, struct rvt_node *const *deps,
                      uint32_t n) {
  if (s->is_legacy) return RVT_E_CAPTURE_UNSUPPORTED;
  if (mode < 0 || mode > 2) return RVT_E_INVALID_VALUE;
  if (rvt_stream_is_capturing(s)) return RVT_E_ILLEGAL_STATE;
  struct rvt_capture *c = calloc(1, sizeof *c);
  struct rvt_graph *g = into ? into : rvt_graph_new();
  if (!c || !g) return RVT_E_OUT_OF_MEMORY;
  pthread_mutex_lock(&lock);
  *c = (struct rvt_capture){.graph = g, .mode = mode, .id = next_id++, .origin = s, .thread = &rvt_t};
  int rc = join(c, s);
  if (rc == RVT_OK) rc = set_frontier(s, deps, n);
  if (mode == 0) atomic_fetch_add(&rvt_g.capturing, 1);
  if (mode == 1) rvt_t.captures_begun++;
  pthread_mutex_unlock(&lock);
  return rc;
}

/* A node that nothing depends on must be in the origin's frontier, else a forked stream was not joined. */
static bool all_joined(const struct rvt_capture *c) {
  for (uint32_t j = 0; j < c->joined_count; j++) {
    const struct rvt_stream *s = c->joined[j];
    for (uint32_t i = 0; s != c->origin && i < s->frontier_count; i++) {
      bool found = s->frontier[i]->has_dependents;
      for (uint32_t k = 0; k < c->origin->frontier_count && !found; k++)
        found = c->origin->frontier[k] == s->frontier[i];
      if (!found) return false;
    }
  }
  return true;
}

int rvt_capture_end(struct rvt_stream *s, struct rvt_graph **out) {
  struct rvt_capture *c = capture_of(s);
  *out = NULL;
  if (!c) return RVT_E_ILLEGAL_STATE;
  if (c->origin != s) return RVT_E_CAPTURE_UNMATCHED;
  if (c->mode != 2 && c->thread != &rvt_t) return RVT_E_CAPTURE_WRONG_THREAD;
  pthread_mutex_lock(&lock);
  int rc = c->invalid ? RVT_E_CAPTURE_INVALIDATED : all_joined(c) ? RVT_OK : RVT_E_CAPTURE_UNJOINED;
  for (uint32_t i = 0; i < c->joined_count; i++) {
    c->joined[i]->frontier_count = 0;
    atomic_store_explicit(&c->joined[i]->capture, NULL, memory_order_release);
  }
  if (c->mode == 0) atomic_fetch_sub(&rvt_g.capturing, 1);
  if (c->mode == 1) rvt_t.captures_begun--;
  pthread_mutex_unlock(&lock);
  if (rc == RVT_OK) *out = c->graph;
  else rvt_graph_free(c->graph);
  free(c->joined);
  /* Events of this capture may still point to it: the small record itself is kept, marked as over. */
  c->joined = NULL;
  c->graph = NULL;
  return rc;
}

/* In a capture that must not be disturbed, calls that could synchronise are errors (and end the capture). */
int rvt_capture_forbids(void) {
  bool global =
      RVT_UNLIKELY(atomic_load_explicit(&rvt_g.capturing, memory_order_relaxed) > 0) && rvt_t.capture_mode == 0;
  bool local = RVT_UNLIKELY(rvt_t.captures_begun > 0) && rvt_t.capture_mode != 2;
  return global || local ? RVT_E_CAPTURE_UNSUPPORTED : RVT_OK;
}

/* New node behind everything the stream has captured so far. */
static struct rvt_node *append(struct rvt_stream *s, int type, int *rc) {
  struct rvt_capture *c = capture_of(s);
  *rc = RVT_E_CAPTURE_INVALIDATED;
  if (!c || c->invalid) return NULL;
  struct rvt_node *node = rvt_graph_add(c->graph, type, s->frontier, s->frontier_count);
  *rc = node ? set_frontier(s, &node, 1) : RVT_E_OUT_OF_MEMORY;
  return *rc ? NULL : node;
}

int rvt_capture_kernel(struct rvt_stream *s, const struct rvt_op *op, uint64_t key, const struct rvt_launch *l) {
  int rc;
  pthread_mutex_lock(&lock);
  struct rvt_node *node = append(s, RVT_NODE_KERNEL, &rc);
  if (node) rc = rvt_node_set_kernel(node, op, key, l);
  pthread_mutex_unlock(&lock);
  return rc;
}

int rvt_capture_op(struct rvt_stream *s, const struct rvt_op *op, uint64_t key, const char *name, rvt_effect_fn fn,
                   const void *ctx, size_t ctx_bytes) {
  int rc, type = op->kind == RVT_OP_COPY     ? RVT_NODE_MEMCPY
                 : op->kind == RVT_OP_MEMSET ? RVT_NODE_MEMSET
                                             : RVT_NODE_KERNEL;
  pthread_mutex_lock(&lock);
  struct rvt_node *node = append(s, type, &rc);
  if (node) {
    rvt_node_set_op(node, op, key, name ? rvt_persist_string(name, strlen(name)) : NULL);
    if (fn) rc = rvt_node_set_effect(node, fn, ctx, ctx_bytes);
  }
  pthread_mutex_unlock(&lock);
  return rc;
}

int rvt_capture_host(struct rvt_stream *s, void (*fn)(void *), void *arg) {
  int rc;
  pthread_mutex_lock(&lock);
  struct rvt_node *node = append(s, RVT_NODE_HOST, &rc);
  if (node) {
    node->host_fn = fn;
    node->host_arg = arg;
  }
  pthread_mutex_unlock(&lock);
  return rc;
}

int rvt_capture_event_node(struct rvt_stream *s, struct rvt_event *e, bool record) {
  int rc;
  pthread_mutex_lock(&lock);
  struct rvt_node *node = append(s, record ? RVT_NODE_EVENT_RECORD : RVT_NODE_EVENT_WAIT, &rc);
  if (node) node->event = e;
  pthread_mutex_unlock(&lock);
  return rc;
}

int rvt_capture_event_record(struct rvt_stream *s, struct rvt_event *e) {
  pthread_mutex_lock(&lock);
  rvt_event_drop_capture(e);
  int rc = RVT_OK;
  if (s->frontier_count) {
    e->frontier = malloc(s->frontier_count * sizeof *e->frontier);
    if (!e->frontier) rc = RVT_E_OUT_OF_MEMORY;
    else memcpy(e->frontier, s->frontier, s->frontier_count * sizeof *e->frontier);
  }
  if (rc == RVT_OK) {
    e->frontier_count = s->frontier_count;
    e->capture = capture_of(s);
  }
  pthread_mutex_unlock(&lock);
  return rc;
}

int rvt_capture_event_wait(struct rvt_stream *s, struct rvt_event *e) {
  int rc = RVT_OK;
  pthread_mutex_lock(&lock);
  struct rvt_capture *c = e->capture, *mine = capture_of(s);
  if (!c->graph || (mine && mine != c)) rc = c->graph ? RVT_E_CAPTURE_MERGE : RVT_E_CAPTURE_ISOLATION;
  else if (!mine) rc = s->is_legacy ? RVT_E_CAPTURE_IMPLICIT : join(c, s);
  for (uint32_t i = 0; rc == RVT_OK && i < e->frontier_count; i++) rc = add_to_frontier(s, e->frontier[i]);
  pthread_mutex_unlock(&lock);
  return rc;
}

/* flags: 0 adds to, 1 replaces the stream's dependencies. */
int rvt_capture_update_deps(struct rvt_stream *s, struct rvt_node *const *deps, uint32_t n, unsigned flags) {
  if (!capture_of(s)) return RVT_E_ILLEGAL_STATE;
  pthread_mutex_lock(&lock);
  int rc = RVT_OK;
  if (flags & 1) rc = set_frontier(s, deps, n);
  else
    for (uint32_t i = 0; i < n && rc == RVT_OK; i++) rc = add_to_frontier(s, deps[i]);
  pthread_mutex_unlock(&lock);
  return rc;
}
