/* Graph objects: nodes, dependencies, copies. Nothing here runs on the launch path. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "device/graph.h"

struct rvt_graph *rvt_graph_new(void) {
  struct rvt_graph *g = calloc(1, sizeof *g);
  if (g) g->magic = RVT_MAGIC_GRAPH;
  return g;
}

static void node_free(struct rvt_node *n) {
  if (!n) return;
  free(n->deps);
  free(n->ctx);
  free(n->params);
  free(n->forget);
  if (n->child) rvt_graph_free(n->child);
  n->magic = 0;
  free(n);
}

void rvt_graph_free(struct rvt_graph *g) {
  if (!g) return;
  for (uint32_t i = 0; i < g->count; i++) node_free(g->nodes[i]);
  free(g->nodes);
  g->magic = 0;
  free(g);
}

int rvt_node_add_deps(struct rvt_node *node, struct rvt_node *const *deps, uint32_t n) {
  if (node->dep_count + n > node->dep_room) {
    uint32_t room = node->dep_count + n;
    struct rvt_node **grown = realloc(node->deps, room * sizeof *grown);
    if (!grown) return RVT_E_OUT_OF_MEMORY;
    node->deps = grown;
    node->dep_room = room;
  }
  for (uint32_t i = 0; i < n; i++) {
    node->deps[node->dep_count++] = deps[i];
    deps[i]->has_dependents = true;
  }
  return RVT_OK;
}

struct rvt_node *rvt_graph_add(struct rvt_graph *g, int type, struct rvt_node *const *deps, uint32_t n) {
  if (g->count == g->room) {
    uint32_t room = g->room ? g->room * 2 : 64;
    struct rvt_node **grown = realloc(g->nodes, room * sizeof *grown);
    if (!grown) return NULL;
    g->nodes = grown;
    g->room = room;
  }
  struct rvt_node *node = calloc(1, sizeof *node);
  if (!node) return NULL;
  node->magic = RVT_MAGIC_NODE;
  node->type = (uint8_t)type;
  node->graph = g;
  node->index = g->count;
  if (n && rvt_node_add_deps(node, deps, n)) {
    node_free(node);
    return NULL;
  }
  g->nodes[g->count++] = node;
  return node;
}

void rvt_node_set_op(struct rvt_node *node, const struct rvt_op *op, uint64_t key, const char *name) {
  node->has_op = true;
  node->op = *op;
  node->key = key;
  node->name = name;
}

int rvt_node_set_effect(struct rvt_node *node, rvt_effect_fn fn, const void *ctx, size_t bytes) {
  node->effect = fn;
  node->ctx_bytes = (uint32_t)bytes;
  if (bytes == 0) return RVT_OK;
  free(node->ctx);
  node->ctx = malloc(bytes);
  if (!node->ctx) return RVT_E_OUT_OF_MEMORY;
  memcpy(node->ctx, ctx, bytes);
  return RVT_OK;
}

/* Device addresses among the bytes of the parameters. */
static int collect_pointers(struct rvt_node *node) {
  const struct rvt_kernel *k = node->launch.kernel;
  uint64_t found[256];
  uint32_t n = 0;
  for (int i = 0; i < k->param_count; i++) {
    if (k->read_params >> i & 1) continue;
    for (uint32_t at = 0; at + 8 <= k->params[i].bytes && n < 256; at += 8) {
      uint64_t v;
      memcpy(&v, (const char *)node->params[i] + at, 8);
      if (rvt_is_device_address(v)) found[n++] = v;
    }
  }
  free(node->forget);
  node->forget = NULL;
  node->forget_count = n;
  if (n == 0) return RVT_OK;
  node->forget = malloc(n * sizeof *found);
  if (!node->forget) return RVT_E_OUT_OF_MEMORY;
  memcpy(node->forget, found, n * sizeof *found);
  return RVT_OK;
}

int rvt_node_set_kernel(struct rvt_node *node, const struct rvt_op *op, uint64_t key, const struct rvt_launch *l) {
  const struct rvt_kernel *k = l->kernel;
  int count = k->param_count > 0 && l->params ? k->param_count : 0;
  size_t bytes = 0;
  for (int i = 0; i < count; i++) bytes += (k->params[i].bytes + 7u) & ~7u;
  char *copy = malloc(bytes + 1);
  void **params = malloc((size_t)(count + 1) * sizeof *params);
  if (!copy || !params) {
    free(copy);
    free(params);
    return RVT_E_OUT_OF_MEMORY;
  }
  size_t at = 0;
  for (int i = 0; i < count; i++) {
    params[i] = copy + at;
    memcpy(params[i], l->params[i], k->params[i].bytes);
    at += (k->params[i].bytes + 7u) & ~7u;
  }
  free(node->ctx);
  free(node->params);
  node->ctx = copy;
  node->ctx_bytes = (uint32_t)bytes;
  node->params = params;
  node->launch = *l;
  node->launch.params = params;
  node->launch.replay = true;
  rvt_node_set_op(node, op, key, k->name);
  if (count == 0 || (k->semantic && k->semantic->read_only)) return RVT_OK;
  return collect_pointers(node);
}

static int clone_node(struct rvt_graph *to, const struct rvt_node *from) {
  struct rvt_node *n = rvt_graph_add(to, from->type, NULL, 0);
  if (!n) return RVT_E_OUT_OF_MEMORY;
  int rc = RVT_OK;
  if (from->type == RVT_NODE_KERNEL && from->launch.kernel)
    rc = rvt_node_set_kernel(n, &from->op, from->key, &from->launch);
  else if (from->effect) rc = rvt_node_set_effect(n, from->effect, from->ctx, from->ctx_bytes);
  n->has_op = from->has_op;
  n->op = from->op;
  n->key = from->key;
  n->name = from->name;
  n->host_fn = from->host_fn;
  n->host_arg = from->host_arg;
  n->event = from->event;
  if (from->child && !(n->child = rvt_graph_clone(from->child))) rc = RVT_E_OUT_OF_MEMORY;
  return rc;
}

struct rvt_graph *rvt_graph_clone(const struct rvt_graph *g) {
  struct rvt_graph *c = rvt_graph_new();
  if (!c) return NULL;
  for (uint32_t i = 0; i < g->count; i++)
    if (clone_node(c, g->nodes[i])) goto fail;
  for (uint32_t i = 0; i < g->count; i++)
    for (uint32_t d = 0; d < g->nodes[i]->dep_count; d++) {
      struct rvt_node *dep = c->nodes[g->nodes[i]->deps[d]->index];
      if (rvt_node_add_deps(c->nodes[i], &dep, 1)) goto fail;
    }
  return c;
fail:
  rvt_graph_free(c);
  return NULL;
}

/* Puts the nodes of child graphs in their places: roots behind what the child waits for, the child behind leaves. */
int rvt_graph_flatten(struct rvt_graph *g) {
  for (uint32_t i = 0; i < g->count; i++) {
    struct rvt_node *outer = g->nodes[i];
    struct rvt_graph *child = outer->child;
    if (!child) continue;
    uint32_t base = g->count;
    for (uint32_t c = 0; c < child->count; c++)
      if (clone_node(g, child->nodes[c])) return RVT_E_OUT_OF_MEMORY;
    for (uint32_t c = 0; c < child->count; c++) {
      struct rvt_node *node = g->nodes[base + c], *from = child->nodes[c];
      int rc = from->dep_count ? RVT_OK : rvt_node_add_deps(node, outer->deps, outer->dep_count);
      for (uint32_t d = 0; d < from->dep_count && rc == RVT_OK; d++)
        rc = rvt_node_add_deps(node, &g->nodes[base + from->deps[d]->index], 1);
      if (rc) return rc;
    }
    outer->dep_count = child->count ? 0 : outer->dep_count;
    for (uint32_t c = 0; c < child->count; c++)
      if (!child->nodes[c]->has_dependents && rvt_node_add_deps(outer, &g->nodes[base + c], 1))
        return RVT_E_OUT_OF_MEMORY;
    outer->type = RVT_NODE_EMPTY;
    outer->child = NULL;
    rvt_graph_free(child);
  }
  return RVT_OK;
}
