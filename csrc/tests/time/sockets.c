/* Sockets: time limits, arrival times over loopback, connect and accept. */
#include "check.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>

static int listen_loopback(struct sockaddr_in *address) {
  socklen_t bytes = sizeof(*address);
  *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr *)address, bytes) || listen(listener, 8) ||
      getsockname(listener, (struct sockaddr *)address, &bytes))
    abort();
  return listener;
}

static int pair[2];
static void limit(int fd, int option, int64_t ns) {
  struct timeval us = tv(ns);
  is("setsockopt", setsockopt(fd, SOL_SOCKET, option, &us, sizeof(us)), 0);
}

static void receive_limit(void) {
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) abort();
  limit(pair[0], SO_RCVTIMEO, 6 * MS);
  struct timeval got = {0, 0};
  socklen_t bytes = sizeof(got);
  is("getsockopt", getsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &got, &bytes), 0);
  truth("the limit reads back", got.tv_sec == 0 && got.tv_usec >= 6000 && got.tv_usec <= 8000);
  char byte;
  struct iovec one = {&byte, 1};
  struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1};
  for (int way = 0; way < 5; way++) {
    int64_t start_ns = now_ns();
    ssize_t result = way == 0   ? recv(pair[0], &byte, 1, 0)
                     : way == 1 ? read(pair[0], &byte, 1)
                     : way == 2 ? recvfrom(pair[0], &byte, 1, 0, NULL, NULL)
                     : way == 3 ? recvmsg(pair[0], &message, 0)
                                : readv(pair[0], &one, 1);
    is("receive", result, -1);
    is("errno", errno, EAGAIN);
    at("receive", start_ns + 6 * MS);
  }
  limit(pair[0], SO_RCVTIMEO, 0); /* back to for ever */
  getsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &got, &bytes);
  is("no limit", got.tv_sec + got.tv_usec, 0);
  struct pollfd quiet = {.fd = pair[0], .events = POLLIN};
  is("nothing came", poll(&quiet, 1, 10), 0);
  close(pair[0]);
  close(pair[1]);
}

static void put_byte(void *argument) {
  if (send(*(int *)argument, "x", 1, 0) != 1) abort();
}
static void in_time(void) {
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) abort();
  limit(pair[0], SO_RCVTIMEO, 500 * MS);
  struct later later;
  int64_t start_ns = now_ns();
  start_later(&later, 3 * MS, put_byte, &pair[1]);
  char byte;
  is("recv", recv(pair[0], &byte, 1, 0), 1);
  at("recv", start_ns + 3 * MS);
  end_later(&later);
  close(pair[0]);
  close(pair[1]);
}

static void closed_and_reused(void) { /* a limit ends with its socket, not with the number */
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) abort();
  limit(pair[0], SO_RCVTIMEO, 2 * MS);
  int number = pair[0];
  close(pair[0]);
  close(pair[1]);
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) abort();
  is("the same number", pair[0], number);
  struct later later;
  int64_t start_ns = now_ns();
  start_later(&later, 9 * MS, put_byte, &pair[1]);
  char byte;
  is("recv", recv(pair[0], &byte, 1, 0), 1);
  at("recv", start_ns + 9 * MS);
  end_later(&later);
  close(pair[0]);
  close(pair[1]);
}

static void send_limit(void) {
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) abort();
  static char data[1 << 16];
  limit(pair[0], SO_SNDTIMEO, 5 * MS);
  int64_t start_ns = now_ns();
  ssize_t put;
  do {
    start_ns = now_ns();
    put = send(pair[0], data, sizeof(data), MSG_NOSIGNAL);
  } while (put == (ssize_t)sizeof(data));
  at("send to a full socket", start_ns + 5 * MS);
  if (put > 0) { /* a part went; now nothing goes */
    start_ns = now_ns();
    put = send(pair[0], data, sizeof(data), MSG_NOSIGNAL);
    at("send to a full socket", start_ns + 5 * MS);
  }
  is("send", put, -1);
  is("errno", errno, EAGAIN);
  close(pair[0]);
  close(pair[1]);
}

static void accept_limit(void) {
  struct sockaddr_in address;
  int listener = listen_loopback(&address);
  limit(listener, SO_RCVTIMEO, 5 * MS);
  int64_t start_ns = now_ns();
  is("accept", accept(listener, NULL, NULL), -1);
  is("errno", errno, EAGAIN);
  at("accept", start_ns + 5 * MS);
  close(listener);
}

static struct sockaddr_in server_address;
static int client = -1;
static void connect_client(void *argument) {
  client = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(client, (struct sockaddr *)&server_address, sizeof(server_address))) abort();
}
static void tcp_arrival(void) {
  int listener = listen_loopback(&server_address);
  struct later later;
  int64_t start_ns = now_ns();
  start_later(&later, 3 * MS + 1, connect_client, NULL);
  int server = accept(listener, NULL, NULL);
  at("accept", start_ns + 3 * MS + 1);
  end_later(&later);
  for (int i = 0; i < 50; i++) {
    start_ns = now_ns();
    start_later(&later, 1 * MS, put_byte, &client);
    char bytes[4];
    is("recv", recv(server, bytes, sizeof(bytes), 0), 1);
    at("loopback adds no time", start_ns + MS);
    end_later(&later);
  }
  close(listener);
  close(server);
  close(client);
}

static void nagle(void) { /* two small writes and a reply, Nagle on: no 40 ms of delayed acknowledgement */
  int listener = listen_loopback(&server_address);
  connect_client(NULL);
  int server = accept(listener, NULL, NULL);
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    char request[2];
    for (int i = 0; i < 10; i++) {
      for (int have = 0; have < 2;) {
        ssize_t got = recv(server, request + have, (size_t)(2 - have), 0);
        if (got <= 0) _exit(1);
        have += (int)got;
      }
      if (send(server, "r", 1, 0) != 1) _exit(1);
    }
    _exit(0);
  }
  int64_t start_ns = now_ns();
  for (int i = 0; i < 10; i++) {
    char reply;
    if (send(client, "a", 1, 0) != 1 || send(client, "b", 1, 0) != 1) abort();
    is("reply", recv(client, &reply, 1, 0), 1);
  }
  if (inside) at("ten round trips", start_ns);
  is("child", reap(child), 0);
  close(listener);
  close(server);
  close(client);
}

static void refused(void) {
  struct sockaddr_in address;
  close(listen_loopback(&address));
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  int64_t start_ns = now_ns();
  is("connect", connect(fd, (struct sockaddr *)&address, sizeof(address)), -1);
  is("errno", errno, ECONNREFUSED);
  at("refused at once", start_ns);
  close(fd);
}

static void non_blocking(void) {
  int listener = listen_loopback(&server_address);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  int64_t start_ns = now_ns();
  int result = connect(fd, (struct sockaddr *)&server_address, sizeof(server_address));
  truth("connect", result == 0 || errno == EINPROGRESS);
  struct pollfd writable = {.fd = fd, .events = POLLOUT};
  is("poll", poll(&writable, 1, 1000), 1);
  char byte;
  is("recv", recv(fd, &byte, 1, 0), -1);
  is("errno", errno, EAGAIN);
  at("no time passes", start_ns);
  close(fd);
  close(listener);
}

static void shut(void *argument) { shutdown(*(int *)argument, SHUT_WR); }
static void shut_down(void) {
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) abort();
  struct later later;
  int64_t start_ns = now_ns();
  start_later(&later, 4 * MS, shut, &pair[1]);
  char byte;
  is("recv", recv(pair[0], &byte, 1, 0), 0);
  at("end of the stream", start_ns + 4 * MS);
  end_later(&later);
  close(pair[0]);
  close(pair[1]);
}

CASES({"receive_limit", receive_limit}, {"in_time", in_time}, {"closed_and_reused", closed_and_reused},
      {"send_limit", send_limit}, {"accept_limit", accept_limit}, {"tcp_arrival", tcp_arrival}, {"nagle", nagle},
      {"refused", refused}, {"non_blocking", non_blocking}, {"shut_down", shut_down})
