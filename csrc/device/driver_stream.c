/* CUDA driver: streams, events, capture, graphs. Thin: the runtime's functions do the work. */
#include "device/graph_api.h"

#define STREAM(s, handle)                            \
  struct rvt_stream *s = rvt_stream_resolve(handle); \
  if (RVT_UNLIKELY(!s)) return RVT_E_INVALID_HANDLE

RVT_API int cuStreamCreateWithPriority(struct rvt_stream **out, unsigned flags, int priority) {
  int rc = rvt_enter();
  return rc ? rc : rvt_stream_create(rvt_t.device, flags, priority, out);
}
RVT_API int cuStreamCreate(struct rvt_stream **out, unsigned flags) {
  return cuStreamCreateWithPriority(out, flags, 0);
}
RVT_API int cuStreamDestroy_v2(void *stream) { return rvt_stream_destroy(stream); }
RVT_API int cuStreamSynchronize(void *stream) {
  STREAM(s, stream);
  return rvt_stream_synchronize(s);
}
RVT_API int cuStreamQuery(void *stream) {
  STREAM(s, stream);
  return rvt_stream_query(s);
}
RVT_API int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
  STREAM(s, stream);
  return rvt_event_wait(s, event, flags & 1);
}
RVT_API int cuStreamGetPriority(void *stream, int *priority) {
  STREAM(s, stream);
  *priority = s->priority;
  return RVT_OK;
}
RVT_API int cuStreamGetFlags(void *stream, unsigned *flags) {
  STREAM(s, stream);
  *flags = s->flags;
  return RVT_OK;
}
RVT_API int cuStreamGetId(void *stream, unsigned long long *id) {
  STREAM(s, stream);
  *id = s->id;
  return RVT_OK;
}
RVT_API int cuStreamGetCtx(void *stream, struct rvt_context **ctx) {
  STREAM(s, stream);
  *ctx = s->ctx;
  return RVT_OK;
}
RVT_API int cuStreamGetCtx_v2(void *stream, struct rvt_context **ctx, void **green) {
  if (green) *green = NULL;
  return cuStreamGetCtx(stream, ctx);
}
RVT_API int cuStreamGetDevice(void *stream, int *device) {
  STREAM(s, stream);
  *device = s->device;
  return RVT_OK;
}
RVT_API int cuLaunchHostFunc(void *stream, void (*fn)(void *), void *arg) {
  STREAM(s, stream);
  return fn ? rvt_stream_host_func(s, fn, arg) : RVT_E_INVALID_VALUE;
}
RVT_API int cuStreamAddCallback(void *stream, void (*fn)(void *, int, void *), void *arg, unsigned flags) {
  extern int cudaStreamAddCallback(void *, void (*)(void *, int, void *), void *, unsigned);
  return cudaStreamAddCallback(stream, fn, arg, flags);
}

/* ---- events ---------------------------------------------------------------------------------------------------- */

RVT_API int cuEventCreate(struct rvt_event **out, unsigned flags) {
  int rc = rvt_enter();
  return rc ? rc : rvt_event_create(rvt_t.device, flags, out);
}
RVT_API int cuEventDestroy_v2(struct rvt_event *e) { return rvt_event_destroy(e); }
RVT_API int cuEventRecordWithFlags(struct rvt_event *e, void *stream, unsigned flags) {
  STREAM(s, stream);
  return rvt_event_record(e, s, flags & 1);
}
RVT_API int cuEventRecord(struct rvt_event *e, void *stream) { return cuEventRecordWithFlags(e, stream, 0); }
RVT_API int cuEventQuery(struct rvt_event *e) { return rvt_event_query(e); }
RVT_API int cuEventSynchronize(struct rvt_event *e) { return rvt_event_synchronize(e); }
RVT_API int cuEventElapsedTime(float *ms, struct rvt_event *a, struct rvt_event *b) {
  return rvt_event_elapsed(a, b, ms);
}
RVT_API int cuEventElapsedTime_v2(float *ms, struct rvt_event *a, struct rvt_event *b) {
  return rvt_event_elapsed(a, b, ms);
}

/* ---- capture --------------------------------------------------------------------------------------------------- */

RVT_API int cuStreamBeginCapture_v2(void *stream, int mode) {
  STREAM(s, stream);
  return rvt_capture_begin(s, mode, NULL, NULL, 0);
}
RVT_API int cuStreamBeginCaptureToGraph(void *stream, struct rvt_graph *g, struct rvt_node *const *deps,
                                        const void *edges, size_t n, int mode) {
  STREAM(s, stream);
  return rvt_capture_begin(s, mode, g, deps, (uint32_t)n);
}
RVT_API int cuStreamEndCapture(void *stream, struct rvt_graph **out) {
  STREAM(s, stream);
  return rvt_capture_end(s, out);
}
RVT_API int cuStreamIsCapturing(void *stream, int *status) {
  STREAM(s, stream);
  *status = rvt_capture_status(s);
  return RVT_OK;
}
RVT_API int cuThreadExchangeStreamCaptureMode(int *mode) {
  extern int cudaThreadExchangeStreamCaptureMode(int *);
  return cudaThreadExchangeStreamCaptureMode(mode);
}
RVT_API int cuStreamGetCaptureInfo_v2(void *stream, int *status, unsigned long long *id, struct rvt_graph **g,
                                      struct rvt_node *const **deps, size_t *n) {
  STREAM(s, stream);
  return rvt_capture_info(s, status, id, g, deps, n);
}
RVT_API int cuStreamGetCaptureInfo_v3(void *stream, int *status, unsigned long long *id, struct rvt_graph **g,
                                      struct rvt_node *const **deps, const void **edges, size_t *n) {
  STREAM(s, stream);
  if (edges) *edges = NULL;
  return rvt_capture_info(s, status, id, g, deps, n);
}
RVT_API int cuStreamUpdateCaptureDependencies(void *stream, struct rvt_node **deps, size_t n, unsigned flags) {
  STREAM(s, stream);
  return rvt_capture_update_deps(s, deps, (uint32_t)n, flags);
}
RVT_API int cuStreamUpdateCaptureDependencies_v2(void *stream, struct rvt_node **deps, const void *edges, size_t n,
                                                 unsigned flags) {
  STREAM(s, stream);
  return rvt_capture_update_deps(s, deps, (uint32_t)n, flags);
}

/* ---- graphs ---------------------------------------------------------------------------------------------------- */

RVT_API int cuGraphCreate(struct rvt_graph **out, unsigned flags) {
  *out = rvt_graph_new();
  return *out ? RVT_OK : RVT_E_OUT_OF_MEMORY;
}
RVT_API int cuGraphDestroy(struct rvt_graph *g) {
  if (!rvt_graph_valid(g)) return RVT_E_INVALID_VALUE;
  rvt_graph_free(g);
  return RVT_OK;
}
RVT_API int cuGraphClone(struct rvt_graph **out, struct rvt_graph *g) {
  if (!rvt_graph_valid(g)) return RVT_E_INVALID_VALUE;
  *out = rvt_graph_clone(g);
  return *out ? RVT_OK : RVT_E_OUT_OF_MEMORY;
}
RVT_API int cuGraphGetNodes(struct rvt_graph *g, struct rvt_node **out, size_t *n) {
  return rvt_graph_nodes(g, out, n);
}
RVT_API int cuGraphGetRootNodes(struct rvt_graph *g, struct rvt_node **out, size_t *n) {
  return rvt_graph_roots(g, out, n);
}
RVT_API int cuGraphGetEdges(struct rvt_graph *g, struct rvt_node **from, struct rvt_node **to, size_t *n) {
  return rvt_graph_edges(g, from, to, n);
}
RVT_API int cuGraphGetEdges_v2(struct rvt_graph *g, struct rvt_node **from, struct rvt_node **to, void *edges,
                               size_t *n) {
  return rvt_graph_edges(g, from, to, n);
}
RVT_API int cuGraphNodeGetType(struct rvt_node *node, int *type) {
  if (!rvt_node_valid(node)) return RVT_E_INVALID_VALUE;
  *type = node->type;
  return RVT_OK;
}
RVT_API int cuGraphNodeGetDependencies(struct rvt_node *node, struct rvt_node **out, size_t *n) {
  return rvt_node_dependencies(node, out, n);
}
RVT_API int cuGraphNodeGetDependencies_v2(struct rvt_node *node, struct rvt_node **out, void *edges, size_t *n) {
  return rvt_node_dependencies(node, out, n);
}
RVT_API int cuGraphAddDependencies(struct rvt_graph *g, struct rvt_node **from, struct rvt_node **to, size_t n) {
  return rvt_graph_add_edges(g, from, to, n);
}
RVT_API int cuGraphAddDependencies_v2(struct rvt_graph *g, struct rvt_node **from, struct rvt_node **to,
                                      const void *edges, size_t n) {
  return rvt_graph_add_edges(g, from, to, n);
}
RVT_API int cuGraphAddEmptyNode(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps, size_t n) {
  return rvt_graph_add_checked(g, RVT_NODE_EMPTY, deps, n, out);
}
RVT_API int cuGraphAddHostNode(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps, size_t n,
                               const struct rvt_host_params *p) {
  return rvt_graph_add_host(g, deps, n, p, out);
}
RVT_API int cuGraphAddMemsetNode(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps, size_t n,
                                 const struct rvt_memset_params *p, void *ctx) {
  return rvt_graph_add_memset(g, deps, n, p, out);
}
RVT_API int cuGraphAddEventRecordNode(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps,
                                      size_t n, void *event) {
  return rvt_graph_add_event(g, RVT_NODE_EVENT_RECORD, deps, n, event, out);
}
RVT_API int cuGraphAddEventWaitNode(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps, size_t n,
                                    void *event) {
  return rvt_graph_add_event(g, RVT_NODE_EVENT_WAIT, deps, n, event, out);
}
RVT_API int cuGraphAddChildGraphNode(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps, size_t n,
                                     struct rvt_graph *child) {
  return rvt_graph_add_child(g, deps, n, child, out);
}

struct kernel_params { /* CUDA_KERNEL_NODE_PARAMS_v2 */
  struct rvt_kernel *func;
  uint32_t grid[3], block[3];
  unsigned shared_bytes;
  void **params, **extra;
  struct rvt_kernel *kernel;
  void *ctx;
};
RVT_API int cuGraphAddKernelNode_v2(struct rvt_node **out, struct rvt_graph *g, struct rvt_node *const *deps, size_t n,
                                    const struct kernel_params *p) {
  int rc = rvt_enter();
  return rc ? rc
            : rvt_graph_add_kernel(g, deps, n, p->func ? p->func : p->kernel, p->grid, p->block, p->shared_bytes,
                                   p->params, out);
}
RVT_API int cuGraphKernelNodeGetParams_v2(struct rvt_node *node, struct kernel_params *out) {
  if (!rvt_node_valid(node) || node->type != RVT_NODE_KERNEL || !node->launch.kernel) return RVT_E_INVALID_VALUE;
  const struct rvt_launch *l = &node->launch;
  *out = (struct kernel_params){.func = (struct rvt_kernel *)l->kernel,
                                .grid = {l->grid[0], l->grid[1], l->grid[2]},
                                .block = {l->block[0], l->block[1], l->block[2]},
                                .shared_bytes = l->shared_bytes,
                                .params = node->params};
  return RVT_OK;
}
RVT_API int cuGraphKernelNodeSetParams_v2(struct rvt_node *node, const struct kernel_params *p) {
  return rvt_node_reset_kernel(node, p->func ? p->func : p->kernel, p->grid, p->block, p->shared_bytes, p->params);
}
RVT_API int cuGraphExecKernelNodeSetParams_v2(struct rvt_exec *e, struct rvt_node *node,
                                              const struct kernel_params *p) {
  return rvt_exec_set_kernel(e, node, p->func ? p->func : p->kernel, p->grid, p->block, p->shared_bytes, p->params);
}

RVT_API int cuGraphInstantiateWithFlags(struct rvt_exec **out, struct rvt_graph *g, unsigned long long flags) {
  int rc = rvt_enter();
  return rc ? rc : rvt_graph_valid(g) ? rvt_exec_make(g, rvt_t.device, out) : RVT_E_INVALID_VALUE;
}
RVT_API int cuGraphInstantiateWithParams(struct rvt_exec **out, struct rvt_graph *g, void *params) {
  return cuGraphInstantiateWithFlags(out, g, 0);
}
RVT_API int cuGraphExecDestroy(struct rvt_exec *e) {
  if (!rvt_exec_valid(e)) return RVT_E_INVALID_VALUE;
  rvt_exec_free(e);
  return RVT_OK;
}
RVT_API int cuGraphLaunch(struct rvt_exec *e, void *stream) {
  STREAM(s, stream);
  return rvt_exec_valid(e) ? rvt_exec_launch(e, s) : RVT_E_INVALID_VALUE;
}
RVT_RECORDED int cuGraphUpload(struct rvt_exec *e, void *stream) { return RVT_OK; }
RVT_API int cuGraphExecUpdate_v2(struct rvt_exec *e, struct rvt_graph *g, int *result) {
  if (!rvt_exec_valid(e) || !rvt_graph_valid(g)) return RVT_E_INVALID_VALUE;
  int rc = rvt_exec_update(e, g);
  if (result) *result = rc ? 1 : 0;
  return rc;
}
