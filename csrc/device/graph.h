/* Graphs: nodes as captured or added, and executables made from them. */
#ifndef RVT_GRAPH_H
#define RVT_GRAPH_H

#include "device/core.h"

/* Numbers of CUgraphNodeType. */
enum rvt_node_type {
  RVT_NODE_KERNEL = 0,
  RVT_NODE_MEMCPY = 1,
  RVT_NODE_MEMSET = 2,
  RVT_NODE_HOST = 3,
  RVT_NODE_CHILD = 4,
  RVT_NODE_EMPTY = 5,
  RVT_NODE_EVENT_WAIT = 6,
  RVT_NODE_EVENT_RECORD = 7,
  RVT_NODE_ALLOC = 10,
  RVT_NODE_FREE = 11,
};

#define RVT_MAGIC_NODE 0x4E4F4445u

struct rvt_node {
  uint32_t magic;
  uint8_t type; /* enum rvt_node_type */
  bool has_op, has_dependents;
  struct rvt_graph *graph;
  uint32_t index; /* in the graph's list */
  uint32_t mark;  /* scratch of the sort */
  struct rvt_op op;
  uint64_t key;
  const char *name;
  rvt_effect_fn effect;
  void *ctx; /* owned, ctx_bytes */
  uint32_t ctx_bytes;
  uint32_t dep_count, dep_room;
  struct rvt_node **deps;
  /* kernel */
  struct rvt_launch launch;
  void **params;    /* owned; points into ctx */
  uint64_t *forget; /* owned: device addresses among the parameters of a kernel of unknown effect */
  uint32_t forget_count;
  /* host */
  void (*host_fn)(void *);
  void *host_arg;
  struct rvt_event *event;
  struct rvt_graph *child;
};

struct rvt_graph {
  uint32_t magic;
  struct rvt_node **nodes;
  uint32_t count, room;
};

struct rvt_capture {
  struct rvt_graph *graph;
  int mode; /* 0 global, 1 thread local, 2 relaxed */
  uint64_t id;
  struct rvt_stream *origin;
  struct rvt_thread *thread;
  bool invalid;
  struct rvt_stream **joined; /* every stream in this capture */
  uint32_t joined_count, joined_room;
};

struct rvt_graph *rvt_graph_new(void);
void rvt_graph_free(struct rvt_graph *g);
struct rvt_graph *rvt_graph_clone(const struct rvt_graph *g);
int rvt_graph_flatten(struct rvt_graph *g);
struct rvt_node *rvt_graph_add(struct rvt_graph *g, int type, struct rvt_node *const *deps, uint32_t n);
int rvt_node_add_deps(struct rvt_node *node, struct rvt_node *const *deps, uint32_t n);
int rvt_node_set_kernel(struct rvt_node *node, const struct rvt_op *op, uint64_t key, const struct rvt_launch *l);
int rvt_node_set_effect(struct rvt_node *node, rvt_effect_fn fn, const void *ctx, size_t bytes);
void rvt_node_set_op(struct rvt_node *node, const struct rvt_op *op, uint64_t key, const char *name);

int rvt_capture_begin(struct rvt_stream *s, int mode, struct rvt_graph *into, struct rvt_node *const *deps, uint32_t n);
int rvt_capture_update_deps(struct rvt_stream *s, struct rvt_node *const *deps, uint32_t n, unsigned flags);
int rvt_capture_end(struct rvt_stream *s, struct rvt_graph **out);

struct rvt_exec;
int rvt_exec_make(const struct rvt_graph *g, int ordinal, struct rvt_exec **out);
int rvt_exec_update(struct rvt_exec *e, const struct rvt_graph *g);
int rvt_exec_launch(struct rvt_exec *e, struct rvt_stream *s);
void rvt_exec_free(struct rvt_exec *e);

#endif
