/* The waits. A timed wait is an untimed one plus a kick: the coordinator is the only source of time-outs. */
#include "internal.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/futex.h>

#ifndef FUTEX2_SIZE_U32
#define FUTEX2_SIZE_U32 0x02
#define FUTEX2_PRIVATE FUTEX_PRIVATE_FLAG
#endif
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
struct rvt_waitv {
  uint64_t val, uaddr;
  uint32_t flags, reserved;
};

void rvt_block(int kind, int64_t deadline_ns, uint64_t what) {
  struct rvt_slot *slot = rvt_self_tls.slot;
  struct rvt_page *page = rvt_the_page;
  if (rvt_charging() && page->policy == RVT_POLICY_MEASURED) rvt_charge_account();
  slot->kind = (uint32_t)kind;
  slot->what = what;
  slot->since_ns = rvt_clock_ns();
  if ((kind & 0xff) < RVT_WAIT_SPIN) {
    slot->waits++;
    slot->events++;
  }
  rvt_store_relaxed(&slot->kick, 0);
  rvt_store_relaxed(&slot->deadline_ns, deadline_ns);
  __atomic_store_n(&slot->seq, slot->seq + 1, __ATOMIC_SEQ_CST);
  int left = __atomic_sub_fetch(&page->running, 1, __ATOMIC_SEQ_CST);
  if (left <= rvt_load(&page->idle_level)) rvt_coordinator_wake();
}

uint32_t rvt_unblock(void) {
  struct rvt_slot *slot = rvt_self_tls.slot;
  __atomic_add_fetch(&rvt_the_page->running, 1, __ATOMIC_SEQ_CST);
  __atomic_store_n(&slot->seq, slot->seq + 1, __ATOMIC_SEQ_CST);
  rvt_store_relaxed(&slot->deadline_ns, RVT_FOREVER_NS);
  if (rvt_charging() && rvt_the_page->policy == RVT_POLICY_MEASURED) rvt_charge_mark();
  return __atomic_exchange_n(&slot->kick, 0, __ATOMIC_SEQ_CST);
}

/* After a signal handler: the interrupted wait goes on. A kick that came before the handler is not lost. Sleeps
 * and other timed futex waits end with EINTR as they do natively, even where the kernel restarts the call. */
void rvt_reblock(uint32_t kind, uint32_t kick) {
  struct rvt_slot *slot = rvt_self_tls.slot;
  if (!kick && !(kind & RVT_WAIT_EVENTFD) && slot->deadline_ns != RVT_FOREVER_NS) kick = RVT_KICK_SIGNAL;
  rvt_store(&slot->kick, kick);
  __atomic_store_n(&slot->seq, slot->seq + 1, __ATOMIC_SEQ_CST);
  if (kick && (kind & RVT_WAIT_EVENTFD)) {
    uint64_t one = 1;
    rvt_raw(SYS_write, rvt_self_tls.evfd, (long)&one, sizeof(one), 0, 0, 0);
  }
  int left = __atomic_sub_fetch(&rvt_the_page->running, 1, __ATOMIC_SEQ_CST);
  if (left <= rvt_load(&rvt_the_page->idle_level)) rvt_coordinator_wake();
}

int64_t rvt_deadline_after(int64_t delay_ns) {
  int64_t now = rvt_local_ns();
  if (delay_ns <= 0) return now;
  return delay_ns > RVT_FOREVER_NS - now ? RVT_FOREVER_NS : now + delay_ns;
}

int64_t rvt_absolute_ns(clockid_t clock, const struct timespec *t) {
  int64_t ns = rvt_ns_of(t);
  if (ns == RVT_FOREVER_NS) return ns;
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI)
    ns -= rvt_the_page->realtime_offset_ns;
  return ns;
}

static int wait_kick(const struct timespec *real_limit) {
  struct rvt_slot *slot = rvt_self_tls.slot;
  return (int)-rvt_raw(SYS_futex, (long)&slot->kick, FUTEX_WAIT, 0, (long)real_limit, 0, 0);
}

int rvt_sleep_until(int kind, int64_t deadline_ns, uint64_t what, bool interruptible) {
  if (interruptible) rvt_test_cancel();
  while (rvt_local_ns() < deadline_ns) {
    rvt_block(kind | RVT_WAIT_COUNTED, deadline_ns, what);
    int error = wait_kick(NULL);
    uint32_t kick = rvt_unblock();
    rvt_active();
    if (((error == EINTR && !kick) || kick == RVT_KICK_SIGNAL) && interruptible) {
      rvt_test_cancel();
      return EINTR;
    }
  }
  return 0;
}

void rvt_sleep_clock(int kind, int64_t clock_ns) {
  while (rvt_clock_ns() < clock_ns) {
    rvt_block(kind | RVT_WAIT_COUNTED, clock_ns, 0);
    wait_kick(NULL);
    rvt_unblock();
  }
}

int rvt_futex_until(int kind, uint32_t *word, uint32_t expected, bool is_private, int64_t deadline_ns) {
  return rvt_futex_limited(kind, word, expected, is_private, deadline_ns, 0);
}

int rvt_futex_limited(int kind, uint32_t *word, uint32_t expected, bool is_private, int64_t deadline_ns,
                      int64_t real_limit_ns) {
  struct rvt_slot *slot = rvt_self_tls.slot;
  rvt_active();
  for (;;) {
    bool timed = deadline_ns != RVT_FOREVER_NS;
    if (timed && rvt_local_ns() >= deadline_ns) return ETIMEDOUT;
    long result;
    rvt_block(kind, deadline_ns, (uint64_t)word);
    if (timed) {
      struct rvt_waitv waits[2] = {
          {expected, (uint64_t)word, FUTEX2_SIZE_U32 | (is_private ? FUTEX2_PRIVATE : 0), 0},
          {0, (uint64_t)&slot->kick, FUTEX2_SIZE_U32, 0},
      };
      struct timespec limit = rvt_timespec(real_limit_ns ? rvt_host_ns() + real_limit_ns : 0);
      result = rvt_raw(SYS_futex_waitv, (long)waits, 2, 0, real_limit_ns ? (long)&limit : 0, CLOCK_MONOTONIC, 0);
    } else {
      result = rvt_raw(SYS_futex, (long)word, FUTEX_WAIT | (is_private ? FUTEX_PRIVATE_FLAG : 0), expected, 0, 0, 0);
    }
    uint32_t kick = rvt_unblock();
    if (result == -ETIMEDOUT && !kick) return ETIMEDOUT;
    if (result == -ENOSYS) rvt_fail("futex_waitv is missing: Linux 5.16 or later is needed");
    if ((result == -EINTR && !kick) || kick == RVT_KICK_SIGNAL) return EINTR;
    if (!kick) rvt_turn();
    if (result == 0 || __atomic_load_n(word, __ATOMIC_SEQ_CST) != expected) return 0;
    if (result < 0 && result != -EAGAIN && result != -EINTR) return (int)-result;
    if (timed && result == 1) continue; /* kicked: the loop looks at the clock */
    if (result == 0) return 0;
  }
}

static void drain(int fd) {
  uint64_t count;
  rvt_raw(SYS_read, fd, (long)&count, sizeof(count), 0, 0, 0);
}

static long real_ppoll(struct pollfd *fds, nfds_t count, const sigset_t *mask) {
  return rvt_raw(SYS_ppoll, (long)fds, (long)count, 0, (long)mask, _NSIG / 8, 0);
}

static long ready_now(struct pollfd *fds, nfds_t count) {
  struct timespec zero = {0, 0};
  return rvt_raw(SYS_ppoll, (long)fds, (long)count, (long)&zero, 0, 0, 0);
}

/* What is ready when the turn comes, not what was ready first; 0: others took it. */
static long ready_in_turn(struct pollfd *fds, nfds_t count, long ready) {
  return rvt_turn() ? ready_now(fds, count) : ready;
}

#define RVT_STACK_FDS 64

int rvt_poll_until(int kind, struct pollfd *fds, nfds_t count, int64_t deadline_ns, const sigset_t *mask,
                   uint64_t what) {
  rvt_active();
  rvt_test_cancel();
  if (deadline_ns == RVT_FOREVER_NS && !rvt_the_page->turns) {
    rvt_block(kind, deadline_ns, what);
    long result = real_ppoll(fds, count, mask);
    rvt_unblock();
    if (result >= 0) return (int)result;
    errno = (int)-result;
    return -1;
  }
  struct pollfd few[RVT_STACK_FDS + 1];
  struct pollfd *all = few;
  if (count > RVT_STACK_FDS && !(all = __builtin_alloca((count + 1) * sizeof(*all)))) return -1;
  if (count) memcpy(all, fds, count * sizeof(*all));
  for (;;) {
    int evfd = rvt_eventfd();
    all[count] = (struct pollfd){.fd = evfd, .events = POLLIN};
    rvt_block(kind | RVT_WAIT_EVENTFD, deadline_ns, what);
    long result = real_ppoll(all, count + 1, mask);
    uint32_t kick = rvt_unblock();
    if ((result == -EINTR && !kick) || kick == RVT_KICK_SIGNAL) {
      if (kick) drain(evfd);
      rvt_test_cancel();
      errno = EINTR;
      return -1;
    }
    if (result < 0 && result != -EINTR) {
      errno = (int)-result;
      return -1;
    }
    if (result >= 0 && all[count].revents) {
      if (all[count].revents & POLLNVAL) rvt_self_tls.evfd = -1; /* the program closed all descriptors */
      else drain(evfd);
      result--;
    } else if (kick) {
      drain(evfd);
    }
    if (result > 0 && !kick) result = ready_in_turn(all, count, result);
    if (result > 0) {
      for (nfds_t i = 0; i < count; i++) fds[i].revents = all[i].revents;
      return (int)result;
    }
    if (rvt_local_ns() >= deadline_ns) { /* ready and timed out at once: ready wins */
      long last = ready_now(fds, count);
      return last < 0 ? 0 : (int)last;
    }
  }
}

/* A busy-poller parks until the coordinator gives a round or its hint has come. It lets itself go after some real
 * time, because whatever waits for the coordinator may be waited for by libc code (a fork handler joining a
 * spinning worker). */
static void park(int kind, int64_t deadline_ns) {
  struct rvt_self *self = &rvt_self_tls;
  rvt_settle(); /* others may wait for what this thread wrote into memory that they share */
  self->slot->spins++;
  struct timespec limit = {0, 20 * 1000 * 1000};
  rvt_block(kind, deadline_ns, 0);
  if (rvt_the_page->turns) rvt_await_round(); /* how often it polls must not depend on real time */
  else wait_kick(&limit);
  rvt_unblock();
}

/* A busy-poller that looks at the clock as well may be about to give up at a time that nobody else knows: "until
 * nothing is left of the time-out" is such a loop, and after an exact wake-up it lacks one nanosecond. So the clock
 * creeps for it: 1 us, some fractions of a millisecond, then every 10 ms, in the long run a sixteenth. */
static int64_t creep_ns(int64_t spun_ns) {
  if (spun_ns < 1000) return 1000;
  if (spun_ns < 300 * 1000) return spun_ns * 31;
  return spun_ns < 160 * 1000 * 1000 ? 10 * 1000 * 1000 : spun_ns / 16;
}

void rvt_busy_poll(int64_t hint_ns) {
  struct rvt_self *self = &rvt_self_tls;
  int64_t before_ns = rvt_clock_ns();
  if (hint_ns < self->poll_hint_ns && hint_ns > before_ns) self->poll_hint_ns = hint_ns;
  if (++self->polls < rvt_the_page->spin_polls) return;
  int64_t deadline_ns = self->poll_hint_ns;
  if (self->clock_polls && before_ns + creep_ns(self->clock_spin_ns) < deadline_ns)
    deadline_ns = before_ns + creep_ns(self->clock_spin_ns);
  self->poll_hint_ns = RVT_FOREVER_NS;
  self->clock_polls = 0;
  park(RVT_WAIT_SPIN, deadline_ns);
  self->clock_spin_ns += rvt_clock_ns() - before_ns;
  self->polls = rvt_the_page->spin_polls / 2; /* a round is half as long as the recognition */
}

/* A loop that does nothing but read a frozen clock would never end. The step grows with the time already spun,
 * so that a wait of any length ends at most a sixteenth late. */
void rvt_clock_poll(void) {
  struct rvt_self *self = &rvt_self_tls;
  if (++self->clock_polls < rvt_the_page->clock_polls || rvt_the_page->policy == RVT_POLICY_MEASURED) return;
  int64_t step_ns = self->clock_spin_ns / 16;
  if (step_ns < 1000) step_ns = 1000;
  if (step_ns > 10 * 1000 * 1000) step_ns = 10 * 1000 * 1000;
  int64_t before_ns = rvt_clock_ns();
  park(RVT_WAIT_CLOCK, before_ns + step_ns);
  self->clock_spin_ns += rvt_clock_ns() - before_ns;
  self->clock_polls = rvt_the_page->clock_polls - 2;
}
