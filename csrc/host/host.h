/* What the files of csrc/host share. */
#ifndef RVT_HOST_INTERNAL_H
#define RVT_HOST_INTERNAL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core.h"
#include "rvt_abi.h"
#include "rvt_host.h"

#define rvt_load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define rvt_store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define RVT_STATE(owner) ((uint32_t)((owner) & 0xff))

#define RVT_MAX_SOFTIRQ 1024
#define RVT_MAX_SPAWNED 256
#define RVT_STOPPED_MOST_NS 30000000000ll   /* a stopped process may hold the run so long */
#define RVT_LOOK_AT_ALL_NS 20000000ll       /* so often every thread is looked at: one that was killed is noticed */
#define RVT_UNCERTAIN_MOST_NS 20000000ll    /* after so long without a proof, turns are given without one */
#define RVT_EXTERNAL_MOST_NS 120000000000ll /* peers outside may hold the clock so long in all */

/* What the coordinator knows of a slot beyond the page. Valid while `owner_gen` matches. */
struct rvt_watch {
  uint64_t generation;
  int32_t pid, tid;
  int wchan_fd;     /* /proc/<pid>/task/<tid>/wchan, -1 */
  int syscall_fd;   /* .../syscall, opened when needed, -1 */
  int schedstat_fd; /* opened for unmarked threads only, -1 */
  uint64_t runs;    /* schedstat run count of an unmarked thread */
  int evfd;         /* our copy of the thread's eventfd, -1 */
  uint32_t evfd_version;
  int64_t first_ns; /* host time at which the slot was first seen in its present starting state */
  /* The wait in which the kernel last called the thread asleep, and what would have ended it: see still_asleep. */
  bool asleep;
  uint32_t asleep_seq, asleep_wakes, asleep_signals;
};

/* A ksoftirqd thread. */
struct rvt_softirq {
  int fd; /* its wchan or, where that says nothing, its stat */
  bool by_wchan;
  int schedstat_fd; /* -1 */
  uint64_t runs;    /* schedstat run count, as last seen */
};

/* One slot in one proof. */
struct rvt_seen {
  int32_t index;
  uint32_t seq;
  uint64_t owner;
};

struct rvt_spawned {
  int32_t pid;
  int32_t status;
  bool ended;
};

/* The threads that the present proof has to ask the kernel about, and who asks. */
struct rvt_readers {
  struct rvt_host *host;
  bool on; /* there is a second thread */
  pthread_t thread;
  int32_t batch[RVT_MAX_SLOTS]; /* indices into host->seen */
  uint8_t verdicts[RVT_MAX_SLOTS];
  int count, next;
  uint32_t batches; /* futex */
  uint32_t open, inside, stop;
};

#define RVT_AWAKE_MOST 16 /* CPUs */

struct rvt_awake {
  int count;
  pthread_t threads[RVT_AWAKE_MOST];
  int64_t until_ns;        /* real; spin until then */
  int64_t last_ns;         /* the last hand-over */
  uint32_t called, dozing; /* a futex, and who waits at it */
  uint32_t stop;
};

struct rvt_host {
  struct rvt_host_options options;
  struct rvt_page *page;
  int page_fd;
  int life_pipe[2];
  char page_path[64];
  struct rvt_core core;
  int64_t start_ns;      /* virtual */
  int64_t real_start_ns; /* host */
  pthread_mutex_t lock;  /* of everything that API calls share with the loop */

  /* init process */
  int init_pid;
  int init_socket;
  char *spawn_area; /* shared with init */
  struct rvt_spawned spawned[RVT_MAX_SPAWNED];
  int spawned_count;
  int main_pid;

  /* the loop */
  struct rvt_watch watch[RVT_MAX_SLOTS];
  int32_t scan[RVT_MAX_SLOTS]; /* slots in the order of checking: whoever broke a proof comes first */
  uint32_t scan_count;
  struct rvt_seen seen[RVT_MAX_SLOTS];
  struct rvt_readers readers;
  struct rvt_awake awake;
  struct rvt_softirq softirq[RVT_MAX_SOFTIRQ];
  int softirq_count;
  int softnet_fd;
  uint64_t delivered; /* packets, as last seen in softnet_stat */
  uint32_t spoilt;    /* proofs in a row that failed because packets were delivered during every look */
  int64_t last_jump_real_ns, last_runnable_real_ns, idle_since_real_ns;
  int64_t backoff_ns;
  int64_t looked_real_ns; /* when a proof last asked the kernel about every thread */
  bool look_at_all;       /* this proof does */
  int64_t stopped_since_ns, uncertain_since_ns;
  uint32_t externals;       /* open conversations with peers outside the run */
  int64_t external_mark_ns; /* real time up to which the clock has followed them; 0 = something ran since */
  int64_t external_waited_ns;
  bool packets;      /* the last proof failed only because packets may be under way, perhaps those of strangers */
  bool ending;       /* threads on their way out, whose end nobody announces */
  uint32_t leavers;  /* of the page, as last seen */
  uint32_t unmarked; /* threads accepted by the slow proof the last time */
  uint64_t jumps, fires, rounds, turns, aborts, slow_proofs, proof_ns, threads_seen;

  /* control */
  int stop;
  char stop_text[256];
  uint32_t holds;
  bool paused;
  uint32_t steps;
  int64_t run_to_ns;
  uint32_t actors;
  uint32_t actor_wake; /* futex: bumped when an actor was fired or the run ended */
  int32_t ended;       /* enum rvt_host_reason */
};

int64_t rvt_real_ns(void);
int rvt_host_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* kernel.c: what the kernel says about a thread. */
enum rvt_kernel {
  RVT_KERNEL_BLOCKED, /* in a call that waits, and not runnable */
  RVT_KERNEL_RUNNING,
  RVT_KERNEL_OTHER,   /* not runnable, in a call from which it may return by itself */
  RVT_KERNEL_STOPPED, /* SIGSTOP or a debugger */
  RVT_KERNEL_GONE,
};
bool rvt_kernel_watch(struct rvt_watch *watch, int pid, int tid);
void rvt_kernel_unwatch(struct rvt_watch *watch);
enum rvt_kernel rvt_kernel_marked(struct rvt_watch *watch);
enum rvt_kernel rvt_kernel_unmarked(struct rvt_host *host, struct rvt_watch *watch, bool again);
void rvt_kernel_describe(int pid, int tid, char *text, size_t bytes);
char rvt_kernel_state(int pid, int tid); /* R S D T Z..., 0 = gone */
void rvt_kernel_try_wchan(int pid);      /* with a process that sleeps */
int rvt_open_task(int pid, int tid, const char *what);
void rvt_kernel_name(int pid, int tid, char *name, size_t bytes);

/* packets.c */
enum rvt_packets {
  RVT_PACKETS_NONE,
  RVT_PACKETS_MOVED, /* some were delivered since the last look: whoever was seen asleep may be awake */
  RVT_PACKETS_WAIT,
};
void rvt_packets_find(struct rvt_host *host);
void rvt_packets_close(struct rvt_host *host);
enum rvt_packets rvt_packets_look(struct rvt_host *host);
/* After the last look of a proof: whether packets that were delivered meanwhile must be taken for somebody else's. */
bool rvt_packets_strangers(struct rvt_host *host, enum rvt_packets packets);

/* init.c: the process above the tree. */
int rvt_init_start(struct rvt_host *host);
int rvt_init_spawn(struct rvt_host *host, const char *const *argv, const char *const *env, const char *cwd,
                   const int fds[3], int slot);
int rvt_init_collect(struct rvt_host *host); /* -1: init itself is gone */
int rvt_init_kill_tree(struct rvt_host *host);
bool rvt_init_tree_empty(struct rvt_host *host);

/* slots of the page, from the coordinator's side */
struct rvt_slot *rvt_host_slot(struct rvt_host *host, enum rvt_slot_state state, uint64_t order);
bool rvt_host_reap(struct rvt_host *host, int index, uint64_t owner);
void rvt_host_poke(struct rvt_host *host);
void rvt_host_sleep(struct rvt_host *host, uint32_t futex, int64_t limit_ns);

/* proof.c */
enum rvt_proof {
  RVT_PROVED,    /* views filled in */
  RVT_STILL,     /* the same, but an actor works: nobody is fired, turns are given */
  RVT_BUSY,      /* something runs, starts, ends or has not answered its kick */
  RVT_UNCERTAIN, /* nothing runs, yet a thread waits in a call that proves nothing */
};
enum rvt_proof rvt_prove(struct rvt_host *host, struct rvt_view *views, int *count);
void rvt_fire(struct rvt_host *host, const struct rvt_view *view, uint32_t kick);

enum rvt_kernel rvt_proof_look(struct rvt_host *host, int i); /* of host->seen; any thread */

/* awake.c */
void rvt_awake_start(struct rvt_host *host);
void rvt_awake_end(struct rvt_host *host);
void rvt_awake_handed_over(struct rvt_host *host);

/* readers.c: asks about readers->batch[0..count). */
void rvt_readers_start(struct rvt_host *host);
void rvt_readers_end(struct rvt_host *host);
enum rvt_kernel rvt_readers_read(struct rvt_host *host, int count, int *culprit);

/* report.c */
void rvt_trace(struct rvt_host *host, const struct rvt_view *view, const char *what);
void rvt_report(struct rvt_host *host, char *text, size_t bytes);

#endif
