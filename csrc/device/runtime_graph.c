/* CUDA runtime: capture and graphs. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "device/graph_api.h"

#define STREAM(s, handle)                            \
  struct rvt_stream *s = rvt_stream_resolve(handle); \
  if (RVT_UNLIKELY(!s)) return rvt_rt(RVT_E_INVALID_HANDLE)

/* ---- capture ----------------------------------------------------------------------------------------------- */

RVT_API int cudaStreamBeginCapture(void *stream, int mode) {
  STREAM(s, stream);
  return rvt_rt(rvt_capture_begin(s, mode, NULL, NULL, 0));
}
RVT_API int cudaStreamBeginCaptureToGraph(void *stream, struct rvt_graph *graph, struct rvt_node *const *deps,
                                          const void *edges, size_t n, int mode) {
  STREAM(s, stream);
  return rvt_rt(rvt_capture_begin(s, mode, graph, deps, (uint32_t)n));
}
RVT_API int cudaStreamEndCapture(void *stream, struct rvt_graph **graph) {
  STREAM(s, stream);
  return rvt_rt(rvt_capture_end(s, graph));
}
RVT_API int cudaStreamIsCapturing(void *stream, int *status) {
  STREAM(s, stream);
  *status = rvt_capture_status(s);
  return RVT_OK;
}
RVT_API int cudaThreadExchangeStreamCaptureMode(int *mode) {
  if (!mode || *mode < 0 || *mode > 2) return rvt_rt(RVT_E_INVALID_VALUE);
  int old = rvt_t.capture_mode;
  rvt_t.capture_mode = *mode;
  *mode = old;
  return RVT_OK;
}

/* CUDA 12 calls this shape _v2 and has edge data only in _v3; CUDA 13 has only the latter, unsuffixed. */
RVT_API int cudaStreamGetCaptureInfo_v2(void *stream, int *status, unsigned long long *id, struct rvt_graph **graph,
                                        struct rvt_node *const **deps, size_t *n) {
  STREAM(s, stream);
  return rvt_rt(rvt_capture_info(s, status, id, graph, deps, n));
}
RVT_API int cudaStreamGetCaptureInfo_v3(void *stream, int *status, unsigned long long *id, struct rvt_graph **graph,
                                        struct rvt_node *const **deps, const void **edges, size_t *n) {
  STREAM(s, stream);
  if (edges) *edges = NULL;
  return rvt_rt(rvt_capture_info(s, status, id, graph, deps, n));
}
RVT_API int cudaStreamGetCaptureInfo(void *stream, int *status, unsigned long long *id, struct rvt_graph **graph,
                                     struct rvt_node *const **deps, const void **edges, size_t *n) {
  STREAM(s, stream);
  /* CUDA 12's unsuffixed function has three parameters. */
  if (rvt_cuda_major() < 13) return rvt_rt(rvt_capture_info(s, status, id, NULL, NULL, NULL));
  if (edges) *edges = NULL;
  return rvt_rt(rvt_capture_info(s, status, id, graph, deps, n));
}
RVT_API int cudaStreamUpdateCaptureDependencies(void *stream, struct rvt_node **deps, uintptr_t a, uintptr_t b,
                                                uintptr_t c) {
  STREAM(s, stream);
  /* 13: (deps, edges, n, flags); 12: (deps, n, flags) */
  bool thirteen = rvt_cuda_major() >= 13;
  return rvt_rt(rvt_capture_update_deps(s, deps, (uint32_t)(thirteen ? b : a), (unsigned)(thirteen ? c : b)));
}
RVT_API int cudaStreamUpdateCaptureDependencies_v2(void *stream, struct rvt_node **deps, const void *edges, size_t n,
                                                   unsigned flags) {
  STREAM(s, stream);
  return rvt_rt(rvt_capture_update_deps(s, deps, (uint32_t)n, flags));
}

/* ---- graphs ------------------------------------------------------------------------------------------------ */

RVT_API int cudaGraphCreate(struct rvt_graph **out, unsigned flags) {
  *out = rvt_graph_new();
  return rvt_rt(*out ? RVT_OK : RVT_E_OUT_OF_MEMORY);
}
RVT_API int cudaGraphDestroy(struct rvt_graph *g) {
  if (!rvt_graph_valid(g)) return rvt_rt(RVT_E_INVALID_VALUE);
  rvt_graph_free(g);
  return RVT_OK;
}
RVT_API int cudaGraphClone(struct rvt_graph **out, struct rvt_graph *g) {
  if (!rvt_graph_valid(g)) return rvt_rt(RVT_E_INVALID_VALUE);
  *out = rvt_graph_clone(g);
  return rvt_rt(*out ? RVT_OK : RVT_E_OUT_OF_MEMORY);
}
RVT_API int cudaGraphGetNodes(struct rvt_graph *g, struct rvt_node **out, size_t *n) {
  return rvt_rt(rvt_graph_nodes(g, out, n));
}
RVT_API int cudaGraphGetRootNodes(struct rvt_graph *g, struct rvt_node **out, size_t *n) {
  return rvt_rt(rvt_graph_roots(g, out, n));
}
RVT_API int cudaGraphNodeGetType(struct rvt_node *node, int *type) {
  if (!rvt_node_valid(node)) return rvt_rt(RVT_E_INVALID_VALUE);
  *type = node->type;
  return RVT_OK;
}
RVT_API int cudaGraphNodeGetDependencies(struct rvt_node *node, struct rvt_node **out, void *a, size_t *b) {
  /* 13: (out, edges, n); 12: (out, n) */
  return rvt_rt(rvt_node_dependencies(node, out, rvt_cuda_major() >= 13 ? b : a));
}
RVT_API int cudaGraphNodeGetDependencies_v2(struct rvt_node *node, struct rvt_node **out, void *edges, size_t *n) {
  return rvt_rt(rvt_node_dependencies(node, out, n));
}
RVT_API int cudaGraphGetEdges(struct rvt_graph *g, struct rvt_node **from, struct rvt_node **to, void *a, size_t *b) {
  return rvt_rt(rvt_graph_edges(g, from, to, rvt_cuda_major() >= 13 ? b : a));
}
RVT_API int cudaGraphGetEdges_v2(struct rvt_graph *g, struct rvt_node **from, struct rvt_node **to, void *edges,
                                 size_t *n) {
  return rvt_rt(rvt_graph_edges(g, from, to, n));
}
RVT_API int cudaGraphAddDependencies(struct rvt_graph *g, struct rvt_node **from, struct rvt_node **to, uintptr_t a,
                                     size_t b) {
  return rvt_rt(rvt_graph_add_edges(g, from, to, rvt_cuda_major() >= 13 ? b : a));
}
RVT_API int cudaGraphAddDependencies_v2(struct rvt_graph *g, struct rvt_node **from, struct rvt_node **to,
                                        const void *edges, size_t n) {
  return rvt_rt(rvt_graph_add_edges(g, from, to, n));
}
RVT_API int cudaGraphAddEmptyNode(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps, size_t n) {
  return rvt_rt(rvt_graph_add_checked(g, RVT_NODE_EMPTY, deps, n, out));
}
RVT_API int cudaGraphAddKernelNode(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps, size_t n,
                                   const struct rvt_runtime_kernel_params *p) {
  int rc = rvt_enter();
  return rvt_rt(rc ? rc
                   : rvt_graph_add_kernel(g, deps, n, rvt_kernel_of_handle(p->func), p->grid, p->block, p->shared_bytes,
                                          p->params, out));
}
RVT_API int cudaGraphAddHostNode(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps, size_t n,
                                 const struct rvt_host_params *p) {
  return rvt_rt(rvt_graph_add_host(g, deps, n, p, out));
}
RVT_API int cudaGraphAddMemcpyNode1D(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps, size_t n,
                                     void *to, const void *from, size_t bytes, int kind) {
  int rc = rvt_enter();
  return rvt_rt(rc ? rc : rvt_graph_add_copy(g, deps, n, (uint64_t)to, (uint64_t)from, bytes, out));
}
RVT_API int cudaGraphAddMemsetNode(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps, size_t n,
                                   const struct rvt_memset_params *p) {
  int rc = rvt_enter();
  return rvt_rt(rc ? rc : rvt_graph_add_memset(g, deps, n, p, out));
}
RVT_API int cudaGraphAddEventRecordNode(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps,
                                        size_t n, void *event) {
  return rvt_rt(rvt_graph_add_event(g, RVT_NODE_EVENT_RECORD, deps, n, event, out));
}
RVT_API int cudaGraphAddEventWaitNode(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps,
                                      size_t n, void *event) {
  return rvt_rt(rvt_graph_add_event(g, RVT_NODE_EVENT_WAIT, deps, n, event, out));
}
RVT_API int cudaGraphAddChildGraphNode(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps,
                                       size_t n, struct rvt_graph *child) {
  return rvt_rt(rvt_graph_add_child(g, deps, n, child, out));
}
RVT_API int cudaGraphKernelNodeGetParams(struct rvt_node *node, struct rvt_runtime_kernel_params *out) {
  if (!rvt_node_valid(node) || node->type != RVT_NODE_KERNEL || !node->launch.kernel)
    return rvt_rt(RVT_E_INVALID_VALUE);
  *out = (struct rvt_runtime_kernel_params){
      .func = (void *)node->launch.kernel, .shared_bytes = node->launch.shared_bytes, .params = node->params};
  memcpy(out->grid, node->launch.grid, sizeof out->grid);
  memcpy(out->block, node->launch.block, sizeof out->block);
  return RVT_OK;
}
RVT_API int cudaGraphKernelNodeSetParams(struct rvt_node *node, const struct rvt_runtime_kernel_params *p) {
  return rvt_rt(
      rvt_node_reset_kernel(node, rvt_kernel_of_handle(p->func), p->grid, p->block, p->shared_bytes, p->params));
}

/* ---- executables ------------------------------------------------------------------------------------------- */

static int instantiate(struct rvt_exec **out, struct rvt_graph *g) {
  int rc = rvt_enter();
  if (rc == RVT_OK && (!out || !rvt_graph_valid(g))) rc = RVT_E_INVALID_VALUE;
  return rvt_rt(rc ? rc : rvt_exec_make(g, rvt_t.device, out));
}
RVT_API int cudaGraphInstantiate(struct rvt_exec **out, struct rvt_graph *g, unsigned long long flags) {
  return instantiate(out, g);
}
RVT_API int cudaGraphInstantiateWithFlags(struct rvt_exec **out, struct rvt_graph *g, unsigned long long flags) {
  return instantiate(out, g);
}

struct instantiate_params {
  unsigned long long flags;
  void *upload_stream, *error_node;
  int result;
};
RVT_API int cudaGraphInstantiateWithParams(struct rvt_exec **out, struct rvt_graph *g, struct instantiate_params *p) {
  int rc = instantiate(out, g);
  if (p) p->result = rc ? 1 : 0; /* cudaGraphInstantiateError : Success */
  return rc;
}
RVT_API int cudaGraphExecDestroy(struct rvt_exec *e) {
  if (!rvt_exec_valid(e)) return rvt_rt(RVT_E_INVALID_VALUE);
  rvt_exec_free(e);
  return RVT_OK;
}
RVT_API int cudaGraphLaunch(struct rvt_exec *e, void *stream) {
  STREAM(s, stream);
  if (!rvt_exec_valid(e)) return rvt_rt(RVT_E_INVALID_VALUE);
  return rvt_rt(rvt_exec_launch(e, s));
}
RVT_RECORDED int cudaGraphUpload(struct rvt_exec *e, void *stream) {
  return rvt_rt(rvt_exec_valid(e) ? RVT_OK : RVT_E_INVALID_VALUE);
}

struct update_result {
  int result;
  void *error_node, *error_from;
};
RVT_API int cudaGraphExecUpdate(struct rvt_exec *e, struct rvt_graph *g, struct update_result *info) {
  if (!rvt_exec_valid(e) || !rvt_graph_valid(g)) return rvt_rt(RVT_E_INVALID_VALUE);
  int rc = rvt_exec_update(e, g);
  if (info) *info = (struct update_result){.result = rc ? 1 : 0};
  return rvt_rt(rc);
}
RVT_API int cudaGraphExecKernelNodeSetParams(struct rvt_exec *e, struct rvt_node *node,
                                             const struct rvt_runtime_kernel_params *p) {
  return rvt_rt(
      rvt_exec_set_kernel(e, node, rvt_kernel_of_handle(p->func), p->grid, p->block, p->shared_bytes, p->params));
}

/* A small dot file with the node types, enough to look at a graph. */
RVT_API int cudaGraphDebugDotPrint(struct rvt_graph *g, const char *path, unsigned flags) {
  if (!rvt_graph_valid(g) || !path) return rvt_rt(RVT_E_INVALID_VALUE);
  FILE *f = fopen(path, "w");
  if (!f) return rvt_rt(RVT_E_INVALID_VALUE);
  fprintf(f, "digraph g {\n");
  for (uint32_t i = 0; i < g->count; i++) {
    const struct rvt_node *n = g->nodes[i];
    fprintf(f, "  n%u [label=\"%d %s\"];\n", i, n->type, n->name ? n->name : "");
    for (uint32_t d = 0; d < n->dep_count; d++) fprintf(f, "  n%u -> n%u;\n", n->deps[d]->index, i);
  }
  fprintf(f, "}\n");
  fclose(f);
  return RVT_OK;
}
