/* Many ways to let time pass. Each must end at its deadline to the nanosecond. */
#include "stress.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum way {
  WAY_NANOSLEEP,
  WAY_CLOCK_ABSOLUTE,
  WAY_CLOCK_REALTIME,
  WAY_USLEEP,
  WAY_POLL,
  WAY_PPOLL,
  WAY_SELECT,
  WAY_PSELECT,
  WAY_EPOLL,
  WAY_SEM_TIMED,
  WAY_SEM_CLOCK,
  WAY_COND,
  WAY_FUTEX,
  WAY_TIMERFD,
  WAY_RCVTIMEO,
  WAY_SIGTIMEDWAIT,
  WAY_MUTEX,
  WAY_COUNT
};
static const char *const way_names[WAY_COUNT] = {
    "nanosleep",   "clock_nanosleep abs", "clock_nanosleep rt", "usleep",        "poll", "ppoll", "select",
    "pselect",     "epoll_wait",          "sem_timedwait",      "sem_clockwait", "cond", "futex", "timerfd",
    "SO_RCVTIMEO", "sigtimedwait",        "mutex_clocklock"};

/* Locked for ever by the main thread of each process before its threads start. */
pthread_mutex_t never_free = PTHREAD_MUTEX_INITIALIZER;

static int64_t round_up(int64_t ns, int64_t unit) { return (ns + unit - 1) / unit * unit; }

static void sleep_one_way(struct actor *actor, enum way way, int64_t start_ns, int64_t delay_ns) {
  int64_t deadline_ns = start_ns + delay_ns;
  struct timespec delay = timespec_of(delay_ns), at = timespec_of(deadline_ns);
  struct timespec at_realtime = timespec_of(deadline_ns + realtime_offset_ns());
  struct timeval us = {delay.tv_sec, delay.tv_nsec / 1000};
  char byte;
  switch (way) {
  case WAY_NANOSLEEP: nanosleep(&delay, NULL); break;
  case WAY_CLOCK_ABSOLUTE: clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL); break;
  case WAY_CLOCK_REALTIME: clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &at_realtime, NULL); break;
  case WAY_USLEEP: usleep((useconds_t)(delay_ns / 1000)); break;
  case WAY_POLL: poll(NULL, 0, (int)(delay_ns / 1000000)); break;
  case WAY_PPOLL: ppoll(NULL, 0, &delay, NULL); break;
  case WAY_SELECT: select(0, NULL, NULL, NULL, &us); break;
  case WAY_PSELECT: pselect(0, NULL, NULL, NULL, &delay, NULL); break;
  case WAY_EPOLL: {
    struct epoll_event event;
    epoll_wait(actor->epoll_fd, &event, 1, (int)(delay_ns / 1000000));
    break;
  }
  case WAY_SEM_TIMED: sem_timedwait(&actor->silent_sem, &at_realtime); break;
  case WAY_SEM_CLOCK: sem_clockwait(&actor->silent_sem, CLOCK_MONOTONIC, &at); break;
  case WAY_COND:
    pthread_mutex_lock(&actor->silent_mutex);
    while (pthread_cond_timedwait(&actor->silent_cond, &actor->silent_mutex, &at) == 0) continue;
    pthread_mutex_unlock(&actor->silent_mutex);
    break;
  case WAY_FUTEX: {
    uint32_t word = 0;
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &delay, NULL, 0);
    break;
  }
  case WAY_TIMERFD: {
    uint64_t expirations;
    struct itimerspec once = {.it_value = delay};
    if (timerfd_settime(actor->timer_fd, 0, &once, NULL)) die("timerfd_settime");
    if (read(actor->timer_fd, &expirations, sizeof(expirations)) != sizeof(expirations)) die("read of timerfd");
    break;
  }
  case WAY_RCVTIMEO:
    if (setsockopt(actor->silent_fd, SOL_SOCKET, SO_RCVTIMEO, &us, sizeof(us))) die("SO_RCVTIMEO");
    if (recv(actor->silent_fd, &byte, 1, 0) >= 0) die("recv returned data that nobody sent");
    break;
  case WAY_SIGTIMEDWAIT: {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigtimedwait(&set, NULL, &delay);
    break;
  }
  case WAY_MUTEX: pthread_mutex_clocklock(&never_free, CLOCK_MONOTONIC, &at); break;
  case WAY_COUNT: break;
  }
}

void sleep_checked(struct actor *actor, int64_t delay_ns) {
  enum way way = (enum way)pick(actor, WAY_COUNT);
  if (way == WAY_POLL || way == WAY_EPOLL) delay_ns = round_up(delay_ns, 1000000);
  if (way == WAY_USLEEP || way == WAY_SELECT || way == WAY_RCVTIMEO) delay_ns = round_up(delay_ns, 1000);
  if (delay_ns == 0) delay_ns = 1000; /* zero is another call in several of the ways */
  int64_t start_ns = now_checked(actor);
  sleep_one_way(actor, way, start_ns, delay_ns);
  int64_t end_ns = now_checked(actor);
  if (off(start_ns + delay_ns, end_ns)) violation(actor, way_names[way], KIND_COUNT, start_ns + delay_ns, end_ns);
  __atomic_fetch_add(&shared->sleeps, 1, __ATOMIC_RELAXED);
}
