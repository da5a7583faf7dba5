/* NCCL: communicators and collectives.
 *
 * Written for one rank so far: a communicator of one rank works as the real one does (every collective copies its
 * input to its output), more ranks are refused with a message. The parts that a rendezvous of ranks needs are
 * separate already: `collective` describes the operation (RVT_OP_COLLECTIVE), submits it on the stream, and states its
 * effect on memory; where several ranks meet, the stream additionally waits for the last rank's arrival
 * (rvt_stream_not_before) and the effect reads the others' buffers.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device/describe.h"

enum nccl_result {
  NCCL_SUCCESS = 0,
  NCCL_UNHANDLED_CUDA_ERROR = 1,
  NCCL_SYSTEM_ERROR = 2,
  NCCL_INTERNAL_ERROR = 3,
  NCCL_INVALID_ARGUMENT = 4,
  NCCL_INVALID_USAGE = 5,
};

#define NCCL_MAGIC 0x6E63636Cu
#define NCCL_CODE 22809 /* 2.28.9, the release of the reference frameworks */

/* What a communicator takes from the card at one rank (measured values belong into the catalogue). */
#define COMM_BYTES (4ull << 20)

struct nccl_id {
  char bytes[128];
};

struct nccl_comm {
  uint32_t magic;
  int ranks, rank, device;
};
typedef struct nccl_comm *nccl_t;

static bool valid(nccl_t comm) { return comm && comm->magic == NCCL_MAGIC; }

static __thread char last_error[256];

static int refuse(const char *what) {
  snprintf(last_error, sizeof last_error, "%s", what);
  rvt_message("NCCL: %s", what);
  return NCCL_INVALID_USAGE;
}

/* --- library ------------------------------------------------------------------------------------------- */

RVT_API int ncclGetVersion(int *version) {
  if (!version) return NCCL_INVALID_ARGUMENT;
  *version = NCCL_CODE;
  return NCCL_SUCCESS;
}

RVT_API const char *ncclGetErrorString(int result) {
  switch (result) {
  case NCCL_SUCCESS: return "no error";
  case NCCL_UNHANDLED_CUDA_ERROR: return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
  case NCCL_SYSTEM_ERROR: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
  case NCCL_INTERNAL_ERROR: return "internal error - please report this issue to the NCCL developers";
  case NCCL_INVALID_ARGUMENT: return "invalid argument (run with NCCL_DEBUG=WARN for details)";
  case NCCL_INVALID_USAGE: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
  case 6: return "remote process exited or there was a network error";
  case 7: return "NCCL operation in progress";
  default: return "unknown result code";
  }
}
RVT_API const char *ncclGetLastError(nccl_t comm) { return last_error; }
RVT_RECORDED void ncclResetDebugInit(void) {}

/* Unique within the machine: process, a counter and the time; ranks compare it byte by byte. */
RVT_API int ncclGetUniqueId(struct nccl_id *id) {
  static _Atomic uint32_t counter;
  if (!id) return NCCL_INVALID_ARGUMENT;
  memset(id, 0, sizeof *id);
  snprintf(id->bytes, sizeof id->bytes, "revati-%d-%u-%lld", (int)getpid(), atomic_fetch_add(&counter, 1),
           (long long)rvt_now_ns());
  return NCCL_SUCCESS;
}

/* --- communicators ------------------------------------------------------------------------------------- */

static int comm_make(nccl_t *out, int ranks, int rank) {
  if (!out || ranks < 1 || rank < 0 || rank >= ranks) return NCCL_INVALID_ARGUMENT;
  if (ranks > 1)
    return refuse("communicators of more than one rank are not implemented yet; run with one GPU per process group");
  int device = rvt_current_device();
  if (!rvt_charge_bytes(device, COMM_BYTES)) return NCCL_UNHANDLED_CUDA_ERROR;
  nccl_t comm = calloc(1, sizeof *comm);
  if (!comm) return NCCL_SYSTEM_ERROR;
  *comm = (struct nccl_comm){.magic = NCCL_MAGIC, .ranks = ranks, .rank = rank, .device = device};
  *out = comm;
  return NCCL_SUCCESS;
}

RVT_API int ncclCommInitRank(nccl_t *comm, int ranks, struct nccl_id id, int rank) {
  return comm_make(comm, ranks, rank);
}
RVT_API int ncclCommInitRankConfig(nccl_t *comm, int ranks, struct nccl_id id, int rank, void *config) {
  return comm_make(comm, ranks, rank);
}
RVT_API int ncclCommInitRankScalable(nccl_t *comm, int ranks, int rank, int ids, struct nccl_id *id, void *config) {
  return comm_make(comm, ranks, rank);
}
RVT_API int ncclCommInitAll(nccl_t *comms, int count, const int *devices) {
  return count == 1 ? comm_make(comms, 1, 0) : refuse("one process with several GPUs is not implemented yet");
}
RVT_API int ncclCommSplit(nccl_t comm, int color, int key, nccl_t *out, void *config) {
  if (!valid(comm) || !out) return NCCL_INVALID_ARGUMENT;
  if (color < 0) { /* NCCL_SPLIT_NOCOLOR */
    *out = NULL;
    return NCCL_SUCCESS;
  }
  return comm_make(out, 1, 0);
}
RVT_API int ncclCommShrink(nccl_t comm, int *exclude, int count, nccl_t *out, void *config, int flags) {
  return valid(comm) ? comm_make(out, 1, 0) : NCCL_INVALID_ARGUMENT;
}

RVT_API int ncclCommDestroy(nccl_t comm) {
  if (!comm) return NCCL_SUCCESS;
  if (!valid(comm)) return NCCL_INVALID_ARGUMENT;
  rvt_release_bytes(comm->device, COMM_BYTES);
  comm->magic = 0;
  free(comm);
  return NCCL_SUCCESS;
}
RVT_API int ncclCommAbort(nccl_t comm) { return ncclCommDestroy(comm); }
RVT_API int ncclCommFinalize(nccl_t comm) { return valid(comm) ? NCCL_SUCCESS : NCCL_INVALID_ARGUMENT; }
RVT_API int ncclCommRevoke(nccl_t comm, int flags) { return valid(comm) ? NCCL_SUCCESS : NCCL_INVALID_ARGUMENT; }
RVT_API int ncclCommGetAsyncError(nccl_t comm, int *error) {
  if (!valid(comm) || !error) return NCCL_INVALID_ARGUMENT;
  *error = NCCL_SUCCESS;
  return NCCL_SUCCESS;
}
RVT_API int ncclCommCount(nccl_t comm, int *count) {
  if (!valid(comm) || !count) return NCCL_INVALID_ARGUMENT;
  *count = comm->ranks;
  return NCCL_SUCCESS;
}
RVT_API int ncclCommCuDevice(nccl_t comm, int *device) {
  if (!valid(comm) || !device) return NCCL_INVALID_ARGUMENT;
  *device = comm->device;
  return NCCL_SUCCESS;
}
RVT_API int ncclCommUserRank(nccl_t comm, int *rank) {
  if (!valid(comm) || !rank) return NCCL_INVALID_ARGUMENT;
  *rank = comm->rank;
  return NCCL_SUCCESS;
}

/* Registration only tells the real library that a buffer may be used in place. */
RVT_RECORDED int ncclCommRegister(nccl_t comm, void *buffer, size_t bytes, void **handle) {
  if (!valid(comm) || !handle) return NCCL_INVALID_ARGUMENT;
  *handle = buffer;
  return NCCL_SUCCESS;
}
RVT_RECORDED int ncclCommDeregister(nccl_t comm, void *handle) { return NCCL_SUCCESS; }
RVT_RECORDED int ncclCommWindowRegister(nccl_t comm, void *buffer, size_t bytes, void **window, int flags) {
  if (!valid(comm) || !window) return NCCL_INVALID_ARGUMENT;
  *window = buffer;
  return NCCL_SUCCESS;
}
RVT_RECORDED int ncclCommWindowDeregister(nccl_t comm, void *window) { return NCCL_SUCCESS; }

/* Outside a group each call is submitted at once; a group of one rank has nothing to agree about either. */
RVT_API int ncclGroupStart(void) { return NCCL_SUCCESS; }
RVT_API int ncclGroupEnd(void) { return NCCL_SUCCESS; }

RVT_RECORDED int ncclRedOpCreatePreMulSum(int *op, void *scalar, int type, int residence, nccl_t comm) {
  if (!valid(comm) || !op) return NCCL_INVALID_ARGUMENT;
  *op = 5; /* first number after the built-in operations */
  return NCCL_SUCCESS;
}
RVT_RECORDED int ncclRedOpDestroy(int op, nccl_t comm) { return NCCL_SUCCESS; }

/* --- collectives --------------------------------------------------------------------------------------- */

struct move {
  uint64_t from, to, bytes;
};

#define PIECE 65536u

/* One rank: what goes in comes out. Known bytes stay known, the rest is forgotten. */
static void move_effect(const void *ctx, struct rvt_stream *stream, bool replay) {
  const struct move *m = ctx;
  unsigned char piece[4096];
  if (m->from == m->to) return;
  if (m->bytes > PIECE) {
    rvt_mem_forget(m->to, m->bytes);
    return;
  }
  for (uint64_t done = 0; done < m->bytes; done += sizeof piece) {
    size_t take = m->bytes - done < sizeof piece ? (size_t)(m->bytes - done) : sizeof piece;
    if (rvt_mem_read(m->from + done, piece, take)) rvt_mem_write(m->to + done, piece, take);
    else rvt_mem_forget(m->to + done, take);
  }
}

static int collective(const char *name, nccl_t comm, const void *from, void *to, size_t count, int type, void *stream) {
  if (!valid(comm)) return NCCL_INVALID_ARGUMENT;
  struct rvt_op op = {0};
  if (!rvt_describe_collective(&op, count, type, comm->ranks)) return NCCL_INVALID_ARGUMENT;
  struct rvt_stream *where = rvt_stream_resolve(stream);
  if (!where) return NCCL_INVALID_ARGUMENT;
  struct move move = {.from = (uint64_t)from, .to = (uint64_t)to, .bytes = (uint64_t)op.p[0]};
  return rvt_submit_op(where, &op, name, move_effect, &move, sizeof move) ? NCCL_UNHANDLED_CUDA_ERROR : NCCL_SUCCESS;
}

RVT_API int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, nccl_t comm, void *stream) {
  return collective("all_reduce", comm, from, to, count, type, stream);
}
RVT_API int ncclReduce(const void *from, void *to, size_t count, int type, int op, int root, nccl_t comm,
                       void *stream) {
  return collective("reduce", comm, from, to, count, type, stream);
}
RVT_API int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, nccl_t comm, void *stream) {
  return collective("broadcast", comm, from, to, count, type, stream);
}
RVT_API int ncclBcast(void *buffer, size_t count, int type, int root, nccl_t comm, void *stream) {
  return collective("broadcast", comm, buffer, buffer, count, type, stream);
}
RVT_API int ncclAllGather(const void *from, void *to, size_t count, int type, nccl_t comm, void *stream) {
  return collective("all_gather", comm, from, to, count, type, stream);
}
RVT_API int ncclReduceScatter(const void *from, void *to, size_t count, int type, int op, nccl_t comm, void *stream) {
  return collective("reduce_scatter", comm, from, to, count, type, stream);
}
RVT_API int ncclAlltoAll(const void *from, void *to, size_t count, int type, nccl_t comm, void *stream) {
  return collective("all_to_all", comm, from, to, count, type, stream);
}
RVT_API int ncclSend(const void *from, size_t count, int type, int peer, nccl_t comm, void *stream) {
  return valid(comm) && peer == comm->rank ? NCCL_SUCCESS : refuse("send to another rank is not implemented yet");
}
RVT_API int ncclRecv(void *to, size_t count, int type, int peer, nccl_t comm, void *stream) {
  if (!valid(comm) || peer != comm->rank) return refuse("receive from another rank is not implemented yet");
  return collective("send_recv", comm, to, to, count, type, stream);
}
