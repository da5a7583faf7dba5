/* Durations from CUPTI's activity records.
 *
 * Every wrapped call runs inside an external correlation id of ours. CUPTI then writes which of its own ids (one per
 * API call) belongs to it, and puts that id into the records of the work that the call launched. Both go to the spool
 * as they come; `revati record` joins them.
 *
 * The launch of a graph has one id for all of its nodes, so each node's operator is kept when the node is made (inside
 * the wrapped call that is being captured) and followed to its copy in the executable.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/describe.h"
#include "record/cupti.h"
#include "record/record.h"

/* Functions of libcupti; all but the last three must be there. */
#define CUPTI_FUNCTIONS(X)                                                         \
  X(cuptiSubscribe, (void **, cupti_callback, void *))                             \
  X(cuptiEnableCallback, (uint32_t, void *, int, uint32_t))                        \
  X(cuptiGetCallbackName, (int, uint32_t, const char **))                          \
  X(cuptiGetGraphNodeId, (void *, uint64_t *))                                     \
  X(cuptiActivityEnable, (uint32_t))                                               \
  X(cuptiActivityRegisterCallbacks, (cupti_buffer_request, cupti_buffer_complete)) \
  X(cuptiActivityGetNextRecord, (uint8_t *, size_t, struct cupti_record **))       \
  X(cuptiActivityGetNumDroppedRecords, (void *, uint32_t, size_t *))               \
  X(cuptiActivityFlushAll, (uint32_t))                                             \
  X(cuptiActivityPushExternalCorrelationId, (int, uint64_t))                       \
  X(cuptiActivityPopExternalCorrelationId, (int, uint64_t *))                      \
  X(cuptiActivityFlushPeriod, (uint32_t))                                          \
  X(cuptiActivityRegisterTimestampCallback, (uint64_t(*)(void)))                   \
  X(cuptiActivityEnableRuntimeApi, (uint32_t, uint8_t))                            \
  X(cuptiActivityEnableDriverApi, (uint32_t, uint8_t))
static struct {
#define X(name, parameters) int(*name) parameters;
  CUPTI_FUNCTIONS(X)
#undef X
} cupti;

/* ---- the library --------------------------------------------------------------------------------------------------
 */

/* Beside the CUDA runtime that the program uses, so that the versions match: wheels of CUDA 13 and 12, a toolkit. */
static void *open_library(void) {
  static const char *const places[] = {"libcupti.so.13", "../../cuda_cupti/lib/libcupti.so.12", "libcupti.so.12",
                                       "../extras/CUPTI/lib64/libcupti.so.13", "../extras/CUPTI/lib64/libcupti.so.12"};
  char directory[3072], path[4096];
  const char *given = getenv("REVATI_CUPTI");
  if (given) return dlopen(given, RTLD_NOW);
  if (rvt_runtime_directory(directory, sizeof directory)) {
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
      snprintf(path, sizeof path, "%s%s", directory, places[i]);
      void *handle = dlopen(path, RTLD_NOW);
      if (handle) return handle;
    }
  }
  void *handle = dlopen("libcupti.so.13", RTLD_NOW);
  return handle ? handle : dlopen("libcupti.so.12", RTLD_NOW);
}

static bool load(void) {
  void *handle = open_library();
  if (!handle) return false;
#define X(name, parameters) cupti.name = dlsym(handle, #name);
  CUPTI_FUNCTIONS(X)
#undef X
  return cupti.cuptiSubscribe && cupti.cuptiEnableCallback && cupti.cuptiGetGraphNodeId && cupti.cuptiActivityEnable &&
         cupti.cuptiActivityRegisterCallbacks && cupti.cuptiActivityGetNextRecord && cupti.cuptiActivityFlushAll &&
         cupti.cuptiActivityPushExternalCorrelationId && cupti.cuptiActivityPopExternalCorrelationId;
}

/* ---- graph nodes ----------------------------------------------------------------------------------------------------
 */

struct graph_node {
  uint64_t id; /* CUPTI's, 0 = free */
  uint32_t op, call;
};
static struct graph_node *nodes; /* open addressing, doubled when half full */
static uint64_t node_room, node_count;
static pthread_mutex_t node_lock = PTHREAD_MUTEX_INITIALIZER;

static struct graph_node *node_slot(struct graph_node *in, uint64_t room, uint64_t id) {
  uint64_t i = rvt_mix(id, 1) & (room - 1);
  while (in[i].id && in[i].id != id) i = (i + 1) & (room - 1);
  return &in[i];
}

static bool grow_nodes(void) {
  uint64_t room = node_room ? node_room * 2 : 1u << 14;
  struct graph_node *grown = calloc(room, sizeof *grown);
  if (!grown) return false;
  for (uint64_t i = 0; i < node_room; i++)
    if (nodes[i].id) *node_slot(grown, room, nodes[i].id) = nodes[i];
  free(nodes);
  nodes = grown;
  node_room = room;
  return true;
}

static void keep_node(struct graph_node node) {
  if (!node.id || (node_count * 2 >= node_room && !grow_nodes())) return;
  struct graph_node *slot = node_slot(nodes, node_room, node.id);
  node_count += slot->id == 0;
  *slot = node;
}

static struct graph_node find_node(uint64_t id) {
  struct graph_node none = {0};
  pthread_mutex_lock(&node_lock);
  if (node_room && id) none = *node_slot(nodes, node_room, id);
  pthread_mutex_unlock(&node_lock);
  return none;
}

static void on_resource(void *user, int domain, uint32_t id, const void *data) {
  const struct cupti_graph *graph = ((const struct cupti_resource *)data)->descriptor;
  uint64_t node = 0, original = 0;
  if (domain != CUPTI_DOMAIN_RESOURCE || !graph) return;
  if (id == CUPTI_NODE_CREATED && rvt_here.op) {
    if (cupti.cuptiGetGraphNodeId(graph->node, &node)) return;
    pthread_mutex_lock(&node_lock);
    keep_node((struct graph_node){node, rvt_here.op, (uint32_t)rvt_here.sequence});
    pthread_mutex_unlock(&node_lock);
  } else if (id == CUPTI_NODE_CLONED) {
    if (cupti.cuptiGetGraphNodeId(graph->original_node, &original) || cupti.cuptiGetGraphNodeId(graph->node, &node))
      return;
    struct graph_node from = find_node(original);
    if (!from.id) return;
    pthread_mutex_lock(&node_lock);
    keep_node((struct graph_node){node, from.op, from.call});
    pthread_mutex_unlock(&node_lock);
  }
}

/* ---- activity records
 * ------------------------------------------------------------------------------------------------ */

struct work {
  uint64_t start, end, graph_node;
  uint32_t device, stream, correlation, seen; /* seen: the operator as CUPTI describes it */
};

static void write_work(const struct work *w) {
  struct graph_node node = find_node(w->graph_node);
  struct rvt_record *r = rvt_reserve();
  if (!r) return;
  *r = (struct rvt_record){.type = RVT_REC_WORK,
                           .method = RVT_METHOD_CUPTI,
                           .op = node.op,
                           .begin_ns = (int64_t)w->start,
                           .end_ns = (int64_t)w->end,
                           .stream = w->stream,
                           .graph = w->graph_node,
                           .step = w->seen,
                           .value = w->correlation,
                           .device = (uint16_t)w->device,
                           /* nodes of one captured call belong together */
                           .node = node.call ? node.call : (uint32_t)w->graph_node};
  rvt_commit();
}

static void on_kernel(const struct cupti_kernel *k) {
  const struct rvt_name *name = rvt_kernel_name(k->name, RVT_NAME_ITSELF);
  struct rvt_op op = {.gpu = k->device};
  uint32_t grid[3] = {(uint32_t)k->grid[0], (uint32_t)k->grid[1], (uint32_t)k->grid[2]};
  uint32_t block[3] = {(uint32_t)k->block[0], (uint32_t)k->block[1], (uint32_t)k->block[2]};
  rvt_describe_kernel(&op, grid, block, (uint32_t)k->dynamic_shared, name->length);
  write_work(
      &(struct work){k->start, k->end, k->graph_node, k->device, k->stream, k->correlation, rvt_op_number(&op, name)});
}

static uint32_t seen_copy(uint32_t device, uint64_t bytes, int copy_kind) {
  /* CUpti_ActivityMemcpyKind: 1 to the device, 2 to the host, 8 on the device, 9 on the host, 10 between devices */
  static const uint8_t kinds[11] = {3, RVT_COPY_H2D, RVT_COPY_D2H, 3,           3, 3, 3,
                                    3, RVT_COPY_D2D, RVT_COPY_H2H, RVT_COPY_P2P};
  struct rvt_op op = {.kind = RVT_OP_COPY, .gpu = device, .p = {(int64_t)bytes, kinds[copy_kind > 10 ? 0 : copy_kind]}};
  return rvt_op_number(&op, NULL);
}

static void on_copy(const struct cupti_copy *c) {
  write_work(&(struct work){c->start, c->end, c->graph_node, c->device, c->stream, c->correlation,
                            seen_copy(c->device, c->bytes, c->copy_kind)});
}

static void on_peer_copy(const struct cupti_peer_copy *c) {
  write_work(&(struct work){c->start, c->end, c->graph_node, c->device, c->stream, c->correlation,
                            seen_copy(c->device, c->bytes, 10)});
}

static void on_set(const struct cupti_set *s) {
  struct rvt_op op = {.kind = RVT_OP_MEMSET, .gpu = s->device, .p = {(int64_t)s->bytes}};
  write_work(
      &(struct work){s->start, s->end, s->graph_node, s->device, s->stream, s->correlation, rvt_op_number(&op, NULL)});
}

static void on_external(const struct cupti_external *e) {
  struct rvt_record *r = e->external_kind == CUPTI_CUSTOM0 ? rvt_reserve() : NULL;
  if (!r) return;
  *r = (struct rvt_record){.type = RVT_REC_LINK, .correlation = e->external_id, .value = e->correlation};
  rvt_commit();
}

static void parse(uint8_t *buffer, size_t valid) {
  struct cupti_record *record = NULL;
  while (cupti.cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_OK) {
    switch (record->kind) {
    case CUPTI_KIND_CONCURRENT_KERNEL: on_kernel((const void *)record); break;
    case CUPTI_KIND_MEMCPY: on_copy((const void *)record); break;
    case CUPTI_KIND_MEMCPY2: on_peer_copy((const void *)record); break;
    case CUPTI_KIND_MEMSET: on_set((const void *)record); break;
    case CUPTI_KIND_EXTERNAL_CORRELATION: on_external((const void *)record); break;
    default: break; /* the API calls themselves */
    }
  }
}

/* ---- buffers
 * ----------------------------------------------------------------------------------------------------------- */

#define BUFFER_BYTES (8u << 20)
#define KEPT_BUFFERS 8
static void *kept[KEPT_BUFFERS];
static int kept_count;
static pthread_mutex_t buffer_lock = PTHREAD_MUTEX_INITIALIZER;

static void request_buffer(uint8_t **buffer, size_t *bytes, size_t *max_records) {
  pthread_mutex_lock(&buffer_lock);
  void *memory = kept_count ? kept[--kept_count] : NULL;
  pthread_mutex_unlock(&buffer_lock);
  *buffer = memory ? memory : malloc(BUFFER_BYTES);
  *bytes = *buffer ? BUFFER_BYTES : 0;
  *max_records = 0;
}

static void complete_buffer(void *context, uint32_t stream, uint8_t *buffer, size_t bytes, size_t valid) {
  size_t dropped = 0;
  if (!buffer) return;
  if (valid) parse(buffer, valid);
  if (cupti.cuptiActivityGetNumDroppedRecords && !cupti.cuptiActivityGetNumDroppedRecords(context, stream, &dropped) &&
      dropped)
    rvt_say("CUPTI dropped %zu records: some operators have no duration", dropped);
  pthread_mutex_lock(&buffer_lock);
  bool keep = kept_count < KEPT_BUFFERS;
  if (keep) kept[kept_count++] = buffer;
  pthread_mutex_unlock(&buffer_lock);
  if (!keep) free(buffer);
}

/* ---- start
 * ----------------------------------------------------------------------------------------------------------------- */

/* Correlation comes with the record of an API call, so calls that submit work must be recorded; others only cost. */
static bool enable_calls(int domain, int (*enable)(uint32_t, uint8_t), const char *const *prefixes) {
  int enabled = 0;
  if (!enable || !cupti.cuptiGetCallbackName) return false;
  for (uint32_t id = 1; id < 2000; id++) {
    const char *name = NULL;
    if (cupti.cuptiGetCallbackName(domain, id, &name) || !name) continue;
    for (const char *const *p = prefixes; *p; p++)
      if (strncmp(name, *p, strlen(*p)) == 0) {
        enabled += enable(id, 1) == CUPTI_OK;
        break;
      }
  }
  return enabled > 0;
}

static int enable_activities(void) {
  static const char *const runtime[] = {"cudaLaunch", "cudaMemcpy", "cudaMemset", "cudaGraphLaunch", NULL};
  static const char *const driver[] = {"cuLaunch", "cuMemcpy", "cuMemset", "cuGraphLaunch", NULL};
  static const uint8_t kinds[] = {CUPTI_KIND_EXTERNAL_CORRELATION, CUPTI_KIND_CONCURRENT_KERNEL, CUPTI_KIND_MEMCPY,
                                  CUPTI_KIND_MEMCPY2, CUPTI_KIND_MEMSET};
  int rc = CUPTI_OK;
  for (unsigned i = 0; i < sizeof kinds && rc == CUPTI_OK; i++) rc = cupti.cuptiActivityEnable(kinds[i]);
  if (rc == CUPTI_OK && !enable_calls(CUPTI_DOMAIN_RUNTIME, cupti.cuptiActivityEnableRuntimeApi, runtime))
    rc = cupti.cuptiActivityEnable(CUPTI_KIND_RUNTIME);
  if (rc == CUPTI_OK && !enable_calls(CUPTI_DOMAIN_DRIVER, cupti.cuptiActivityEnableDriverApi, driver))
    rc = cupti.cuptiActivityEnable(CUPTI_KIND_DRIVER);
  return rc;
}

static uint64_t timestamp(void) { return (uint64_t)rvt_clock_ns(); }

bool rvt_cupti_start(const char **why_not) {
  static char reason[160];
  static void *subscriber;
  *why_not = reason;
  if (!load()) {
    snprintf(reason, sizeof reason,
             "libcupti was not found beside this program's CUDA (REVATI_CUPTI=FILE names another)");
    return false;
  }
  int rc = cupti.cuptiSubscribe(&subscriber, on_resource, NULL);
  if (rc == CUPTI_SECOND_SUBSCRIBER) {
    snprintf(reason, sizeof reason, "another profiler (torch.profiler, nsys) has CUPTI in this process; switch it off");
    return false;
  }
  /* GPU times in the host's clock, where CUPTI can do that (11.6 and newer); before anything is enabled. */
  if (!rc && cupti.cuptiActivityRegisterTimestampCallback) cupti.cuptiActivityRegisterTimestampCallback(timestamp);
  if (!rc) rc = cupti.cuptiActivityRegisterCallbacks(request_buffer, complete_buffer);
  if (!rc) rc = cupti.cuptiEnableCallback(1, subscriber, CUPTI_DOMAIN_RESOURCE, CUPTI_NODE_CREATED);
  if (!rc) rc = cupti.cuptiEnableCallback(1, subscriber, CUPTI_DOMAIN_RESOURCE, CUPTI_NODE_CLONED);
  if (!rc) rc = enable_activities();
  if (!rc && cupti.cuptiActivityFlushPeriod) cupti.cuptiActivityFlushPeriod(1000);
  snprintf(reason, sizeof reason, "CUPTI answered error %d", rc);
  if (!rc) *why_not = "";
  return rc == CUPTI_OK;
}

void rvt_cupti_push(uint64_t correlation) { cupti.cuptiActivityPushExternalCorrelationId(CUPTI_CUSTOM0, correlation); }

void rvt_cupti_pop(void) { cupti.cuptiActivityPopExternalCorrelationId(CUPTI_CUSTOM0, NULL); }

void rvt_cupti_flush(void) { cupti.cuptiActivityFlushAll(CUPTI_FLUSH_FORCED); }
