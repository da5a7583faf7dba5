/* The inside of the virtual device: what the files of csrc/device/ share.
 *
 * Rules that hold everywhere here:
 *  - an exported function is marked RVT_API (does what CUDA documents) or RVT_RECORDED (accepted, no effect on
 *    the virtual device) at the start of its line; csrc/api/generate.py reads those marks. To add a symbol:
 *    define it so, run `python csrc/api/generate.py`, commit the table. A symbol that only the table knows gets
 *    a generated weak stub that answers "not supported" and reports the caller.
 *  - effects on memory happen when work is submitted (or, in a graph, replayed); time is a number per stream.
 *  - the launch path takes no lock, allocates nothing and makes no system call.
 *  - thread state is trivially destructible and globals are never freed: static destructors of other
 *    libraries call us at exit.
 */
#ifndef RVT_DEVICE_H
#define RVT_DEVICE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "include/rvt_device_page.h"
#include "include/rvt_op.h"
#include "include/rvt_time.h"

#define RVT_API __attribute__((visibility("default")))
#define RVT_RECORDED __attribute__((visibility("default")))
#define RVT_LIKELY(x) __builtin_expect(!!(x), 1)
#define RVT_UNLIKELY(x) __builtin_expect(!!(x), 0)

struct rvt_kernel;
struct rvt_stream;
struct rvt_graph;

/* ---- process and thread ------------------------------------------------------------------------------- */

/* The catalogue and accounting part of the shared page; NULL when the process is not managed. */
struct rvt_device_page *rvt_devices(void);

/* Devices this process sees (CUDA_VISIBLE_DEVICES applied), and the run-wide GPU index behind an ordinal. */
int rvt_device_count(void);
int rvt_gpu_index(int ordinal);
const struct rvt_gpu *rvt_gpu(int ordinal);

/* Current device ordinal of the calling thread (0 until set). */
int rvt_current_device(void);

/* 12 or 13: from the runtime library that the process has loaded or asked for. */
int rvt_cuda_major(void);

/* Bytes of an ordinal's memory in use by all processes of the run. */
uint64_t rvt_used_bytes(int ordinal);

/* Charges internal buffers (NCCL, cuBLAS workspaces) to the card. False: does not fit. */
bool rvt_charge_bytes(int ordinal, uint64_t bytes);
void rvt_release_bytes(int ordinal, uint64_t bytes);

/* ---- memory ------------------------------------------------------------------------------------------- */

/* True when addr lies in the virtual device's address range (one compare). */
bool rvt_is_device_address(uint64_t addr);

/* Reads what the device would see at addr. Device bytes that no host copy, memset or emulated kernel wrote
 * (or that a launch may have overwritten since) are unknown: they read as 0. Pinned and registered host memory is read
 * in place. Returns whether all n bytes were known. Does not count the read; rvt_count_unknown_read does. */
bool rvt_mem_read(uint64_t addr, void *out, size_t n);

/* Whether addr holds n known bytes and no second upload of the host begins among them. */
bool rvt_mem_written_at_once(uint64_t addr, size_t n);

/* Writes as the device would; the bytes are known from now on (large writes, see memory.c, become unknown
 * instead: returns false then). */
bool rvt_mem_write(uint64_t addr, const void *in, size_t n);

/* A kernel may have written there. */
void rvt_mem_forget(uint64_t addr, size_t n);

/* A kernel of unknown effect got this pointer: forgets the known range that starts at or contains it. */
void rvt_mem_forget_at(uint64_t addr);

/* Fills n bytes with a pattern of 1, 2, 4 or 8 bytes. */
bool rvt_mem_fill(uint64_t addr, const void *pattern, size_t pattern_bytes, size_t n);

/* Bytes from addr to the end of its allocation, 0 when addr is none of ours. */
uint64_t rvt_mem_extent(uint64_t addr);

void rvt_count_unknown_read(uint64_t addr, size_t n);

/* ---- oracle (SEMANTICS: oracle.c) ---------------------------------------------------------------------- */

/* Called for a device-to-host copy whose source is unknown, wholly or in part; may fill `out` (n bytes, already holding
 * the known bytes and zeros) and returns whether it did. Must not call back into the copy. */
bool rvt_oracle_read(uint64_t addr, void *out, size_t n);

/* ---- kernels and launches ------------------------------------------------------------------------------ */

#define RVT_MAX_KERNEL_PARAMS 64

struct rvt_param {
  uint16_t offset;
  uint16_t bytes;
};

struct rvt_launch;

enum rvt_semantic_result {
  RVT_SEM_DONE = 0,    /* every effect of the kernel that matters has been applied */
  RVT_SEM_DEFAULT = 1, /* now do as for an unknown kernel: forget what its pointers point to */
};

typedef enum rvt_semantic_result (*rvt_semantic_fn)(const struct rvt_launch *);

/* What the registry knows about one kernel. Static data, never freed. */
struct rvt_semantic {
  rvt_semantic_fn fn;          /* NULL: nothing to emulate */
  bool read_only;              /* writes nothing that the host reads: no forgetting */
  uint8_t param_count;         /* 0: layout from the cubin; else sizes for kernels that have none (runtime */
  const uint16_t *param_bytes; /*   kernels launched with void**): needed to copy parameters at capture */
};

/* SEMANTICS: registry.c. Called once per kernel, at its first use; NULL = unknown kernel. */
const struct rvt_semantic *rvt_registry_find(const struct rvt_kernel *kernel);

struct rvt_kernel {
  uint32_t magic;
  uint32_t name_len;
  const char *name; /* as in the ELF or __cudaRegisterFunction (mangled for C++), zero-terminated */
  uint64_t name_hash;
  const struct rvt_semantic *semantic; /* valid once resolved */
  int16_t param_count;                 /* -1: unknown (a runtime kernel without layout) */
  uint16_t param_total_bytes;
  const struct rvt_param *params;
  atomic_bool resolved;
  bool layout_is_cubin; /* false: from the registry or the mangled name */
  bool no_image;        /* not made for this device */
  uint64_t read_params; /* bit i: parameter i is a pointer to const (from the mangled name) */
  /* Attributes, from .nv.info where a cubin was given, else defaults of the architecture. */
  int32_t max_threads, static_shared_bytes, local_bytes, const_bytes, registers, binary_version, ptx_version;
  int32_t max_dynamic_shared_bytes; /* as set by cudaFuncSetAttribute */
  struct rvt_module *module;
  const struct rvt_kernel *next;
};

struct rvt_launch {
  const struct rvt_kernel *kernel;
  uint32_t grid[3], block[3];
  uint32_t shared_bytes;
  struct rvt_stream *stream;
  void *const *params; /* params[i] points to the value of parameter i; kernel->params[i].bytes long */
  bool replay;         /* executed by a graph launch: params are the copies taken at capture */
};

/* Value of parameter i as an unsigned integer (little endian, up to 8 bytes); 0 when out of range. */
static inline uint64_t rvt_param_u64(const struct rvt_launch *l, int i) {
  uint64_t v = 0;
  const struct rvt_kernel *k = l->kernel;
  if (i < 0 || i >= k->param_count) return 0;
  uint16_t n = k->params[i].bytes;
  __builtin_memcpy(&v, l->params[i], n > 8 ? 8 : n);
  return v;
}

/* ---- streams and work ---------------------------------------------------------------------------------- */

/* Any cudaStream_t/CUstream: 0 and 1 = legacy default stream of the current device, 2 = per-thread default.
 * NULL when the handle is no stream. */
struct rvt_stream *rvt_stream_resolve(void *handle);
int rvt_stream_device(const struct rvt_stream *stream);
bool rvt_stream_is_capturing(const struct rvt_stream *stream);

/* Effect of an op on memory: runs at submission, or at each replay when captured; ctx is copied then. */
typedef void (*rvt_effect_fn)(const void *ctx, struct rvt_stream *stream, bool replay);

/* Prices op (gpu, model, batch fields are filled in here; name may be NULL, name_len is set here) and puts it
 * on the stream's timeline, or into the graph that the stream is capturing. `effect` may be NULL.
 * Returns 0, or a CUresult (e.g. capture invalidated). */
int rvt_submit_op(struct rvt_stream *stream, struct rvt_op *op, const char *name, rvt_effect_fn effect, const void *ctx,
                  size_t ctx_bytes);

/* The common effect: forgets [addr, addr + bytes). ctx = struct rvt_forget. */
struct rvt_forget {
  uint64_t addr, bytes;
};
void rvt_effect_forget(const void *ctx, struct rvt_stream *stream, bool replay);

/* Virtual time at which everything submitted to the stream so far is done (legacy stream rules included). */
int64_t rvt_stream_ready_ns(struct rvt_stream *stream);

/* Nothing submitted later to the stream starts before t_ns (collectives: the last rank's arrival). */
void rvt_stream_not_before(struct rvt_stream *stream, int64_t t_ns);

/* Blocks like cudaStreamSynchronize. Returns a CUresult. */
int rvt_stream_synchronize(struct rvt_stream *stream);

/* ---- batch in execution (observer) ---------------------------------------------------------------------- */

struct rvt_batch {
  uint32_t nseq, padded;
  uint32_t tokens; /* sum of q_len */
  uint64_t hash;   /* over padded and seqs; 0 = no batch known */
  const struct rvt_seq *seqs;
  const char *const *ids; /* request ids, NULL when not given; parallel to seqs */
};

/* The batch set by revati_observe_batch in this process, never NULL (nseq 0 when unknown). The pointer stays valid for
 * the next 64 batches. */
const struct rvt_batch *rvt_batch_current(void);

/* ---- unsupported calls and messages -------------------------------------------------------------------- */

/* Reports `name` once per process on stderr with the library behind `caller`, counts it, returns `error`. */
long rvt_unsupported(const char *name, const void *caller, long error);
#define RVT_UNSUPPORTED(name, error) rvt_unsupported(name, __builtin_return_address(0), error)

/* Counts and reports, as rvt_unsupported does, something whose effect is not emulated: `what` is a statement. */
void rvt_lacking(const char *what);

/* One line on stderr, "revati: ..."; never charged to virtual time. */
void rvt_message(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
