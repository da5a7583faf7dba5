/* The parts of CUPTI's public interface that the recorder uses, declared here because its headers come with a package
 * that need not be there. Activity records are packed and grow at their end only, so a prefix fits every version from
 * CUDA 12 on; tests/csrc/cupti_layout.c compares it with the headers of an installed CUPTI.
 */
#ifndef RVT_CUPTI_H
#define RVT_CUPTI_H

#include <stddef.h>
#include <stdint.h>

enum {
  CUPTI_OK = 0,
  CUPTI_SECOND_SUBSCRIBER = 39, /* CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED */
};
enum cupti_kind {
  CUPTI_KIND_MEMCPY = 1,
  CUPTI_KIND_MEMSET = 2,
  CUPTI_KIND_DRIVER = 4,
  CUPTI_KIND_RUNTIME = 5,
  CUPTI_KIND_CONCURRENT_KERNEL = 10,
  CUPTI_KIND_MEMCPY2 = 22,
  CUPTI_KIND_EXTERNAL_CORRELATION = 39,
};
enum { CUPTI_CUSTOM0 = 3 };
enum { CUPTI_DOMAIN_DRIVER = 1, CUPTI_DOMAIN_RUNTIME = 2, CUPTI_DOMAIN_RESOURCE = 3 };
enum { CUPTI_NODE_CREATED = 13, CUPTI_NODE_CLONED = 20 };
enum { CUPTI_FLUSH_FORCED = 1 };

#define CUPTI_PACKED __attribute__((packed, aligned(8)))

struct cupti_record {
  uint32_t kind;
};
struct CUPTI_PACKED cupti_external {
  uint32_t kind, external_kind;
  uint64_t external_id;
  uint32_t correlation, reserved;
};
struct CUPTI_PACKED cupti_kernel {
  uint32_t kind;
  uint8_t cache_config, shared_config;
  uint16_t registers;
  uint32_t partitioned_requested, partitioned_executed;
  uint64_t start, end, completed;
  uint32_t device, context, stream;
  int32_t grid[3], block[3], static_shared, dynamic_shared;
  uint32_t local_per_thread, local_total, correlation;
  int64_t grid_id;
  const char *name;
  void *reserved;
  uint64_t queued, submitted;
  uint8_t launch_type, carveout_requested, carveout, padding;
  uint32_t shared_executed;
  uint64_t graph_node;
};
struct CUPTI_PACKED cupti_copy {
  uint32_t kind;
  uint8_t copy_kind, from_kind, to_kind, flags;
  uint64_t bytes, start, end;
  uint32_t device, context, stream, correlation, runtime_correlation, padding;
  void *reserved;
  uint64_t graph_node;
};
struct CUPTI_PACKED cupti_peer_copy {
  uint32_t kind;
  uint8_t copy_kind, from_kind, to_kind, flags;
  uint64_t bytes, start, end;
  uint32_t device, context, stream, from_device, from_context, to_device, to_context, correlation;
  void *reserved;
  uint64_t graph_node;
};
struct CUPTI_PACKED cupti_set {
  uint32_t kind, value;
  uint64_t bytes, start, end;
  uint32_t device, context, stream, correlation;
  uint16_t flags, memory_kind;
  uint32_t padding;
  void *reserved;
  uint64_t graph_node;
};
_Static_assert(offsetof(struct cupti_kernel, correlation) == 92 && offsetof(struct cupti_kernel, graph_node) == 144,
               "");
_Static_assert(offsetof(struct cupti_copy, correlation) == 44 && offsetof(struct cupti_copy, graph_node) == 64, "");
_Static_assert(offsetof(struct cupti_peer_copy, correlation) == 60 &&
                   offsetof(struct cupti_peer_copy, graph_node) == 72,
               "");
_Static_assert(offsetof(struct cupti_set, correlation) == 44 && offsetof(struct cupti_set, graph_node) == 64, "");

struct cupti_resource { /* what a callback of the resource domain gets */
  void *context, *handle, *descriptor;
};
struct cupti_graph { /* its descriptor where a graph is concerned */
  void *graph, *original_graph, *node, *original_node;
};

typedef void (*cupti_callback)(void *user, int domain, uint32_t id, const void *data);
typedef void (*cupti_buffer_request)(uint8_t **buffer, size_t *bytes, size_t *max_records);
typedef void (*cupti_buffer_complete)(void *context, uint32_t stream, uint8_t *buffer, size_t bytes, size_t valid);

#endif
