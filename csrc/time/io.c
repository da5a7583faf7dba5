/* Reads that may block are marked; writes are effects. A read is first tried without blocking, so that ready
 * data and files cost no slot transition (a file that is read from disk counts as running: it is). Blocking
 * writes are not marked: the coordinator's slow path recognises them by the call and the kind of descriptor. */
#include "internal.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif

static ssize_t finish(long result) {
  if (result >= 0) return result;
  errno = (int)-result;
  return -1;
}

/* Files and directories end by themselves; everything else may wait for somebody. */
static bool may_wait(int fd) {
  struct stat st;
  return fstat(fd, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && !S_ISBLK(st.st_mode);
}

/* SO_RCVTIMEO and SO_SNDTIMEO: kept here, not in the kernel, which would count real time. */
struct limits {
  int64_t receive_ns, send_ns;
};
#define RVT_LIMIT_FDS 65536
static struct limits *limits; /* allocated by the first setsockopt; indexed by descriptor */

static int64_t receive_limit_ns(int fd) {
  struct limits *table = rvt_load(&limits);
  if (RVT_LIKELY(!table) || fd < 0 || fd >= RVT_LIMIT_FDS) return 0;
  return table[fd].receive_ns;
}

/* Blocks until fd is readable or its time limit has passed: 0 go on, -1 with errno EAGAIN or EINTR. */
static int await_limit(int kind, int fd, int64_t limit_ns) {
  struct pollfd one = {.fd = fd, .events = POLLIN};
  int ready = rvt_poll_until(kind, &one, 1, rvt_deadline_after(limit_ns), NULL, (uint64_t)fd);
  if (ready > 0) return 0;
  if (ready == 0) errno = EAGAIN;
  return -1;
}

/* With turns, waiting and taking are two steps: a thread takes what is there when its turn comes. False: EINTR. */
static bool await_turn(int kind, int fd) {
  if (RVT_LIKELY(!rvt_the_page->turns)) return true;
  long flags = rvt_raw(SYS_fcntl, fd, F_GETFL, 0, 0, 0, 0);
  if (flags < 0 || flags & O_NONBLOCK) return true;
  struct pollfd one = {.fd = fd, .events = POLLIN};
  rvt_self_tls.interrupted = false;
  while (rvt_poll_until(kind, &one, 1, RVT_FOREVER_NS, NULL, (uint64_t)fd) < 0) {
    if (errno != EINTR) return true; /* the call itself will tell */
    if (rvt_self_tls.interrupted) return false;
  }
  return true;
}

/* Runs a real call that may block as one marked wait. On a descriptor that does not block it is a poll, and must
 * leave no trace of a wait: a loop of them is a busy-poller. */
#define RVT_MARKED(kind, fd, call)                            \
  ({                                                          \
    if (!await_turn((kind), (fd))) return -1;                 \
    uint32_t polls_ = rvt_self_tls.polls;                     \
    uint32_t events_ = rvt_self_tls.slot->events;             \
    rvt_active();                                             \
    rvt_block((kind), RVT_FOREVER_NS, (uint64_t)(fd));        \
    long marked_ = (long)(call);                              \
    int error_ = errno;                                       \
    rvt_unblock();                                            \
    if (marked_ < 0 && error_ == EAGAIN) {                    \
      rvt_self_tls.polls = polls_;                            \
      rvt_store_relaxed(&rvt_self_tls.slot->events, events_); \
      rvt_busy_poll(RVT_FOREVER_NS);                          \
    }                                                         \
    errno = error_;                                           \
    marked_;                                                  \
  })

/* A try without blocking may end where the page cache does; a program expects a file to give what it has. */
static ssize_t rest_of_file(int fd, const struct iovec *iov, long got) {
  if (got == 0 || may_wait(fd)) return got;
  long more = rvt_raw(SYS_read, fd, (long)iov->iov_base + got, (long)iov->iov_len - got, 0, 0, 0);
  return more > 0 ? got + more : got;
}

static ssize_t read_after_try(int fd, const struct iovec *iov, int count, long tried) {
  if (tried >= 0) {
    if (tried > 0) rvt_self_tls.polls = 0;
    return count == 1 && tried < (long)iov->iov_len ? rest_of_file(fd, iov, tried) : tried;
  }
  if (tried != -EAGAIN && tried != -EOPNOTSUPP && tried != -ENOTSUP && tried != -ESPIPE && tried != -EINVAL)
    return finish(tried);
  if (!may_wait(fd)) return finish(rvt_raw(SYS_readv, fd, (long)iov, count, 0, 0, 0));
  int64_t limit_ns = receive_limit_ns(fd);
  if (limit_ns && await_limit(RVT_WAIT_READ, fd, limit_ns)) return -1;
  return RVT_MARKED(RVT_WAIT_READ, fd,
                    count == 1 ? rvt_real.read(fd, iov->iov_base, iov->iov_len) : rvt_real.readv(fd, iov, count));
}

RVT_EXPORT ssize_t read(int fd, void *buffer, size_t bytes) {
  if (!rvt_on()) return rvt_real.read(fd, buffer, bytes);
  struct iovec one = {buffer, bytes};
  return read_after_try(fd, &one, 1, rvt_raw(SYS_preadv2, fd, (long)&one, 1, -1, -1, RWF_NOWAIT));
}

RVT_EXPORT ssize_t __read_chk(int fd, void *buffer, size_t bytes, size_t size) {
  if (bytes > size) abort();
  return read(fd, buffer, bytes);
}

RVT_EXPORT ssize_t readv(int fd, const struct iovec *iov, int count) {
  if (!rvt_on()) return rvt_real.readv(fd, iov, count);
  if (!may_wait(fd)) return rvt_real.readv(fd, iov, count);
  return read_after_try(fd, iov, count, rvt_raw(SYS_preadv2, fd, (long)iov, count, -1, -1, RWF_NOWAIT));
}

#define RVT_NEVER_WAITS (MSG_ERRQUEUE | MSG_OOB)

/* The socket said EAGAIN to a try without blocking. */
static bool receive_again(int fd, int flags, long tried, ssize_t *result) {
  if (tried >= 0) {
    rvt_self_tls.polls = 0;
    *result = tried;
    return false;
  }
  if (tried != -EAGAIN) {
    *result = finish(tried);
    return false;
  }
  if (flags & MSG_DONTWAIT) {
    rvt_busy_poll(RVT_FOREVER_NS);
    *result = finish(tried);
    return false;
  }
  int64_t limit_ns = receive_limit_ns(fd);
  if (limit_ns && await_limit(RVT_WAIT_READ, fd, limit_ns)) {
    *result = -1;
    return false;
  }
  return true;
}

RVT_EXPORT ssize_t recvfrom(int fd, void *buffer, size_t bytes, int flags, struct sockaddr *from, socklen_t *length) {
  if (!rvt_on() || flags & RVT_NEVER_WAITS) return rvt_real.recvfrom(fd, buffer, bytes, flags, from, length);
  ssize_t result;
  /* With MSG_WAITALL a try could take a part. */
  long tried = flags & MSG_WAITALL ? -EAGAIN
                                   : rvt_raw(SYS_recvfrom, fd, (long)buffer, (long)bytes, flags | MSG_DONTWAIT,
                                             (long)from, (long)length);
  if (!receive_again(fd, flags, tried, &result)) return result;
  return RVT_MARKED(RVT_WAIT_READ, fd, rvt_real.recvfrom(fd, buffer, bytes, flags, from, length));
}

RVT_EXPORT ssize_t recv(int fd, void *buffer, size_t bytes, int flags) {
  return recvfrom(fd, buffer, bytes, flags, NULL, NULL);
}

RVT_EXPORT ssize_t __recv_chk(int fd, void *buffer, size_t bytes, size_t size, int flags) {
  if (bytes > size) abort();
  return recvfrom(fd, buffer, bytes, flags, NULL, NULL);
}

RVT_EXPORT ssize_t __recvfrom_chk(int fd, void *buffer, size_t bytes, size_t size, int flags, struct sockaddr *from,
                                  socklen_t *length) {
  if (bytes > size) abort();
  return recvfrom(fd, buffer, bytes, flags, from, length);
}

RVT_EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
  if (!rvt_on() || flags & RVT_NEVER_WAITS) return rvt_real.recvmsg(fd, message, flags);
  ssize_t result;
  long tried = flags & MSG_WAITALL ? -EAGAIN : rvt_raw(SYS_recvmsg, fd, (long)message, flags | MSG_DONTWAIT, 0, 0, 0);
  if (!receive_again(fd, flags, tried, &result)) return result;
  return RVT_MARKED(RVT_WAIT_READ, fd, rvt_real.recvmsg(fd, message, flags));
}

RVT_EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout) {
  if (!rvt_on()) return rvt_real.recvmmsg(fd, messages, count, flags, timeout);
  ssize_t result;
  long tried = rvt_raw(SYS_recvmmsg, fd, (long)messages, count, flags | MSG_DONTWAIT, 0, 0);
  if (!receive_again(fd, flags, tried, &result)) return (int)result;
  if (timeout && await_limit(RVT_WAIT_READ, fd, rvt_ns_of(timeout))) return -1;
  return (int)RVT_MARKED(RVT_WAIT_READ, fd, rvt_real.recvmmsg(fd, messages, count, flags, NULL));
}

RVT_EXPORT int accept4(int fd, struct sockaddr *from, socklen_t *length, int flags) {
  if (!rvt_on()) return rvt_real.accept4(fd, from, length, flags);
  struct pollfd one = {.fd = fd, .events = POLLIN};
  struct timespec now = {0, 0};
  if (rvt_raw(SYS_ppoll, (long)&one, 1, (long)&now, 0, 0, 0) != 0) {
    rvt_active();
    return rvt_real.accept4(fd, from, length, flags);
  }
  int64_t limit_ns = receive_limit_ns(fd);
  if (limit_ns && await_limit(RVT_WAIT_ACCEPT, fd, limit_ns)) return -1;
  return (int)RVT_MARKED(RVT_WAIT_ACCEPT, fd, rvt_real.accept4(fd, from, length, flags));
}

RVT_EXPORT int accept(int fd, struct sockaddr *from, socklen_t *length) {
  if (!rvt_on()) return rvt_real.accept(fd, from, length);
  return accept4(fd, from, length, 0);
}

static bool on_this_host(const struct sockaddr *to) {
  if (to->sa_family == AF_INET) {
    uint32_t address = ntohl(((const struct sockaddr_in *)to)->sin_addr.s_addr);
    return address >> 24 == 127 || address == INADDR_ANY;
  }
  if (to->sa_family == AF_INET6) {
    const struct in6_addr *address = &((const struct sockaddr_in6 *)to)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(address) || IN6_IS_ADDR_UNSPECIFIED(address) ||
           (IN6_IS_ADDR_V4MAPPED(address) && address->s6_addr[12] == 127);
  }
  return true;
}

/* Nagle's algorithm with delayed ACKs would hold data for 40 ms of real time: off. A peer on another host is outside
 * the run: while the connection is open the clock is no faster than real time. (A host's own other addresses count
 * as outside too: slow, not wrong.) */
RVT_EXPORT int connect(int fd, const struct sockaddr *to, socklen_t length) {
  if (!rvt_on()) return rvt_real.connect(fd, to, length);
  rvt_effect();
  bool inet = to && length >= sizeof(sa_family_t) && (to->sa_family == AF_INET || to->sa_family == AF_INET6);
  if (inet) {
    int on = 1;
    rvt_raw(SYS_setsockopt, fd, IPPROTO_TCP, TCP_NODELAY, (long)&on, sizeof(on), 0);
  }
  if (!inet || on_this_host(to)) return rvt_real.connect(fd, to, length);
  rvt_timer_closed(fd);
  rvt_external_open(fd);
  int result = rvt_real.connect(fd, to, length);
  int type = 0, error = errno;
  socklen_t bytes = sizeof(type);
  rvt_real.getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes);
  if ((result && error != EINPROGRESS) || type != SOCK_STREAM)
    rvt_timer_closed(fd); /* datagrams: only a route look-up */
  errno = error;
  return result;
}

/* Effects. A socket with a send limit is never left to wait in the kernel, which would count real time. */
static int64_t send_limit_ns(int fd) {
  struct limits *table = rvt_load(&limits);
  if (RVT_LIKELY(!table) || fd < 0 || fd >= RVT_LIMIT_FDS) return 0;
  return table[fd].send_ns;
}

#define RVT_LIMITED_PARTS 64

/* As the kernel does it: parts go out until everything is sent or the limit has passed. */
static ssize_t send_limited(int fd, const struct msghdr *message, int flags, int64_t limit_ns) {
  int64_t deadline_ns = rvt_deadline_after(limit_ns);
  struct iovec parts[RVT_LIMITED_PARTS];
  struct msghdr rest = *message;
  if (rest.msg_iovlen <= RVT_LIMITED_PARTS)
    rest.msg_iov = memcpy(parts, message->msg_iov, rest.msg_iovlen * sizeof(*parts));
  ssize_t total = 0;
  for (;;) {
    ssize_t sent = rvt_real.sendmsg(fd, &rest, flags | MSG_DONTWAIT);
    if (sent < 0 && (errno != EAGAIN || flags & MSG_DONTWAIT)) return total ? total : sent;
    if (sent > 0) total += sent;
    if (sent >= 0 && message->msg_iovlen > RVT_LIMITED_PARTS) return total;
    while (sent > 0 && rest.msg_iovlen) {
      size_t step = (size_t)sent < rest.msg_iov->iov_len ? (size_t)sent : rest.msg_iov->iov_len;
      rest.msg_iov->iov_base = (char *)rest.msg_iov->iov_base + step;
      rest.msg_iov->iov_len -= step;
      sent -= (ssize_t)step;
      if (!rest.msg_iov->iov_len) rest.msg_iov++, rest.msg_iovlen--;
    }
    if (sent >= 0 && (!rest.msg_iovlen || !total)) return total;
    rest.msg_control = NULL; /* went with the first part */
    rest.msg_controllen = 0;
    struct pollfd one = {.fd = fd, .events = POLLOUT};
    int ready = rvt_poll_until(RVT_WAIT_WRITE, &one, 1, deadline_ns, NULL, (uint64_t)fd);
    if (ready > 0) continue;
    if (total) return total;
    if (ready == 0) errno = EAGAIN;
    return -1;
  }
}

RVT_EXPORT ssize_t writev(int fd, const struct iovec *iov, int count) {
  if (!rvt_on()) return rvt_real.writev(fd, iov, count);
  rvt_effect();
  int64_t limit_ns = send_limit_ns(fd);
  if (RVT_LIKELY(!limit_ns)) return rvt_real.writev(fd, iov, count);
  struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count};
  return send_limited(fd, &message, 0, limit_ns);
}

RVT_EXPORT ssize_t write(int fd, const void *buffer, size_t bytes) {
  if (!rvt_on()) return rvt_real.write(fd, buffer, bytes);
  rvt_effect();
  if (RVT_LIKELY(!send_limit_ns(fd))) return rvt_real.write(fd, buffer, bytes);
  struct iovec one = {(void *)buffer, bytes};
  return writev(fd, &one, 1);
}

RVT_EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  if (!rvt_on()) return rvt_real.sendmsg(fd, message, flags);
  rvt_effect();
  int64_t limit_ns = send_limit_ns(fd);
  return limit_ns ? send_limited(fd, message, flags, limit_ns) : rvt_real.sendmsg(fd, message, flags);
}

RVT_EXPORT ssize_t sendto(int fd, const void *buffer, size_t bytes, int flags, const struct sockaddr *to,
                          socklen_t length) {
  if (!rvt_on()) return rvt_real.sendto(fd, buffer, bytes, flags, to, length);
  rvt_effect();
  int64_t limit_ns = send_limit_ns(fd);
  if (RVT_LIKELY(!limit_ns)) return rvt_real.sendto(fd, buffer, bytes, flags, to, length);
  struct iovec one = {(void *)buffer, bytes};
  struct msghdr message = {.msg_name = (void *)to, .msg_namelen = length, .msg_iov = &one, .msg_iovlen = 1};
  return send_limited(fd, &message, flags, limit_ns);
}

RVT_EXPORT ssize_t send(int fd, const void *buffer, size_t bytes, int flags) {
  return sendto(fd, buffer, bytes, flags, NULL, 0);
}

RVT_EXPORT int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
  if (rvt_on()) rvt_effect();
  return rvt_real.sendmmsg(fd, messages, count, flags);
}

RVT_EXPORT int setsockopt(int fd, int level, int option, const void *value, socklen_t length) {
  if (!rvt_on()) return rvt_real.setsockopt(fd, level, option, value, length);
  if (level == IPPROTO_TCP && option == TCP_NODELAY) {
    int on = 1;
    return rvt_real.setsockopt(fd, level, option, &on, sizeof(on));
  }
  if (level != SOL_SOCKET || (option != SO_RCVTIMEO && option != SO_SNDTIMEO) || length < sizeof(struct timeval))
    return rvt_real.setsockopt(fd, level, option, value, length);
  struct timeval none = {0, 0};
  int result = rvt_real.setsockopt(fd, level, option, &none, sizeof(none)); /* checks the descriptor, too */
  if (result || fd < 0 || fd >= RVT_LIMIT_FDS) return result;
  struct limits *table = rvt_load(&limits);
  if (!table) {
    struct limits *fresh = calloc(RVT_LIMIT_FDS, sizeof(*fresh));
    if (!fresh) return 0;
    if (__atomic_compare_exchange_n(&limits, &table, fresh, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) table = fresh;
    else free(fresh);
  }
  const struct timeval *t = value;
  int64_t ns = (int64_t)t->tv_sec * RVT_NS_PER_S + (int64_t)t->tv_usec * 1000;
  if (option == SO_RCVTIMEO) table[fd].receive_ns = ns;
  else table[fd].send_ns = ns;
  return 0;
}

RVT_EXPORT int getsockopt(int fd, int level, int option, void *value, socklen_t *length) {
  struct limits *table = rvt_load(&limits);
  if (rvt_on() && table && level == SOL_SOCKET && (option == SO_RCVTIMEO || option == SO_SNDTIMEO) && fd >= 0 &&
      fd < RVT_LIMIT_FDS && *length >= sizeof(struct timeval)) {
    int64_t ns = option == SO_RCVTIMEO ? table[fd].receive_ns : table[fd].send_ns;
    *(struct timeval *)value = (struct timeval){.tv_sec = ns / RVT_NS_PER_S, .tv_usec = ns % RVT_NS_PER_S / 1000};
    *length = sizeof(struct timeval);
    return 0;
  }
  return rvt_real.getsockopt(fd, level, option, value, length);
}

RVT_EXPORT int close(int fd) {
  if (rvt_mode == RVT_MODE_UNKNOWN) return (int)finish(rvt_raw(SYS_close, fd, 0, 0, 0, 0, 0));
  struct limits *table = rvt_load(&limits);
  if (RVT_UNLIKELY(table != NULL) && fd >= 0 && fd < RVT_LIMIT_FDS) table[fd] = (struct limits){0, 0};
  rvt_timer_closed(fd);
  if (rvt_on()) rvt_effect(); /* the other end of a pipe or socket sees it */
  return rvt_real.close(fd);
}
