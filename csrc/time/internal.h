/* What the files of csrc/time share. Nothing here is visible outside csrc/time; the device uses rvt_time.h. */
#ifndef RVT_TIME_INTERNAL_H
#define RVT_TIME_INTERNAL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#include "rvt_abi.h"
#include "rvt_time.h"

#define RVT_EXPORT __attribute__((visibility("default")))
#define RVT_LIKELY(x) __builtin_expect(!!(x), 1)
#define RVT_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define RVT_NS_PER_S 1000000000ll

#define rvt_load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define rvt_store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define rvt_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define rvt_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)

/* The functions of libc behind the interposed ones, looked up once. name, return type, arguments. */
#include "real.h"

struct rvt_reals {
#define X(ret, name, args) ret(*name) args;
  RVT_REALS(X)
#undef X
};
extern struct rvt_reals rvt_real;

enum rvt_mode { RVT_MODE_UNKNOWN = 0, RVT_MODE_STARTING = 1, RVT_MODE_INERT = 2, RVT_MODE_MANAGED = 3 };
extern int rvt_mode;
extern struct rvt_page *rvt_the_page;
extern char rvt_page_path[100]; /* kept: a program may clear its environment */
extern int rvt_pid;             /* of this process; another value from the kernel means: child of vfork */

/* What a thread knows of itself. */
struct rvt_self {
  struct rvt_slot *slot;
  uint32_t internal;    /* depth of rvt_internal_begin */
  uint32_t polls;       /* busy polls without effect */
  uint32_t clock_polls; /* clock reads without anything else */
  int32_t evfd;
  int64_t poll_hint_ns;  /* earliest wake-up published by polls */
  int64_t clock_spin_ns; /* how long a loop of clock reads has spun */
  uint64_t children;     /* threads and processes created: their stable identity */
  int64_t local_ns;      /* charged up to here: local time is the later of this and the clock */
  int64_t seen_ns;       /* the latest local time that the thread has seen */
  int64_t cpu_mark_ns;   /* CPU clock at the last reading (measured) */
  int64_t real_mark_ns;  /* host clock then */
  uint32_t settling;
  uint32_t depth;   /* signal handlers running inside a wait */
  bool interrupted; /* a handler ran that restarts no call (without SA_RESTART) */
};
extern __thread struct rvt_self rvt_self_tls;

/* start.c */
void rvt_init(void);
struct rvt_slot *rvt_attach(void); /* a slot for a thread that has none */
long rvt_raw(long number, long a, long b, long c, long d, long e, long f);

/* True when the calling thread is under the virtual clock and not inside Revati's own code. */
static inline bool rvt_on(void) {
  if (RVT_UNLIKELY(rvt_mode != RVT_MODE_MANAGED)) {
    if (rvt_mode == RVT_MODE_UNKNOWN) rvt_init();
    if (rvt_mode != RVT_MODE_MANAGED) return false;
  }
  if (RVT_UNLIKELY(rvt_self_tls.internal)) return false;
  if (RVT_UNLIKELY(!rvt_self_tls.slot)) return rvt_attach() != NULL;
  return true;
}

static inline int64_t rvt_clock_ns(void) { return rvt_load_relaxed(&rvt_the_page->now_ns); }

/* slot.c */
struct rvt_slot *rvt_slot_take(enum rvt_slot_state state, uint64_t order);
void rvt_slot_adopt(struct rvt_slot *slot, int tid, uint32_t flags); /* the calling thread becomes its owner */
void rvt_slot_drop(struct rvt_slot *slot);
void rvt_slot_leave(void);      /* the calling thread ends */
uint64_t rvt_child_order(void); /* stable identity for the next thread or process that the caller creates */
void rvt_page_running(int delta);
void rvt_coordinator_wake(void);
int rvt_eventfd(void); /* the thread's eventfd, made on first use */
static inline uint32_t rvt_state_of(uint64_t owner) { return owner & 0xff; }

/* block.c: every wait goes through these. */
struct rvt_wait {
  int kind;
  int64_t deadline_ns;
  uint64_t what;
};
void rvt_block(int kind, int64_t deadline_ns, uint64_t what);
uint32_t rvt_unblock(void); /* -> enum rvt_kick that arrived */
void rvt_reblock(uint32_t kind, uint32_t kick);

/* turn.c: after a wait that somebody ended. Waits for the turn; false when the run has no turns. */
bool rvt_turn(void);
void rvt_await_round(void); /* the wait of a parked busy-poller, in a run with turns */

/* charge.c */
int64_t rvt_local_ns(void);
void rvt_settle_charge(void);
void rvt_hand_charge(const void *object);
void rvt_take_charge(const void *object);
void rvt_charge_mark(void);
void rvt_charge_account(void);
static inline bool rvt_charging(void) { return RVT_UNLIKELY(rvt_the_page->policy != RVT_POLICY_FREE); }
/* Before an action that another process can see: the clock catches up with the thread. */
static inline void rvt_settle(void) {
  if (rvt_charging()) rvt_settle_charge();
}
/* Around an object of this process that passes control: the local time goes with it. */
static inline void rvt_hand(const void *object) {
  if (rvt_charging()) rvt_hand_charge(object);
}
static inline void rvt_take(const void *object) {
  if (rvt_charging()) rvt_take_charge(object);
}

/* The thread does something else than polling. */
static inline void rvt_active(void) {
  struct rvt_self *self = &rvt_self_tls;
  self->polls = 0;
  self->clock_polls = 0;
  self->clock_spin_ns = 0;
  self->poll_hint_ns = RVT_FOREVER_NS;
}
/* The thread does something that others can see. */
static inline void rvt_effect(void) {
  rvt_active();
  rvt_store_relaxed(&rvt_self_tls.slot->events, rvt_self_tls.slot->events + 1);
  rvt_settle();
}
/* Before and after a wake that ends a wait of kind COUNTED, in whatever code of ours it happens: before, so that nobody
 * who was woken counts as asleep; after, for a look at the sleeper between the first count and the wake. */
static inline void rvt_count_wake(const void *object) {
  if (RVT_LIKELY(rvt_mode == RVT_MODE_MANAGED))
    __atomic_add_fetch(&rvt_the_page->wakes[rvt_wake_index(rvt_pid, (uint64_t)object)], 1, __ATOMIC_SEQ_CST);
}
static inline void rvt_count_signal(void) { /* the same, of a signal */
  if (rvt_mode == RVT_MODE_MANAGED) __atomic_add_fetch(&rvt_the_page->signals, 1, __ATOMIC_SEQ_CST);
}
int64_t rvt_deadline_after(int64_t delay_ns); /* local time + delay, saturated */

void rvt_sleep_clock(int kind, int64_t clock_ns); /* until the clock itself is there */
/* Sleeps until the virtual time; 0, or EINTR when a signal arrived first. */
int rvt_sleep_until(int kind, int64_t deadline_ns, uint64_t what, bool interruptible);
/* Waits on a futex word of the program as long as it holds `expected`: 0 woken or changed, ETIMEDOUT, EINTR. */
int rvt_futex_until(int kind, uint32_t *word, uint32_t expected, bool is_private, int64_t deadline_ns);
/* The same; with a real limit a timed wait may end early, with ETIMEDOUT. */
int rvt_futex_limited(int kind, uint32_t *word, uint32_t expected, bool is_private, int64_t deadline_ns,
                      int64_t real_limit_ns);
/* Polls until something is ready: > 0 ready, 0 timed out, -1 with errno. deadline RVT_FOREVER_NS: untimed. */
int rvt_poll_until(int kind, struct pollfd *fds, nfds_t count, int64_t deadline_ns, const sigset_t *mask,
                   uint64_t what);
void rvt_busy_poll(int64_t hint_ns); /* one poll without effect: parks after some */
void rvt_clock_poll(void);           /* one clock read */

/* time types */
static inline int64_t rvt_ns_of(const struct timespec *t) {
  if (t->tv_sec > INT64_MAX / RVT_NS_PER_S - 1) return RVT_FOREVER_NS;
  return (int64_t)t->tv_sec * RVT_NS_PER_S + t->tv_nsec;
}
static inline struct timespec rvt_timespec(int64_t ns) {
  return (struct timespec){.tv_sec = ns / RVT_NS_PER_S, .tv_nsec = ns % RVT_NS_PER_S};
}
static inline bool rvt_timespec_bad(const struct timespec *t) { return t->tv_nsec < 0 || t->tv_nsec >= RVT_NS_PER_S; }
/* A CLOCK_REALTIME or MONOTONIC-like absolute time as virtual MONOTONIC. */
int64_t rvt_absolute_ns(clockid_t clock, const struct timespec *t);

void rvt_zmq_check(void); /* patches libzmq's cycle counter when it has been loaded */
bool rvt_idle_timer(const void *caller, int64_t delay_ns);
bool rvt_from_python(const void *caller);
bool rvt_vforked(void);
void rvt_external_open(int fd); /* until it is closed */
void rvt_timer_closed(int fd);
void rvt_retry_wake(void); /* a lock was released, a thread ends */
static inline bool rvt_cancelled(void) { return rvt_load_relaxed(&rvt_self_tls.slot->flags) & RVT_FLAG_CANCEL; }
extern bool rvt_cancels; /* this process has cancelled a thread, perhaps one that had no slot yet */
static inline void rvt_test_cancel(void) {
  if (RVT_UNLIKELY(rvt_load_relaxed(&rvt_cancels))) pthread_testcancel();
}
extern uint64_t rvt_signal_info;    /* signals whose handler takes three arguments */
extern uint64_t rvt_signal_restart; /* signals with SA_RESTART */

#endif
