/* Streams that capture, and executable graphs: which operators a replay runs.
 *
 * All of this is rare next to launches, so one lock does; a launch of an executable takes it once.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "record/record.h"

struct node {
  uint32_t op;
  void *begin, *end; /* events around it, NULL: not timed */
};

/* Operators in the order of their capture. Owned by a capture, then a graph, then (a copy) an executable. */
struct list {
  uint64_t number; /* of the capture or the executable */
  const void *handle;
  struct node *nodes;
  uint32_t count, room;
  uint32_t graph_nodes; /* of an executable, as CUDA counts them: events and empty nodes too */
  uint64_t last_launch; /* of an executable: correlation */
  struct list *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct list *captures, *graphs, *execs;
static uint64_t last_exec;
static _Atomic int open_captures;

static struct list **find_handle(struct list **in, const void *handle) {
  while (*in && (*in)->handle != handle) in = &(*in)->next;
  return in;
}

static struct list *new_list(struct list **in, uint64_t number, const void *handle) {
  struct list *l = calloc(1, sizeof *l);
  if (!l) return NULL;
  l->number = number;
  l->handle = handle;
  l->next = *in;
  return *in = l;
}

static bool add(struct list *l, struct node node) {
  if (l->count == l->room) {
    uint32_t room = l->room ? l->room * 2 : 64;
    struct node *grown = realloc(l->nodes, room * sizeof *grown);
    if (!grown) return false;
    l->nodes = grown;
    l->room = room;
  }
  l->nodes[l->count++] = node;
  return true;
}

static void drop(struct list **at) {
  struct list *l = *at;
  if (!l) return;
  *at = l->next;
  free(l->nodes);
  free(l);
}

/* ---- captures ---------------------------------------------------------------------------------------------------- */

uint64_t rvt_capture_of(void *stream) {
  if (RVT_LIKELY(atomic_load_explicit(&open_captures, memory_order_relaxed) == 0)) return 0;
  int (*info)(void *, int *, uint64_t *, void *, void *, void *) = RVT_KEPT("cuStreamGetCaptureInfo_v2");
  int status = 0;
  uint64_t number = 0;
  if (!info || info(stream, &status, &number, NULL, NULL, NULL)) return RVT_UNKNOWN_CAPTURE;
  return status == 1 ? number : status ? RVT_UNKNOWN_CAPTURE : 0; /* 2: invalidated */
}

int rvt_capture_relax(void) {
  int (*exchange)(int *) = RVT_KEPT("cuThreadExchangeStreamCaptureMode");
  int mode = 2; /* CU_STREAM_CAPTURE_MODE_RELAXED */
  if (RVT_LIKELY(atomic_load(&open_captures) == 0) || !exchange || exchange(&mode)) return -1;
  return mode;
}

void rvt_capture_restore(int restore) {
  int (*exchange)(int *) = RVT_KEPT("cuThreadExchangeStreamCaptureMode");
  if (restore >= 0) exchange(&restore);
}

void rvt_capture_add(uint64_t capture, uint32_t op, void *begin, void *end) {
  pthread_mutex_lock(&lock);
  struct list *l = captures;
  while (l && l->number != capture) l = l->next;
  if (!l) l = new_list(&captures, capture, NULL);
  if (l) add(l, (struct node){op, begin, end});
  pthread_mutex_unlock(&lock);
}

/* The capture's list becomes the graph's. */
static void capture_ended(uint64_t capture, const void *graph) {
  pthread_mutex_lock(&lock);
  drop(find_handle(&graphs, graph)); /* an older graph at the same address */
  struct list **at = &captures;
  while (*at && (*at)->number != capture) at = &(*at)->next;
  struct list *l = *at;
  if (l) {
    *at = l->next;
    l->handle = graph;
    l->next = graphs;
    graphs = l;
  }
  if (!graph) drop(find_handle(&graphs, NULL)); /* the capture was invalid */
  pthread_mutex_unlock(&lock);
}

static int end_capture(int (*real)(void *, void **), void *stream, void **graph) {
  uint64_t capture = rvt_capture_of(stream);
  int rc = real(stream, graph);
  if (capture) atomic_fetch_sub(&open_captures, 1);
  if (capture && capture != RVT_UNKNOWN_CAPTURE) capture_ended(capture, rc == 0 && graph ? *graph : NULL);
  return rc;
}

/* ---- executables ---------------------------------------------------------------------------------------------------
 */

static uint32_t node_count(void *graph) {
  int (*get)(void *, void *, size_t *) = RVT_KEPT("cuGraphGetNodes");
  size_t n = 0;
  return get && get(graph, NULL, &n) == 0 ? (uint32_t)n : 0;
}

static void write_graph(const struct list *exec) {
  uint32_t *ops = malloc((exec->count + 1) * sizeof *ops);
  if (!ops) return;
  for (uint32_t i = 0; i < exec->count; i++) ops[i] = exec->nodes[i].op;
  struct rvt_record head = {.type = RVT_REC_GRAPH, .graph = exec->number, .value = exec->graph_nodes};
  rvt_put_text(&head, ops, exec->count * sizeof *ops);
  free(ops);
}

static void instantiated(const void *exec, void *graph) {
  uint32_t nodes = node_count(graph);
  pthread_mutex_lock(&lock);
  drop(find_handle(&execs, exec));
  struct list *of = *find_handle(&graphs, graph), *e = new_list(&execs, ++last_exec, exec);
  for (uint32_t i = 0; e && of && i < of->count; i++) add(e, of->nodes[i]);
  if (e) {
    e->graph_nodes = nodes;
    write_graph(e);
  }
  pthread_mutex_unlock(&lock);
}

static void destroyed(struct list **in, const void *handle) {
  pthread_mutex_lock(&lock);
  drop(find_handle(in, handle));
  pthread_mutex_unlock(&lock);
}

/* The executable's number, 0 when it was made by calls that nobody wraps. */
static uint64_t describe_launch(const void *exec, struct rvt_op *op) {
  pthread_mutex_lock(&lock);
  struct list *e = *find_handle(&execs, exec);
  uint64_t number = e ? e->number : 0;
  op->kind = RVT_OP_GRAPH;
  op->p[0] = e ? e->graph_nodes : 0;
  pthread_mutex_unlock(&lock);
  return number;
}

static void launched(const void *exec, uint64_t correlation) {
  pthread_mutex_lock(&lock);
  struct list *e = *find_handle(&execs, exec);
  if (e) e->last_launch = correlation;
  pthread_mutex_unlock(&lock);
}

static int launch(struct rvt_site *site, int (*real)(void *, void *), void *exec, void *stream) {
  struct rvt_call call;
  if (!rvt_enter(&call, site)) return real(exec, stream);
  struct rvt_op op = {0};
  uint64_t number = describe_launch(exec, &op);
  if (rvt_times_nodes()) rvt_events_drain(RVT_DRAIN_MINE); /* the nodes' events are about to be used again */
  rvt_submitting(&call, &op, NULL, stream);
  if (!(call.flags & RVT_CALL_CAPTURED)) { /* else a child of the graph that is being captured */
    call.flags |= RVT_CALL_GRAPH;
    call.graph = number;
    launched(exec, call.correlation);
  }
  int rc = real(exec, stream);
  rvt_leave(&call, rc != 0);
  return rc;
}

/* The events hold the latest replay only: where the executable was launched again, this one's are gone. */
void rvt_graph_read_nodes(uint64_t exec, uint64_t correlation) {
  pthread_mutex_lock(&lock);
  struct list *e = execs;
  while (e && e->number != exec) e = e->next;
  for (uint32_t i = 0; e && e->last_launch == correlation && i < e->count; i++) {
    int64_t ns;
    if (!e->nodes[i].begin || !rvt_event_between(e->nodes[i].begin, e->nodes[i].end, &ns)) continue;
    struct rvt_record *r = rvt_reserve();
    if (!r) break;
    *r = (struct rvt_record){.type = RVT_REC_WORK,
                             .method = RVT_METHOD_EVENT,
                             .op = e->nodes[i].op,
                             .correlation = correlation,
                             .end_ns = ns,
                             .graph = exec,
                             .node = i + 1};
    rvt_commit();
  }
  pthread_mutex_unlock(&lock);
}

/* ---- wrappers -------------------------------------------------------------------------------------------------------
 */

/* Forwards and, if the call succeeded outside another wrapped call, does `then`. */
#define WATCHES(function, parameters, arguments, ...)               \
  RVT_API int function parameters;                                  \
  RVT_SITE(function);                                               \
  RVT_API int function parameters {                                 \
    int(*real) parameters = rvt_real(&site_##function);             \
    if (!real) return rvt_no_real(&site_##function);                \
    struct rvt_call call;                                           \
    if (!rvt_enter(&call, &site_##function)) return real arguments; \
    int rc = real arguments;                                        \
    if (rc == 0) {                                                  \
      __VA_ARGS__;                                                  \
    }                                                               \
    rvt_leave(&call, rc != 0);                                      \
    return rc;                                                      \
  }

#define BEGINS(function, parameters, arguments) \
  WATCHES(function, parameters, arguments, atomic_fetch_add(&open_captures, 1))
BEGINS(cudaStreamBeginCapture, (void *stream, int mode), (stream, mode))
BEGINS(cuStreamBeginCapture_v2, (void *stream, int mode), (stream, mode))
BEGINS(cudaStreamBeginCaptureToGraph,
       (void *stream, void *graph, const void *deps, const void *edges, size_t n, int mode),
       (stream, graph, deps, edges, n, mode))
BEGINS(cuStreamBeginCaptureToGraph,
       (void *stream, void *graph, const void *deps, const void *edges, size_t n, int mode),
       (stream, graph, deps, edges, n, mode))

#define ENDS(function)                                                   \
  RVT_API int function(void *stream, void **graph);                      \
  RVT_SITE(function);                                                    \
  RVT_API int function(void *stream, void **graph) {                     \
    int (*real)(void *, void **) = rvt_real(&site_##function);           \
    if (!real) return rvt_no_real(&site_##function);                     \
    struct rvt_call call;                                                \
    if (!rvt_enter(&call, &site_##function)) return real(stream, graph); \
    int rc = end_capture(real, stream, graph);                           \
    rvt_leave(&call, rc != 0);                                           \
    return rc;                                                           \
  }
ENDS(cudaStreamEndCapture)
ENDS(cuStreamEndCapture)

#define INSTANTIATES(function, third) \
  WATCHES(function, (void **exec, void *graph, third last), (exec, graph, last), instantiated(*exec, graph))
INSTANTIATES(cudaGraphInstantiate, unsigned long long)
INSTANTIATES(cudaGraphInstantiateWithFlags, unsigned long long)
INSTANTIATES(cudaGraphInstantiateWithParams, void *)
INSTANTIATES(cuGraphInstantiateWithFlags, unsigned long long)
INSTANTIATES(cuGraphInstantiateWithParams, void *)

WATCHES(cudaGraphExecUpdate, (void *exec, void *graph, void *info), (exec, graph, info), instantiated(exec, graph))
WATCHES(cuGraphExecUpdate_v2, (void *exec, void *graph, void *info), (exec, graph, info), instantiated(exec, graph))
WATCHES(cudaGraphExecDestroy, (void *exec), (exec), destroyed(&execs, exec))
WATCHES(cuGraphExecDestroy, (void *exec), (exec), destroyed(&execs, exec))
WATCHES(cudaGraphDestroy, (void *graph), (graph), destroyed(&graphs, graph))
WATCHES(cuGraphDestroy, (void *graph), (graph), destroyed(&graphs, graph))

#define LAUNCHES(function)                                    \
  RVT_API int function(void *exec, void *stream);             \
  RVT_SITE(function);                                         \
  RVT_API int function(void *exec, void *stream) {            \
    int (*real)(void *, void *) = rvt_real(&site_##function); \
    if (!real) return rvt_no_real(&site_##function);          \
    return launch(&site_##function, real, exec, stream);      \
  }
LAUNCHES(cudaGraphLaunch)
LAUNCHES(cuGraphLaunch)
