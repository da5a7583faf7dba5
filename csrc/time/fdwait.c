/* poll, select, epoll. A first look with a zero time-out, so that ready descriptors cost no slot transition. */
#include "internal.h"

#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int64_t deadline_of_ms(int ms) { return ms < 0 ? RVT_FOREVER_NS : rvt_deadline_after((int64_t)ms * 1000000); }

static int poll_with(struct pollfd *fds, nfds_t count, int64_t deadline_ns, bool zero, const sigset_t *mask) {
  struct timespec now = {0, 0};
  long ready = rvt_raw(SYS_ppoll, (long)fds, (long)count, (long)&now, (long)mask, _NSIG / 8, 0);
  if (ready < 0) {
    errno = (int)-ready;
    return -1;
  }
  if (ready > 0) {
    rvt_active();
    return (int)ready;
  }
  if (zero) {
    rvt_busy_poll(RVT_FOREVER_NS);
    return 0;
  }
  return rvt_poll_until(RVT_WAIT_POLL, fds, count, deadline_ns, mask, count == 1 ? (uint64_t)fds->fd : (uint64_t)-1);
}

RVT_EXPORT int poll(struct pollfd *fds, nfds_t count, int timeout_ms) {
  if (!rvt_on()) return rvt_real.poll(fds, count, timeout_ms);
  return poll_with(fds, count, deadline_of_ms(timeout_ms), timeout_ms == 0, NULL);
}

RVT_EXPORT int __poll_chk(struct pollfd *fds, nfds_t count, int timeout_ms, size_t bytes) {
  if (bytes / sizeof(*fds) < count) abort();
  return poll(fds, count, timeout_ms);
}

RVT_EXPORT int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *t, const sigset_t *mask) {
  if (!rvt_on()) return rvt_real.ppoll(fds, count, t, mask);
  if (t && (t->tv_sec < 0 || rvt_timespec_bad(t))) {
    errno = EINVAL;
    return -1;
  }
  int64_t delay_ns = t ? rvt_ns_of(t) : RVT_FOREVER_NS;
  return poll_with(fds, count, rvt_deadline_after(delay_ns), delay_ns == 0, mask);
}

RVT_EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *t, const sigset_t *mask,
                           size_t bytes) {
  if (bytes / sizeof(*fds) < count) abort();
  return ppoll(fds, count, t, mask);
}

/* select: the wait itself is a poll on the same descriptors; the answer comes from select with a zero time-out. */
static int select_with(int n, fd_set *in, fd_set *out, fd_set *bad, int64_t deadline_ns, bool zero,
                       const sigset_t *mask) {
  if (n < 0) {
    errno = EINVAL;
    return -1;
  }
  if (n > FD_SETSIZE) n = FD_SETSIZE; /* larger sets are not part of the interface */
  fd_set in0, out0, bad0;
  if (in) in0 = *in;
  if (out) out0 = *out;
  if (bad) bad0 = *bad;
  struct pollfd *fds = NULL;
  int count = -1;
  for (;;) {
    struct timespec now = {0, 0};
    int ready = rvt_real.pselect(n, in, out, bad, &now, mask);
    if (ready) {
      if (ready > 0) rvt_active();
      return ready;
    }
    if (zero) {
      rvt_busy_poll(RVT_FOREVER_NS);
      return 0;
    }
    if (rvt_local_ns() >= deadline_ns) return 0;
    if (count < 0) {
      count = 0;
      fds = __builtin_alloca(((size_t)n + 1) * sizeof(*fds));
      for (int fd = 0; fd < n; fd++) {
        short events = (short)((in && FD_ISSET(fd, &in0) ? POLLIN : 0) | (out && FD_ISSET(fd, &out0) ? POLLOUT : 0) |
                               (bad && FD_ISSET(fd, &bad0) ? POLLPRI : 0));
        if (events) fds[count++] = (struct pollfd){.fd = fd, .events = events};
      }
    }
    int woken = rvt_poll_until(RVT_WAIT_SELECT, fds, (nfds_t)count, deadline_ns, mask,
                               count == 1 ? (uint64_t)fds->fd : (uint64_t)-1);
    if (woken < 0) return -1;
    if (woken == 0) return 0; /* the sets are empty already */
    if (in) *in = in0;
    if (out) *out = out0;
    if (bad) *bad = bad0;
  }
}

RVT_EXPORT int select(int n, fd_set *in, fd_set *out, fd_set *bad, struct timeval *t) {
  if (!rvt_on()) return rvt_real.select(n, in, out, bad, t);
  int64_t delay_ns = RVT_FOREVER_NS;
  if (t) {
    if (t->tv_sec < 0 || t->tv_usec < 0) {
      errno = EINVAL;
      return -1;
    }
    delay_ns = t->tv_sec > INT64_MAX / RVT_NS_PER_S - 2
                   ? RVT_FOREVER_NS
                   : (int64_t)t->tv_sec * RVT_NS_PER_S + (int64_t)t->tv_usec * 1000;
  }
  int64_t deadline_ns = rvt_deadline_after(delay_ns);
  int result = select_with(n, in, out, bad, deadline_ns, delay_ns == 0, NULL);
  if (t && delay_ns != RVT_FOREVER_NS) { /* Linux writes the rest back */
    int64_t rest = deadline_ns - rvt_local_ns();
    if (rest < 0) rest = 0;
    *t = (struct timeval){.tv_sec = rest / RVT_NS_PER_S, .tv_usec = rest % RVT_NS_PER_S / 1000};
  }
  return result;
}

RVT_EXPORT int pselect(int n, fd_set *in, fd_set *out, fd_set *bad, const struct timespec *t, const sigset_t *mask) {
  if (!rvt_on()) return rvt_real.pselect(n, in, out, bad, t, mask);
  if (t && (t->tv_sec < 0 || rvt_timespec_bad(t))) {
    errno = EINVAL;
    return -1;
  }
  int64_t delay_ns = t ? rvt_ns_of(t) : RVT_FOREVER_NS;
  return select_with(n, in, out, bad, rvt_deadline_after(delay_ns), delay_ns == 0, mask);
}

static int epoll_with(int epfd, struct epoll_event *events, int max, int64_t deadline_ns, bool zero,
                      const sigset_t *mask) {
  for (;;) {
    int ready = rvt_real.epoll_pwait(epfd, events, max, 0, mask);
    if (ready) {
      if (ready > 0) rvt_active();
      return ready;
    }
    if (zero) {
      rvt_busy_poll(RVT_FOREVER_NS);
      return 0;
    }
    if (rvt_local_ns() >= deadline_ns) return 0;
    if (deadline_ns == RVT_FOREVER_NS && !rvt_the_page->turns) {
      rvt_active();
      rvt_block(RVT_WAIT_EPOLL, deadline_ns, (uint64_t)epfd);
      ready = rvt_real.epoll_pwait(epfd, events, max, -1, mask);
      int error = errno;
      rvt_unblock();
      errno = error;
      return ready;
    }
    struct pollfd fd = {.fd = epfd, .events = POLLIN};
    int woken = rvt_poll_until(RVT_WAIT_EPOLL, &fd, 1, deadline_ns, mask, (uint64_t)epfd);
    if (woken < 0) return -1;
    if (woken == 0) return 0;
  }
}

RVT_EXPORT int epoll_pwait(int epfd, struct epoll_event *events, int max, int timeout_ms, const sigset_t *mask) {
  if (!rvt_on()) return rvt_real.epoll_pwait(epfd, events, max, timeout_ms, mask);
  int64_t delay_ns = timeout_ms < 0 ? RVT_FOREVER_NS : (int64_t)timeout_ms * 1000000;
  if (timeout_ms > 0 && rvt_idle_timer(__builtin_return_address(0), delay_ns)) delay_ns *= rvt_the_page->idle_stretch;
  return epoll_with(epfd, events, max, rvt_deadline_after(delay_ns), timeout_ms == 0, mask);
}

RVT_EXPORT int epoll_wait(int epfd, struct epoll_event *events, int max, int timeout_ms) {
  if (!rvt_on()) return rvt_real.epoll_wait(epfd, events, max, timeout_ms);
  int64_t delay_ns = timeout_ms < 0 ? RVT_FOREVER_NS : (int64_t)timeout_ms * 1000000;
  if (timeout_ms > 0 && rvt_idle_timer(__builtin_return_address(0), delay_ns)) delay_ns *= rvt_the_page->idle_stretch;
  return epoll_with(epfd, events, max, rvt_deadline_after(delay_ns), timeout_ms == 0, NULL);
}

RVT_EXPORT int epoll_pwait2(int epfd, struct epoll_event *events, int max, const struct timespec *t,
                            const sigset_t *mask) {
  if (!rvt_on()) return rvt_real.epoll_pwait2(epfd, events, max, t, mask);
  int64_t delay_ns = t ? rvt_ns_of(t) : RVT_FOREVER_NS;
  return epoll_with(epfd, events, max, rvt_deadline_after(delay_ns), delay_ns == 0, mask);
}
