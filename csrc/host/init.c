/* The init process: parent of every program of the run and sub-reaper of the tree. It collects exits, kills what
 * is left, and ends the run loudly when the coordinator dies. It is forked from a process that may have threads,
 * so it uses neither malloc nor stdio. */
#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define RVT_SPAWN_BYTES (4u << 20)
#define RVT_SPAWN_STRINGS 16384

enum request_kind { REQUEST_SPAWN = 1, REQUEST_KILL = 2, REQUEST_COUNT = 3 };

struct request {
  int32_t kind;
  int32_t slot;
  int32_t argc, envc;
  int32_t has_cwd;
};

enum reply_kind { REPLY_SPAWNED = 1, REPLY_EXITED = 2, REPLY_COUNT = 3 };

struct reply {
  int32_t kind;
  int32_t pid; /* or -errno, or a count */
  int32_t status;
  int32_t step; /* spawn failed at: 1 cwd, 2 exec */
};

/* ---- inside init ---- */

static void say(const char *text) {
  if (write(2, text, strlen(text)) < 0) {
  }
}

static int children(int *pids, int max) {
  char path[64], text[8192];
  snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t n = read(fd, text, sizeof(text) - 1);
  close(fd);
  if (n <= 0) return 0;
  text[n] = 0;
  int count = 0;
  for (char *at = text; *at && count < max;) {
    pids[count++] = (int)strtol(at, &at, 10);
    while (*at == ' ') at++;
  }
  return count;
}

static void collect(int fd) {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    struct reply reply = {REPLY_EXITED, pid, status, 0};
    if (fd >= 0 && send(fd, &reply, sizeof(reply), MSG_NOSIGNAL) < 0) {
    }
  }
}

/* Orphans come to us, so killing children until there are none kills the tree. */
static int kill_tree(int fd) {
  int killed = 0;
  for (int turn = 0; turn < 2000; turn++) {
    int pids[1024];
    int count = children(pids, 1024);
    if (count <= 0) break;
    for (int i = 0; i < count; i++)
      if (kill(pids[i], SIGKILL) == 0 && turn == 0) killed++;
    collect(fd);
    usleep(1000);
  }
  return killed;
}

static _Noreturn void child_main(struct request *request, char *area, int fds[3], int report) {
  static char *strings[RVT_SPAWN_STRINGS];
  char *at = area;
  int total = request->argc + request->envc;
  char **argv = strings, **env = strings + request->argc + 1;
  for (int i = 0; i < total; i++) {
    (i < request->argc ? argv : env - request->argc)[i] = at;
    at += strlen(at) + 1;
  }
  argv[request->argc] = NULL;
  env[request->envc] = NULL;
  for (int i = 0; i < 3; i++)
    if (fds[i] >= 0) dup2(fds[i], i);
  struct sigaction normal = {.sa_handler = SIG_DFL};
  for (int s = 1; s < NSIG; s++) sigaction(s, &normal, NULL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  int failure[2] = {0, 0};
  if (request->has_cwd && chdir(at)) {
    failure[0] = errno;
    failure[1] = 1;
  } else {
    execvpe(argv[0], argv, env);
    failure[0] = errno;
    failure[1] = 2;
  }
  if (write(report, failure, sizeof(failure)) < 0) {
  }
  _exit(127);
}

static void spawn(int socket, struct request *request, char *area, struct rvt_page *page, int fds[3]) {
  int report[2];
  struct reply reply = {REPLY_SPAWNED, -1, 0, 0};
  if (pipe2(report, O_CLOEXEC)) {
    reply.pid = -errno;
  } else {
    pid_t pid = fork();
    if (pid == 0) {
      rvt_store(&page->slots[request->slot].pid, (int)getpid());
      close(report[0]);
      child_main(request, area, fds, report[1]);
    }
    close(report[1]);
    int failure[2];
    reply.pid = pid < 0 ? -errno : pid;
    if (pid > 0 && read(report[0], failure, sizeof(failure)) == sizeof(failure)) {
      waitpid(pid, NULL, 0);
      reply.pid = -failure[0];
      reply.step = failure[1];
    }
    close(report[0]);
  }
  if (send(socket, &reply, sizeof(reply), MSG_NOSIGNAL) < 0) {
  }
}

static void poke(struct rvt_page *page) {
  __atomic_add_fetch(&page->coord_futex, 1, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, &page->coord_futex, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static volatile sig_atomic_t child_ended;
static void on_child(int signo) { child_ended = 1; }

static _Noreturn void init_main(int socket, char *area, struct rvt_page *page) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_NAME, "revati-init");
  /* Ctrl-C reaches the whole foreground group: the programs answer it, init stays until they are gone. */
  for (int s = 1; s < NSIG; s++)
    if (s != SIGKILL && s != SIGSTOP && s != SIGCHLD && s != SIGSEGV && s != SIGABRT) signal(s, SIG_IGN);
  struct sigaction act = {.sa_handler = on_child};
  sigaction(SIGCHLD, &act, NULL);
  sigset_t blocked, open_mask;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGCHLD);
  sigprocmask(SIG_BLOCK, &blocked, &open_mask);
  sigdelset(&open_mask, SIGCHLD);
  for (;;) {
    collect(socket);
    poke(page);
    struct pollfd one = {.fd = socket, .events = POLLIN};
    if (ppoll(&one, 1, NULL, &open_mask) <= 0) continue;
    struct request request;
    struct iovec iov = {&request, sizeof(request)};
    char control[CMSG_SPACE(3 * sizeof(int))];
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (n <= 0) {
      int pids[1];
      if (children(pids, 1) != 0) say("revati: the coordinator died; ending the run\n");
      kill_tree(-1);
      _exit(70);
    }
    int fds[3] = {-1, -1, -1};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head && head->cmsg_type == SCM_RIGHTS) memcpy(fds, CMSG_DATA(head), sizeof(fds));
    struct reply reply = {0};
    switch (request.kind) {
    case REQUEST_SPAWN: spawn(socket, &request, area, page, fds); break;
    case REQUEST_KILL: reply = (struct reply){REPLY_COUNT, kill_tree(socket), 0, 0}; break;
    case REQUEST_COUNT: {
      int pids[1024];
      collect(socket);
      reply = (struct reply){REPLY_COUNT, children(pids, 1024), 0, 0};
      break;
    }
    }
    for (int i = 0; i < 3; i++)
      if (fds[i] >= 0) close(fds[i]);
    if (reply.kind && send(socket, &reply, sizeof(reply), MSG_NOSIGNAL) < 0) {
    }
  }
}

/* ---- the coordinator's side ---- */

int rvt_init_start(struct rvt_host *host) {
  host->spawn_area = mmap(NULL, RVT_SPAWN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (host->spawn_area == MAP_FAILED) return rvt_host_fail("no memory for the launcher: %s", strerror(errno));
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
    return rvt_host_fail("no socket for the launcher: %s", strerror(errno));
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    struct rlimit more = {limit.rlim_max, limit.rlim_max};
    setrlimit(RLIMIT_NOFILE, &more); /* two descriptors for each thread of the run */
  }
  pid_t pid = fork();
  if (pid < 0) return rvt_host_fail("no process for the launcher: %s", strerror(errno));
  if (pid == 0) {
    /* Keep the standard descriptors and the socket: a copy of the life pipe would keep the run alive. */
    int keep = pair[1];
    if (keep > 3) syscall(SYS_close_range, 3, keep - 1, 0);
    syscall(SYS_close_range, keep + 1, ~0u, 0);
    setrlimit(RLIMIT_NOFILE, &limit);
    init_main(keep, host->spawn_area, host->page);
  }
  close(pair[1]);
  host->init_pid = pid;
  host->init_socket = pair[0];
  return 0;
}

static void note_exit(struct rvt_host *host, const struct reply *reply) {
  for (int i = 0; i < host->spawned_count; i++)
    if (host->spawned[i].pid == reply->pid && !host->spawned[i].ended) {
      host->spawned[i].ended = true;
      host->spawned[i].status = reply->status;
    }
}

/* The next answer of the wanted kind; exits that arrive before it are noted. */
static int await_reply(struct rvt_host *host, int kind, struct reply *reply) {
  for (;;) {
    ssize_t n = recv(host->init_socket, reply, sizeof(*reply), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n != sizeof(*reply)) return rvt_host_fail("the init process of the run died");
    if (reply->kind == kind) return 0;
    if (reply->kind == REPLY_EXITED) note_exit(host, reply);
  }
}

static int put(char **at, char *end, const char *text) {
  size_t bytes = strlen(text) + 1;
  if (*at + bytes > end) return -1;
  memcpy(*at, text, bytes);
  *at += bytes;
  return 0;
}

int rvt_init_spawn(struct rvt_host *host, const char *const *argv, const char *const *env, const char *cwd,
                   const int fds[3], int slot) {
  struct request request = {.kind = REQUEST_SPAWN, .slot = slot, .has_cwd = cwd != NULL};
  char *at = host->spawn_area, *end = at + RVT_SPAWN_BYTES;
  int bad = 0;
  for (; argv[request.argc]; request.argc++) bad |= put(&at, end, argv[request.argc]);
  for (; env[request.envc]; request.envc++) bad |= put(&at, end, env[request.envc]);
  if (cwd) bad |= put(&at, end, cwd);
  if (bad || request.argc + request.envc + 2 > RVT_SPAWN_STRINGS)
    return rvt_host_fail("the command line and environment are too long");
  int real[3];
  for (int i = 0; i < 3; i++) real[i] = fds[i] >= 0 ? fds[i] : i;
  struct iovec iov = {&request, sizeof(request)};
  char control[CMSG_SPACE(3 * sizeof(int))] = {0};
  struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  struct cmsghdr *head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(3 * sizeof(int));
  memcpy(CMSG_DATA(head), real, sizeof(real));
  if (sendmsg(host->init_socket, &message, MSG_NOSIGNAL) < 0)
    return rvt_host_fail("the init process of the run cannot be reached: %s", strerror(errno));
  struct reply reply;
  if (await_reply(host, REPLY_SPAWNED, &reply)) return -1;
  if (reply.pid < 0)
    return rvt_host_fail(reply.step == 1 ? "cannot change to directory %s: %s" : "cannot run %s: %s",
                         reply.step == 1 ? cwd : argv[0], strerror(-reply.pid));
  if (host->spawned_count < RVT_MAX_SPAWNED) host->spawned[host->spawned_count++].pid = reply.pid;
  return reply.pid;
}

int rvt_init_collect(struct rvt_host *host) {
  struct reply reply;
  for (;;) {
    ssize_t n = recv(host->init_socket, &reply, sizeof(reply), MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
    if (n != sizeof(reply)) return rvt_host_fail("the init process of the run died");
    if (reply.kind == REPLY_EXITED) note_exit(host, &reply);
  }
}

bool rvt_init_tree_empty(struct rvt_host *host) {
  struct request request = {.kind = REQUEST_COUNT};
  struct reply reply;
  if (send(host->init_socket, &request, sizeof(request), MSG_NOSIGNAL) < 0) return true;
  return await_reply(host, REPLY_COUNT, &reply) || reply.pid == 0;
}

int rvt_init_kill_tree(struct rvt_host *host) {
  struct request request = {.kind = REQUEST_KILL};
  struct reply reply;
  if (send(host->init_socket, &request, sizeof(request), MSG_NOSIGNAL) < 0) return 0;
  return await_reply(host, REPLY_COUNT, &reply) ? 0 : reply.pid;
}
