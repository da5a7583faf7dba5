/* The recorder: a preload library of its own that forwards every call to the real libraries and writes down what was
 * asked for (struct rvt_op) and how long it took. docs/internals-record.md says how the parts fit.
 *
 * Rules: the recorded program behaves as without it (a call that fails here is still forwarded); the launch path takes
 * no lock and makes no system call; every wrapper has a site, which names it and knows the real function.
 */
#ifndef RVT_RECORD_H
#define RVT_RECORD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "include/rvt_op.h"
#include "include/rvt_record.h"

#define RVT_API __attribute__((visibility("default")))
#define RVT_LIKELY(x) __builtin_expect(!!(x), 1)
#define RVT_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* ---- sites and real functions (real.c) ------------------------------------------------------------------- */

struct rvt_site {
  const char *name;
  void *wrapper;
  _Atomic(void *) real;
  uint16_t number; /* place in the section */
};
#define RVT_MAX_SITES 512
extern struct rvt_site *const __start_rvt_sites[], *const __stop_rvt_sites[];

/* All sites of the library are found through this section. */
#define RVT_SITE(function)                                                           \
  static struct rvt_site site_##function = {.name = #function, .wrapper = function}; \
  static struct rvt_site *const entry_##function __attribute__((section("rvt_sites"), used)) = &site_##function

void *rvt_real_slow(struct rvt_site *site);
/* The function that the wrapper stands in front of; NULL when no library of the process has it. */
static inline void *rvt_real(struct rvt_site *site) {
  void *real = atomic_load_explicit(&site->real, memory_order_acquire);
  return RVT_LIKELY(real != NULL) ? real : rvt_real_slow(site);
}
/* A real function without a wrapper, by name; NULL if there is none. Looks each time: RVT_KEPT keeps the result. */
void *rvt_find_real(const char *name);
#define RVT_KEPT(function)                                                           \
  ({                                                                                 \
    static _Atomic(void *) kept_;                                                    \
    void *real_ = atomic_load_explicit(&kept_, memory_order_relaxed);                \
    if (RVT_UNLIKELY(!real_)) atomic_store(&kept_, real_ = rvt_find_real(function)); \
    real_;                                                                           \
  })
/* What a call answers that nothing can be forwarded to: says so once, returns the library's "unknown error". */
int rvt_no_real(struct rvt_site *site);
/* The directory of the loaded libcudart (with its closing slash) into out; false: none is loaded as a file. */
bool rvt_runtime_directory(char *out, size_t room);

/* ---- records (spool.c) ----------------------------------------------------------------------------------- */

struct rvt_writer; /* of one thread */
struct rvt_thread_state {
  struct rvt_writer *writer;
  uint32_t generation; /* of the process: a forked child starts new files */
  uint32_t device;     /* as set by cudaSetDevice */
  uint32_t depth;      /* inside a wrapped call: what the libraries call below is theirs */
  uint32_t op;         /* operator of the call in progress, for the graph nodes that it makes */
  uint64_t sequence;
  struct rvt_events *events;
};
extern __thread struct rvt_thread_state rvt_here;

/* True when this process records (started by `revati record`). */
bool rvt_recording(void);
/* The calling thread's next record, NULL when the disk refuses; rvt_commit publishes it. */
struct rvt_record *rvt_reserve(void);
void rvt_commit(void);
/* A record with `bytes` of text behind it. */
void rvt_put_text(const struct rvt_record *head, const void *text, size_t bytes);
/* Adds a call of `ns` to the thread's histogram of a site. */
void rvt_count_call(struct rvt_site *site, int64_t ns);
/* Unique in the process, never 0: which call a piece of GPU work belongs to. */
uint64_t rvt_next_correlation(void);
int64_t rvt_clock_ns(void);
void rvt_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- operators and names (ops.c) -------------------------------------------------------------------------- */

struct rvt_name {
  const char *text;
  uint64_t hash;
  uint32_t length;
};
/* Number of an operator, the same for equal ones; written as a record the first time. */
uint32_t rvt_op_number(const struct rvt_op *op, const struct rvt_name *name);
/* RVT_NAME_ITSELF: the handle is the name, a string that stays. */
enum rvt_handle_kind { RVT_HOST_FUNCTION, RVT_DRIVER_FUNCTION, RVT_KERNEL_HANDLE, RVT_NAME_ITSELF };
/* Name of a kernel, "" when the driver does not tell. Never NULL. */
const struct rvt_name *rvt_kernel_name(const void *handle, enum rvt_handle_kind kind);
void rvt_forget_ops(void);   /* the operators that this process has written: a forked child writes its own */
void rvt_forget_names(void); /* a module was unloaded: its handles may come again */

/* ---- one call (call.c) ------------------------------------------------------------------------------------ */

struct rvt_call {
  struct rvt_site *site;
  void *stream;
  int64_t begin_ns;
  uint64_t correlation;
  uint32_t op;
  uint16_t flags;
  uint64_t graph;    /* number of the capture that it goes into, or of the executable that it launches */
  void *begin, *end; /* events around it */
};

/* False: inside another wrapped call (or not recording); only forward. */
bool rvt_enter(struct rvt_call *call, struct rvt_site *site);
/* The call is going to submit op (gpu and model are filled in here) on the stream. */
void rvt_submitting(struct rvt_call *call, struct rvt_op *op, const struct rvt_name *name, void *stream);
/* After the forwarded call; `failed`: it submitted nothing. */
void rvt_leave(struct rvt_call *call, bool failed);
/* The observer's model and step: what the next calls belong to. */
extern _Atomic uint32_t rvt_model, rvt_step;

/* Wraps a function that submits work. `describe` fills `op` and may set `name`. */
#define RVT_SUBMITS(function, parameters, arguments, stream_, ...)  \
  RVT_API int function parameters;                                  \
  RVT_SITE(function);                                               \
  RVT_API int function parameters {                                 \
    int(*real) parameters = rvt_real(&site_##function);             \
    if (RVT_UNLIKELY(!real)) return rvt_no_real(&site_##function);  \
    struct rvt_call call;                                           \
    if (!rvt_enter(&call, &site_##function)) return real arguments; \
    struct rvt_op op;                                               \
    const struct rvt_name *name = NULL;                             \
    __builtin_memset(&op, 0, sizeof op);                            \
    __VA_ARGS__;                                                    \
    rvt_submitting(&call, &op, name, stream_);                      \
    int rc = real arguments;                                        \
    rvt_leave(&call, rc != 0);                                      \
    return rc;                                                      \
  }

/* ---- streams that capture, graphs (graph.c) --------------------------------------------------------------- */

#define RVT_UNKNOWN_CAPTURE UINT64_MAX
/* Number of the capture that the stream is in, 0 none, RVT_UNKNOWN_CAPTURE: this stream must not be asked now. */
uint64_t rvt_capture_of(void *stream);
/* The operator went into the capture's graph; `begin` and `end`: the events around it there, or NULL. */
void rvt_capture_add(uint64_t capture, uint32_t op, void *begin, void *end);
/* A launch of an executable has ended: writes the durations of its nodes where events time them. */
void rvt_graph_read_nodes(uint64_t exec, uint64_t correlation);
/* Lets this thread call what an open capture forbids; `restore` is rvt_capture_relax's answer. */
int rvt_capture_relax(void);
void rvt_capture_restore(int restore);

/* ---- methods (events.c, cupti.c) -------------------------------------------------------------------------- */

enum rvt_method rvt_method(void); /* chosen at the first call */
bool rvt_times_nodes(void);       /* events inside captured graphs are wanted */

void rvt_events_before(struct rvt_call *call);
void rvt_events_after(struct rvt_call *call, bool failed);
/* Writes the durations of calls: of every thread's as far as they have ended, of this thread's (waits for them), of
 * every thread's (waits). */
enum rvt_drain { RVT_DRAIN_ENDED, RVT_DRAIN_MINE, RVT_DRAIN_ALL };
void rvt_events_drain(enum rvt_drain which);
bool rvt_event_between(void *begin, void *end, int64_t *ns);

/* False: CUPTI cannot be used, *why_not says in words why. */
bool rvt_cupti_start(const char **why_not);
void rvt_cupti_push(uint64_t correlation);
void rvt_cupti_pop(void);
void rvt_cupti_flush(void);

#endif
