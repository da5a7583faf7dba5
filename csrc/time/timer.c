/* Timers that act by themselves: timerfd, setitimer, alarm, POSIX timers. The coordinator fires them; here they
 * are entries of the page. A timerfd is an eventfd that the coordinator writes to: reading gives the number of
 * expirations, as the real one does. */
#include "internal.h"

#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct rvt_timer *take(uint32_t kind) {
  struct rvt_page *page = rvt_the_page;
  for (uint32_t i = 0; i < RVT_MAX_TIMERS; i++) {
    struct rvt_timer *timer = &page->timers[i];
    uint32_t unused = RVT_TIMER_FREE;
    if (!__atomic_compare_exchange_n(&timer->kind, &unused, RVT_TIMER_CLAIMED, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST))
      continue;
    timer->deadline_ns = RVT_FOREVER_NS;
    timer->interval_ns = 0;
    timer->pid = rvt_pid;
    timer->tid = 0;
    timer->fd = -1;
    timer->value = 0;
    timer->overruns = 0;
    timer->order = rvt_child_order();
    uint32_t high = rvt_load(&page->timers_high);
    while (high < i + 1 &&
           !__atomic_compare_exchange_n(&page->timers_high, &high, i + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    rvt_store(&timer->kind, kind);
    return timer;
  }
  if (kind == RVT_TIMER_EXTERNAL) return NULL; /* enough others hold the clock */
  rvt_fail("more than %d timers in one run", RVT_MAX_TIMERS);
}

static void drop(struct rvt_timer *timer) {
  rvt_store(&timer->deadline_ns, RVT_FOREVER_NS);
  rvt_store(&timer->kind, RVT_TIMER_FREE);
}

static struct itimerspec left(const struct rvt_timer *timer) {
  int64_t deadline_ns = rvt_load(&timer->deadline_ns);
  int64_t rest_ns = deadline_ns == RVT_FOREVER_NS ? 0 : deadline_ns - rvt_clock_ns();
  if (rest_ns < 0) rest_ns = 0;
  if (deadline_ns != RVT_FOREVER_NS && rest_ns == 0) rest_ns = 1;
  return (struct itimerspec){.it_value = rvt_timespec(rest_ns), .it_interval = rvt_timespec(timer->interval_ns)};
}

static void arm(struct rvt_timer *timer, int64_t deadline_ns, int64_t interval_ns) {
  rvt_store(&timer->deadline_ns, RVT_FOREVER_NS); /* not fired with half of the old and half of the new */
  timer->interval_ns = interval_ns;
  timer->overruns = 0;
  __atomic_add_fetch(&timer->version, 1, __ATOMIC_SEQ_CST);
  rvt_store(&timer->deadline_ns, deadline_ns);
}

static int64_t first_deadline(const struct itimerspec *spec, bool absolute, clockid_t clock) {
  if (spec->it_value.tv_sec == 0 && spec->it_value.tv_nsec == 0) return RVT_FOREVER_NS;
  if (absolute) return rvt_absolute_ns(clock, &spec->it_value);
  return rvt_deadline_after(rvt_ns_of(&spec->it_value));
}

/* timerfd */
#define RVT_TIMERFDS 512
static int external_count;
static struct {
  int fd;
  clockid_t clock;
  struct rvt_timer *timer;
} timerfds[RVT_TIMERFDS];
static int timerfd_count;

static int find(int fd) {
  for (int i = 0; i < timerfd_count; i++)
    if (timerfds[i].timer && timerfds[i].fd == fd && timerfds[i].timer->pid == rvt_pid) return i;
  return -1;
}

RVT_EXPORT int timerfd_create(int clock, int flags) {
  if (!rvt_on()) return rvt_real.timerfd_create(clock, flags);
  int fd = eventfd(0, (flags & TFD_NONBLOCK ? EFD_NONBLOCK : 0) | (flags & TFD_CLOEXEC ? EFD_CLOEXEC : 0));
  if (fd < 0) return -1;
  pthread_mutex_lock(&lock);
  int at = 0;
  while (at < timerfd_count && timerfds[at].timer) at++;
  if (at == RVT_TIMERFDS) rvt_fail("more than %d timerfds in one process", RVT_TIMERFDS);
  struct rvt_timer *timer = take(RVT_TIMER_FD);
  timer->fd = fd;
  timerfds[at].fd = fd;
  timerfds[at].clock = clock;
  rvt_store(&timerfds[at].timer, timer);
  if (at == timerfd_count) rvt_store(&timerfd_count, at + 1);
  pthread_mutex_unlock(&lock);
  return fd;
}

RVT_EXPORT int timerfd_settime(int fd, int flags, const struct itimerspec *spec, struct itimerspec *old) {
  if (!rvt_on()) return rvt_real.timerfd_settime(fd, flags, spec, old);
  int at = find(fd);
  if (at < 0) return rvt_real.timerfd_settime(fd, flags, spec, old);
  if (rvt_timespec_bad(&spec->it_value) || rvt_timespec_bad(&spec->it_interval)) {
    errno = EINVAL;
    return -1;
  }
  rvt_effect();
  struct rvt_timer *timer = timerfds[at].timer;
  if (old) *old = left(timer);
  rvt_store(&timer->deadline_ns, RVT_FOREVER_NS);
  struct pollfd one = {.fd = fd, .events = POLLIN};
  struct timespec now = {0, 0};
  uint64_t expired;
  if (rvt_raw(SYS_ppoll, (long)&one, 1, (long)&now, 0, 0, 0) == 1) rvt_raw(SYS_read, fd, (long)&expired, 8, 0, 0, 0);
  arm(timer, first_deadline(spec, flags & TFD_TIMER_ABSTIME, timerfds[at].clock), rvt_ns_of(&spec->it_interval));
  return 0;
}

RVT_EXPORT int timerfd_gettime(int fd, struct itimerspec *now) {
  if (!rvt_on()) return rvt_real.timerfd_gettime(fd, now);
  int at = find(fd);
  if (at < 0) return rvt_real.timerfd_gettime(fd, now);
  *now = left(timerfds[at].timer);
  return 0;
}

static void external_closed(int fd);
void rvt_timer_closed(int fd) {
  if (RVT_UNLIKELY(rvt_load_relaxed(&external_count) > 0)) external_closed(fd);
  if (RVT_LIKELY(!rvt_load_relaxed(&timerfd_count))) return;
  pthread_mutex_lock(&lock);
  int at = find(fd);
  if (at >= 0) {
    drop(timerfds[at].timer);
    rvt_store(&timerfds[at].timer, NULL);
  }
  pthread_mutex_unlock(&lock);
}

/* Peers outside the run. */
void rvt_external_open(int fd) {
  struct rvt_timer *timer = take(RVT_TIMER_EXTERNAL);
  if (!timer) return;
  timer->fd = fd;
  __atomic_add_fetch(&external_count, 1, __ATOMIC_SEQ_CST);
}

static void external_closed(int fd) {
  struct rvt_page *page = rvt_the_page;
  for (uint32_t i = 0; i < rvt_load(&page->timers_high); i++) {
    struct rvt_timer *timer = &page->timers[i];
    if (rvt_load(&timer->kind) != RVT_TIMER_EXTERNAL || timer->pid != rvt_pid || timer->fd != fd) continue;
    drop(timer);
    __atomic_sub_fetch(&external_count, 1, __ATOMIC_SEQ_CST);
  }
}

/* setitimer, alarm */
static struct rvt_timer *real_timer;
static int real_timer_pid;

static struct rvt_timer *the_real_timer(void) {
  pthread_mutex_lock(&lock);
  if (!real_timer || real_timer_pid != rvt_pid) { /* a child has none of its parent's timers */
    real_timer = take(RVT_TIMER_SIGNAL);
    real_timer->signo = SIGALRM;
    real_timer_pid = rvt_pid;
  }
  pthread_mutex_unlock(&lock);
  return real_timer;
}

static int64_t ns_of_timeval(const struct timeval *t) {
  return (int64_t)t->tv_sec * RVT_NS_PER_S + (int64_t)t->tv_usec * 1000;
}
static struct timeval timeval_of(struct timespec t) {
  return (struct timeval){.tv_sec = t.tv_sec, .tv_usec = (t.tv_nsec + 999) / 1000};
}

RVT_EXPORT int setitimer(__itimer_which_t which, const struct itimerval *value, struct itimerval *old) {
  if (!rvt_on() || which != ITIMER_REAL) return rvt_real.setitimer(which, value, old);
  rvt_effect();
  struct rvt_timer *timer = the_real_timer();
  if (old) {
    struct itimerspec rest = left(timer);
    *old = (struct itimerval){.it_value = timeval_of(rest.it_value), .it_interval = timeval_of(rest.it_interval)};
  }
  int64_t delay_ns = ns_of_timeval(&value->it_value);
  arm(timer, delay_ns ? rvt_deadline_after(delay_ns) : RVT_FOREVER_NS, ns_of_timeval(&value->it_interval));
  return 0;
}

RVT_EXPORT int getitimer(__itimer_which_t which, struct itimerval *value) {
  if (!rvt_on() || which != ITIMER_REAL) return rvt_real.getitimer(which, value);
  struct itimerspec rest = left(the_real_timer());
  *value = (struct itimerval){.it_value = timeval_of(rest.it_value), .it_interval = timeval_of(rest.it_interval)};
  return 0;
}

RVT_EXPORT unsigned alarm(unsigned seconds) {
  if (!rvt_on()) return rvt_real.alarm(seconds);
  struct itimerval value = {.it_value = {.tv_sec = seconds}}, old;
  setitimer(ITIMER_REAL, &value, &old);
  return (unsigned)old.it_value.tv_sec +
         (old.it_value.tv_usec >= 500000 || (!old.it_value.tv_sec && old.it_value.tv_usec));
}

RVT_EXPORT useconds_t ualarm(useconds_t us, useconds_t interval_us) {
  if (!rvt_on()) return rvt_real.ualarm(us, interval_us);
  struct itimerval value = {.it_value = {.tv_sec = us / 1000000, .tv_usec = us % 1000000},
                            .it_interval = {.tv_sec = interval_us / 1000000, .tv_usec = interval_us % 1000000}},
                   old;
  setitimer(ITIMER_REAL, &value, &old);
  return (useconds_t)(old.it_value.tv_sec * 1000000 + old.it_value.tv_usec);
}

/* POSIX timers. Ours are told from the kernel's (CPU clocks) by a tag. */
#define RVT_TIMER_TAG 0x7652000000000000ull
static clockid_t timer_clocks[RVT_MAX_TIMERS];

static struct rvt_timer *ours(timer_t id) {
  uint64_t word = (uint64_t)id;
  if ((word & 0xffff000000000000ull) != RVT_TIMER_TAG) return NULL;
  return &rvt_the_page->timers[word & 0xffff];
}

struct notify {
  void (*function)(union sigval);
  union sigval value;
  int fd;
};

/* SIGEV_THREAD: one thread that calls back for each expiration of an eventfd timer. */
static void *notify_thread(void *opaque) {
  struct notify *notify = opaque;
  uint64_t count;
  while (read(notify->fd, &count, sizeof(count)) == sizeof(count))
    while (count--) notify->function(notify->value);
  return NULL;
}

RVT_EXPORT int timer_create(clockid_t clock, struct sigevent *event, timer_t *id) {
  if (!rvt_on() || clock < 0 || clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID)
    return rvt_real.timer_create(clock, event, id);
  int notify = event ? event->sigev_notify : SIGEV_SIGNAL;
  struct rvt_timer *timer = take(notify == SIGEV_THREAD ? RVT_TIMER_FD : RVT_TIMER_SIGNAL);
  uint64_t index = (uint64_t)(timer - rvt_the_page->timers);
  timer->signo = notify == SIGEV_NONE ? 0 : event && notify != SIGEV_THREAD ? event->sigev_signo : SIGALRM;
  timer->value = event ? (uint64_t)event->sigev_value.sival_ptr : index;
  if (notify == SIGEV_THREAD_ID) timer->tid = event->_sigev_un._tid;
  if (notify == SIGEV_THREAD) {
    static struct notify notifies[RVT_MAX_TIMERS];
    struct notify *mine = &notifies[index];
    *mine = (struct notify){event->sigev_notify_function, event->sigev_value, eventfd(0, EFD_CLOEXEC)};
    timer->fd = mine->fd;
    pthread_t thread;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* it takes no signal of the program's */
    int error = pthread_create(&thread, &attr, notify_thread, mine);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (error) {
      drop(timer);
      errno = error;
      return -1;
    }
  }
  timer_clocks[index] = clock;
  *id = (timer_t)(RVT_TIMER_TAG | index);
  return 0;
}

RVT_EXPORT int timer_settime(timer_t id, int flags, const struct itimerspec *spec, struct itimerspec *old) {
  struct rvt_timer *timer = rvt_on() ? ours(id) : NULL;
  if (!timer) return rvt_real.timer_settime(id, flags, spec, old);
  rvt_effect();
  if (old) *old = left(timer);
  clockid_t clock = timer_clocks[timer - rvt_the_page->timers];
  arm(timer, first_deadline(spec, flags & TIMER_ABSTIME, clock), rvt_ns_of(&spec->it_interval));
  return 0;
}

RVT_EXPORT int timer_gettime(timer_t id, struct itimerspec *now) {
  struct rvt_timer *timer = rvt_on() ? ours(id) : NULL;
  if (!timer) return rvt_real.timer_gettime(id, now);
  *now = left(timer);
  return 0;
}

RVT_EXPORT int timer_getoverrun(timer_t id) {
  struct rvt_timer *timer = rvt_on() ? ours(id) : NULL;
  return timer ? (int)timer->overruns : rvt_real.timer_getoverrun(id);
}

RVT_EXPORT int timer_delete(timer_t id) {
  struct rvt_timer *timer = rvt_on() ? ours(id) : NULL;
  if (!timer) return rvt_real.timer_delete(id);
  drop(timer);
  return 0;
}
