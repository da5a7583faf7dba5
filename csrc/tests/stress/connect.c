/* New TCP connections over loopback, as a server sees them that also has a timer to look after: all that happens
 * between a client's connect() and the answer that it gets happens at one virtual instant. Setting up a connection
 * takes several packets, which a busy kernel delivers through ksoftirqd.
 *
 *   connect [--connections N] [--pairs P] [--seed S]
 *
 * Prints one JSON line; exit status 1 after any message that was late, 2 when the program could not do its work.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TICK_MS 7 /* often enough that a connection which is not waited for is late by some milliseconds */

struct shared {
  uint64_t late, served, worst_ns;
};
static struct shared *shared;
static int connections = 300, pairs = 3;
static uint64_t seed = 1;

static void die(const char *what) {
  perror(what);
  _exit(2);
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void check(int64_t sent_ns) {
  uint64_t late_ns = (uint64_t)(now_ns() - sent_ns);
  if (!late_ns) return;
  __atomic_add_fetch(&shared->late, 1, __ATOMIC_SEQ_CST);
  if (late_ns > shared->worst_ns) shared->worst_ns = late_ns;
}

static void answer(int connection) {
  int64_t sent_ns;
  ssize_t n = recv(connection, &sent_ns, sizeof(sent_ns), 0);
  if (n == sizeof(sent_ns)) {
    check(sent_ns);
    if (send(connection, &sent_ns, sizeof(sent_ns), MSG_NOSIGNAL) != sizeof(sent_ns)) die("answer");
    __atomic_add_fetch(&shared->served, 1, __ATOMIC_SEQ_CST);
  } else if (n < 0) {
    if (errno != EAGAIN) die("recv");
  } else {
    close(connection);
  }
}

static void serve(int listener) {
  int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[8];
  if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event)) die("epoll");
  for (;;) {
    int count = epoll_wait(epoll_fd, ready, 8, TICK_MS);
    if (count < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < count; i++) {
      if (ready[i].data.fd != listener) {
        answer(ready[i].data.fd);
        continue;
      }
      event.data.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (event.data.fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, event.data.fd, &event)) die("accept");
    }
  }
}

static void wait_for(int fd, short events) {
  struct pollfd one = {.fd = fd, .events = events};
  while (poll(&one, 1, 60000) < 1)
    if (errno != EINTR) die("poll");
}

static void ask(const struct sockaddr_in *address) {
  int64_t start_ns = now_ns(), echo_ns = 0;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) && errno != EINPROGRESS) die("connect");
  wait_for(fd, POLLOUT);
  check(start_ns);
  if (send(fd, &start_ns, sizeof(start_ns), MSG_NOSIGNAL) != sizeof(start_ns)) die("send");
  wait_for(fd, POLLIN);
  if (recv(fd, &echo_ns, sizeof(echo_ns), 0) != sizeof(echo_ns) || echo_ns != start_ns) die("answer");
  check(start_ns);
  close(fd);
}

static void load(const struct sockaddr_in *address, uint64_t random) {
  for (int i = 0; i < connections; i++) {
    random = random * 6364136223846793005ull + 1442695040888963407ull;
    struct timespec pause = {0, (long)(random >> 33) % 3000000};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    ask(address);
  }
}

static int listen_loopback(struct sockaddr_in *address) {
  socklen_t bytes = sizeof(*address);
  *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)address, bytes) || listen(listener, 64) ||
      getsockname(listener, (struct sockaddr *)address, &bytes))
    die("listen");
  return listener;
}

static void start_pair(int index, pid_t *server, pid_t *client) {
  struct sockaddr_in address;
  int listener = listen_loopback(&address);
  if ((*server = fork()) == 0) serve(listener);
  if ((*client = fork()) == 0) {
    load(&address, seed * 1000003 + (uint64_t)index);
    _exit(0);
  }
  if (*server < 0 || *client < 0) die("fork");
  close(listener);
}

int main(int count, char **arguments) {
  static const struct option names[] = {{"connections", required_argument, 0, 'c'},
                                        {"pairs", required_argument, 0, 'p'},
                                        {"seed", required_argument, 0, 's'},
                                        {0}};
  for (int c; (c = getopt_long(count, arguments, "", names, NULL)) != -1;) {
    if (c == 'c') connections = atoi(optarg);
    else if (c == 'p') pairs = atoi(optarg);
    else if (c == 's') seed = strtoull(optarg, NULL, 0);
    else return 2;
  }
  shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t servers[64], clients[64];
  if (shared == MAP_FAILED || pairs < 1 || pairs > 64) return 2;
  for (int i = 0; i < pairs; i++) start_pair(i, &servers[i], &clients[i]);
  int bad = 0;
  for (int i = 0, status; i < pairs; i++) {
    if (waitpid(clients[i], &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status)) bad = 2;
    kill(servers[i], SIGKILL);
    waitpid(servers[i], NULL, 0);
  }
  bad = bad ? bad : shared->served != (uint64_t)connections * (uint64_t)pairs ? 2 : shared->late != 0;
  printf("{\"connections\": %llu, \"late\": %llu, \"worst_ns\": %llu}\n", (unsigned long long)shared->served,
         (unsigned long long)shared->late, (unsigned long long)shared->worst_ns);
  return bad;
}
