/* The proof that nothing runs, and the kick. VIRTUAL-TIME.md, section 4, has the argument. */
#include "host.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* An announced program that never reported: dead, or unable to load the library. */
static void check_starting(struct rvt_host *host, int index, uint64_t owner) {
  struct rvt_slot *slot = &host->page->slots[index];
  struct rvt_watch *watch = &host->watch[index];
  int64_t now_ns = rvt_real_ns();
  if (watch->generation != (owner >> 8)) {
    rvt_kernel_unwatch(watch);
    watch->generation = owner >> 8;
    watch->first_ns = now_ns;
  }
  int pid = rvt_load(&slot->pid);
  if (pid > 0) {
    char state = rvt_kernel_state(pid, pid);
    if (state == 0 || state == 'Z' || state == 'X') rvt_host_reap(host, index, owner);
    else if (state == 'R' || state == 'D' || now_ns - watch->first_ns < host->options.start_ms * 1000000ll)
      host->last_runnable_real_ns = now_ns; /* a program without our library (static, say) holds the clock */
    return;
  }
  int parent = rvt_load(&slot->parent_pid);
  bool orphan = parent > 0 && rvt_kernel_state(parent, parent) == 0;
  if (orphan || now_ns - watch->first_ns > 5000000000ll) rvt_host_reap(host, index, owner);
}

/* The watch of a slot's thread; false: the thread is gone and the slot was freed. */
static bool watch_slot(struct rvt_host *host, int index, uint64_t owner) {
  struct rvt_slot *slot = &host->page->slots[index];
  struct rvt_watch *watch = &host->watch[index];
  int pid = slot->pid, tid = slot->tid;
  if (watch->generation == (owner >> 8) && watch->pid == pid && watch->tid == tid && watch->wchan_fd >= 0) return true;
  rvt_kernel_unwatch(watch);
  watch->generation = owner >> 8;
  if (rvt_kernel_watch(watch, pid, tid)) {
    host->threads_seen++;
    return true;
  }
  if (errno == ENOENT || errno == ESRCH) rvt_host_reap(host, index, owner);
  return false;
}

static void note_abort(struct rvt_host *host, int index, uint64_t owner, enum rvt_kernel verdict);

static void check_first(struct rvt_host *host, uint32_t at) {
  int32_t index = host->scan[at];
  memmove(&host->scan[1], &host->scan[0], at * sizeof(host->scan[0]));
  host->scan[0] = index;
}

/* Keeps the order of checking a permutation of all slots below slots_high. */
static void extend_scan(struct rvt_host *host) {
  uint32_t high = rvt_load(&host->page->slots_high);
  while (host->scan_count < high) {
    host->scan[host->scan_count] = (int32_t)host->scan_count;
    host->scan_count++;
  }
}

struct first_look {
  int count;    /* quiescent candidates in host->seen */
  int unmarked; /* of them with an even sequence number */
  bool actor_works;
  bool busy;
};

/* Who gave up waiting for a turn or a round just as it was given must not find it in the next wait. */
static void withdraw_late_kick(struct rvt_slot *slot) {
  uint32_t kick = rvt_load(&slot->kick), kind = slot->kind & 0xff;
  bool late = (kick == RVT_KICK_TURN && kind != RVT_WAIT_TURN) ||
              (kick == RVT_KICK_ROUND && kind != RVT_WAIT_SPIN && kind != RVT_WAIT_CLOCK);
  if (late) __atomic_compare_exchange_n(&slot->kick, &kick, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static struct first_look look(struct rvt_host *host) {
  struct first_look found = {0};
  host->ending = false;
  extend_scan(host);
  for (uint32_t at = 0; at < host->scan_count; at++) {
    int index = host->scan[at];
    struct rvt_slot *slot = &host->page->slots[index];
    uint64_t owner = rvt_load(&slot->owner);
    switch (RVT_STATE(owner)) {
    case RVT_SLOT_FREE: continue;
    case RVT_SLOT_STARTING:
    case RVT_SLOT_SPAWNING:
      check_starting(host, index, owner);
      found.busy = true;
      continue;
    case RVT_SLOT_EXITING:
      if (watch_slot(host, index, owner) && rvt_kernel_marked(&host->watch[index]) == RVT_KERNEL_GONE)
        rvt_host_reap(host, index, owner);
      else host->last_runnable_real_ns = rvt_real_ns();
      host->ending = found.busy = true;
      continue;
    }
    if (rvt_load(&slot->flags) & RVT_FLAG_INTERNAL) {
      if (watch_slot(host, index, owner) && rvt_kernel_marked(&host->watch[index]) == RVT_KERNEL_GONE)
        rvt_host_reap(host, index, owner);
      host->last_runnable_real_ns = rvt_real_ns();
      found.busy = true;
      continue;
    }
    uint32_t seq = rvt_load(&slot->seq);
    if (seq & 1) withdraw_late_kick(slot);
    if (rvt_load(&slot->kick)) {
      if (seq & 1) found.busy = true; /* fired, not answered yet */
      if ((seq & 1) && RVT_STATE(owner) == RVT_SLOT_LIVE && watch_slot(host, index, owner)) {
        enum rvt_kernel verdict = rvt_kernel_marked(&host->watch[index]);
        if (verdict == RVT_KERNEL_GONE) rvt_host_reap(host, index, owner);
        else if (verdict != RVT_KERNEL_BLOCKED) note_abort(host, index, owner, verdict);
      }
      if (seq & 1) continue;
    }
    if (!(seq & 1)) {
      if (RVT_STATE(owner) == RVT_SLOT_ACTOR) {
        host->last_runnable_real_ns = rvt_real_ns();
        found.actor_works = true;
        found.busy |= !host->page->turns;
      }
      found.unmarked++;
    }
    host->seen[found.count++] = (struct rvt_seen){.index = index, .seq = seq, .owner = owner};
  }
  return found;
}

static void note_abort(struct rvt_host *host, int index, uint64_t owner, enum rvt_kernel verdict) {
  if (verdict == RVT_KERNEL_GONE) rvt_host_reap(host, index, owner);
  if (verdict == RVT_KERNEL_RUNNING) host->last_runnable_real_ns = rvt_real_ns();
  if (verdict == RVT_KERNEL_STOPPED) { /* freezes the world; somebody debugs */
    int64_t now_ns = rvt_real_ns();
    if (!host->stopped_since_ns) host->stopped_since_ns = now_ns;
    if (now_ns - host->stopped_since_ns < RVT_STOPPED_MOST_NS) host->last_runnable_real_ns = now_ns;
  } else host->stopped_since_ns = 0;
  for (uint32_t at = 0; at < host->scan_count; at++)
    if (host->scan[at] == index) {
      check_first(host, at);
      break;
    }
}

/* What ends waits of kind COUNTED: a kick (the first look sees it), a signal from within the run, a wake of the object.
 * Whoever does one of these counts it before and after, and is itself seen running meanwhile. A signal from outside the
 * run, and a kill, are noticed by the next look at all. */
static uint32_t wakes_of(struct rvt_host *host, const struct rvt_slot *slot) {
  return rvt_load(&host->page->wakes[rvt_wake_index(slot->pid, slot->what)]);
}

/* Has the kernel called the thread asleep in this very wait, and did nothing since that could have ended it? Reading
 * the kernel is most of what a proof costs, and most threads of a server sleep in pools that nobody uses. */
static bool still_asleep(struct rvt_host *host, const struct rvt_slot *slot, struct rvt_watch *watch, uint32_t seq) {
  return watch->asleep && watch->asleep_seq == seq && !host->look_at_all && (slot->kind & RVT_WAIT_COUNTED) &&
         watch->asleep_signals == rvt_load(&host->page->signals) && watch->asleep_wakes == wakes_of(host, slot);
}

enum rvt_kernel rvt_proof_look(struct rvt_host *host, int i) {
  const struct rvt_seen *seen = &host->seen[i];
  const struct rvt_slot *slot = &host->page->slots[seen->index];
  struct rvt_watch *watch = &host->watch[seen->index];
  watch->asleep_signals = rvt_load(&host->page->signals);
  watch->asleep_wakes = wakes_of(host, slot);
  enum rvt_kernel verdict = rvt_kernel_marked(watch);
  watch->asleep = verdict == RVT_KERNEL_BLOCKED;
  watch->asleep_seq = seen->seq;
  return verdict;
}

/* Most proofs that fail do so at who broke the last one, and these come first: they are read one by one. */
#define RVT_READ_FIRST 6

#define RVT_LOOKS_MOST 3 /* while packets are being delivered */

/* One pass over the kernel: the threads that are marked. OTHER only if nobody else is seen running. */
static enum rvt_kernel pass_marked(struct rvt_host *host, int count, int *culprit) {
  int first = 0, rest = 0, other = -1;
  for (int i = 0; i < count; i++) {
    struct rvt_seen *seen = &host->seen[i];
    if (RVT_STATE(seen->owner) == RVT_SLOT_ACTOR || !(seen->seq & 1)) continue;
    *culprit = i;
    if (!watch_slot(host, seen->index, seen->owner)) return RVT_KERNEL_GONE;
    if (still_asleep(host, &host->page->slots[seen->index], &host->watch[seen->index], seen->seq)) continue;
    if (first++ >= RVT_READ_FIRST) {
      host->readers.batch[rest++] = i;
      continue;
    }
    enum rvt_kernel verdict = rvt_proof_look(host, i);
    if (verdict == RVT_KERNEL_OTHER) other = i; /* go on: somebody may be running */
    else if (verdict != RVT_KERNEL_BLOCKED) return verdict;
  }
  enum rvt_kernel worst = rest ? rvt_readers_read(host, rest, culprit) : RVT_KERNEL_BLOCKED;
  if (worst != RVT_KERNEL_BLOCKED || other < 0) return worst;
  *culprit = other;
  return RVT_KERNEL_OTHER;
}

/* The same over those that are not. */
static enum rvt_kernel pass_unmarked(struct rvt_host *host, int count, bool again, int *culprit) {
  int other = -1;
  for (int i = 0; i < count; i++) {
    struct rvt_seen *seen = &host->seen[i];
    if (RVT_STATE(seen->owner) == RVT_SLOT_ACTOR || seen->seq & 1) continue;
    *culprit = i;
    if (!watch_slot(host, seen->index, seen->owner)) return RVT_KERNEL_GONE;
    enum rvt_kernel verdict = rvt_kernel_unmarked(host, &host->watch[seen->index], again);
    if (verdict == RVT_KERNEL_OTHER) other = i;
    else if (verdict != RVT_KERNEL_BLOCKED) return verdict;
  }
  if (other < 0) return RVT_KERNEL_BLOCKED;
  *culprit = other;
  return RVT_KERNEL_OTHER;
}

/* Unmarked threads are read before and after all others: one of them that ran in between shows in its run count, one
 * that was woken in between shows as running. This is the first time. */
static enum rvt_kernel pass(struct rvt_host *host, const struct first_look *first, int *culprit) {
  enum rvt_kernel verdict = RVT_KERNEL_BLOCKED;
  if (first->unmarked) verdict = pass_unmarked(host, first->count, false, culprit);
  return verdict != RVT_KERNEL_BLOCKED ? verdict : pass_marked(host, first->count, culprit);
}

/* P2: the same threads in the same waits. */
static bool unchanged(struct rvt_host *host, int count) {
  struct rvt_page *page = host->page;
  int used = 0;
  uint32_t high = rvt_load(&page->slots_high);
  for (uint32_t i = 0; i < high; i++) used += RVT_STATE(rvt_load(&page->slots[i].owner)) != RVT_SLOT_FREE;
  if (used != count) return false;
  for (int i = 0; i < count; i++) {
    struct rvt_seen *seen = &host->seen[i];
    struct rvt_slot *slot = &page->slots[seen->index];
    if (rvt_load(&slot->owner) != seen->owner || rvt_load(&slot->seq) != seen->seq) return false;
    if ((seen->seq & 1) && rvt_load(&slot->kick)) return false;
  }
  return true;
}

static enum rvt_proof aborted(struct rvt_host *host, int culprit, enum rvt_kernel verdict) {
  host->aborts++;
  struct rvt_seen *seen = &host->seen[culprit];
  note_abort(host, seen->index, seen->owner, verdict);
  return verdict == RVT_KERNEL_OTHER ? RVT_UNCERTAIN : RVT_BUSY;
}

/* Armed timers are waits without a thread; their index follows the slots'. */
static void add_timers(struct rvt_host *host, struct rvt_view *views, int *count) {
  struct rvt_page *page = host->page;
  uint32_t high = rvt_load(&page->timers_high);
  host->externals = 0;
  for (uint32_t i = 0; i < high; i++) {
    struct rvt_timer *timer = &page->timers[i];
    uint32_t kind = rvt_load(&timer->kind);
    host->externals += kind == RVT_TIMER_EXTERNAL;
    int64_t deadline_ns = rvt_load(&timer->deadline_ns);
    if ((kind != RVT_TIMER_SIGNAL && kind != RVT_TIMER_FD) || deadline_ns == RVT_FOREVER_NS) continue;
    views[(*count)++] = (struct rvt_view){.deadline_ns = deadline_ns,
                                          .order = timer->order,
                                          .kind = RVT_WAIT_SLEEP,
                                          .index = (int32_t)(RVT_MAX_SLOTS + i)};
  }
}

enum rvt_proof rvt_prove(struct rvt_host *host, struct rvt_view *views, int *count) {
  host->packets = false;
  int64_t real_ns = rvt_real_ns();
  host->look_at_all = real_ns - host->looked_real_ns > RVT_LOOK_AT_ALL_NS;
  struct first_look first = look(host);
  if (first.busy) return RVT_BUSY;
  int culprit = 0;
  enum rvt_kernel verdict;
  enum rvt_packets packets = RVT_PACKETS_MOVED;
  for (int looks = 0; packets == RVT_PACKETS_MOVED && looks < RVT_LOOKS_MOST; looks++) {
    if ((verdict = pass(host, &first, &culprit)) != RVT_KERNEL_BLOCKED) return aborted(host, culprit, verdict);
    packets = rvt_packets_look(host);
  }
  if (rvt_packets_strangers(host, packets)) packets = RVT_PACKETS_NONE;
  if ((host->packets = packets != RVT_PACKETS_NONE)) {
    host->aborts++;
    host->last_runnable_real_ns = rvt_real_ns();
    return RVT_BUSY;
  }
  if (first.unmarked && (verdict = pass_unmarked(host, first.count, true, &culprit)) != RVT_KERNEL_BLOCKED)
    return aborted(host, culprit, verdict);
  if (!unchanged(host, first.count)) {
    host->aborts++;
    host->last_runnable_real_ns = rvt_real_ns();
    return RVT_BUSY;
  }
  if (host->look_at_all) host->looked_real_ns = real_ns;
  if (first.unmarked) host->slow_proofs++;
  host->unmarked = (uint32_t)first.unmarked;
  /* The hint is a hint: every proof puts it right. */
  rvt_store(&host->page->running, first.unmarked);
  rvt_store(&host->page->idle_level, first.unmarked);
  *count = 0;
  for (int i = 0; i < first.count; i++) {
    struct rvt_seen *seen = &host->seen[i];
    struct rvt_slot *slot = &host->page->slots[seen->index];
    bool marked = seen->seq & 1;
    views[(*count)++] = (struct rvt_view){
        .deadline_ns = marked ? rvt_load(&slot->deadline_ns) : RVT_FOREVER_NS,
        .turn = marked ? slot->what : 0,
        .order = slot->order,
        .events = slot->events,
        .kind = marked ? slot->kind & 0xff : 0,
        .index = seen->index,
    };
  }
  add_timers(host, views, count);
  return first.actor_works ? RVT_STILL : RVT_PROVED;
}

static int thread_eventfd(struct rvt_host *host, int index) {
  struct rvt_slot *slot = &host->page->slots[index];
  struct rvt_watch *watch = &host->watch[index];
  uint32_t version = rvt_load(&slot->evfd_version);
  if (watch->evfd >= 0 && watch->evfd_version == version) return watch->evfd;
  if (watch->evfd >= 0) close(watch->evfd);
  int pidfd = (int)syscall(SYS_pidfd_open, slot->pid, 0);
  watch->evfd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, slot->evfd, 0);
  if (pidfd >= 0) close(pidfd);
  watch->evfd_version = version;
  return watch->evfd;
}

/* The signal or the descriptor makes a thread runnable inside our call, as any other event does. */
static void fire_timer(struct rvt_host *host, struct rvt_timer *timer) {
  host->fires++;
  __atomic_add_fetch(&host->page->signals, 1, __ATOMIC_SEQ_CST);
  int64_t now_ns = host->core.now_ns;
  int64_t next_ns = timer->interval_ns > 0 ? timer->deadline_ns + timer->interval_ns : RVT_FOREVER_NS;
  rvt_store(&timer->deadline_ns, next_ns < now_ns ? now_ns : next_ns);
  if (timer->kind == RVT_TIMER_FD) {
    int pidfd = (int)syscall(SYS_pidfd_open, timer->pid, 0);
    int fd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, timer->fd, 0);
    uint64_t one = 1;
    bool lost = fd < 0 || write(fd, &one, sizeof(one)) != sizeof(one);
    if (fd >= 0) close(fd);
    if (pidfd >= 0) close(pidfd);
    if (lost) rvt_store(&timer->deadline_ns, RVT_FOREVER_NS);
    return;
  }
  if (!timer->signo) return;
  siginfo_t info = {.si_signo = timer->signo, .si_code = SI_TIMER};
  info.si_value.sival_ptr = (void *)timer->value;
  long failed = timer->tid ? syscall(SYS_rt_tgsigqueueinfo, timer->pid, timer->tid, timer->signo, &info)
                           : syscall(SYS_rt_sigqueueinfo, timer->pid, timer->signo, &info);
  if (failed && errno == ESRCH) { /* its process is gone */
    rvt_store(&timer->deadline_ns, RVT_FOREVER_NS);
    rvt_store(&timer->kind, RVT_TIMER_FREE);
  }
}

void rvt_fire(struct rvt_host *host, const struct rvt_view *view, uint32_t kick) {
  if (view->index >= RVT_MAX_SLOTS) {
    fire_timer(host, &host->page->timers[view->index - RVT_MAX_SLOTS]);
    return;
  }
  struct rvt_slot *slot = &host->page->slots[view->index];
  if (kick == RVT_KICK_FIRED) {
    slot->fired++;
    host->fires++;
  }
  bool by_eventfd = slot->kind & RVT_WAIT_EVENTFD;
  int fd = by_eventfd ? thread_eventfd(host, view->index) : -1;
  rvt_store(&slot->kick, kick);
  if (by_eventfd) {
    uint64_t one = 1;
    if (write(fd, &one, sizeof(one)) < 0) {
    } /* the thread is going away: the next proof sees it */
  } else {
    syscall(SYS_futex, &slot->kick, FUTEX_WAKE, 1, NULL, NULL, 0);
  }
  if (RVT_STATE(slot->owner) == RVT_SLOT_ACTOR) {
    __atomic_add_fetch(&host->actor_wake, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &host->actor_wake, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT32_MAX, NULL, NULL, 0);
  }
}
