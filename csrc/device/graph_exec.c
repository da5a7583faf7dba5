/* Executable graphs: what a replay does to memory, and how long it takes.
 *
 * Built once at instantiation: the order of effects (with repeated forgetting of an address removed), the sum
 * of the durations that never change, and the list of those that depend on the batch.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "device/graph_api.h"
#include "device/graph.h"

struct step {
  struct rvt_node *node; /* effect of this node, or NULL: forget addr */
  uint64_t addr;
};

struct rvt_exec {
  uint32_t magic;
  int ordinal;
  struct rvt_graph *graph; /* own copy, nodes in a topological order */
  struct step *steps;
  uint32_t step_count, step_room;
  struct rvt_priced *priced; /* one per distinct op */
  uint32_t priced_count;
  uint32_t *price_of; /* node index -> priced index, UINT32_MAX: costs nothing */
  uint32_t *uses;     /* nodes per priced op */
  bool chain;         /* every node only depends on its predecessor: duration is a sum */
  bool fixed;         /* no duration depends on the batch */
  int64_t fixed_ns;
  int64_t *end_ns; /* scratch: end of each node */
  struct rvt_op launch_op;
  uint64_t launch_key;
  uint64_t charged;
};

/* ---- order ----------------------------------------------------------------------------------------------- */

static bool already_ordered(const struct rvt_graph *g) {
  for (uint32_t i = 0; i < g->count; i++)
    for (uint32_t d = 0; d < g->nodes[i]->dep_count; d++)
      if (g->nodes[i]->deps[d]->index >= i) return false;
  return true;
}

/* Repeatedly takes the first node whose dependencies are all out. Quadratic, but captured graphs never need it. */
static int sort_nodes(struct rvt_graph *g) {
  if (already_ordered(g)) return RVT_OK;
  struct rvt_node **sorted = malloc(g->count * sizeof *sorted);
  if (!sorted) return RVT_E_OUT_OF_MEMORY;
  uint32_t out = 0;
  for (uint32_t i = 0; i < g->count; i++) g->nodes[i]->mark = 0;
  for (bool moved = true; moved;) {
    moved = false;
    for (uint32_t i = 0; i < g->count; i++) {
      struct rvt_node *n = g->nodes[i];
      bool ready = !n->mark;
      for (uint32_t d = 0; d < n->dep_count && ready; d++) ready = n->deps[d]->mark;
      if (!ready) continue;
      n->mark = 1;
      sorted[out++] = n;
      moved = true;
    }
  }
  if (out < g->count) {
    free(sorted);
    return RVT_E_INVALID_VALUE; /* a cycle */
  }
  for (uint32_t i = 0; i < out; i++) sorted[i]->index = i;
  free(g->nodes);
  g->nodes = sorted;
  g->room = g->count;
  return RVT_OK;
}

static bool is_chain(const struct rvt_graph *g) {
  for (uint32_t i = 1; i < g->count; i++) {
    bool after_previous = false;
    for (uint32_t d = 0; d < g->nodes[i]->dep_count; d++) after_previous |= g->nodes[i]->deps[d]->index == i - 1;
    if (!after_previous) return false;
  }
  return true;
}

/* ---- effects --------------------------------------------------------------------------------------------- */

static int add_step(struct rvt_exec *e, struct rvt_node *node, uint64_t addr) {
  if (e->step_count == e->step_room) {
    uint32_t room = e->step_room ? e->step_room * 2 : 64;
    struct step *grown = realloc(e->steps, room * sizeof *grown);
    if (!grown) return RVT_E_OUT_OF_MEMORY;
    e->steps = grown;
    e->step_room = room;
  }
  e->steps[e->step_count++] = (struct step){node, addr};
  return RVT_OK;
}

/* Forgetting an address again is pointless until another effect has made it known. */
static int add_forget(struct rvt_exec *e, uint64_t addr, uint64_t *seen, uint32_t mask, bool *fresh) {
  uint32_t at = (uint32_t)(addr * 0x9E3779B97F4A7C15ull >> 40) & mask;
  for (; seen[at]; at = (at + 1) & mask)
    if (seen[at] == addr) return RVT_OK;
  seen[at] = addr;
  *fresh = false;
  return add_step(e, NULL, addr);
}

static int build_steps(struct rvt_exec *e) {
  uint64_t total = 1;
  for (uint32_t i = 0; i < e->graph->count; i++) total += e->graph->nodes[i]->forget_count;
  uint32_t size = 64;
  while (size < total * 2) size *= 2;
  uint64_t *seen = calloc(size, sizeof *seen);
  if (!seen) return RVT_E_OUT_OF_MEMORY;
  int rc = RVT_OK;
  bool fresh = true;
  for (uint32_t i = 0; i < e->graph->count && rc == RVT_OK; i++) {
    struct rvt_node *n = e->graph->nodes[i];
    bool emulated =
        n->type == RVT_NODE_KERNEL && n->launch.kernel && n->launch.kernel->semantic && n->launch.kernel->semantic->fn;
    if (emulated || n->effect) {
      rc = add_step(e, n, 0);
      if (!fresh) memset(seen, 0, size * sizeof *seen);
      fresh = true;
      continue;
    }
    for (uint32_t f = 0; f < n->forget_count && rc == RVT_OK; f++)
      rc = add_forget(e, n->forget[f], seen, size - 1, &fresh);
  }
  free(seen);
  return rc;
}

/* ---- durations ------------------------------------------------------------------------------------------- */

static int build_prices(struct rvt_exec *e) {
  struct rvt_graph *g = e->graph;
  uint32_t size = 64;
  while (size < g->count * 2) size *= 2;
  uint32_t *slot = malloc(size * sizeof *slot);
  e->priced = calloc(g->count + 1, sizeof *e->priced);
  e->uses = calloc(g->count + 1, sizeof *e->uses);
  e->price_of = malloc((g->count + 1) * sizeof *e->price_of);
  e->end_ns = calloc(g->count + 1, sizeof *e->end_ns);
  if (!slot || !e->priced || !e->uses || !e->price_of || !e->end_ns) {
    free(slot);
    return RVT_E_OUT_OF_MEMORY;
  }
  memset(slot, 0xFF, size * sizeof *slot);
  for (uint32_t i = 0; i < g->count; i++) {
    struct rvt_node *n = g->nodes[i];
    e->price_of[i] = UINT32_MAX;
    if (!n->has_op) continue;
    uint32_t at = (uint32_t)n->key & (size - 1);
    while (slot[at] != UINT32_MAX && e->priced[slot[at]].key != n->key) at = (at + 1) & (size - 1);
    if (slot[at] == UINT32_MAX) {
      slot[at] = e->priced_count;
      e->priced[e->priced_count++] = (struct rvt_priced){.op = &n->op, .key = n->key, .name = n->name};
    }
    e->price_of[i] = slot[at];
    e->uses[slot[at]]++;
  }
  free(slot);
  rvt_price_many(e->priced, e->priced_count);
  return RVT_OK;
}

static int64_t critical_path(struct rvt_exec *e) {
  struct rvt_graph *g = e->graph;
  int64_t last = 0;
  for (uint32_t i = 0; i < g->count; i++) {
    struct rvt_node *n = g->nodes[i];
    int64_t start = 0;
    for (uint32_t d = 0; d < n->dep_count; d++)
      if (e->end_ns[n->deps[d]->index] > start) start = e->end_ns[n->deps[d]->index];
    e->end_ns[i] = start + (e->price_of[i] == UINT32_MAX ? 0 : e->priced[e->price_of[i]].price.duration_ns);
    if (e->end_ns[i] > last) last = e->end_ns[i];
  }
  return last;
}

static int64_t duration(struct rvt_exec *e) {
  if (!e->chain) return critical_path(e);
  int64_t sum = 0;
  for (uint32_t i = 0; i < e->priced_count; i++) sum += e->priced[i].price.duration_ns * e->uses[i];
  return sum;
}

static void find_fixed(struct rvt_exec *e) {
  e->fixed = true;
  for (uint32_t i = 0; i < e->priced_count; i++)
    if (e->priced[i].price.flags & RVT_PRED_NEEDS_ANY) e->fixed = false;
  e->fixed_ns = duration(e);
}

static void account(struct rvt_exec *e) {
  int64_t busy = 0;
  for (uint32_t i = 0; i < e->priced_count; i++) {
    const struct rvt_price *p = &e->priced[i].price;
    busy += p->duration_ns * e->uses[i];
    rvt_account_many(p, e->uses[i]);
  }
  __atomic_fetch_add(&rvt_g.page->use[rvt_dev(e->ordinal)->gpu].busy_ns, (uint64_t)busy, __ATOMIC_RELAXED);
}

/* Nodes that run side by side overlap: the stream's stretch is the whole launch, the families' parts are sums. */
static void log_step(const struct rvt_exec *e, const struct rvt_stream *s, int64_t end_ns, int64_t duration_ns) {
  rvt_log_stretch(s, end_ns, duration_ns, e->graph->count);
  for (uint32_t i = 0; i < e->priced_count; i++)
    rvt_log_family(e->priced[i].price.family, e->priced[i].price.duration_ns * e->uses[i], e->uses[i]);
}

/* ---- interface ------------------------------------------------------------------------------------------- */

static void drop(struct rvt_exec *e) {
  rvt_graph_free(e->graph);
  free(e->steps);
  free(e->priced);
  free(e->uses);
  free(e->price_of);
  free(e->end_ns);
  if (e->charged) rvt_release_bytes(e->ordinal, e->charged);
}

void rvt_exec_free(struct rvt_exec *e) {
  drop(e);
  e->magic = 0;
  free(e);
}

/* What an uploaded graph takes on the card: about 1 KiB a node, in 64 KiB pieces. */
static uint64_t device_bytes(const struct rvt_graph *g) { return ((uint64_t)g->count * 1024 + 65535) & ~65535ull; }

int rvt_exec_make(const struct rvt_graph *g, int ordinal, struct rvt_exec **out) {
  struct rvt_exec *e = calloc(1, sizeof *e);
  *out = NULL;
  if (!e) return RVT_E_OUT_OF_MEMORY;
  e->magic = RVT_MAGIC_EXEC;
  e->ordinal = ordinal;
  e->graph = rvt_graph_clone(g);
  int rc = e->graph ? rvt_graph_flatten(e->graph) : RVT_E_OUT_OF_MEMORY;
  if (rc == RVT_OK) rc = sort_nodes(e->graph);
  if (rc == RVT_OK) rc = build_steps(e);
  if (rc == RVT_OK) rc = build_prices(e);
  if (rc == RVT_OK && !rvt_charge_bytes(ordinal, device_bytes(g))) rc = RVT_E_OUT_OF_MEMORY;
  if (rc) {
    rvt_exec_free(e);
    return rc;
  }
  e->charged = device_bytes(g);
  e->chain = is_chain(e->graph);
  e->launch_op = (struct rvt_op){.kind = RVT_OP_GRAPH, .gpu = (uint32_t)rvt_dev(ordinal)->gpu, .p = {g->count}};
  e->launch_key = rvt_op_key(&e->launch_op, 0);
  find_fixed(e);
  *out = e;
  return RVT_OK;
}

int rvt_exec_update(struct rvt_exec *e, const struct rvt_graph *g) {
  if (g->count != e->graph->count) return RVT_E_GRAPH_UPDATE_FAILURE;
  struct rvt_exec *fresh;
  int rc = rvt_exec_make(g, e->ordinal, &fresh);
  if (rc) return rc;
  drop(e);
  *e = *fresh;
  free(fresh);
  return RVT_OK;
}

static void run_effects(struct rvt_exec *e, struct rvt_stream *s) {
  for (uint32_t i = 0; i < e->step_count; i++) {
    struct rvt_node *n = e->steps[i].node;
    if (!n) {
      rvt_mem_forget_at(e->steps[i].addr);
    } else if (n->effect) {
      n->effect(n->ctx, s, true);
    } else if (n->launch.kernel) {
      n->launch.stream = s;
      rvt_kernel_effects(&n->launch);
    }
  }
}

/* Events and host functions inside the graph, at their place on the timeline. */
static void run_marks(struct rvt_exec *e, struct rvt_stream *s, int64_t start_ns) {
  bool placed = false;
  for (uint32_t i = 0; i < e->graph->count; i++) {
    struct rvt_node *n = e->graph->nodes[i];
    if (n->type != RVT_NODE_HOST && n->type != RVT_NODE_EVENT_RECORD) continue;
    if (!placed) critical_path(e);
    placed = true;
    if (n->type == RVT_NODE_HOST) rvt_host_call_at(s, start_ns + e->end_ns[i], n->host_fn, n->host_arg);
    else atomic_store(&n->event->time_ns, start_ns + e->end_ns[i]);
  }
}

int rvt_exec_launch(struct rvt_exec *e, struct rvt_stream *s) {
  rvt_progress();
  rvt_host_cost(RVT_HOST_GRAPH_LAUNCH);
  run_effects(e, s);
  int64_t ns = e->fixed_ns;
  if (!e->fixed) {
    rvt_price_many(e->priced, e->priced_count);
    ns = duration(e);
  }
  struct rvt_price overhead = rvt_price_op(&e->launch_op, e->launch_key, NULL);
  int64_t end = rvt_timeline_push(s, ns + overhead.duration_ns, RVT_ENGINE_NONE);
  run_marks(e, s, end - ns);
  account(e);
  if (RVT_UNLIKELY(rvt_step_logging)) log_step(e, s, end, ns + overhead.duration_ns);
  if (overhead.duration_ns) {
    rvt_account(e->ordinal, &overhead);
    if (RVT_UNLIKELY(rvt_step_logging)) rvt_log_family(overhead.family, overhead.duration_ns, 1);
  }
  __atomic_fetch_add(&rvt_g.page->memo_hits, e->priced_count, __ATOMIC_RELAXED);
  return RVT_OK;
}

/* The executable's nodes are in the order of the graph it came from, which is how a node of that graph names one. */
int rvt_exec_set_kernel(struct rvt_exec *e, struct rvt_node *node, struct rvt_kernel *k, const uint32_t grid[3],
                        const uint32_t block[3], unsigned shared_bytes, void **params) {
  if (!rvt_exec_valid(e) || !rvt_node_valid(node) || node->index >= e->graph->count) return RVT_E_INVALID_VALUE;
  int rc = rvt_node_reset_kernel(e->graph->nodes[node->index], k, grid, block, shared_bytes, params);
  if (rc) return rc;
  struct rvt_graph *changed = rvt_graph_clone(e->graph);
  if (!changed) return RVT_E_OUT_OF_MEMORY;
  rc = rvt_exec_update(e, changed);
  rvt_graph_free(changed);
  return rc;
}
