/* The shared page: the contract between the preload library (every process of a run) and the host coordinator.
 *
 * The coordinator creates it as a memfd; processes map it from the path in REVATI_PAGE (/proc/<pid>/fd/<n>), so
 * nothing is left over whatever dies. Plain C without pointers. All multi-byte words that two sides touch are
 * accessed with __atomic builtins.
 *
 * Bump RVT_ABI_VERSION on every change of layout or meaning; both sides refuse a version that is not theirs.
 */
#ifndef RVT_ABI_H
#define RVT_ABI_H

#include <stdint.h>

#include "rvt_device_page.h"

#define RVT_ABI_VERSION 5u
#define RVT_PAGE_MAGIC 0x4954415645520001ull /* "..REVATI" */
#define RVT_MAX_SLOTS 4096
#define RVT_FOREVER_NS INT64_MAX

/* Life of a slot. The word `owner` packs it with a generation: (generation << 8) | state, changed only by
 * compare-and-swap, so that a reaper that looked at an earlier owner can never free a later one. */
enum rvt_slot_state {
  RVT_SLOT_FREE = 0,
  RVT_SLOT_STARTING = 1, /* taken by the creator for a thread or process that has not reported yet; never quiescent */
  RVT_SLOT_SPAWNING = 2, /* the same for a spawned process whose pid the creator does not know yet */
  RVT_SLOT_LIVE = 3,
  RVT_SLOT_EXITING = 4, /* on its way out; counts as running until the kernel says that it is gone */
  RVT_SLOT_ACTOR = 5,   /* not a thread: an external client of the coordinator */
};

/* What a thread waits for. EVENTFD: the kick is delivered through the slot's eventfd, else by futex on `kick`. COUNTED:
 * nothing but a kick, a signal and a wake that is counted in `wakes` or `signals` ends the wait. */
enum rvt_wait_kind {
  RVT_WAIT_NONE = 0,
  RVT_WAIT_SLEEP = 1,
  RVT_WAIT_FUTEX = 2,
  RVT_WAIT_SEM = 3,
  RVT_WAIT_COND = 4,
  RVT_WAIT_MUTEX = 5,
  RVT_WAIT_RWLOCK = 6,
  RVT_WAIT_JOIN = 7,
  RVT_WAIT_BARRIER = 8,
  RVT_WAIT_CHILD = 9,
  RVT_WAIT_SIGNAL = 10,
  RVT_WAIT_READ = 11,
  RVT_WAIT_WRITE = 12,
  RVT_WAIT_ACCEPT = 13,
  RVT_WAIT_CONNECT = 14,
  RVT_WAIT_POLL = 15,
  RVT_WAIT_SELECT = 16,
  RVT_WAIT_EPOLL = 17,
  RVT_WAIT_DEVICE = 18, /* the virtual GPU; `what` is the address of a string in the process */
  RVT_WAIT_CHARGE = 19, /* host time of the policy being settled */
  RVT_WAIT_SPIN = 20,   /* a recognised busy-poller, parked */
  RVT_WAIT_CLOCK = 21,  /* a loop that only reads the clock, parked */
  RVT_WAIT_TURN = 22,   /* woken, waits until nothing else runs; `what` is the turn in which it was woken */
  RVT_WAIT_EVENTFD = 0x100,
  RVT_WAIT_COUNTED = 0x200,
};

enum rvt_kick {
  RVT_KICK_NONE = 0,
  RVT_KICK_FIRED = 1,
  RVT_KICK_ROUND = 2,
  RVT_KICK_SIGNAL = 3, /* by the thread itself */
  RVT_KICK_TURN = 4,
};

/* Who goes on when several could at one virtual instant. FIRED: threads whose deadline has come, one by one; whoever
 * they wake runs at once, beside them. TURNS: everybody one by one. ANY: all that is due at once. */
enum rvt_order { RVT_ORDER_FIRED = 0, RVT_ORDER_TURNS = 1, RVT_ORDER_ANY = 2 };

enum rvt_policy { RVT_POLICY_FREE = 0, RVT_POLICY_MODELLED = 1, RVT_POLICY_MEASURED = 2 };

enum rvt_slot_flag {
  RVT_FLAG_INTERNAL = 1, /* inside Revati's own code (asking the predictor, say): runs, whatever the kernel says */
  RVT_FLAG_MAIN = 4,     /* first thread of its process */
  RVT_FLAG_CANCEL = 8,   /* pthread_cancel was called for it */
};

struct rvt_slot {
  /* line 1: what the proof reads */
  uint64_t owner;      /* (generation << 8) | enum rvt_slot_state */
  uint32_t seq;        /* odd = blocked in one wait and nothing else */
  uint32_t kick;       /* futex word, enum rvt_kick; set by the coordinator, cleared by the thread */
  int64_t deadline_ns; /* of the present wait; RVT_FOREVER_NS: none */
  uint32_t kind;       /* enum rvt_wait_kind */
  uint32_t flags;      /* enum rvt_slot_flag */
  int32_t pid;
  int32_t tid;
  uint64_t order;  /* stable identity: launch path and creation index, the same in every run; breaks ties */
  uint32_t events; /* effects and blocking waits so far: a spin round is clean when no sum changed */
  int32_t evfd;    /* number of the thread's eventfd in its own process, -1 = none */
  /* line 2: bookkeeping of the thread, reports */
  uint32_t evfd_version; /* changes whenever evfd is another file */
  int32_t parent_pid;
  uint64_t what;       /* detail of the wait: fd, address, or pointer to a string, by kind */
  int64_t local_ns;    /* local time published with the last wake or wait (policy measured) */
  uint64_t waits;      /* blocking waits entered */
  uint64_t spins;      /* times parked as a busy-poller */
  uint64_t fired;      /* deadlines fired by the coordinator: the jumps that this thread caused */
  uint64_t charged_ns; /* host time charged by the policy */
  int64_t since_ns;    /* virtual time at which the present wait began */
  uint64_t thread;     /* pthread_t */
};

/* A timer of a process that delivers a signal or makes a timerfd readable: fired by the coordinator. EXTERNAL is no
 * timer: an open conversation with a peer outside the run, during which the clock is no faster than real time. */
enum rvt_timer_kind {
  RVT_TIMER_FREE = 0,
  RVT_TIMER_SIGNAL = 1,
  RVT_TIMER_FD = 2,
  RVT_TIMER_CLAIMED = 3,
  RVT_TIMER_EXTERNAL = 4
};

struct rvt_timer {
  uint32_t kind;       /* enum rvt_timer_kind; claimed by compare-and-swap from FREE */
  uint32_t version;    /* changes at every arming */
  int64_t deadline_ns; /* RVT_FOREVER_NS: disarmed */
  int64_t interval_ns; /* 0 = one shot */
  int32_t pid;
  int32_t tid; /* signal: target thread, 0 = process */
  int32_t signo;
  int32_t fd;     /* timerfd: number of the eventfd that stands in for it */
  uint64_t value; /* signal: sigval */
  uint64_t order;
  uint64_t overruns;
};
#define RVT_MAX_TIMERS 512

/* Wakes of condition variables and semaphores of one process, counted by the object's address: a thread whose count
 * has not changed since the kernel called it asleep still sleeps. Others may share the count: it costs a look. */
#define RVT_WAKE_COUNTS 1024
static inline uint32_t rvt_wake_index(int32_t pid, uint64_t object) {
  return (uint32_t)(((object >> 3) + (uint64_t)(uint32_t)pid * 977) * 0x9e3779b97f4a7c15ull >> 54);
}

struct rvt_page {
  uint64_t magic;
  uint32_t abi_version;
  uint32_t page_bytes;
  int32_t coordinator_pid;
  uint32_t policy;            /* enum rvt_policy */
  int64_t realtime_offset_ns; /* CLOCK_REALTIME minus the virtual MONOTONIC clock, constant */
  uint32_t charge_ppm;        /* policy measured: target CPU time per host CPU time, in millionths */
  uint32_t idle_stretch;      /* idle timers are stretched by this factor; 1 = off */
  uint32_t spin_polls;        /* polls without effect until a thread is parked */
  uint32_t clock_polls;       /* clock reads without anything else until a thread is parked */
  uint32_t lost_fd;           /* read end of the coordinator's life pipe, a number in the coordinator */
  uint32_t trace;             /* 1 = processes report what they interpose on stderr */
  char preload[256];          /* path of the preload library, put back where a program drops it */
  char idle_timers[512];      /* idle class: "library-substring:timeout_ms" separated by spaces */

  /* The clock. One writer (the coordinator), one word: a read can be neither torn nor go back. */
  int64_t now_ns __attribute__((aligned(64)));

  /* Hints that wake the coordinator; never proof. */
  int32_t running __attribute__((aligned(64))); /* slots not blocked, roughly */
  int32_t idle_level;                           /* wake the coordinator when `running` falls to this */
  uint32_t coord_futex;                         /* bumped to wake the coordinator */
  uint32_t coord_asleep;                        /* 1 = it sleeps on coord_futex */
  uint32_t slots_high;                          /* slots above this index were never used */
  uint32_t slots_hint;                          /* where to look for a free one */
  uint32_t timers_high;
  uint32_t failed;     /* 1 = the run has failed: everybody leaves */
  uint32_t leavers;    /* threads that began to end: the kernel tells nobody when it is done with one */
  uint32_t signals;    /* sent so far from within the run */
  uint32_t turns;      /* 1 = whoever is woken waits for its turn */
  uint32_t still;      /* 1 = the clock stands for somebody outside: busy-pollers must not wait for rounds */
  uint32_t turns_lost; /* turns that nobody gave in time: somebody computed on and on */
  uint64_t turn;       /* counts what the coordinator has let go */

  uint32_t wakes[RVT_WAKE_COUNTS] __attribute__((aligned(64)));

  struct rvt_device_page device __attribute__((aligned(64)));
  struct rvt_timer timers[RVT_MAX_TIMERS] __attribute__((aligned(64)));
  struct rvt_slot slots[RVT_MAX_SLOTS] __attribute__((aligned(64)));
};

#endif
