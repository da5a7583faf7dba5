/* Graph calls as the runtime and the driver interface share them. */
#ifndef RVT_GRAPH_API_H
#define RVT_GRAPH_API_H

#include "device/event.h"
#include "device/graph.h"

struct rvt_runtime_kernel_params { /* cudaKernelNodeParams */
  void *func;
  uint32_t grid[3], block[3];
  unsigned shared_bytes;
  void **params, **extra;
};
struct rvt_host_params { /* cudaHostNodeParams */
  void (*fn)(void *);
  void *arg;
};
struct rvt_memset_params { /* cudaMemsetParams */
  void *to;
  size_t pitch;
  unsigned value, element_bytes;
  size_t width, height;
};

bool rvt_graph_valid(const struct rvt_graph *g);
bool rvt_node_valid(const struct rvt_node *n);
bool rvt_exec_valid(const struct rvt_exec *e);
int rvt_capture_status(struct rvt_stream *s); /* 0 none, 1 active, 2 invalidated */
int rvt_capture_info(struct rvt_stream *s, int *status, unsigned long long *id, struct rvt_graph **graph,
                     struct rvt_node *const **deps, size_t *n);
int rvt_graph_nodes(struct rvt_graph *g, struct rvt_node **out, size_t *n);
int rvt_graph_roots(struct rvt_graph *g, struct rvt_node **out, size_t *n);
int rvt_graph_edges(struct rvt_graph *g, struct rvt_node **from, struct rvt_node **to, size_t *n);
int rvt_graph_add_edges(struct rvt_graph *g, struct rvt_node **from, struct rvt_node **to, size_t n);
int rvt_node_dependencies(struct rvt_node *node, struct rvt_node **out, size_t *n);
int rvt_graph_add_checked(struct rvt_graph *g, int type, struct rvt_node *const *deps, size_t n, struct rvt_node **out);
int rvt_graph_add_kernel(struct rvt_graph *g, struct rvt_node *const *deps, size_t n, struct rvt_kernel *k,
                         const uint32_t grid[3], const uint32_t block[3], unsigned shared_bytes, void **params,
                         struct rvt_node **out);
int rvt_graph_add_host(struct rvt_graph *g, struct rvt_node *const *deps, size_t n, const struct rvt_host_params *p,
                       struct rvt_node **out);
int rvt_graph_add_copy(struct rvt_graph *g, struct rvt_node *const *deps, size_t n, uint64_t to, uint64_t from,
                       size_t bytes, struct rvt_node **out);
int rvt_graph_add_memset(struct rvt_graph *g, struct rvt_node *const *deps, size_t n, const struct rvt_memset_params *p,
                         struct rvt_node **out);
int rvt_graph_add_event(struct rvt_graph *g, int type, struct rvt_node *const *deps, size_t n, void *event,
                        struct rvt_node **out);
int rvt_graph_add_child(struct rvt_graph *g, struct rvt_node *const *deps, size_t n, struct rvt_graph *child,
                        struct rvt_node **out);
int rvt_node_reset_kernel(struct rvt_node *node, struct rvt_kernel *k, const uint32_t grid[3], const uint32_t block[3],
                          unsigned shared_bytes, void **params);
int rvt_exec_set_kernel(struct rvt_exec *e, struct rvt_node *node, struct rvt_kernel *k, const uint32_t grid[3],
                        const uint32_t block[3], unsigned shared_bytes, void **params);

#endif
