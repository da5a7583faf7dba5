/* Compiled, never run: csrc/record/cupti.h against the headers of an installed CUPTI (-I its include folder). */
#include <stddef.h>
#include <stdint.h>

#include <cupti.h>

#include "record/cupti.h"

#define SAME(ours, field, theirs, their_field)                                                \
  _Static_assert(offsetof(struct ours, field) == offsetof(theirs, their_field) &&             \
                     sizeof(((struct ours *)0)->field) == sizeof(((theirs *)0)->their_field), \
                 #ours "." #field)

#define KERNEL(field, their_field) SAME(cupti_kernel, field, CUpti_ActivityKernel9, their_field)
KERNEL(start, start);
KERNEL(end, end);
KERNEL(device, deviceId);
KERNEL(stream, streamId);
KERNEL(dynamic_shared, dynamicSharedMemory);
KERNEL(correlation, correlationId);
KERNEL(name, name);
KERNEL(graph_node, graphNodeId);
_Static_assert(offsetof(struct cupti_kernel, grid) == offsetof(CUpti_ActivityKernel9, gridX) &&
                   offsetof(struct cupti_kernel, block) == offsetof(CUpti_ActivityKernel9, blockX),
               "shape");

#if CUPTI_API_VERSION >= 130001
SAME(cupti_kernel, correlation, CUpti_ActivityKernel10, correlationId);
SAME(cupti_kernel, graph_node, CUpti_ActivityKernel10, graphNodeId);
SAME(cupti_copy, graph_node, CUpti_ActivityMemcpy6, graphNodeId);
#endif

#define COPY(field, their_field) SAME(cupti_copy, field, CUpti_ActivityMemcpy5, their_field)
COPY(copy_kind, copyKind);
COPY(bytes, bytes);
COPY(start, start);
COPY(end, end);
COPY(device, deviceId);
COPY(stream, streamId);
COPY(correlation, correlationId);
COPY(graph_node, graphNodeId);

#define PEER(field, their_field) SAME(cupti_peer_copy, field, CUpti_ActivityMemcpyPtoP4, their_field)
PEER(bytes, bytes);
PEER(start, start);
PEER(end, end);
PEER(device, deviceId);
PEER(stream, streamId);
PEER(correlation, correlationId);
PEER(graph_node, graphNodeId);

#define SET(field, their_field) SAME(cupti_set, field, CUpti_ActivityMemset4, their_field)
SET(bytes, bytes);
SET(start, start);
SET(end, end);
SET(device, deviceId);
SET(stream, streamId);
SET(correlation, correlationId);
SET(graph_node, graphNodeId);

#define EXTERNAL(field, their_field) SAME(cupti_external, field, CUpti_ActivityExternalCorrelation, their_field)
EXTERNAL(external_kind, externalKind);
EXTERNAL(external_id, externalId);
EXTERNAL(correlation, correlationId);

SAME(cupti_resource, descriptor, CUpti_ResourceData, resourceDescriptor);
SAME(cupti_graph, node, CUpti_GraphData, node);
SAME(cupti_graph, original_node, CUpti_GraphData, originalNode);

#define NUMBER(ours, theirs) _Static_assert((int)ours == (int)theirs, #theirs)
NUMBER(CUPTI_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMCPY);
NUMBER(CUPTI_KIND_MEMSET, CUPTI_ACTIVITY_KIND_MEMSET);
NUMBER(CUPTI_KIND_DRIVER, CUPTI_ACTIVITY_KIND_DRIVER);
NUMBER(CUPTI_KIND_RUNTIME, CUPTI_ACTIVITY_KIND_RUNTIME);
NUMBER(CUPTI_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
NUMBER(CUPTI_KIND_MEMCPY2, CUPTI_ACTIVITY_KIND_MEMCPY2);
NUMBER(CUPTI_KIND_EXTERNAL_CORRELATION, CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION);
NUMBER(CUPTI_CUSTOM0, CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0);
NUMBER(CUPTI_DOMAIN_DRIVER, CUPTI_CB_DOMAIN_DRIVER_API);
NUMBER(CUPTI_DOMAIN_RUNTIME, CUPTI_CB_DOMAIN_RUNTIME_API);
NUMBER(CUPTI_DOMAIN_RESOURCE, CUPTI_CB_DOMAIN_RESOURCE);
NUMBER(CUPTI_NODE_CREATED, CUPTI_CBID_RESOURCE_GRAPHNODE_CREATED);
NUMBER(CUPTI_NODE_CLONED, CUPTI_CBID_RESOURCE_GRAPHNODE_CLONED);
NUMBER(CUPTI_FLUSH_FORCED, CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
NUMBER(CUPTI_SECOND_SUBSCRIBER, CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED);
