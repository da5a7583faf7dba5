/* Slots: taking, adopting, leaving; threads. */
#include "internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/futex.h>

void rvt_coordinator_wake(void) {
  struct rvt_page *page = rvt_the_page;
  __atomic_add_fetch(&page->coord_futex, 1, __ATOMIC_SEQ_CST);
  if (rvt_load(&page->coord_asleep)) rvt_raw(SYS_futex, (long)&page->coord_futex, FUTEX_WAKE, 1, 0, 0, 0);
}

void rvt_page_running(int delta) { __atomic_add_fetch(&rvt_the_page->running, delta, __ATOMIC_SEQ_CST); }

struct rvt_slot *rvt_slot_take(enum rvt_slot_state state, uint64_t order) {
  struct rvt_page *page = rvt_the_page;
  uint32_t first = rvt_load(&page->slots_hint);
  for (uint32_t n = 0; n < RVT_MAX_SLOTS; n++) {
    uint32_t index = (first + n) % RVT_MAX_SLOTS;
    struct rvt_slot *slot = &page->slots[index];
    uint64_t owner = rvt_load(&slot->owner);
    if (rvt_state_of(owner) != RVT_SLOT_FREE) continue;
    /* SPAWNING with pid -1 while the fields are written: nobody claims, nobody counts it as quiescent. */
    uint64_t taken = ((owner >> 8) + 1) << 8 | RVT_SLOT_STARTING;
    if (!__atomic_compare_exchange_n(&slot->owner, &owner, taken, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) continue;
    rvt_store(&slot->pid, 0);
    slot->tid = 0;
    slot->parent_pid = rvt_pid;
    slot->kind = RVT_WAIT_NONE;
    slot->flags = 0;
    slot->evfd = -1;
    slot->what = 0;
    slot->waits = slot->spins = slot->fired = slot->charged_ns = 0;
    slot->local_ns = rvt_mode == RVT_MODE_MANAGED ? rvt_local_ns() : 0; /* the child begins at its creator's time */
    slot->order = order;
    slot->events++; /* a new owner is a change that busy-pollers may see */
    rvt_store(&slot->deadline_ns, RVT_FOREVER_NS);
    rvt_store(&slot->kick, 0);
    if (slot->seq & 1) rvt_store(&slot->seq, slot->seq + 1);
    rvt_page_running(1);
    uint32_t high = rvt_load(&page->slots_high);
    while (high < index + 1 && !__atomic_compare_exchange_n(&page->slots_high, &high, index + 1, false,
                                                            __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    rvt_store(&page->slots_hint, index + 1);
    if (state != RVT_SLOT_STARTING) rvt_store(&slot->owner, (taken & ~0xffull) | state);
    return slot;
  }
  rvt_fail("more than %d threads in one run", RVT_MAX_SLOTS);
}

void rvt_slot_drop(struct rvt_slot *slot) {
  uint64_t owner = rvt_load(&slot->owner);
  if (__atomic_compare_exchange_n(&slot->owner, &owner, owner & ~0xffull, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
    rvt_page_running(-1);
  rvt_coordinator_wake();
}

void rvt_slot_adopt(struct rvt_slot *slot, int tid, uint32_t flags) {
  struct rvt_self *self = &rvt_self_tls;
  self->slot = slot;
  self->evfd = -1;
  self->polls = self->clock_polls = 0;
  self->poll_hint_ns = RVT_FOREVER_NS;
  self->depth = 0;
  if (self->local_ns < slot->local_ns) self->local_ns = slot->local_ns;
  if (rvt_the_page->policy == RVT_POLICY_MEASURED) rvt_charge_mark();
  slot->evfd = -1;
  slot->flags = flags;
  slot->thread = (uint64_t)pthread_self();
  slot->kind = RVT_WAIT_NONE;
  rvt_store(&slot->deadline_ns, RVT_FOREVER_NS);
  rvt_store(&slot->tid, tid);
  rvt_store(&slot->pid, rvt_pid);
  if (slot->seq & 1) rvt_store(&slot->seq, slot->seq + 1); /* taken over by exec inside a wait: cannot be, but safe */
  uint64_t owner = rvt_load(&slot->owner);
  rvt_store(&slot->owner, (owner & ~0xffull) | RVT_SLOT_LIVE);
}

/* The slot keeps counting as running; the coordinator frees it when the kernel says that the thread is gone.
 * (A joiner is woken by the kernel only then.) */
void rvt_slot_leave(void) {
  struct rvt_slot *slot = rvt_self_tls.slot;
  if (!slot) return;
  uint64_t owner = rvt_load(&slot->owner);
  if (rvt_state_of(owner) != RVT_SLOT_LIVE) return;
  if (!__atomic_compare_exchange_n(&slot->owner, &owner, (owner & ~0xffull) | RVT_SLOT_EXITING, false, __ATOMIC_SEQ_CST,
                                   __ATOMIC_SEQ_CST))
    return;
  __atomic_add_fetch(&rvt_the_page->leavers, 1, __ATOMIC_SEQ_CST);
  rvt_coordinator_wake();
}

/* Identity from the launch path and the creation index: equal in every run, whatever pids come out. */
uint64_t rvt_child_order(void) {
  struct rvt_self *self = &rvt_self_tls;
  uint64_t x = (self->slot ? self->slot->order : 0) + 0x9E3779B97F4A7C15ull * ++self->children;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

struct rvt_slot *rvt_attach(void) {
  if (rvt_vforked()) return NULL;
  struct rvt_slot *slot = rvt_slot_take(RVT_SLOT_STARTING, ~0ull);
  rvt_slot_adopt(slot, (int)rvt_raw(SYS_gettid, 0, 0, 0, 0, 0, 0), 0);
  return slot;
}

/* High numbers, so that a program's own descriptors keep the numbers that they have without us. */
int rvt_eventfd(void) {
  struct rvt_self *self = &rvt_self_tls;
  if (RVT_LIKELY(self->evfd >= 0)) return self->evfd;
  int low = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (low < 0) rvt_fail("no eventfd for a timed wait: %s", strerror(errno));
  struct rlimit limit;
  long base = getrlimit(RLIMIT_NOFILE, &limit) ? 512 : (long)(limit.rlim_cur / 4 * 3);
  if (base > 60000) base = 60000;
  int fd = (int)rvt_raw(SYS_fcntl, low, F_DUPFD_CLOEXEC, base, 0, 0, 0);
  if (fd < 0) fd = low;
  else rvt_raw(SYS_close, low, 0, 0, 0, 0, 0);
  self->evfd = fd;
  self->slot->evfd = fd;
  __atomic_add_fetch(&self->slot->evfd_version, 1, __ATOMIC_SEQ_CST);
  return fd;
}

struct start {
  void *(*function)(void *);
  void *argument;
  struct rvt_slot *slot;
};

static pthread_key_t leave_key;
static pthread_once_t leave_once = PTHREAD_ONCE_INIT;

static void leave_thread(void *slot) {
  struct rvt_self *self = &rvt_self_tls;
  rvt_settle(); /* who joins this thread sees its end */
  if (self->evfd >= 0) rvt_raw(SYS_close, self->evfd, 0, 0, 0, 0, 0);
  self->evfd = -1;
  if (self->slot && self->slot->seq & 1) rvt_unblock(); /* cancelled inside a wait of libc */
  rvt_slot_leave();
  rvt_retry_wake();
}

static void make_leave_key(void) { pthread_key_create(&leave_key, leave_thread); }

static void *run_thread(void *opaque) {
  struct start start = *(struct start *)opaque;
  free(opaque);
  rvt_self_tls.local_ns = rvt_self_tls.seen_ns = start.slot->local_ns;
  rvt_slot_adopt(start.slot, (int)rvt_raw(SYS_gettid, 0, 0, 0, 0, 0, 0), 0);
  pthread_setspecific(leave_key, start.slot);
  rvt_turn();
  return start.function(start.argument);
}

RVT_EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*function)(void *),
                              void *argument) {
  if (!rvt_on()) return rvt_real.pthread_create(thread, attr, function, argument);
  rvt_active();
  rvt_zmq_check();
  pthread_once(&leave_once, make_leave_key);
  struct start *start = malloc(sizeof(*start));
  if (!start) return EAGAIN;
  *start = (struct start){function, argument, rvt_slot_take(RVT_SLOT_STARTING, rvt_child_order())};
  struct rvt_slot *slot = start->slot;
  rvt_store(&slot->pid, rvt_pid);
  int error = rvt_real.pthread_create(thread, attr, run_thread, start);
  if (error) {
    rvt_slot_drop(slot);
    free(start);
  }
  return error;
}
