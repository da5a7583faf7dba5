/* Collectives. A group of them is one submission, since NCCL launches one kernel for all at its end: it is open from
 * its first collective to ncclGroupEnd.
 */
#include <string.h>

#include "device/describe.h"
#include "record/record.h"

static __thread struct {
  int depth;
  bool open;
  struct rvt_call call;
  struct rvt_op op;
} group;

static int ranks_of(void *comm) {
  int (*count)(void *, int *) = RVT_KEPT("ncclCommCount");
  int ranks = 1;
  return count && count(comm, &ranks) == 0 ? ranks : 1;
}

static struct rvt_site site_ncclGroupEnd;

static void into_group(const struct rvt_op *op, const struct rvt_name *name, void *stream) {
  static const struct rvt_name several = {.text = "group", .length = 5, .hash = 0x67726F7570ull};
  if (group.open) {
    int64_t bytes = group.op.p[0] + op->p[0];
    group.op.p[0] = bytes;
    group.op.name_len = several.length;
    group.call.op = rvt_op_number(&group.op, &several);
    return;
  }
  if (!rvt_enter(&group.call, &site_ncclGroupEnd)) return;
  group.op = *op;
  group.open = true;
  rvt_submitting(&group.call, &group.op, name, stream);
}

#define COLLECTIVE(function, label, parameters, arguments, elements)                         \
  RVT_API int function parameters;                                                           \
  RVT_SITE(function);                                                                        \
  RVT_API int function parameters {                                                          \
    static const struct rvt_name name = {                                                    \
        .text = label, .length = sizeof label - 1, .hash = sizeof label * 31ull + label[1]}; \
    int(*real) parameters = rvt_real(&site_##function);                                      \
    if (!real) return rvt_no_real(&site_##function);                                         \
    struct rvt_call call;                                                                    \
    struct rvt_op op = {0};                                                                  \
    rvt_describe_collective(&op, elements, type, ranks_of(comm));                            \
    if (group.depth) into_group(&op, &name, stream);                                         \
    if (!rvt_enter(&call, &site_##function)) return real arguments;                          \
    rvt_submitting(&call, &op, &name, stream);                                               \
    int rc = real arguments;                                                                 \
    rvt_leave(&call, rc != 0);                                                               \
    return rc;                                                                               \
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
COLLECTIVE(ncclAllGather, "all_gather", (const void *from, void *to, size_t count, int type, void *comm, void *stream),
           (from, to, count, type, comm, stream), count)
COLLECTIVE(ncclReduceScatter, "reduce_scatter",
           (const void *from, void *to, size_t count, int type, int op_, void *comm, void *stream),
           (from, to, count, type, op_, comm, stream), count)
COLLECTIVE(ncclAlltoAll, "all_to_all", (const void *from, void *to, size_t count, int type, void *comm, void *stream),
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
  group.depth++;
  return real();
}

RVT_API int ncclGroupEnd(void);
static struct rvt_site site_ncclGroupEnd = {.name = "ncclGroupEnd", .wrapper = ncclGroupEnd};
static struct rvt_site *const entry_ncclGroupEnd __attribute__((section("rvt_sites"), used)) = &site_ncclGroupEnd;
RVT_API int ncclGroupEnd(void) {
  int (*real)(void) = rvt_real(&site_ncclGroupEnd);
  if (!real) return rvt_no_real(&site_ncclGroupEnd);
  bool last = group.depth > 0 && --group.depth == 0 && group.open;
  int rc = real();
  if (last) rvt_leave(&group.call, rc != 0);
  group.open = group.open && !last;
  return rc;
}
