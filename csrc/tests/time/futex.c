/* Raw futexes and other waits through the `syscall` function, as Rust and abseil use them. */
#include "check.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static uint32_t word;
static long futex(uint32_t *at_word, int operation, uint32_t value, const struct timespec *t, uint32_t mask) {
  return syscall(SYS_futex, at_word, operation, value, t, NULL, mask);
}
static void wake(void *argument) {
  __atomic_fetch_add((uint32_t *)argument, 1, __ATOMIC_SEQ_CST);
  futex(argument, FUTEX_WAKE_PRIVATE, 1, NULL, 0);
}

static void relative(void) {
  word = 0;
  int64_t start_ns = now_ns();
  struct timespec t = ts(4 * MS + 3);
  is("FUTEX_WAIT", futex(&word, FUTEX_WAIT_PRIVATE, 0, &t, 0), -1);
  is("errno", errno, ETIMEDOUT);
  at("FUTEX_WAIT", start_ns + 4 * MS + 3);
  start_ns = now_ns();
  is("shared FUTEX_WAIT", futex(&word, FUTEX_WAIT, 0, &t, 0), -1);
  at("shared FUTEX_WAIT", start_ns + 4 * MS + 3);
}

static void absolute(void) {
  word = 0;
  int64_t start_ns = now_ns();
  struct timespec t = ts(start_ns + 3 * MS + 3);
  is("WAIT_BITSET", futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &t, FUTEX_BITSET_MATCH_ANY), -1);
  is("errno", errno, ETIMEDOUT);
  at("WAIT_BITSET", start_ns + 3 * MS + 3);
  start_ns = now_ns();
  t = ts(real_ns() + 3 * MS + 3);
  is("REALTIME", futex(&word, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &t, FUTEX_BITSET_MATCH_ANY), -1);
  at("WAIT_BITSET REALTIME", start_ns + 3 * MS + 3);
  start_ns = now_ns();
  t = ts(start_ns - MS);
  is("past", futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &t, FUTEX_BITSET_MATCH_ANY), -1);
  is("errno", errno, ETIMEDOUT);
  at("past", start_ns);
}

static void changed(void) {
  word = 5;
  struct timespec t = ts(NS_PER_S);
  int64_t start_ns = now_ns();
  is("another value", futex(&word, FUTEX_WAIT_PRIVATE, 4, &t, 0), -1);
  is("errno", errno, EAGAIN);
  at("no time passes", start_ns);
}

static void woken(void) {
  for (int timed = 0; timed < 2; timed++) {
    word = 0;
    struct later later;
    int64_t start_ns = now_ns();
    struct timespec t = ts(NS_PER_S);
    start_later(&later, 3 * MS + 9, wake, &word);
    while (!__atomic_load_n(&word, __ATOMIC_SEQ_CST)) futex(&word, FUTEX_WAIT_PRIVATE, 0, timed ? &t : NULL, 0);
    at("wake", start_ns + 3 * MS + 9);
    end_later(&later);
  }
}

static void between_processes(void) {
  uint32_t *words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  int64_t start_ns = now_ns();
  fflush(stdout);
  pid_t child = fork();
  for (uint32_t i = 0; i < 20; i++) {
    int mine = child ? 1 : 0;
    struct timespec t = ts(NS_PER_S);
    if (child) {
      words[0]++;
      futex(&words[0], FUTEX_WAKE, 1, NULL, 0);
    }
    while (__atomic_load_n(&words[mine], __ATOMIC_SEQ_CST) == i)
      futex(&words[mine], FUTEX_WAIT, i, i % 2 ? &t : NULL, 0);
    if (child) {
      at("ping-pong", start_ns + (i + 1) * MS);
      if (!inside) start_ns = now_ns() - (i + 1) * MS;
    } else {
      rest(MS);
      __atomic_fetch_add(&words[1], 1, __ATOMIC_SEQ_CST);
      futex(&words[1], FUTEX_WAKE, 1, NULL, 0);
    }
  }
  if (!child) _exit(0);
  is("child", reap(child), 0);
}

static void bitset(void) { /* a wake for other bits does not count */
  word = 0;
  int64_t start_ns = now_ns();
  fflush(stdout);
  struct timespec t = ts(start_ns + 5 * MS);
  is("wake for nobody", futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, 1), 0);
  is("WAIT_BITSET", futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &t, 2), -1);
  at("WAIT_BITSET", start_ns + 5 * MS);
}

static void other_calls(void) {
  struct timespec t = ts(2 * MS + 1), got;
  int64_t start_ns = now_ns();
  is("nanosleep", syscall(SYS_nanosleep, &t, NULL), 0);
  at("nanosleep", start_ns + 2 * MS + 1);
  start_ns = now_ns();
  is("clock_nanosleep", syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, NULL), 0);
  at("clock_nanosleep", start_ns + 2 * MS + 1);
  is("clock_gettime", syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &got), 0);
  at_time("clock_gettime", start_ns + 2 * MS + 1, (int64_t)got.tv_sec * NS_PER_S + got.tv_nsec);
  start_ns = now_ns();
  is("ppoll", syscall(SYS_ppoll, NULL, 0, &t, NULL, 8), 0);
  at("ppoll", start_ns + 2 * MS + 1);
  int epfd = epoll_create1(0);
  struct epoll_event event;
  start_ns = now_ns();
  is("epoll_pwait", syscall(SYS_epoll_pwait, epfd, &event, 1, 3, NULL, 8), 0);
  at("epoll_pwait", start_ns + 3 * MS);
  close(epfd);
}

CASES({"relative", relative}, {"absolute", absolute}, {"changed", changed}, {"woken", woken},
      {"between_processes", between_processes}, {"bitset", bitset}, {"other_calls", other_calls})
