/* The host coordinator as a C library: it owns the page and the clock, launches the programs, proves
 * quiescence, moves the clock and reaps what is left. Used by rvt-run and, through cffi, by revati_coordinator.
 * Declarations only (cffi input). All functions may be called from any thread; rvt_host_run from one.
 *
 * Functions that can fail return -1 (or NULL) and leave one sentence in rvt_host_error().
 */
#ifndef RVT_HOST_H
#define RVT_HOST_H

#include <stdint.h>

typedef struct rvt_host rvt_host;

struct rvt_host_options {
  uint32_t struct_bytes;     /* sizeof(struct rvt_host_options) of the caller, checked */
  uint32_t policy;           /* 0 free, 1 modelled, 2 measured */
  uint32_t charge_ppm;       /* measured: target CPU time per host CPU time in millionths; 0 = 1000000 */
  uint32_t order;            /* enum rvt_order of rvt_abi.h: 0 fired, 1 turns, 2 any */
  int64_t realtime_start_ns; /* CLOCK_REALTIME at virtual time 0; 0 = the host's when the page is made */
  int64_t start_ns;          /* virtual MONOTONIC at the start; 0 = the host's; set both for equal logs */
  int64_t limit_virtual_ns;  /* the run fails when the clock has advanced so far; 0 = no limit */
  int64_t limit_real_ms;     /* the same for real time */
  int32_t stall_ms;          /* no jump and nothing runnable for so long: failure; 0 = 1000 */
  int32_t deadlock_ms;   /* everything blocked without a deadline for so long: failure; 0 = 3000, -1 = idle is legal */
  int32_t grace_ms;      /* real time that the tree has to end after the main program; 0 = 3000 */
  int32_t start_ms;      /* real time that a program may take to reach main; 0 = 30000 */
  uint32_t idle_stretch; /* factor for idle timers; 0 = 1000, 1 = off */
  uint32_t spin_polls;   /* 0 = 8 */
  uint32_t spin_rounds;  /* clean rounds of busy-pollers before a jump; 0 = 2 */
  uint32_t trace;        /* 1 = log every jump on stderr */
  uint32_t keep_awake;   /* 1 = idle CPUs spin while hand-overs follow each other closely */
  const char *preload;   /* path of the preload library; required for rvt_host_spawn */
  const char *idle_timers; /* "library-substring:timeout_ms ..." ; NULL = the built-in list */
};

enum rvt_host_reason {
  RVT_END_NONE = 0,     /* still running */
  RVT_END_EXIT = 1,     /* the main program ended; exit_code says how (128 + signal when killed) */
  RVT_END_STOPPED = 2,  /* rvt_host_stop */
  RVT_END_DEADLOCK = 3, /* every thread waits and no wait has a deadline */
  RVT_END_STALL = 4,    /* nothing runnable, yet no quiescence could be proved */
  RVT_END_LIMIT = 5,    /* limit_virtual_ns or limit_real_ms */
  RVT_END_ERROR = 6,    /* the coordinator itself failed */
};

struct rvt_host_end {
  int32_t reason;    /* enum rvt_host_reason */
  int32_t exit_code; /* of the main program; -1 when it did not end by itself */
  int32_t killed;    /* processes that had to be killed at the end */
  int32_t reserved;
  int64_t virtual_ns; /* how far the clock went */
  int64_t real_ns;    /* how long it took */
  char text[8192];    /* cause in one sentence, then one line per thread for deadlock and stall */
};

struct rvt_host_status {
  int64_t now_ns;        /* virtual MONOTONIC */
  int64_t start_ns;      /* virtual MONOTONIC at the start */
  int64_t realtime_ns;   /* virtual REALTIME */
  int64_t real_ns;       /* real time since rvt_host_run began */
  uint64_t jumps;        /* times the clock moved */
  uint64_t fires;        /* threads woken by a deadline */
  uint64_t rounds;       /* rounds given to busy-pollers */
  uint64_t turns;        /* woken threads that went on in their turn */
  uint64_t turns_lost;   /* and without it: somebody computed on and on */
  uint64_t aborts;       /* proofs that found something running */
  uint64_t slow_proofs;  /* proofs with threads that wait in calls nobody marked */
  uint64_t proof_ns;     /* real time spent in proofs */
  uint64_t threads_seen; /* enrolled so far */
  uint32_t processes;    /* alive */
  uint32_t threads;      /* enrolled now */
  uint32_t running;      /* of them not blocked */
  uint32_t spinning;     /* of them parked busy-pollers */
  uint32_t actors;       /* external clients */
  uint32_t holds;        /* rvt_host_hold not yet released */
  uint32_t paused;
  uint32_t ended; /* enum rvt_host_reason */
};

struct rvt_host_thread {
  int32_t pid, tid;
  int32_t state;       /* 0 starting, 1 running, 2 blocked, 3 parked busy-poller, 4 exiting, 5 actor */
  uint32_t kind;       /* enum rvt_wait_kind of rvt_abi.h */
  int64_t deadline_ns; /* INT64_MAX: none */
  uint64_t order;      /* stable identity */
  uint64_t waits;      /* blocking waits entered */
  uint64_t spins;      /* times parked */
  uint64_t fired;      /* jumps caused */
  uint64_t charged_ns; /* host time charged */
  char process[32];    /* command name */
  char thread[32];     /* thread name */
  char wait[96];       /* the wait in words */
};

/* NULL on failure: rvt_host_error() tells why. */
rvt_host *rvt_host_new(const struct rvt_host_options *options);
void rvt_host_free(rvt_host *host); /* kills what still runs, unmaps the page */
const char *rvt_host_error(void);   /* of the calling thread's last failure */

/* The page: what to put into REVATI_PAGE, and the device part to fill in before the first spawn. */
const char *rvt_host_page_path(rvt_host *host);
struct rvt_device_page *rvt_host_device(rvt_host *host);
uint32_t rvt_host_abi_version(void);

/* Starts the main program, enrolled. env: NULL-terminated KEY=VALUE list, LD_PRELOAD and REVATI_PAGE are added.
 * cwd may be NULL; fds -1 = inherit. Returns the pid. */
int rvt_host_spawn(rvt_host *host, const char *const *argv, const char *const *env, const char *cwd, int fd_in,
                   int fd_out, int fd_err);
/* Further programs of the same run; their end does not end it. */
int rvt_host_spawn_more(rvt_host *host, const char *const *argv, const char *const *env, const char *cwd, int fd_in,
                        int fd_out, int fd_err);

/* Exit status of a program started by spawn_more: 1 = still running, 0 = ended (code: 128 + signal when killed). */
int rvt_host_exit_code(rvt_host *host, int pid, int *code);

/* Runs the clock until the main program has ended (and its tree), or rvt_host_stop, or a failure; then reaps the
 * whole tree. With no main program (actors and spawn_more only) it runs until rvt_host_stop. Blocks: call
 * without the GIL. Returns end->reason. */
int rvt_host_run(rvt_host *host, struct rvt_host_end *end);
void rvt_host_stop(rvt_host *host, const char *why); /* async-signal-safe */
/* Forwards a signal to the main program's process (Ctrl-C). Async-signal-safe. */
void rvt_host_signal(rvt_host *host, int signo);

/* External actors (not preloaded): count as running except between wait and the moment they are fired. */
int rvt_host_actor_add(rvt_host *host, const char *name); /* -> id */
/* Starts to wait until t_ns of virtual MONOTONIC (INT64_MAX: until somebody else wakes the actor). */
int rvt_host_actor_wait(rvt_host *host, int id, int64_t t_ns);
/* Blocks the calling thread (real time) until the actor was fired: 1 fired, 0 after timeout_ms, -1 run ended. */
int rvt_host_actor_join(rvt_host *host, int id, int timeout_ms);
/* The actor is busy again (its input arrived): cancels the wait. */
int rvt_host_actor_run(rvt_host *host, int id);
int rvt_host_actor_remove(rvt_host *host, int id);

/* While held, the clock does not move. Counted. */
void rvt_host_hold(rvt_host *host);
int rvt_host_release(rvt_host *host); /* -1: not held */

/* Pausing: no jump until resume; step lets n jumps through; run_to stops at t_ns exactly and pauses there. */
void rvt_host_pause(rvt_host *host);
void rvt_host_resume(rvt_host *host);
void rvt_host_step(rvt_host *host, uint32_t jumps);
void rvt_host_run_to(rvt_host *host, int64_t t_ns);

int64_t rvt_host_now_ns(rvt_host *host);
void rvt_host_status_get(rvt_host *host, struct rvt_host_status *status);
/* Fills up to `max` entries, returns how many threads there are. */
int rvt_host_threads(rvt_host *host, struct rvt_host_thread *threads, int max);

#endif
