/* Signals that arrive in the middle of a wait. Their handlers are application code: what they write must arrive at
 * that time, and the interrupted wait must end, or go on, as it does natively. */
#include "check.h"

#include <poll.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

static int to_reader[2];
static volatile sig_atomic_t handled;
static void on_signal(int signo) {
  int saved = errno;
  int64_t at_ns = now_ns();
  handled++;
  if (write(to_reader[1], &at_ns, sizeof(at_ns)) != sizeof(at_ns)) abort();
  errno = saved;
}
static void catch_signal(int signo, int flags) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
  sigaction(signo, &action, NULL);
  handled = 0;
}

/* Reads what the handler wrote and checks when it came. */
static int64_t reader_expects_ns;
static void *reader_main(void *argument) {
  int64_t at_ns;
  if (read(to_reader[0], &at_ns, sizeof(at_ns)) != sizeof(at_ns)) abort();
  at("the handler's message", reader_expects_ns);
  at_time("the handler's clock", reader_expects_ns, at_ns);
  return NULL;
}

static pthread_t victim;
static void shoot(void *argument) { pthread_kill(victim, SIGUSR1); }

static int silent[2];
static sem_t sem;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

enum way {
  WAY_READ,
  WAY_SLEEP,
  WAY_SLEEP_ABSOLUTE,
  WAY_POLL,
  WAY_SELECT,
  WAY_EPOLL,
  WAY_SEM,
  WAY_SEM_TIMED,
  WAY_RECV,
  WAY_PAUSE,
  WAY_USLEEP,
  WAY_POLL_FOREVER,
  WAY_COUNT
};
static const char *const names[] = {"read",   "nanosleep",  "clock_nanosleep", "poll",
                                    "select", "epoll_wait", "sem_wait",        "sem_timedwait",
                                    "recv",   "pause",      "usleep",          "poll without limit"};

static long wait_one_way(enum way way) {
  struct timespec t = ts(200 * MS), wall = ts(real_ns() + 200 * MS), mono = ts(now_ns() + 200 * MS);
  struct timeval us = tv(200 * MS);
  struct pollfd one = {.fd = silent[0], .events = POLLIN};
  struct epoll_event event;
  fd_set set;
  char byte;
  int epfd, error;
  switch (way) {
  case WAY_READ: return read(silent[0], &byte, 1);
  case WAY_SLEEP: return nanosleep(&t, NULL);
  case WAY_SLEEP_ABSOLUTE:
    error = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &mono, NULL);
    errno = error;
    return error ? -1 : 0;
  case WAY_POLL: return poll(&one, 1, 200);
  case WAY_POLL_FOREVER: return poll(&one, 1, -1);
  case WAY_SELECT:
    FD_ZERO(&set);
    FD_SET(silent[0], &set);
    return select(silent[0] + 1, &set, NULL, NULL, &us);
  case WAY_EPOLL:
    epfd = epoll_create1(0);
    error = epoll_wait(epfd, &event, 1, 200);
    close(epfd);
    return error;
  case WAY_SEM: return sem_wait(&sem);
  case WAY_SEM_TIMED: return sem_timedwait(&sem, &wall);
  case WAY_RECV: return recv(silent[0], &byte, 1, 0);
  case WAY_PAUSE: return pause();
  case WAY_USLEEP: return usleep(200000);
  default: return 0;
  }
}

static void interrupted(void) {
  sem_init(&sem, 0, 0);
  if (pipe(to_reader) || socketpair(AF_UNIX, SOCK_STREAM, 0, silent)) abort();
  victim = pthread_self();
  catch_signal(SIGUSR1, 0);
  for (int way = 0; way < WAY_COUNT; way++) {
    struct later later;
    pthread_t reader;
    int64_t start_ns = now_ns();
    reader_expects_ns = start_ns + 3 * MS + 1;
    pthread_create(&reader, NULL, reader_main, NULL);
    start_later(&later, 3 * MS + 1, shoot, NULL);
    is(names[way], wait_one_way((enum way)way), -1);
    is(names[way], errno, EINTR);
    at(names[way], start_ns + 3 * MS + 1);
    end_later(&later);
    pthread_join(reader, NULL);
  }
  is("signals", handled, WAY_COUNT);
}

static void write_silent(void *argument) {
  if (write(silent[1], "x", 1) != 1) abort();
}
static void restarted(void) { /* SA_RESTART: the read goes on after the handler */
  if (pipe(to_reader) || pipe(silent)) abort();
  victim = pthread_self();
  catch_signal(SIGUSR1, SA_RESTART);
  struct later later, data;
  pthread_t reader;
  int64_t start_ns = now_ns();
  reader_expects_ns = start_ns + 3 * MS;
  pthread_create(&reader, NULL, reader_main, NULL);
  start_later(&later, 3 * MS, shoot, NULL);
  start_later(&data, 9 * MS, write_silent, NULL);
  char byte;
  is("read", read(silent[0], &byte, 1), 1);
  at("read", start_ns + 9 * MS);
  is("signals", handled, 1);
  end_later(&later);
  end_later(&data);
  pthread_join(reader, NULL);
}

static void condition_goes_on(void) { /* a condition wait is no interruptible call */
  if (pipe(to_reader)) abort();
  victim = pthread_self();
  catch_signal(SIGUSR1, 0);
  struct later later;
  pthread_t reader;
  int64_t start_ns = now_ns();
  reader_expects_ns = start_ns + 3 * MS;
  pthread_create(&reader, NULL, reader_main, NULL);
  start_later(&later, 3 * MS, shoot, NULL);
  struct timespec wall = ts(real_ns() + 8 * MS);
  pthread_mutex_lock(&mutex);
  while (pthread_cond_timedwait(&cond, &mutex, &wall) == 0) continue;
  pthread_mutex_unlock(&mutex);
  at("time-out", start_ns + 8 * MS);
  is("signals", handled, 1);
  end_later(&later);
  pthread_join(reader, NULL);
}

static void on_sleepy(int signo) {
  handled++;
  rest(5 * MS); /* a handler may wait itself */
}
static void handler_sleeps(void) {
  struct sigaction action = {.sa_handler = on_sleepy};
  sigaction(SIGUSR1, &action, NULL);
  handled = 0;
  victim = pthread_self();
  struct later later;
  int64_t start_ns = now_ns();
  start_later(&later, 3 * MS, shoot, NULL);
  struct timespec t = ts(100 * MS);
  is("nanosleep", nanosleep(&t, NULL), -1);
  at("after the handler's own sleep", start_ns + 8 * MS);
  end_later(&later);
}

static void shoot_process(void *argument) { kill(getpid(), SIGUSR2); }
static void sigtimedwait_(void) {
  sigset_t set;
  siginfo_t info;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  struct timespec t = ts(4 * MS + 1), longer = ts(NS_PER_S);
  int64_t start_ns = now_ns();
  is("sigtimedwait", sigtimedwait(&set, &info, &t), -1);
  is("errno", errno, EAGAIN);
  at("sigtimedwait", start_ns + 4 * MS + 1);
  for (int way = 0; way < 3; way++) {
    struct later later;
    int signo = 0;
    start_ns = now_ns();
    start_later(&later, 3 * MS, shoot_process, NULL);
    if (way == 0) is("sigtimedwait", sigtimedwait(&set, &info, &longer), SIGUSR2);
    if (way == 1) is("sigwaitinfo", sigwaitinfo(&set, &info), SIGUSR2);
    if (way == 2) is("sigwait", sigwait(&set, &signo), 0);
    at("signal", start_ns + 3 * MS);
    end_later(&later);
  }
  pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void masks(void) { /* ppoll, pselect and sigsuspend open the mask for the wait alone */
  if (pipe(to_reader)) abort();
  catch_signal(SIGUSR1, 0);
  victim = pthread_self();
  sigset_t block, open;
  sigemptyset(&block);
  sigaddset(&block, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &block, &open);
  for (int way = 0; way < 5; way++) {
    struct later later;
    pthread_t reader;
    int64_t start_ns = now_ns();
    struct timespec t = ts(NS_PER_S);
    struct epoll_event event;
    int epfd = epoll_create1(0);
    reader_expects_ns = start_ns + 3 * MS;
    pthread_create(&reader, NULL, reader_main, NULL);
    start_later(&later, 3 * MS, shoot, NULL);
    is("wait",
       way == 0   ? ppoll(NULL, 0, &t, &open)
       : way == 1 ? pselect(0, NULL, NULL, NULL, &t, &open)
       : way == 2 ? epoll_pwait(epfd, &event, 1, 1000, &open)
       : way == 3 ? epoll_pwait(epfd, &event, 1, -1, &open)
                  : sigsuspend(&open),
       -1);
    is("errno", errno, EINTR);
    at("wait", start_ns + 3 * MS);
    end_later(&later);
    pthread_join(reader, NULL);
    close(epfd);
  }
  is("signals", handled, 5);
  pthread_sigmask(SIG_SETMASK, &open, NULL);
}

static void signal_fd(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  int fd = signalfd(-1, &set, 0);
  struct later later;
  struct signalfd_siginfo info;
  int64_t start_ns = now_ns();
  start_later(&later, 3 * MS, shoot_process, NULL);
  is("read", read(fd, &info, sizeof(info)), sizeof(info));
  at("signalfd", start_ns + 3 * MS);
  end_later(&later);
  close(fd);
  pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void from_child(void) { /* SIGCHLD at the child's end, kill from another process */
  if (pipe(to_reader)) abort();
  catch_signal(SIGCHLD, 0);
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t child = fork();
  if (child == 0) {
    rest(4 * MS);
    _exit(3);
  }
  struct timespec t = ts(NS_PER_S);
  is("nanosleep", nanosleep(&t, NULL), -1);
  at("SIGCHLD", start_ns + 4 * MS);
  is("status", WEXITSTATUS(reap(child)), 3);
  signal(SIGCHLD, SIG_DFL);
}

CASES({"interrupted", interrupted}, {"restarted", restarted}, {"condition_goes_on", condition_goes_on},
      {"handler_sleeps", handler_sleeps}, {"sigtimedwait", sigtimedwait_}, {"masks", masks}, {"signal_fd", signal_fd},
      {"from_child", from_child})
