/* Busy-pollers: they must not hold the clock, and must see what they wait for at the very time. */
#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>

static uint32_t *words;
static void publish(void *argument) { __atomic_store_n((uint32_t *)argument, 1, __ATOMIC_RELEASE); }

static void yield_loop(void) {
  uint32_t word = 0;
  struct later later;
  int64_t start_ns = now_ns();
  start_later(&later, 5 * MS + 1, publish, &word);
  while (!__atomic_load_n(&word, __ATOMIC_ACQUIRE)) sched_yield();
  at("shared memory", start_ns + 5 * MS + 1);
  end_later(&later);
}

static void ring(void) { /* like shm_broadcast: both sides poll on memory, the far side works 4 ms a step */
  words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t child = fork();
  for (uint32_t i = 1; i <= 20; i++) {
    if (child) {
      __atomic_store_n(&words[0], i, __ATOMIC_RELEASE);
      while (__atomic_load_n(&words[16], __ATOMIC_ACQUIRE) != i) sched_yield();
      at("one step", start_ns + i * 4 * MS);
      if (!inside) start_ns = now_ns() - i * 4 * MS;
    } else {
      while (__atomic_load_n(&words[0], __ATOMIC_ACQUIRE) != i) sched_yield();
      rest(4 * MS);
      __atomic_store_n(&words[16], i, __ATOMIC_RELEASE);
    }
  }
  if (!child) _exit(0);
  is("child", reap(child), 0);
}

static int ends[2];
static void put(void *argument) {
  if (write(ends[1], "x", 1) != 1) abort();
}
static void no_block(void) {
  for (int way = 0; way < 5; way++) {
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) abort();
    struct later later;
    int64_t start_ns = now_ns();
    start_later(&later, 4 * MS + 3, put, NULL);
    char byte;
    int epfd = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(epfd, EPOLL_CTL_ADD, ends[0], &event);
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    if (way == 0)
      while (read(ends[0], &byte, 1) < 0) continue;
    if (way == 1)
      while (recv(ends[0], &byte, 1, MSG_DONTWAIT) < 0) continue;
    if (way == 2)
      while (poll(&one, 1, 0) == 0) continue;
    if (way == 3)
      while (epoll_wait(epfd, &event, 1, 0) == 0) continue;
    if (way == 4) {
      struct timespec zero = {0, 0};
      while (poll(&one, 1, 0) == 0) nanosleep(&zero, NULL);
    }
    static const char *const names[] = {"read", "recv", "poll", "epoll_wait", "sleep(0)"};
    at(names[way], start_ns + 4 * MS + 3);
    end_later(&later);
    close(epfd);
    close(ends[0]);
    close(ends[1]);
  }
}

static void clock_loop(void) { /* waits by looking at the clock: nobody else knows when it will be content */
  int64_t end_ns = now_ns() + 3 * MS;
  while (now_ns() < end_ns) continue;
  truth("it ends", now_ns() >= end_ns);
  end_ns = now_ns() + 3 * MS;
  while (now_ns() < end_ns) sched_yield();
  truth("it ends", now_ns() >= end_ns);
}

static void clock_loop_beside_sleep(void) {
  struct later later;
  uint32_t word = 0;
  int64_t start_ns = now_ns();
  start_later(&later, 2 * MS, publish, &word);
  while (now_ns() < start_ns + 4 * MS) sched_yield();
  end_later(&later);
  at_time("the sleeper beside it", start_ns + 2 * MS, later.done_ns);
}

static uint32_t stop;
static void *spinner(void *argument) {
  while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) sched_yield();
  return (void *)(intptr_t)now_ns();
}
static void four_spinners(void) {
  pthread_t threads[4];
  stop = 0;
  int64_t start_ns = now_ns();
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, spinner, NULL);
  for (int i = 0; i < 10; i++) rest(MS);
  if (!inside) start_ns = now_ns() - 10 * MS;
  __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
  for (int i = 0; i < 4; i++) {
    void *seen_ns;
    pthread_join(threads[i], &seen_ns);
    at_time("each sees it at once", start_ns + 10 * MS, (int64_t)(intptr_t)seen_ns);
  }
}

static void *time_out_spinner(void *argument) { /* gives up after 10 ms without progress, as SpinCondition does */
  int64_t give_up_ns = now_ns() + 10 * MS;
  while (now_ns() < give_up_ns) sched_yield();
  rest(MS);
  return NULL;
}
static void spin_then_block(void) {
  pthread_t thread;
  int64_t start_ns = now_ns();
  pthread_create(&thread, NULL, time_out_spinner, NULL);
  for (int i = 0; i < 30; i++) rest(MS);
  at("the sleeper", start_ns + 30 * MS);
  pthread_join(thread, NULL);
  truth("the spinner ends soon", inside ? now_ns() <= start_ns + 31 * MS : true);
}

CASES({"yield_loop", yield_loop}, {"ring", ring}, {"no_block", no_block}, {"clock_loop", clock_loop},
      {"clock_loop_beside_sleep", clock_loop_beside_sleep}, {"four_spinners", four_spinners},
      {"spin_then_block", spin_then_block})
