/* syscall(): the calls through which Rust, C++ runtimes and libuv wait. */
#include "internal.h"

#include <linux/futex.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

static long finish(long result) {
  if (result >= 0 || result < -4095) return result;
  errno = (int)-result;
  return -1;
}

/* futex_waitv has no bit sets, so the kick cannot be waited for together with them: the thread looks for it every
 * real millisecond. Rare. */
static long wait_bitset(uint32_t *word, int op, uint32_t value, uint32_t bits, int64_t deadline_ns) {
  struct rvt_slot *slot = rvt_self_tls.slot;
  long result;
  do {
    if (rvt_local_ns() >= deadline_ns) return -ETIMEDOUT;
    rvt_active();
    rvt_block(RVT_WAIT_FUTEX, deadline_ns, (uint64_t)word);
    do {
      struct timespec limit = rvt_timespec(rvt_host_ns() + 1000000);
      result = rvt_raw(SYS_futex, (long)word, op & ~FUTEX_CLOCK_REALTIME, value,
                       deadline_ns == RVT_FOREVER_NS ? 0 : (long)&limit, 0, bits);
    } while (result == -ETIMEDOUT && !rvt_load(&slot->kick));
    if (!rvt_unblock() && result != -ETIMEDOUT) rvt_turn();
  } while (result == -ETIMEDOUT);
  rvt_take(word);
  return result;
}

static long futex_call(uint32_t *word, int op, uint32_t value, const struct timespec *t, uint32_t *word2,
                       uint32_t value3) {
  int command = op & FUTEX_CMD_MASK;
  bool wait = command == FUTEX_WAIT || command == FUTEX_WAIT_BITSET;
  if (!wait) {
    rvt_self_tls.polls = 0;
    /* A wake: to a thread of this process the time goes along, to another process the clock must catch up. */
    if (op & FUTEX_PRIVATE_FLAG) rvt_hand(word);
    else rvt_settle();
    return finish(rvt_raw(SYS_futex, (long)word, op, value, (long)t, (long)word2, value3));
  }
  int64_t deadline_ns = RVT_FOREVER_NS;
  if (t) {
    if (command == FUTEX_WAIT) deadline_ns = rvt_deadline_after(rvt_ns_of(t));
    else deadline_ns = rvt_absolute_ns(op & FUTEX_CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC, t);
  }
  if (__atomic_load_n(word, __ATOMIC_SEQ_CST) != value) {
    errno = EAGAIN;
    return -1;
  }
  if (command == FUTEX_WAIT_BITSET && value3 != FUTEX_BITSET_MATCH_ANY) {
    return finish(wait_bitset(word, op, value, value3, deadline_ns));
  }
  rvt_active();
  int error = rvt_futex_until(RVT_WAIT_FUTEX, word, value, op & FUTEX_PRIVATE_FLAG, deadline_ns);
  if (!error) rvt_take(word);
  return finish(-error);
}

RVT_EXPORT long syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long), d = va_arg(list, long),
       e = va_arg(list, long), f = va_arg(list, long);
  va_end(list);
  if (!rvt_on()) return finish(rvt_raw(number, a, b, c, d, e, f));
  switch (number) {
  case SYS_futex:
    return futex_call((uint32_t *)a, (int)b, (uint32_t)c, (const struct timespec *)d, (uint32_t *)e, (uint32_t)f);
  case SYS_clock_gettime: return clock_gettime((clockid_t)a, (struct timespec *)b);
  case SYS_gettimeofday: return gettimeofday((struct timeval *)a, (void *)b);
  case SYS_nanosleep: return nanosleep((const struct timespec *)a, (struct timespec *)b);
  case SYS_clock_nanosleep:
    return finish(-clock_nanosleep((clockid_t)a, (int)b, (const struct timespec *)c, (struct timespec *)d));
  case SYS_epoll_pwait: return epoll_pwait((int)a, (struct epoll_event *)b, (int)c, (int)d, (const sigset_t *)e);
#ifdef SYS_epoll_wait
  case SYS_epoll_wait: return epoll_wait((int)a, (struct epoll_event *)b, (int)c, (int)d);
  case SYS_poll: return poll((struct pollfd *)a, (nfds_t)b, (int)c);
  case SYS_time: return time((time_t *)a);
#endif
  case SYS_epoll_pwait2:
    return epoll_pwait2((int)a, (struct epoll_event *)b, (int)c, (const struct timespec *)d, (const sigset_t *)e);
  case SYS_ppoll: return ppoll((struct pollfd *)a, (nfds_t)b, (const struct timespec *)c, (const sigset_t *)d);
  case SYS_sched_yield: return sched_yield();
  case SYS_kill:
  case SYS_tkill:
  case SYS_tgkill:
  case SYS_rt_sigqueueinfo:
  case SYS_rt_tgsigqueueinfo:
  case SYS_pidfd_send_signal: {
    rvt_count_signal();
    long result = rvt_raw(number, a, b, c, d, e, f);
    rvt_count_signal();
    return finish(result);
  }
  case SYS_io_uring_setup: /* completes in kernel threads that no proof can see; libraries fall back */
    errno = ENOSYS;
    return -1;
  default: return finish(rvt_raw(number, a, b, c, d, e, f));
  }
}
