/* Private to the core of the virtual device (runtime, driver, memory, streams, graphs, modules).
 *
 * Return values are CUresult numbers everywhere; the runtime's cudaError has the same numbers for every code
 * used here, so one set of functions serves both interfaces.
 */
#ifndef RVT_CORE_H
#define RVT_CORE_H

#include <pthread.h>

#include "device/describe.h"
#include "device/device.h"

enum rvt_error {
  RVT_OK = 0,
  RVT_E_INVALID_VALUE = 1,
  RVT_E_OUT_OF_MEMORY = 2,
  RVT_E_NOT_INITIALIZED = 3,
  RVT_E_INVALID_SYMBOL = 13,          /* runtime only */
  RVT_E_INVALID_DEVICE_FUNCTION = 98, /* runtime only */
  RVT_E_NO_DEVICE = 100,
  RVT_E_INVALID_DEVICE = 101,
  RVT_E_INVALID_IMAGE = 200,
  RVT_E_INVALID_CONTEXT = 201,
  RVT_E_NO_BINARY = 209,
  RVT_E_INVALID_HANDLE = 400,
  RVT_E_ILLEGAL_STATE = 401,
  RVT_E_NOT_FOUND = 500,
  RVT_E_NOT_READY = 600,
  RVT_E_PEER_ENABLED = 704,
  RVT_E_PEER_NOT_ENABLED = 705,
  RVT_E_CONTEXT_ACTIVE = 708,
  RVT_E_HOST_REGISTERED = 712,
  RVT_E_HOST_NOT_REGISTERED = 713,
  RVT_E_NOT_PERMITTED = 800,
  RVT_E_NOT_SUPPORTED = 801,
  RVT_E_CAPTURE_UNSUPPORTED = 900,
  RVT_E_CAPTURE_INVALIDATED = 901,
  RVT_E_CAPTURE_MERGE = 902,
  RVT_E_CAPTURE_UNMATCHED = 903,
  RVT_E_CAPTURE_UNJOINED = 904,
  RVT_E_CAPTURE_ISOLATION = 905,
  RVT_E_CAPTURE_IMPLICIT = 906,
  RVT_E_CAPTURED_EVENT = 907,
  RVT_E_CAPTURE_WRONG_THREAD = 908,
  RVT_E_GRAPH_UPDATE_FAILURE = 910,
  RVT_E_UNKNOWN = 999,
};

/* sampled.c: speculative decoding. */
extern bool rvt_drafting; /* draft tokens were verified in this process */
/* Frameworks that do not wait for a step's tokens announce the next batch as if all drafts were accepted: lengths of
 * the named sequences as they are by the tokens that were sampled. */
void rvt_batch_correct(struct rvt_seq *seqs, uint32_t n, const char *const *ids);
void rvt_batch_announced(void);
/* predictor.c: what a draft model executes from now on, within the framework's step. */
void rvt_batch_of_drafter(const struct rvt_seq *seqs, uint32_t n);

/* steps.c */
extern bool rvt_step_logging;
void rvt_log_step(const struct rvt_batch *batch);
void rvt_log_family(int family, int64_t duration_ns, uint64_t times); /* work of a family, wherever it ran */
void rvt_log_stretch(const struct rvt_stream *s, int64_t end_ns, int64_t duration_ns, uint64_t times);
void rvt_log_work(const struct rvt_stream *s, int family, int64_t end_ns, int64_t duration_ns); /* both, once */

/* Host time of the target (policy `modelled`), and its counts for a profile of this host; see hostcost.c. */
extern bool rvt_host_costing;
void rvt_host_cost_slow(enum rvt_host_cost kind, uint64_t times);
static inline void rvt_host_cost(enum rvt_host_cost kind) {
  if (RVT_UNLIKELY(rvt_host_costing)) rvt_host_cost_slow(kind, 1);
}

#define RVT_MAGIC_STREAM 0x5354524Du
#define RVT_MAGIC_EVENT 0x45564E54u
#define RVT_MAGIC_KERNEL 0x4B45524Eu
#define RVT_MAGIC_MODULE 0x4D4F4455u
#define RVT_MAGIC_GRAPH 0x47524150u
#define RVT_MAGIC_EXEC 0x45584543u
#define RVT_MAGIC_POOL 0x504F4F4Cu
#define RVT_MAGIC_CONTEXT 0x43545854u

#define RVT_CTX_DEPTH 32

struct rvt_context {
  uint32_t magic;
  int device;
  bool primary;
  unsigned flags;
  _Atomic uint32_t retained;
};

/* Thread state: plain data, constant-initialised, nothing to destroy. */
struct rvt_call_config {
  uint32_t grid[3], block[3];
  size_t shared_bytes;
  void *stream;
};
struct rvt_thread {
  int device; /* current ordinal */
  int last_error;
  struct rvt_context *ctx; /* driver's current context, NULL = none made current */
  struct rvt_context *ctx_stack[RVT_CTX_DEPTH];
  int ctx_depth;
  int capture_mode;   /* of this thread, cudaThreadExchangeStreamCaptureMode */
  int captures_begun; /* thread-local-mode captures open on this thread */
  struct rvt_call_config config[8];
  int config_depth;
  struct rvt_stream *per_thread[RVT_MAX_GPUS];
};
extern __thread struct rvt_thread rvt_t;

struct rvt_pool;

struct rvt_device {
  int gpu; /* index in the page */
  const struct rvt_gpu *info;
  struct rvt_stream *legacy;
  _Atomic int64_t legacy_ready_ns;   /* end of all work in the legacy stream */
  _Atomic int64_t blocking_ready_ns; /* end of all work in streams that synchronise with it */
  _Atomic int64_t all_ready_ns;      /* end of all work */
  struct rvt_copy_engine {
    _Atomic int64_t start_ns, end_ns; /* of the latest copy that it took on */
  } engine[2];                        /* copy engines: to the device, from the device */
  atomic_bool active;                 /* primary context exists */
  struct rvt_context primary;
  struct rvt_pool *default_pool, *current_pool;
  int client; /* slot in the page, -1 none */
  _Atomic uint64_t process_bytes;
  uint32_t peers; /* bit per ordinal: access enabled */
  uint64_t limits[16];
};

struct rvt_state {
  _Atomic int ready; /* 0 not initialised, 1 ready, 2 forked after initialisation, 3 no device */
  int count;
  struct rvt_device_page *page;
  struct rvt_device devices[RVT_MAX_GPUS];
  _Atomic int capturing; /* global-mode captures open in the process */
};
extern struct rvt_state rvt_g;

/* 0, or the error every call answers now (no device, not managed, forked child). */
int rvt_init_slow(void);
static inline int rvt_init(void) {
  if (RVT_LIKELY(atomic_load_explicit(&rvt_g.ready, memory_order_acquire) == 1)) return 0;
  return rvt_init_slow();
}

int rvt_activate_slow(int ordinal);
/* Makes the primary context of an ordinal (memory is charged once). */
static inline int rvt_activate(int ordinal) {
  if (RVT_LIKELY(atomic_load_explicit(&rvt_g.devices[ordinal].active, memory_order_acquire))) return 0;
  return rvt_activate_slow(ordinal);
}

/* init + primary context of the current device: the first thing of every runtime call that works on it. */
static inline int rvt_enter(void) {
  int rc = rvt_init();
  if (RVT_UNLIKELY(rc != 0)) return rc;
  if (RVT_UNLIKELY(!rvt_t.ctx)) rvt_t.ctx = &rvt_g.devices[rvt_t.device].primary;
  return rvt_activate(rvt_t.device);
}

static inline struct rvt_device *rvt_dev(int ordinal) { return &rvt_g.devices[ordinal]; }

/* Runtime calls end with this: keeps the thread's last error. */
static inline int rvt_rt(int rc) {
  if (RVT_UNLIKELY(rc != 0)) rvt_t.last_error = rc;
  return rc;
}

static inline void rvt_atomic_max(_Atomic int64_t *a, int64_t v) {
  int64_t old = atomic_load_explicit(a, memory_order_relaxed);
  while (old < v && !atomic_compare_exchange_weak_explicit(a, &old, v, memory_order_acq_rel, memory_order_relaxed));
}

/* Memory that is never given back: objects with handles. Zeroed. Thread safe. */
void *rvt_persist(size_t bytes);
const char *rvt_persist_string(const char *s, size_t n);

/* ---- memory.c ------------------------------------------------------------------------------------------ */

enum rvt_alloc_kind {
  RVT_ALLOC_DEVICE,
  RVT_ALLOC_POOL,
  RVT_ALLOC_VMM,
  RVT_ALLOC_IPC,
  RVT_ALLOC_HOST,
  RVT_ALLOC_MANAGED,
  RVT_ALLOC_SYMBOL
};

struct rvt_alloc {
  uint64_t base, bytes;
  uint64_t charged; /* bytes of the card behind it (small ones share a slab: 0) */
  uint64_t id;      /* CU_POINTER_ATTRIBUTE_BUFFER_ID */
  int16_t device;
  uint8_t kind; /* enum rvt_alloc_kind */
  bool live;
  struct rvt_pool *pool;
  struct rvt_shared *shared; /* IPC backing, NULL */
  struct rvt_alloc *next_free;
};

extern uint64_t rvt_arena_base, rvt_arena_bytes;
int rvt_arena_init(void);
uint64_t rvt_arena_take(uint64_t bytes, uint64_t align, uint64_t hint); /* address range, no accounting */
void rvt_arena_give(uint64_t addr, uint64_t bytes);

int rvt_alloc_device(int ordinal, uint64_t bytes, int kind, uint64_t *addr);
int rvt_free_device(uint64_t addr);
int rvt_free_any(uint64_t addr);                 /* cudaFree: plain, pool or symbol memory */
struct rvt_alloc *rvt_alloc_find(uint64_t addr); /* allocation that contains addr, or NULL */
struct rvt_alloc *rvt_alloc_record(uint64_t base, uint64_t bytes, int ordinal, int kind, uint64_t charged);
void rvt_alloc_forget_record(struct rvt_alloc *a); /* takes a record out; knowledge and addresses stay */

/* Pinned, registered and managed host memory. */
int rvt_host_alloc(uint64_t bytes, int kind, void **out);
int rvt_host_free(void *p);
int rvt_host_register(void *p, uint64_t bytes);
int rvt_host_unregister(void *p);
bool rvt_host_range(uint64_t addr, uint64_t *base, uint64_t *bytes, int *kind);

/* known.c */
bool rvt_mem_write_host(uint64_t addr, const void *in, size_t n); /* as rvt_mem_write, but one thing of its own */
bool rvt_mem_copy(uint64_t to, uint64_t from, size_t n);
int rvt_known_init(void);
bool rvt_known_any(uint64_t addr);

/* ---- timeline.c ---------------------------------------------------------------------------------------- */

struct rvt_capture;

struct rvt_stream {
  uint32_t magic;
  int16_t device;
  bool is_legacy, non_blocking, destroyed;
  int priority;
  unsigned flags;
  uint64_t id;
  struct rvt_context *ctx;
  _Atomic int64_t ready_ns;
  _Atomic(struct rvt_capture *) capture;
  _Atomic uint32_t callbacks; /* host functions not yet run */
  struct rvt_node **frontier; /* capturing: what the next node depends on */
  uint32_t frontier_count, frontier_room;
  struct rvt_stream *next_free;
};

struct rvt_event {
  uint32_t magic;
  unsigned flags;
  int16_t device;
  bool destroyed;
  _Atomic int64_t time_ns;             /* completion; -1 = never recorded */
  _Atomic(struct rvt_stream *) stream; /* recorded on (host functions still pending there) */
  struct rvt_capture *capture;         /* recorded in a capture: the frontier at that point */
  struct rvt_node **frontier;
  uint32_t frontier_count;
  struct rvt_event *next_free;
};

enum rvt_engine { RVT_ENGINE_NONE = -1, RVT_ENGINE_H2D = 0, RVT_ENGINE_D2H = 1 };

/* Occupies the stream for duration_ns from the earliest moment possible; returns the end. */
int64_t rvt_timeline_push(struct rvt_stream *s, int64_t duration_ns, int engine);
int64_t rvt_device_ready_ns(int ordinal);
int rvt_wait_stream(struct rvt_stream *s, const char *what);
int rvt_wait_device(int ordinal, const char *what);
int rvt_stream_create(int ordinal, unsigned flags, int priority, struct rvt_stream **out);
struct rvt_stream *rvt_stream_legacy(int ordinal);
int rvt_stream_host_func(struct rvt_stream *s, void (*fn)(void *), void *arg);

/* ---- memo.c, predictor.c ------------------------------------------------------------------------------- */

struct rvt_price {
  int64_t duration_ns;
  uint16_t family, source;
  uint32_t flags;
};

/* Duration under the batch in execution. `key` from rvt_op_key. */
struct rvt_price rvt_price_op(const struct rvt_op *op, uint64_t key, const char *name);
/* Prices many at once: misses go to the service in one request. */
struct rvt_priced {
  const struct rvt_op *op;
  uint64_t key;
  const char *name;
  struct rvt_price price;
};
void rvt_price_many(struct rvt_priced *items, uint32_t n);
/* Books n ops of this price as executed. */
void rvt_account(int ordinal, const struct rvt_price *p);
void rvt_account_many(const struct rvt_price *p, uint32_t launches); /* but for the card's busy time */
/* The service (predictor.c): one request for n ops, each under a batch. `ahead`: not launched yet. */
struct rvt_asked {
  struct rvt_priced *item;
  const struct rvt_batch *batch;
  bool ahead;
};
void rvt_predict(const struct rvt_asked *asked, uint32_t n, struct rvt_prediction *out);
uint64_t rvt_batch_hash(const struct rvt_seq *seqs, uint32_t n, uint32_t padded);
uint32_t rvt_model_index(void);

/* ---- kernels, modules ---------------------------------------------------------------------------------- */

struct rvt_module {
  uint32_t magic;
  bool is_library, unloaded, has_metadata;
  struct rvt_kernel *kernels; /* list by next */
  struct rvt_symbol *symbols;
  uint64_t charged;
  int device;
  const void *fat_binary; /* as registered with the runtime, NULL for a loaded module */
};

struct rvt_symbol {
  const char *name;
  uint64_t bytes;
  const void *host;                    /* host shadow, runtime only */
  _Atomic uint64_t addr[RVT_MAX_GPUS]; /* made at first use */
  struct rvt_symbol *next;
};

struct rvt_kernel *rvt_kernel_make(const char *name, size_t name_len, struct rvt_module *module);
void rvt_kernel_resolve_slow(struct rvt_kernel *k);
static inline void rvt_kernel_resolve(const struct rvt_kernel *k) {
  if (RVT_UNLIKELY(!atomic_load_explicit(&((struct rvt_kernel *)k)->resolved, memory_order_acquire)))
    rvt_kernel_resolve_slow((struct rvt_kernel *)k);
}
struct rvt_kernel *rvt_kernel_of_host(const void *host_function); /* NULL: not registered */
/* Any CUfunction, cudaFunction_t, CUkernel, cudaKernel_t or registered host function. */
struct rvt_kernel *rvt_kernel_of_handle(const void *handle);
bool rvt_module_parse_elf(struct rvt_module *m, const void *image, size_t bytes);
int rvt_symbol_address(struct rvt_symbol *s, int ordinal, uint64_t *addr);
/* Parameter sizes from a mangled C++ name where they follow from it (0 bytes: a class of unknown size), and which
 * parameters are pointers to const, bit by bit. Number of parameters, or -1. */
int rvt_layout_from_name(const char *name, struct rvt_param *out, int max, uint16_t *total, uint64_t *reads);

int rvt_launch_kernel(const struct rvt_kernel *k, const uint32_t grid[3], const uint32_t block[3],
                      uint32_t shared_bytes, struct rvt_stream *s, void **params);
/* Effects of a kernel on memory: emulate, or forget. */
void rvt_kernel_effects(const struct rvt_launch *l);

/* trace.c */
extern bool rvt_tracing;
void rvt_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
void rvt_trace_launch(const struct rvt_launch *l, const char *how);

/* ---- capture and graphs -------------------------------------------------------------------------------- */

struct rvt_node;
/* Adds to the graph that the stream captures. The op is copied; params are copied by the kernel's layout. */
int rvt_capture_kernel(struct rvt_stream *s, const struct rvt_op *op, uint64_t key, const struct rvt_launch *l);
int rvt_capture_op(struct rvt_stream *s, const struct rvt_op *op, uint64_t key, const char *name, rvt_effect_fn fn,
                   const void *ctx, size_t ctx_bytes);
int rvt_capture_host(struct rvt_stream *s, void (*fn)(void *), void *arg);
int rvt_capture_event_record(struct rvt_stream *s, struct rvt_event *e);
int rvt_capture_event_wait(struct rvt_stream *s, struct rvt_event *e);
/* A call that capture forbids (synchronisation, legacy stream ...) was made: RVT_OK, or the error it answers. */
int rvt_capture_forbids(void);

#endif
