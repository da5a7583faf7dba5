/* Collectives. A group of them is one submission at its end: NCCL launches one kernel for all. */
#include <string.h>

#include "device/describe.h"
#include "record/record.h"

static __thread struct {
  int depth;
  uint32_t collectives;
  struct rvt_op op;
  const struct rvt_name *name;
  void *stream;
} group;

static int ranks_of(void *comm) {
  int (*count)(void *, int *) = RVT_KEPT("ncclCommCount");
  int ranks = 1;
  return count && count(comm, &ranks) == 0 ? ranks : 1;
}

static void into_group(const struct rvt_op *op, const struct rvt_name *name, void *stream) {
  static const struct rvt_name several = {.text = "group", .length = 5, .hash = 0x67726F7570ull};
  int64_t bytes = group.collectives++ ? group.op.p[0] : 0;
  group.name = group.collectives > 1 ? &several : name;
  group.op = *op;
  group.op.p[0] += bytes;
  group.stream = stream;
}

#define COLLECTIVE(function, label, parameters, arguments, elements)                                           \
  RVT_API int function parameters;                                                                             \
  RVT_SITE(function);                                                                                          \
  RVT_API int function parameters {                                                                            \
    static const struct rvt_name name = {.text = label, .length = sizeof label - 1, .hash = sizeof label * 31ull + label[1]}; \
    int(*real) parameters = rvt_real(&site_##function);                                                        \
    if (!real) return rvt_no_real(&site_##function);                                                           \
    struct rvt_call call;                                                                                      \
    if (!rvt_enter(&call, &site_##function)) return real arguments;                                            \
    struct rvt_op op = {0};                                                                                    \
    rvt_describe_collective(&op, elements, type, ranks_of(comm));                                              \
    if (group.depth) into_group(&op, &name, stream);                                                           \
    else rvt_submitting(&call, &op, &name, stream);                                                            \
    int rc = real arguments;                                                                                   \
    rvt_leave(&call, rc != 0);                                                                                 \
    return rc;                                                                                                 \
  }

COLLECTIVE(ncclAllReduce, "all_reduce",
           (const void *from, void *to, size_t count, int type, int op_, void *comm, void *stream),
           (from, to, count, type, op_, comm, stream), count)
COLLECTIVE(ncclReduce, "reduce",
           (const void *from, void *to, size_t count, int type, int op_, int root, void *comm, void *stream),
           (from, to, count, type, op_, root, comm, stream), count)
COLLECTIVE(ncclBroadcast, "broadcast",
           (const void *from, void *to, size_t count, int type, int root, void *comm, void *stream),
           (from, to, count, type, root, comm, stream), count)
COLLECTIVE(ncclBcast, "broadcast", (void *buffer, size_t count, int type, int root, void *comm, void *stream),
           (buffer, count, type, root, comm, stream), count)
COLLECTIVE(ncclAllGather, "all_gather",
           (const void *from, void *to, size_t count, int type, void *comm, void *stream),
           (from, to, count, type, comm, stream), count)
COLLECTIVE(ncclReduceScatter, "reduce_scatter",
           (const void *from, void *to, size_t count, int type, int op_, void *comm, void *stream),
           (from, to, count, type, op_, comm, stream), count)
COLLECTIVE(ncclAlltoAll, "all_to_all",
           (const void *from, void *to, size_t count, int type, void *comm, void *stream),
           (from, to, count, type, comm, stream), count)
COLLECTIVE(ncclSend, "send_recv", (const void *from, size_t count, int type, int peer, void *comm, void *stream),
           (from, count, type, peer, comm, stream), count)
COLLECTIVE(ncclRecv, "send_recv", (void *to, size_t count, int type, int peer, void *comm, void *stream),
           (to, count, type, peer, comm, stream), count)

RVT_API int ncclGroupStart(void);
RVT_SITE(ncclGroupStart);
RVT_API int ncclGroupStart(void) {
  int (*real)(void) = rvt_real(&site_ncclGroupStart);
  if (!real) return rvt_no_real(&site_ncclGroupStart);
  if (group.depth++ == 0) group.collectives = 0;
  return real();
}

RVT_API int ncclGroupEnd(void);
RVT_SITE(ncclGroupEnd);
RVT_API int ncclGroupEnd(void) {
  int (*real)(void) = rvt_real(&site_ncclGroupEnd);
  if (!real) return rvt_no_real(&site_ncclGroupEnd);
  bool last = group.depth > 0 && --group.depth == 0 && group.collectives;
  struct rvt_call call;
  if (!last || !rvt_enter(&call, &site_ncclGroupEnd)) return real();
  rvt_submitting(&call, &group.op, group.name, group.stream);
  int rc = real();
  rvt_leave(&call, rc != 0);
  return rc;
}
