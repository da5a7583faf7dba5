/* Message channels of every kind and the many ways to wait at their ends. */
#include "stress.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

const char *const kind_names[KIND_COUNT] = {"pipe", "unix", "tcp",  "udp",   "eventfd", "shm",
                                            "sem",  "psem", "cond", "pcond", "futex",   "pfutex"};

static void open_tcp(struct channel *channel) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t bytes = sizeof(address);
  int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, bytes) || listen(listener, 1) ||
      getsockname(listener, (struct sockaddr *)&address, &bytes))
    die("listen on loopback");
  channel->fd_out = socket(AF_INET, SOCK_STREAM, 0);
  if (channel->fd_out < 0 || connect(channel->fd_out, (struct sockaddr *)&address, bytes)) die("connect on loopback");
  channel->fd_in = accept(listener, NULL, NULL);
  if (channel->fd_in < 0) die("accept");
  close(listener);
  setsockopt(channel->fd_out, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void open_udp(struct channel *channel) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t bytes = sizeof(address);
  channel->fd_in = socket(AF_INET, SOCK_DGRAM, 0);
  channel->fd_out = socket(AF_INET, SOCK_DGRAM, 0);
  if (channel->fd_in < 0 || channel->fd_out < 0 || bind(channel->fd_in, (struct sockaddr *)&address, bytes) ||
      getsockname(channel->fd_in, (struct sockaddr *)&address, &bytes) ||
      connect(channel->fd_out, (struct sockaddr *)&address, bytes))
    die("UDP on loopback");
}

void channel_open(struct channel *channel, enum kind kind, int process) {
  channel->kind = kind;
  channel->process = process;
  channel->fd_in = channel->fd_out = -1;
  int ends[2];
  int between = kind_within_process(kind) ? PTHREAD_PROCESS_PRIVATE : PTHREAD_PROCESS_SHARED;
  switch (kind) {
  case KIND_PIPE:
    if (pipe(ends)) die("pipe");
    channel->fd_in = ends[0];
    channel->fd_out = ends[1];
    break;
  case KIND_UNIX:
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) die("socketpair");
    channel->fd_in = ends[0];
    channel->fd_out = ends[1];
    break;
  case KIND_TCP: open_tcp(channel); break;
  case KIND_UDP: open_udp(channel); break;
  case KIND_EVENTFD:
    channel->fd_in = channel->fd_out = eventfd(0, 0);
    if (channel->fd_in < 0) die("eventfd");
    break;
  case KIND_SEM:
  case KIND_PSEM: sem_init(&channel->sem, kind == KIND_PSEM, 0); break;
  case KIND_COND:
  case KIND_PCOND: {
    pthread_mutexattr_t mutex;
    pthread_condattr_t cond;
    pthread_mutexattr_init(&mutex);
    pthread_mutexattr_setpshared(&mutex, between);
    pthread_mutex_init(&channel->mutex, &mutex);
    pthread_condattr_init(&cond);
    pthread_condattr_setpshared(&cond, between);
    pthread_cond_init(&channel->cond, &cond);
    break;
  }
  default: break;
  }
  for (uint32_t i = 0; i < RING; i++) channel->ring[i].turn = i;
}

/* The ring: a sender takes a ticket, writes and publishes; a receiver takes what is published in ticket order. */
static void ring_put(struct channel *channel, const struct message *message) {
  uint32_t ticket = __atomic_fetch_add(&channel->head, 1, __ATOMIC_RELAXED);
  struct ring_entry *entry = &channel->ring[ticket % RING];
  while (__atomic_load_n(&entry->turn, __ATOMIC_ACQUIRE) != ticket) sched_yield();
  entry->message = *message;
  __atomic_store_n(&entry->turn, ticket + 1, __ATOMIC_RELEASE);
}

static bool ring_has(struct channel *channel) {
  return __atomic_load_n(&channel->ring[channel->tail % RING].turn, __ATOMIC_ACQUIRE) == channel->tail + 1;
}

static int ring_take(struct channel *channel, struct message *out, int max) {
  int count = 0;
  while (count < max && ring_has(channel)) {
    struct ring_entry *entry = &channel->ring[channel->tail % RING];
    out[count++] = entry->message;
    __atomic_store_n(&entry->turn, channel->tail + RING, __ATOMIC_RELEASE);
    channel->tail++;
  }
  return count;
}

void channel_send(struct channel *channel, struct message message) {
  __atomic_fetch_add(&channel->sent, 1, __ATOMIC_RELAXED);
  uint64_t one = 1;
  switch (channel->kind) {
  case KIND_PIPE:
    if (write(channel->fd_out, &message, sizeof(message)) != sizeof(message)) die("write to a pipe");
    break;
  case KIND_UNIX:
  case KIND_TCP:
  case KIND_UDP:
    if (send(channel->fd_out, &message, sizeof(message), MSG_NOSIGNAL) != sizeof(message)) die("send");
    break;
  case KIND_EVENTFD:
    ring_put(channel, &message);
    if (write(channel->fd_out, &one, sizeof(one)) != sizeof(one)) die("write to an eventfd");
    break;
  case KIND_SHM: ring_put(channel, &message); break;
  case KIND_SEM:
  case KIND_PSEM:
    ring_put(channel, &message);
    sem_post(&channel->sem);
    break;
  case KIND_COND:
  case KIND_PCOND:
    pthread_mutex_lock(&channel->mutex);
    ring_put(channel, &message);
    if (message.id % 2) pthread_cond_signal(&channel->cond);
    else pthread_cond_broadcast(&channel->cond);
    pthread_mutex_unlock(&channel->mutex);
    break;
  case KIND_FUTEX:
  case KIND_PFUTEX:
    ring_put(channel, &message);
    __atomic_fetch_add(&channel->word, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &channel->word, channel->kind == KIND_FUTEX ? FUTEX_WAKE_PRIVATE : FUTEX_WAKE, 1, NULL, NULL, 0);
    break;
  case KIND_COUNT: break;
  }
}

/* Waits until fd is readable or the deadline has passed. */
static bool fd_ready(struct actor *actor, int fd, int64_t deadline_ns) {
  bool timed = deadline_ns != FOREVER_NS;
  int64_t left_ns = timed ? deadline_ns - now_checked(actor) : 0;
  if (timed && left_ns <= 0) return false;
  struct timespec left = timespec_of(left_ns);
  struct timeval us = {left.tv_sec, left.tv_nsec / 1000};
  int left_ms = timed ? (int)(left_ns / 1000000) : -1;
  struct pollfd one = {.fd = fd, .events = POLLIN};
  uint64_t way = pick(actor, fd < FD_SETSIZE ? 5 : 3);
  if (left_ns % 1000000) way = 1; /* the others do not count nanoseconds */
  int ready = 0;
  if (way == 0) {
    ready = poll(&one, 1, left_ms);
  } else if (way == 1) {
    ready = ppoll(&one, 1, timed ? &left : NULL, NULL);
  } else if (way == 2) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(actor->epoll_fd, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    ready = epoll_wait(actor->epoll_fd, &event, 1, left_ms);
    epoll_ctl(actor->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
  } else {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    ready = way == 3 ? select(fd + 1, &set, NULL, NULL, timed ? &us : NULL)
                     : pselect(fd + 1, &set, NULL, NULL, timed ? &left : NULL, NULL);
  }
  if (ready < 0) die("wait for a descriptor");
  return ready > 0;
}

/* Streams may cut a message in two; the rest follows at the same time. */
static int read_messages(struct channel *channel, struct message *out, int max) {
  size_t have = 0, want = sizeof(*out) * (size_t)(channel->kind == KIND_UDP ? 1 : max);
  do {
    ssize_t got = channel->kind == KIND_PIPE ? read(channel->fd_in, (char *)out + have, want - have)
                                             : recv(channel->fd_in, (char *)out + have, want - have, 0);
    if (got <= 0) die("receive");
    have += (size_t)got;
    want = (have + sizeof(*out) - 1) / sizeof(*out) * sizeof(*out);
  } while (have % sizeof(*out));
  return (int)(have / sizeof(*out));
}

static bool cond_await(struct actor *actor, struct channel *channel, int64_t deadline_ns, const struct timespec *at,
                       const struct timespec *at_realtime) {
  pthread_mutex_lock(&channel->mutex);
  int error = 0;
  while (!ring_has(channel) && error != ETIMEDOUT) {
    if (deadline_ns == FOREVER_NS) error = pthread_cond_wait(&channel->cond, &channel->mutex);
    else if (pick(actor, 2)) error = pthread_cond_timedwait(&channel->cond, &channel->mutex, at_realtime);
    else error = pthread_cond_clockwait(&channel->cond, &channel->mutex, CLOCK_MONOTONIC, at);
  }
  pthread_mutex_unlock(&channel->mutex);
  return error != ETIMEDOUT;
}

/* One wait: false = timed out. True may be a false alarm. */
static bool await(struct actor *actor, struct channel *channel, int64_t deadline_ns) {
  bool timed = deadline_ns != FOREVER_NS;
  struct timespec at = timespec_of(timed ? deadline_ns : 0);
  struct timespec at_realtime = timespec_of(timed ? deadline_ns + realtime_offset_ns() : 0);
  uint64_t sum;
  switch (channel->kind) {
  case KIND_EVENTFD:
    if ((timed || pick(actor, 2)) && !fd_ready(actor, channel->fd_in, deadline_ns)) return false;
    if (read(channel->fd_in, &sum, sizeof(sum)) != sizeof(sum)) die("read of an eventfd");
    return true;
  case KIND_SHM:
    while (!ring_has(channel)) {
      if (timed && now_checked(actor) >= deadline_ns) return false;
      sched_yield();
    }
    return true;
  case KIND_SEM:
  case KIND_PSEM:
    if (!timed) return sem_wait(&channel->sem) == 0;
    return (pick(actor, 2) ? sem_timedwait(&channel->sem, &at_realtime)
                           : sem_clockwait(&channel->sem, CLOCK_MONOTONIC, &at)) == 0;
  case KIND_COND:
  case KIND_PCOND: return cond_await(actor, channel, deadline_ns, &at, &at_realtime);
  case KIND_FUTEX:
  case KIND_PFUTEX: {
    uint32_t seen = __atomic_load_n(&channel->word, __ATOMIC_SEQ_CST);
    if (ring_has(channel)) return true;
    int operation = channel->kind == KIND_FUTEX ? FUTEX_WAIT_BITSET_PRIVATE : FUTEX_WAIT_BITSET;
    long result = syscall(SYS_futex, &channel->word, operation, seen, timed ? &at : NULL, NULL, FUTEX_BITSET_MATCH_ANY);
    return result == 0 || errno != ETIMEDOUT;
  }
  default: return fd_ready(actor, channel->fd_in, deadline_ns);
  }
}

int channel_receive(struct actor *actor, struct channel *channel, int64_t deadline_ns, struct message *out, int max) {
  bool stream = channel->kind <= KIND_UDP;
  for (;;) {
    if (stream && deadline_ns == FOREVER_NS && pick(actor, 2)) return read_messages(channel, out, max);
    if (!stream && ring_has(channel)) return ring_take(channel, out, max);
    if (await(actor, channel, deadline_ns)) {
      if (stream) return read_messages(channel, out, max);
      continue;
    }
    int64_t end_ns = now_checked(actor);
    /* nobody but a busy-poller knows when it gives up, so that it may see its deadline one jump late */
    if (channel->kind == KIND_SHM ? end_ns < deadline_ns - options.early_ns : off(deadline_ns, end_ns))
      violation(actor, "time-out", channel->kind, deadline_ns, end_ns);
    __atomic_fetch_add(&shared->timeouts, 1, __ATOMIC_RELAXED);
    return 0;
  }
}
