/* Signals. A handler that interrupts a wait runs program code, so the slot must say "running" meanwhile: every
 * handler is entered through a trampoline that leaves the wait and re-enters it. */
#include "internal.h"

#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As sa_handler or sa_sigaction. */
static void (*handlers[_NSIG])(int, siginfo_t *, void *);
uint64_t rvt_signal_info, rvt_signal_restart;

static void trampoline(int signo, siginfo_t *info, void *context) {
  struct rvt_self *self = &rvt_self_tls;
  struct rvt_slot *slot = self->slot;
  void (*handler)(int, siginfo_t *, void *) = rvt_load(&handlers[signo]);
  if (!slot || rvt_mode != RVT_MODE_MANAGED) {
    handler(signo, info, context);
    return;
  }
  int error = errno;
  uint32_t kind = slot->kind, kick = 0;
  uint64_t what = slot->what;
  int64_t deadline_ns = slot->deadline_ns, since_ns = slot->since_ns;
  uint32_t internal = self->internal;
  bool inside = slot->seq & 1;
  if (inside) kick = rvt_unblock();
  if (internal) __atomic_and_fetch(&slot->flags, ~RVT_FLAG_INTERNAL, __ATOMIC_SEQ_CST);
  self->internal = 0;
  self->polls = self->clock_polls = 0;
  errno = error;
  handler(signo, info, context);
  error = errno;
  if (!(rvt_load(&rvt_signal_restart) & 1ull << (signo - 1))) self->interrupted = true;
  self->internal = internal;
  if (internal) __atomic_or_fetch(&slot->flags, RVT_FLAG_INTERNAL, __ATOMIC_SEQ_CST);
  slot->kind = kind;
  slot->what = what;
  slot->since_ns = since_ns;
  rvt_store_relaxed(&slot->deadline_ns, deadline_ns);
  if (inside) {
    rvt_reblock(kind, kick);
  }
  errno = error;
}

RVT_EXPORT int sigaction(int signo, const struct sigaction *act, struct sigaction *old) {
  if (!rvt_on() || signo < 1 || signo >= _NSIG || signo == SIGKILL || signo == SIGSTOP || rvt_vforked())
    return rvt_real.sigaction(signo, act, old);
  struct sigaction ours, before;
  void (*previous)(int, siginfo_t *, void *) = rvt_load(&handlers[signo]);
  if (act) {
    ours = *act;
    bool default_or_ignore =
        !(act->sa_flags & SA_SIGINFO) && (act->sa_handler == SIG_DFL || act->sa_handler == SIG_IGN);
    if (!default_or_ignore) {
      rvt_store(&handlers[signo], act->sa_sigaction); /* the same word as sa_handler */
      ours.sa_sigaction = trampoline;
      ours.sa_flags |= SA_SIGINFO;
    }
  }
  int result = rvt_real.sigaction(signo, act ? &ours : NULL, &before);
  if (result) return result;
  if (old) {
    *old = before;
    if (before.sa_sigaction == trampoline) {
      old->sa_sigaction = previous;
      if (!rvt_load(&handlers[signo])) old->sa_handler = SIG_DFL;
      if (!(rvt_signal_info & 1ull << (signo - 1))) old->sa_flags &= ~SA_SIGINFO;
    }
  }
  if (act) {
    if (act->sa_flags & SA_RESTART) __atomic_or_fetch(&rvt_signal_restart, 1ull << (signo - 1), __ATOMIC_SEQ_CST);
    else __atomic_and_fetch(&rvt_signal_restart, ~(1ull << (signo - 1)), __ATOMIC_SEQ_CST);
    if (act->sa_flags & SA_SIGINFO) __atomic_or_fetch(&rvt_signal_info, 1ull << (signo - 1), __ATOMIC_SEQ_CST);
    else __atomic_and_fetch(&rvt_signal_info, ~(1ull << (signo - 1)), __ATOMIC_SEQ_CST);
  }
  return 0;
}

RVT_EXPORT sighandler_t signal(int signo, sighandler_t handler) {
  struct sigaction act = {.sa_handler = handler, .sa_flags = SA_RESTART}, old;
  sigemptyset(&act.sa_mask);
  sigaddset(&act.sa_mask, signo);
  return sigaction(signo, &act, &old) ? SIG_ERR : old.sa_handler;
}

/* Signals sent are counted: a sleeping thread is looked at only for a reason, and this is one. */
#define RVT_SEND(name, parameters, arguments) \
  RVT_EXPORT int name parameters {            \
    if (rvt_on()) rvt_effect();               \
    rvt_count_signal();                       \
    int result_ = rvt_real.name arguments;    \
    rvt_count_signal();                       \
    return result_;                           \
  }
RVT_SEND(kill, (pid_t pid, int signo), (pid, signo))
RVT_SEND(killpg, (pid_t group, int signo), (group, signo))
RVT_SEND(tgkill, (pid_t pid, pid_t tid, int signo), (pid, tid, signo))
RVT_SEND(sigqueue, (pid_t pid, int signo, const union sigval value), (pid, signo, value))
RVT_SEND(pthread_kill, (pthread_t thread, int signo), (thread, signo))
RVT_SEND(pthread_sigqueue, (pthread_t thread, int signo, const union sigval value), (thread, signo, value))

/* Waits for signals. */
static int wait_marked(int (*call)(void *), void *arg) {
  rvt_active();
  rvt_block(RVT_WAIT_SIGNAL, RVT_FOREVER_NS, 0);
  int result = call(arg);
  int error = errno;
  rvt_unblock();
  rvt_turn();
  errno = error;
  return result;
}

static int call_pause(void *unused) { return rvt_real.pause(); }
static int call_suspend(void *mask) { return rvt_real.sigsuspend(mask); }

RVT_EXPORT int pause(void) { return rvt_on() ? wait_marked(call_pause, NULL) : rvt_real.pause(); }

RVT_EXPORT int sigsuspend(const sigset_t *mask) {
  return rvt_on() ? wait_marked(call_suspend, (void *)mask) : rvt_real.sigsuspend(mask);
}

/* Timed: a signalfd can be polled together with the kick, and reports without consuming. */
static int wait_signal(const sigset_t *set, siginfo_t *info, int64_t deadline_ns) {
  static const struct timespec now = {0, 0};
  rvt_active();
  int fd = signalfd(-1, set, SFD_NONBLOCK | SFD_CLOEXEC);
  if (fd < 0) return -1;
  int result;
  for (;;) {
    result = rvt_real.sigtimedwait(set, info, &now);
    if (result > 0 || errno != EAGAIN) break;
    struct pollfd one = {.fd = fd, .events = POLLIN};
    int ready = rvt_poll_until(RVT_WAIT_SIGNAL, &one, 1, deadline_ns, NULL, 0);
    if (ready > 0) continue;
    if (ready == 0) errno = EAGAIN;
    result = -1;
    break;
  }
  int error = errno;
  rvt_raw(SYS_close, fd, 0, 0, 0, 0, 0);
  errno = error;
  return result;
}

RVT_EXPORT int sigtimedwait(const sigset_t *set, siginfo_t *info, const struct timespec *t) {
  if (!rvt_on()) return rvt_real.sigtimedwait(set, info, t);
  return wait_signal(set, info, t ? rvt_deadline_after(rvt_ns_of(t)) : RVT_FOREVER_NS);
}

RVT_EXPORT int sigwaitinfo(const sigset_t *set, siginfo_t *info) {
  if (!rvt_on()) return rvt_real.sigwaitinfo(set, info);
  return wait_signal(set, info, RVT_FOREVER_NS);
}

RVT_EXPORT int sigwait(const sigset_t *set, int *signo) {
  if (!rvt_on()) return rvt_real.sigwait(set, signo);
  for (;;) {
    int got = wait_signal(set, NULL, RVT_FOREVER_NS);
    if (got > 0) {
      *signo = got;
      return 0;
    }
    if (errno != EINTR) return errno;
  }
}
