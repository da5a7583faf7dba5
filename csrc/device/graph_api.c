/* Graph queries and explicit node creation. */
#include <string.h>

#include "device/copy.h"
#include "device/graph_api.h"

bool rvt_graph_valid(const struct rvt_graph *g) { return g && g->magic == RVT_MAGIC_GRAPH; }
bool rvt_node_valid(const struct rvt_node *n) { return n && n->magic == RVT_MAGIC_NODE; }
bool rvt_exec_valid(const struct rvt_exec *e) { return e && *(const uint32_t *)e == RVT_MAGIC_EXEC; }

int rvt_capture_status(struct rvt_stream *s) {
  struct rvt_capture *c = atomic_load_explicit(&s->capture, memory_order_acquire);
  return !c ? 0 : c->invalid ? 2 : 1;
}

int rvt_capture_info(struct rvt_stream *s, int *status, unsigned long long *id, struct rvt_graph **graph,
                     struct rvt_node *const **deps, size_t *n) {
  struct rvt_capture *c = atomic_load_explicit(&s->capture, memory_order_acquire);
  if (!status) return RVT_E_INVALID_VALUE;
  *status = rvt_capture_status(s);
  if (*status != 1) return RVT_OK;
  if (id) *id = c->id;
  if (graph) *graph = c->graph;
  if (deps) *deps = s->frontier;
  if (n) *n = s->frontier_count;
  return RVT_OK;
}

/* The CUDA convention for lists: out NULL asks for the number; a longer room is filled up with NULL. */
struct list {
  struct rvt_node **out;
  size_t room, found;
};
static void list_add(struct list *l, struct rvt_node *node) {
  if (l->out && l->found < l->room) l->out[l->found] = node;
  l->found++;
}
static int list_end(struct list *l, size_t *n) {
  if (l->out)
    for (size_t i = l->found; i < l->room; i++) l->out[i] = NULL;
  *n = l->found;
  return RVT_OK;
}

int rvt_graph_nodes(struct rvt_graph *g, struct rvt_node **out, size_t *n) {
  if (!rvt_graph_valid(g) || !n) return RVT_E_INVALID_VALUE;
  struct list l = {out, *n, 0};
  for (uint32_t i = 0; i < g->count; i++) list_add(&l, g->nodes[i]);
  return list_end(&l, n);
}

int rvt_graph_roots(struct rvt_graph *g, struct rvt_node **out, size_t *n) {
  if (!rvt_graph_valid(g) || !n) return RVT_E_INVALID_VALUE;
  struct list l = {out, *n, 0};
  for (uint32_t i = 0; i < g->count; i++)
    if (g->nodes[i]->dep_count == 0) list_add(&l, g->nodes[i]);
  return list_end(&l, n);
}

int rvt_node_dependencies(struct rvt_node *node, struct rvt_node **out, size_t *n) {
  if (!rvt_node_valid(node) || !n) return RVT_E_INVALID_VALUE;
  struct list l = {out, *n, 0};
  for (uint32_t i = 0; i < node->dep_count; i++) list_add(&l, node->deps[i]);
  return list_end(&l, n);
}

int rvt_graph_edges(struct rvt_graph *g, struct rvt_node **from, struct rvt_node **to, size_t *n) {
  if (!rvt_graph_valid(g) || !n) return RVT_E_INVALID_VALUE;
  struct list a = {from, *n, 0}, b = {to, *n, 0};
  for (uint32_t i = 0; i < g->count; i++)
    for (uint32_t d = 0; d < g->nodes[i]->dep_count; d++) {
      list_add(&a, g->nodes[i]->deps[d]);
      list_add(&b, g->nodes[i]);
    }
  list_end(&a, n);
  return RVT_OK;
}

int rvt_graph_add_edges(struct rvt_graph *g, struct rvt_node **from, struct rvt_node **to, size_t n) {
  if (!rvt_graph_valid(g)) return RVT_E_INVALID_VALUE;
  for (size_t i = 0; i < n; i++) {
    int rc =
        rvt_node_valid(from[i]) && rvt_node_valid(to[i]) ? rvt_node_add_deps(to[i], &from[i], 1) : RVT_E_INVALID_VALUE;
    if (rc) return rc;
  }
  return RVT_OK;
}

int rvt_graph_add_checked(struct rvt_graph *g, int type, struct rvt_node *const *deps, size_t n,
                          struct rvt_node **out) {
  if (!rvt_graph_valid(g) || !out || (n && !deps)) return RVT_E_INVALID_VALUE;
  for (size_t i = 0; i < n; i++)
    if (!rvt_node_valid(deps[i]) || deps[i]->graph != g) return RVT_E_INVALID_VALUE;
  *out = rvt_graph_add(g, type, deps, (uint32_t)n);
  return *out ? RVT_OK : RVT_E_OUT_OF_MEMORY;
}

static struct rvt_op kernel_op(const struct rvt_kernel *k, const struct rvt_launch *l) {
  struct rvt_op op = {
      .kind = RVT_OP_KERNEL,
      .gpu = (uint32_t)rvt_dev(rvt_t.device)->gpu,
      .model = rvt_model_index(),
      .name_len = k->name_len,
      .p = {l->grid[0], l->grid[1], l->grid[2], l->block[0], l->block[1], l->block[2], l->shared_bytes, -1}};
  return op;
}

int rvt_node_reset_kernel(struct rvt_node *node, struct rvt_kernel *k, const uint32_t grid[3], const uint32_t block[3],
                          unsigned shared_bytes, void **params) {
  if (!k) return RVT_E_INVALID_DEVICE_FUNCTION;
  if (!rvt_node_valid(node) || node->type != RVT_NODE_KERNEL) return RVT_E_INVALID_VALUE;
  rvt_kernel_resolve(k);
  struct rvt_launch l = {.kernel = k, .shared_bytes = shared_bytes, .params = params};
  memcpy(l.grid, grid, sizeof l.grid);
  memcpy(l.block, block, sizeof l.block);
  struct rvt_op op = kernel_op(k, &l);
  return rvt_node_set_kernel(node, &op, rvt_op_key(&op, k->name_hash), &l);
}

int rvt_graph_add_kernel(struct rvt_graph *g, struct rvt_node *const *deps, size_t n, struct rvt_kernel *k,
                         const uint32_t grid[3], const uint32_t block[3], unsigned shared_bytes, void **params,
                         struct rvt_node **out) {
  int rc = rvt_graph_add_checked(g, RVT_NODE_KERNEL, deps, n, out);
  return rc ? rc : rvt_node_reset_kernel(*out, k, grid, block, shared_bytes, params);
}

int rvt_graph_add_host(struct rvt_graph *g, struct rvt_node *const *deps, size_t n, const struct rvt_host_params *p,
                       struct rvt_node **out) {
  int rc = p && p->fn ? rvt_graph_add_checked(g, RVT_NODE_HOST, deps, n, out) : RVT_E_INVALID_VALUE;
  if (rc) return rc;
  (*out)->host_fn = p->fn;
  (*out)->host_arg = p->arg;
  return RVT_OK;
}

/* Copies and memsets are recorded by capturing them into the node's graph from a stream of our own. */
static int capture_one(struct rvt_graph *g, struct rvt_node *const *deps, size_t n, struct rvt_stream **s) {
  static __thread struct rvt_stream *recorder;
  if (!rvt_graph_valid(g)) return RVT_E_INVALID_VALUE;
  if (!recorder && rvt_stream_create(rvt_t.device, 1, 0, &recorder)) return RVT_E_OUT_OF_MEMORY;
  *s = recorder;
  return rvt_capture_begin(recorder, 2, g, deps, (uint32_t)n);
}
static int capture_done(struct rvt_stream *s, struct rvt_graph *g, int rc, struct rvt_node **out) {
  struct rvt_graph *same;
  int end = rvt_capture_end(s, &same);
  if (rc == RVT_OK) rc = end;
  if (rc == RVT_OK) *out = g->nodes[g->count - 1];
  return rc;
}

int rvt_graph_add_copy(struct rvt_graph *g, struct rvt_node *const *deps, size_t n, uint64_t to, uint64_t from,
                       size_t bytes, struct rvt_node **out) {
  struct rvt_stream *s;
  int rc = capture_one(g, deps, n, &s);
  return rc ? rc : capture_done(s, g, rvt_copy(to, from, bytes, s, false), out);
}

int rvt_graph_add_memset(struct rvt_graph *g, struct rvt_node *const *deps, size_t n, const struct rvt_memset_params *p,
                         struct rvt_node **out) {
  struct rvt_stream *s;
  int rc = capture_one(g, deps, n, &s);
  size_t width = p->width * p->element_bytes;
  return rc ? rc
            : capture_done(s, g,
                           rvt_fill_2d((uint64_t)p->to, p->height > 1 ? p->pitch : width, p->value, p->element_bytes,
                                       width, p->height ? p->height : 1, s, false),
                           out);
}

int rvt_graph_add_event(struct rvt_graph *g, int type, struct rvt_node *const *deps, size_t n, void *event,
                        struct rvt_node **out) {
  if (!rvt_event_valid(event)) return RVT_E_INVALID_HANDLE;
  int rc = rvt_graph_add_checked(g, type, deps, n, out);
  if (rc == RVT_OK) (*out)->event = event;
  return rc;
}

int rvt_graph_add_child(struct rvt_graph *g, struct rvt_node *const *deps, size_t n, struct rvt_graph *child,
                        struct rvt_node **out) {
  if (!rvt_graph_valid(child)) return RVT_E_INVALID_VALUE;
  int rc = rvt_graph_add_checked(g, RVT_NODE_CHILD, deps, n, out);
  if (rc) return rc;
  (*out)->child = rvt_graph_clone(child);
  return (*out)->child ? RVT_OK : RVT_E_OUT_OF_MEMORY;
}
