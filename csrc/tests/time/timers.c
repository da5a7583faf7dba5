/* timerfd, interval timers, alarm and POSIX timers. */
#include "check.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>

static volatile sig_atomic_t caught;
static volatile int64_t caught_ns;
static volatile int caught_value;
static void on_signal(int signo, siginfo_t *info, void *context) {
  caught++;
  caught_ns = now_ns();
  caught_value = info->si_value.sival_int;
}
static void catch_signal(int signo) {
  struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
  sigaction(signo, &action, NULL);
  caught = 0;
}

static uint64_t expirations(int fd) {
  uint64_t count = 0;
  if (read(fd, &count, sizeof(count)) != sizeof(count)) return 0;
  return count;
}

static void timerfd_once(void) {
  static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME};
  for (int i = 0; i < 6; i++) {
    clockid_t clock = clocks[i % 3];
    int fd = timerfd_create(clock, 0), absolute = i >= 3;
    int64_t start_ns = now_ns();
    struct itimerspec once = {.it_value = ts((absolute ? clock_ns(clock) : 0) + 4 * MS + 21)}, got;
    is("settime", timerfd_settime(fd, absolute ? TFD_TIMER_ABSTIME : 0, &once, NULL), 0);
    is("gettime", timerfd_gettime(fd, &got), 0);
    truth("gettime", got.it_value.tv_nsec <= 4 * MS + 21 && got.it_value.tv_nsec > 0);
    is("count", (long long)expirations(fd), 1);
    at("read of a timerfd", start_ns + 4 * MS + 21);
    timerfd_gettime(fd, &got);
    is("disarmed after it fired", got.it_value.tv_nsec + got.it_value.tv_sec, 0);
    close(fd);
  }
}

static void timerfd_interval(void) {
  int fd = timerfd_create(CLOCK_MONOTONIC, 0);
  int64_t start_ns = now_ns();
  struct itimerspec every = {.it_value = ts(3 * MS), .it_interval = ts(50 * MS)};
  timerfd_settime(fd, 0, &every, NULL);
  for (int i = 0; i < 4; i++) {
    is("count", (long long)expirations(fd), 1);
    at("interval", start_ns + 3 * MS + i * 50 * MS);
  }
  rest(170 * MS);
  is("missed expirations are counted", (long long)expirations(fd), 3);
  if (inside) at("and reading them takes no time", start_ns + 3 * MS + 320 * MS);
  close(fd);
}

static void timerfd_poll(void) {
  for (int way = 0; way < 2; way++) {
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    int64_t start_ns = now_ns();
    struct itimerspec once = {.it_value = ts(5 * MS + 1)};
    timerfd_settime(fd, 0, &once, NULL);
    is("nothing yet", (long long)expirations(fd), 0);
    is("errno", errno, EAGAIN);
    if (way == 0) {
      struct pollfd one = {.fd = fd, .events = POLLIN};
      is("poll", poll(&one, 1, 2), 0);
      at("poll before it", start_ns + 2 * MS);
      is("poll", poll(&one, 1, 1000), 1);
    } else {
      int epfd = epoll_create1(0);
      struct epoll_event event = {.events = EPOLLIN};
      epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event);
      is("epoll", epoll_wait(epfd, &event, 1, -1), 1);
      close(epfd);
    }
    at("timerfd is ready", start_ns + 5 * MS + 1);
    is("count", (long long)expirations(fd), 1);
    is("once", (long long)expirations(fd), 0);
    close(fd);
  }
}

static void timerfd_rearm(void) {
  int fd = timerfd_create(CLOCK_MONOTONIC, 0);
  struct itimerspec once = {.it_value = ts(2 * MS)}, off = {{0, 0}, {0, 0}}, old;
  timerfd_settime(fd, 0, &once, NULL);
  timerfd_settime(fd, 0, &off, &old);
  truth("the old setting comes back", old.it_value.tv_nsec > 0 && old.it_value.tv_nsec <= 2 * MS);
  struct pollfd one = {.fd = fd, .events = POLLIN};
  int64_t start_ns = now_ns();
  is("disarmed", poll(&one, 1, 6), 0);
  at("disarmed", start_ns + 6 * MS);
  start_ns = now_ns();
  timerfd_settime(fd, 0, &once, NULL);
  rest(MS);
  timerfd_settime(fd, 0, &once, NULL); /* starts again */
  is("count", (long long)expirations(fd), 1);
  at("armed again", start_ns + 3 * MS);
  once.it_value = ts(now_ns() - MS);
  start_ns = now_ns();
  timerfd_settime(fd, TFD_TIMER_ABSTIME, &once, NULL);
  is("past", (long long)expirations(fd), 1);
  at("past", start_ns);
  close(fd);
}

static void interval_timer(void) {
  catch_signal(SIGALRM);
  struct itimerval every = {.it_value = tv(3 * MS), .it_interval = tv(40 * MS)}, off = {{0, 0}, {0, 0}}, got;
  int64_t start_ns = now_ns();
  is("setitimer", setitimer(ITIMER_REAL, &every, NULL), 0);
  is("getitimer", getitimer(ITIMER_REAL, &got), 0);
  truth("getitimer", got.it_value.tv_usec > 0 && got.it_value.tv_usec <= 3000 && got.it_interval.tv_usec == 40000);
  for (int i = 0; i < 3; i++) {
    pause();
    is("signals", caught, i + 1);
    at("pause ends", start_ns + 3 * MS + i * 40 * MS);
    at_time("the handler's clock", start_ns + 3 * MS + i * 40 * MS, caught_ns);
  }
  setitimer(ITIMER_REAL, &off, NULL);
  rest(100 * MS);
  is("disarmed", caught, 3);
}

static void interrupts_sleep(void) { /* the example of VIRTUAL-TIME: setitimer(0.3) in a sleep of 1 s */
  catch_signal(SIGALRM);
  struct itimerval once = {.it_value = tv(long_ns(300 * MS))};
  int64_t start_ns = now_ns();
  setitimer(ITIMER_REAL, &once, NULL);
  struct timespec t = ts(NS_PER_S), left = {0, 0};
  is("nanosleep", nanosleep(&t, &left), -1);
  is("errno", errno, EINTR);
  at("interrupted", start_ns + long_ns(300 * MS));
  if (inside) is("the rest", left.tv_nsec, 700 * MS);
  is("signals", caught, 1);
}

static void alarms(void) {
  catch_signal(SIGALRM);
  int64_t start_ns = now_ns();
  is("alarm", alarm(100), 0);
  is("the old one", alarm(1), 100);
  pause();
  at("alarm", start_ns + NS_PER_S);
  is("signals", caught, 1);
  alarm(5);
  is("switched off", alarm(0), 5);
}

static void posix_signal(void) {
  catch_signal(SIGUSR1);
  timer_t timer;
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 77};
  is("timer_create", timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
  int64_t start_ns = now_ns();
  struct itimerspec every = {.it_value = ts(4 * MS + 5), .it_interval = ts(40 * MS)}, got;
  is("timer_settime", timer_settime(timer, 0, &every, NULL), 0);
  is("timer_gettime", timer_gettime(timer, &got), 0);
  truth("timer_gettime", got.it_value.tv_nsec > 0 && got.it_interval.tv_nsec == 40 * MS);
  for (int i = 0; i < 2; i++) {
    pause();
    at("timer signal", start_ns + 4 * MS + 5 + i * 40 * MS);
  }
  is("value", caught_value, 77);
  is("timer_delete", timer_delete(timer), 0);
  rest(100 * MS);
  is("deleted", caught, 2);
}

static void posix_absolute(void) {
  catch_signal(SIGALRM);
  timer_t timer;
  is("timer_create", timer_create(CLOCK_REALTIME, NULL, &timer), 0); /* SIGALRM is what NULL means */
  int64_t start_ns = now_ns();
  struct itimerspec once = {.it_value = ts(real_ns() + 3 * MS)};
  timer_settime(timer, TIMER_ABSTIME, &once, NULL);
  pause();
  at("absolute", start_ns + 3 * MS);
  timer_delete(timer);
}

static int notify_pipe[2];
static void on_notify(union sigval value) {
  int64_t at_ns = now_ns() + value.sival_int;
  if (write(notify_pipe[1], &at_ns, sizeof(at_ns)) != sizeof(at_ns)) abort();
}
static void posix_thread(void) {
  if (pipe(notify_pipe)) abort();
  timer_t timer;
  struct sigevent event = {
      .sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_notify, .sigev_value.sival_int = 0};
  is("timer_create", timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
  int64_t start_ns = now_ns(), at_ns = 0;
  struct itimerspec every = {.it_value = ts(3 * MS), .it_interval = ts(40 * MS)};
  timer_settime(timer, 0, &every, NULL);
  for (int i = 0; i < 3; i++) {
    if (read(notify_pipe[0], &at_ns, sizeof(at_ns)) != sizeof(at_ns)) abort();
    at("SIGEV_THREAD", start_ns + 3 * MS + i * 40 * MS);
    at_time("in the thread", start_ns + 3 * MS + i * 40 * MS, at_ns);
  }
  timer_delete(timer);
}

static void posix_thread_id(void) {
  catch_signal(SIGUSR2);
  timer_t timer;
  struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2};
  event._sigev_un._tid = (int)syscall(SYS_gettid);
  is("timer_create", timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
  int64_t start_ns = now_ns();
  struct itimerspec once = {.it_value = ts(3 * MS)};
  timer_settime(timer, 0, &once, NULL);
  pause();
  at("SIGEV_THREAD_ID", start_ns + 3 * MS);
  timer_delete(timer);
}

static void not_inherited(void) { /* a child has no timers of its parent */
  catch_signal(SIGALRM);
  struct itimerval once = {.it_value = tv(10 * MS)};
  setitimer(ITIMER_REAL, &once, NULL);
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    rest(50 * MS);
    _exit(caught);
  }
  pause();
  is("the parent's timer", caught, 1);
  int status = reap(child);
  is("the child", WEXITSTATUS(status), 0);
}

CASES({"timerfd_once", timerfd_once}, {"timerfd_interval", timerfd_interval}, {"timerfd_poll", timerfd_poll},
      {"timerfd_rearm", timerfd_rearm}, {"interval_timer", interval_timer}, {"interrupts_sleep", interrupts_sleep},
      {"alarms", alarms}, {"posix_signal", posix_signal}, {"posix_absolute", posix_absolute},
      {"posix_thread", posix_thread}, {"posix_thread_id", posix_thread_id}, {"not_inherited", not_inherited})
