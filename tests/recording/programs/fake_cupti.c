/* A CUPTI that makes its records up: one API id per external region, and GPU work as `fake_mode` says. Records of work come
 * before the record that links them, as the real one allows. Work of API id i lasts 100 i ns.
 */
#include <string.h>

#include "record/cupti.h"

enum { KERNEL, SPLIT, CAPTURE, REPLAY, COPY, UNOWNED };

#define RECORD_BYTES 256
#define MAX_NODES 64
static cupti_buffer_request request;
static cupti_buffer_complete complete;
static cupti_callback callback;
static uint8_t *buffer;
static size_t room, used;
static uint32_t api_id;
static uint64_t external;
static int mode;
static uint64_t created[MAX_NODES], cloned[MAX_NODES], node_count, next_node = 1000;

void fake_mode(int m) { mode = m; }

static void *record(uint32_t kind) {
  size_t max;
  if (buffer && used + RECORD_BYTES > room) {
    complete(NULL, 0, buffer, room, used);
    buffer = NULL;
  }
  if (!buffer) {
    request(&buffer, &room, &max);
    used = 0;
  }
  struct cupti_record *r = (void *)(buffer + used);
  memset(r, 0, RECORD_BYTES);
  r->kind = kind;
  used += RECORD_BYTES;
  return r;
}

static void kernel(const char *name, uint32_t correlation, uint64_t start, uint64_t ns, uint64_t node) {
  struct cupti_kernel *k = record(CUPTI_KIND_CONCURRENT_KERNEL);
  k->name = name;
  k->correlation = correlation;
  k->start = start;
  k->end = start + ns;
  k->graph_node = node;
  k->stream = 7;
  for (int i = 0; i < 3; i++) k->grid[i] = k->block[i] = 1;
}

static void node_event(uint32_t id, uint64_t node, uint64_t original) {
  struct cupti_graph graph = {.node = (void *)node, .original_node = (void *)original};
  struct cupti_resource data = {.descriptor = &graph};
  callback(NULL, CUPTI_DOMAIN_RESOURCE, id, &data);
}

void fake_instantiate(void) {
  for (uint64_t i = 0; i < node_count; i++) node_event(CUPTI_NODE_CLONED, cloned[i] = next_node++, created[i]);
}

#ifdef SILENT /* to measure what the recorder costs by itself */
int cuptiActivityPushExternalCorrelationId(int kind, uint64_t id) { return 0; }
int cuptiActivityPopExternalCorrelationId(int kind, uint64_t *last) { return 0; }
#else
int cuptiActivityPushExternalCorrelationId(int kind, uint64_t id) {
  external = id;
  api_id++;
  if (mode == CAPTURE) node_event(CUPTI_NODE_CREATED, created[node_count++] = next_node++, 0);
  return 0;
}

int cuptiActivityPopExternalCorrelationId(int kind, uint64_t *last) {
  uint64_t start = 1000000ull * api_id, ns = 100ull * api_id;
  switch (mode) {
  case SPLIT:
    kernel("split_part", api_id, start, ns / 2, 0);
    kernel("split_sum", api_id, start + ns / 2, ns - ns / 2, 0);
    break;
  case COPY: {
    struct cupti_copy *c = record(CUPTI_KIND_MEMCPY);
    *c = (struct cupti_copy){.kind = c->kind, .copy_kind = 1, .bytes = 4096, .start = start, .end = start + ns, .correlation = api_id};
    break;
  }
  case CAPTURE: break;
  case REPLAY:
    for (uint64_t i = 0; i < node_count; i++) kernel("in_graph", api_id, start + 1000 * i, 10 * (i + 1), cloned[i]);
    break;
  case UNOWNED: kernel("nobodys", 999999, start, 77, 0); /* fallthrough */
  default: kernel("one", api_id, start, ns, 0);
  }
  struct cupti_external *e = record(CUPTI_KIND_EXTERNAL_CORRELATION);
  *e = (struct cupti_external){.kind = e->kind, .external_kind = CUPTI_CUSTOM0, .external_id = external, .correlation = api_id};
  return 0;
}

#endif

int cuptiActivityGetNextRecord(uint8_t *b, size_t valid, struct cupti_record **r) {
  uint8_t *next = *r ? (uint8_t *)*r + RECORD_BYTES : b;
  if (next >= b + valid) return 12; /* CUPTI_ERROR_MAX_LIMIT_REACHED */
  *r = (void *)next;
  return 0;
}

int cuptiActivityFlushAll(uint32_t flags) {
  if (buffer) complete(NULL, 0, buffer, room, used);
  buffer = NULL;
  return 0;
}

int cuptiGetGraphNodeId(void *node, uint64_t *id) {
  *id = (uint64_t)node;
  return 0;
}
#ifdef BUSY
int cuptiSubscribe(void **subscriber, cupti_callback function, void *user) { return CUPTI_SECOND_SUBSCRIBER; }
#else
int cuptiSubscribe(void **subscriber, cupti_callback function, void *user) {
  callback = function;
  return 0;
}
#endif
int cuptiActivityRegisterCallbacks(cupti_buffer_request r, cupti_buffer_complete c) {
  request = r;
  complete = c;
  return 0;
}
int cuptiEnableCallback(uint32_t enable, void *subscriber, int domain, uint32_t id) { return 0; }
int cuptiActivityEnable(uint32_t kind) { return 0; }
