/* poll, select and epoll: time-outs, readiness brought by another thread, what is written back. */
#include "check.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>

static int ends[2];
static void write_byte(void *argument) {
  if (write(ends[1], "x", 1) != 1) abort();
}
static void open_pipe(void) {
  if (pipe(ends)) abort();
}
static void close_pipe(void) {
  close(ends[0]);
  close(ends[1]);
}

static void time_outs(void) {
  open_pipe();
  struct pollfd one = {.fd = ends[0], .events = POLLIN};
  int64_t start_ns = now_ns();
  is("poll", poll(&one, 1, 6), 0);
  at("poll", start_ns + 6 * MS);
  start_ns = now_ns();
  is("poll without descriptors", poll(NULL, 0, 3), 0);
  at("poll without descriptors", start_ns + 3 * MS);
  struct timespec t = ts(2 * MS + 345);
  start_ns = now_ns();
  is("ppoll", ppoll(&one, 1, &t, NULL), 0);
  at("ppoll", start_ns + 2 * MS + 345);
  is("ppoll leaves its time alone", t.tv_nsec, 2 * MS + 345);
  fd_set set;
  FD_ZERO(&set);
  FD_SET(ends[0], &set);
  struct timeval us = tv(5 * MS + 1000);
  start_ns = now_ns();
  is("select", select(ends[0] + 1, &set, NULL, NULL, &us), 0);
  at("select", start_ns + 5 * MS + 1000);
  is("select clears the set", FD_ISSET(ends[0], &set), 0);
  is("select writes the rest back", us.tv_sec + us.tv_usec, 0);
  FD_SET(ends[0], &set);
  start_ns = now_ns();
  is("pselect", pselect(ends[0] + 1, &set, NULL, NULL, &t, NULL), 0);
  at("pselect", start_ns + 2 * MS + 345);
  close_pipe();
}

static void epoll_time_outs(void) {
  open_pipe();
  int epfd = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = 5}, got = {0};
  epoll_ctl(epfd, EPOLL_CTL_ADD, ends[0], &event);
  int64_t start_ns = now_ns();
  is("epoll_wait", epoll_wait(epfd, &got, 1, 4), 0);
  at("epoll_wait", start_ns + 4 * MS);
  start_ns = now_ns();
  is("epoll_pwait", epoll_pwait(epfd, &got, 1, 4, NULL), 0);
  at("epoll_pwait", start_ns + 4 * MS);
  struct timespec t = ts(1 * MS + 77);
  start_ns = now_ns();
  is("epoll_pwait2", epoll_pwait2(epfd, &got, 1, &t, NULL), 0);
  at("epoll_pwait2", start_ns + 1 * MS + 77);
  close(epfd);
  close_pipe();
}

static void readiness(void) {
  for (int way = 0; way < 6; way++) {
    for (int timed = 0; timed < 2; timed++) {
      open_pipe();
      struct later later;
      int64_t start_ns = now_ns();
      start_later(&later, 3 * MS + 11, write_byte, NULL);
      struct pollfd one = {.fd = ends[0], .events = POLLIN};
      struct timespec t = ts(500 * MS);
      struct timeval us = tv(500 * MS);
      fd_set set;
      FD_ZERO(&set);
      FD_SET(ends[0], &set);
      int epfd = epoll_create1(0);
      struct epoll_event event = {.events = EPOLLIN, .data.u32 = 5}, got = {0};
      epoll_ctl(epfd, EPOLL_CTL_ADD, ends[0], &event);
      int ready = -1;
      switch (way) {
      case 0: ready = poll(&one, 1, timed ? 500 : -1); break;
      case 1: ready = ppoll(&one, 1, timed ? &t : NULL, NULL); break;
      case 2: ready = select(ends[0] + 1, &set, NULL, NULL, timed ? &us : NULL); break;
      case 3: ready = pselect(ends[0] + 1, &set, NULL, NULL, timed ? &t : NULL, NULL); break;
      case 4: ready = epoll_wait(epfd, &got, 1, timed ? 500 : -1); break;
      case 5: ready = epoll_pwait2(epfd, &got, 1, timed ? &t : NULL, NULL); break;
      }
      static const char *const names[] = {"poll", "ppoll", "select", "pselect", "epoll_wait", "epoll_pwait2"};
      at(names[way], start_ns + 3 * MS + 11);
      is(names[way], ready, 1);
      if (way < 2) is("revents", one.revents, POLLIN);
      if (way >= 4) is("epoll data", got.data.u32, 5);
      if (way == 2 && timed && inside) is("select writes the rest back", us.tv_usec, (500 * MS - 3 * MS - 11) / 1000);
      end_later(&later);
      close(epfd);
      close_pipe();
    }
  }
}

static void zero_time_out(void) {
  open_pipe();
  struct pollfd one = {.fd = ends[0], .events = POLLIN};
  int64_t start_ns = now_ns();
  for (int i = 0; i < 3; i++) is("poll 0", poll(&one, 1, 0), 0);
  if (inside) at("poll 0 takes no time", start_ns);
  close_pipe();
}

static void hang_up(void) {
  open_pipe();
  struct pollfd one = {.fd = ends[0], .events = POLLIN};
  close(ends[1]);
  is("poll", poll(&one, 1, 1000), 1);
  truth("hang-up is seen", one.revents & POLLHUP);
  close(ends[0]);
}

static void close_end(void *argument) { close(ends[1]); }
static void end_of_file(void) {
  open_pipe();
  struct later later;
  int64_t start_ns = now_ns();
  start_later(&later, 2 * MS, close_end, NULL);
  char byte;
  is("read at the end", read(ends[0], &byte, 1), 0);
  at("read at the end", start_ns + 2 * MS);
  end_later(&later);
  close(ends[0]);
}

static void drain(void *argument) {
  static char sink[1 << 16];
  for (long left = *(long *)argument; left > 0;) {
    ssize_t got = read(ends[0], sink, sizeof(sink));
    if (got <= 0) abort();
    left -= got;
  }
}
static void blocked_write(void) {
  open_pipe();
  struct later later;
  long total = 3 << 16; /* three times what a pipe holds */
  char *data = calloc(1, (size_t)total);
  int64_t start_ns = now_ns();
  start_later(&later, 4 * MS, drain, &total);
  for (long sent = 0; sent < total;) {
    ssize_t put = write(ends[1], data + sent, (size_t)(total - sent));
    if (put <= 0) abort();
    sent += put;
  }
  at("a write that had to wait", start_ns + 4 * MS);
  end_later(&later);
  free(data);
  close_pipe();
}

static void edge_triggered(void) {
  open_pipe();
  int epfd = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN | EPOLLET | EPOLLONESHOT}, got;
  epoll_ctl(epfd, EPOLL_CTL_ADD, ends[0], &event);
  struct later later;
  int64_t start_ns = now_ns();
  start_later(&later, 2 * MS, write_byte, NULL);
  is("first edge", epoll_wait(epfd, &got, 1, 100), 1);
  at("first edge", start_ns + 2 * MS);
  start_ns = now_ns();
  is("no second edge", epoll_wait(epfd, &got, 1, 5), 0);
  at("no second edge", start_ns + 5 * MS);
  end_later(&later);
  close(epfd);
  close_pipe();
}

static void two_waiters(void) { /* an eventfd as semaphore wakes one waiter per write */
  int fd = eventfd(0, EFD_SEMAPHORE);
  struct pollfd one = {.fd = fd, .events = POLLIN};
  int64_t start_ns = now_ns();
  is("poll of a silent eventfd", poll(&one, 1, 3), 0);
  at("poll of a silent eventfd", start_ns + 3 * MS);
  uint64_t two = 2;
  if (write(fd, &two, sizeof(two)) != sizeof(two)) abort();
  for (int i = 0; i < 2; i++) is("read", read(fd, &two, sizeof(two)), 8);
  is("poll", poll(&one, 1, 1), 0);
  close(fd);
}

CASES({"time_outs", time_outs}, {"epoll_time_outs", epoll_time_outs}, {"readiness", readiness},
      {"zero_time_out", zero_time_out}, {"hang_up", hang_up}, {"end_of_file", end_of_file},
      {"blocked_write", blocked_write}, {"edge_triggered", edge_triggered}, {"two_waiters", two_waiters})
