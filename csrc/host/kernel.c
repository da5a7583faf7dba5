/* Reading the kernel's opinion about threads from /proc. */
#include "host.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int rvt_open_task(int pid, int tid, const char *what) {
  char path[80];
  snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", pid, tid, what);
  return open(path, O_RDONLY | O_CLOEXEC);
}

bool rvt_kernel_watch(struct rvt_watch *watch, int pid, int tid) {
  watch->pid = pid;
  watch->tid = tid;
  watch->wchan_fd = rvt_open_task(pid, tid, "wchan");
  watch->syscall_fd = watch->schedstat_fd = watch->evfd = -1;
  watch->asleep = false;
  return watch->wchan_fd >= 0;
}

static void shut(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

void rvt_kernel_unwatch(struct rvt_watch *watch) {
  shut(&watch->wchan_fd);
  shut(&watch->syscall_fd);
  shut(&watch->schedstat_fd);
  shut(&watch->evfd);
  watch->generation = 0;
}

/* Calls that return only when another thread, a signal or a device makes them. */
static bool waits(long number) {
  switch (number) {
  case SYS_futex:
  case 449: /* futex_waitv */
  case 455: /* futex_wait */
  case SYS_ppoll:
  case SYS_pselect6:
  case SYS_epoll_pwait:
  case 441: /* epoll_pwait2 */
  case SYS_recvfrom:
  case SYS_recvmsg:
  case SYS_recvmmsg:
  case SYS_accept:
  case SYS_accept4:
  case SYS_connect:
  case SYS_wait4:
  case SYS_waitid:
  case SYS_rt_sigtimedwait:
  case SYS_rt_sigsuspend:
  case SYS_restart_syscall:
  case SYS_flock:
  case SYS_fcntl: /* F_SETLKW; nothing else of it sleeps */
  case SYS_semop:
  case SYS_msgrcv:
  case SYS_msgsnd:
#ifdef SYS_poll
  case SYS_poll:
  case SYS_select:
  case SYS_epoll_wait:
  case SYS_pause:
#endif
    return true;
  default: return false;
  }
}

/* Calls that wait only on some descriptors: the slot's mark, or the descriptor, decides. */
static bool transfers(long number) {
  switch (number) {
  case SYS_read:
  case SYS_readv:
  case SYS_write:
  case SYS_writev:
  case SYS_sendto:
  case SYS_sendmsg:
  case SYS_sendmmsg: return true;
  default: return false;
  }
}

static bool gone(int pid, int tid) {
  char state = rvt_kernel_state(pid, tid);
  return state == 0 || state == 'Z' || state == 'X';
}

static enum rvt_kernel read_syscall(struct rvt_watch *watch, long *number, unsigned long *arg0) {
  char text[192];
  if (watch->syscall_fd < 0) watch->syscall_fd = rvt_open_task(watch->pid, watch->tid, "syscall");
  ssize_t n = pread(watch->syscall_fd, text, sizeof(text) - 1, 0);
  if (n <= 0) return gone(watch->pid, watch->tid) ? RVT_KERNEL_GONE : RVT_KERNEL_RUNNING;
  text[n] = 0;
  if (text[0] == 'r') return RVT_KERNEL_RUNNING;
  char *rest;
  *number = strtol(text, &rest, 10);
  *arg0 = *rest == ' ' ? strtoul(rest, NULL, 16) : 0;
  if (*number < 0) { /* in user mode on a page fault, stopped, or a zombie */
    char state = rvt_kernel_state(watch->pid, watch->tid);
    if (state == 0 || state == 'Z' || state == 'X') return RVT_KERNEL_GONE;
    if (state == 'T' || state == 't') return RVT_KERNEL_STOPPED;
    return state == 'S' ? RVT_KERNEL_OTHER : RVT_KERNEL_RUNNING;
  }
  return RVT_KERNEL_BLOCKED;
}

/* Where threads sleep in the calls of `waits` and `transfers`: names that need no further look. Others cost one. */
static const char *const sleeping_places[] = {
    "futex_do_wait",
    "futex_wait_queue",
    "futex_sleep_multiple",
    "futex_wait_multiple",
    "do_epoll_wait",
    "ep_poll",
    "do_sys_poll",
    "do_poll",
    "do_select",
    "poll_schedule_timeout",
    "pipe_read",
    "anon_pipe_read",
    "sk_wait_data",
    "wait_woken",
    "unix_stream_read_generic",
    "unix_stream_data_wait",
    "inet_csk_accept",
    "do_wait",
    "__skb_wait_for_more_packets",
    "sigsuspend",
    "do_sigtimedwait",
    "eventfd_read",
    "poll_schedule_timeout.constprop.0",
    "__do_sys_pause",
};

static bool sleeping_place(const char *name) {
  for (size_t i = 0; i < sizeof(sleeping_places) / sizeof(*sleeping_places); i++)
    if (!strcmp(name, sleeping_places[i])) return true;
  return false;
}

/* Asleep, off the processor and with no wake-up on its way: the kernel answers under the lock that wakers take.
 * `syscall` alone is no proof: a thread whose wake-up travels to an idle CPU still shows its old call there. */
static bool asleep(struct rvt_watch *watch, char *place, size_t bytes) {
  ssize_t n = pread(watch->wchan_fd, place, bytes - 1, 0);
  if (n <= 0 || place[0] == '0') return false;
  place[n] = 0;
  return true;
}

static bool wchan_missing; /* not compiled in, or not for us: the state in `stat` must do */

static bool surely_asleep(struct rvt_watch *watch) {
  char place[64];
  if (!wchan_missing) return asleep(watch, place, sizeof(place));
  return rvt_kernel_state(watch->pid, watch->tid) == 'S';
}

void rvt_kernel_try_wchan(int pid) {
  struct rvt_watch watch;
  char place[64];
  wchan_missing = true;
  if (!rvt_kernel_watch(&watch, pid, pid)) return;
  for (int i = 0; i < 1000 && wchan_missing; i++) {
    wchan_missing = !asleep(&watch, place, sizeof(place));
    if (wchan_missing) usleep(1000);
  }
  rvt_kernel_unwatch(&watch);
}

enum rvt_kernel rvt_kernel_marked(struct rvt_watch *watch) {
  char place[64];
  long number;
  unsigned long arg0;
  bool sleeps = !wchan_missing && asleep(watch, place, sizeof(place));
  if (sleeps && sleeping_place(place)) return RVT_KERNEL_BLOCKED;
  /* Reading `syscall` also takes a sleeper off its run queue, where the scheduler may leave it for a while. */
  enum rvt_kernel verdict = read_syscall(watch, &number, &arg0);
  if (verdict != RVT_KERNEL_BLOCKED) return verdict;
  if (!sleeps && !surely_asleep(watch)) return RVT_KERNEL_RUNNING;
  char state = rvt_kernel_state(watch->pid, watch->tid); /* stopped threads show the call that they left */
  if (state == 'T' || state == 't') return RVT_KERNEL_STOPPED;
  return waits(number) || transfers(number) ? RVT_KERNEL_BLOCKED : RVT_KERNEL_OTHER;
}

static bool writes(long number) {
  return number == SYS_write || number == SYS_writev || number == SYS_sendto || number == SYS_sendmsg ||
         number == SYS_sendmmsg;
}

/* Does a program of the run read this pipe? Looked up rarely: only for threads that wait with a full pipe. */
static bool pipe_has_reader(struct rvt_host *host, int writer_pid, unsigned long writer_fd, const char *pipe) {
  static char last_pipe[32];
  static int64_t last_ns;
  static bool last_answer;
  int64_t now_ns = rvt_real_ns();
  if (!strcmp(pipe, last_pipe) && now_ns - last_ns < 100000000) return last_answer;
  snprintf(last_pipe, sizeof(last_pipe), "%s", pipe);
  last_ns = now_ns;
  last_answer = false;
  uint32_t high = rvt_load(&host->page->slots_high);
  for (uint32_t i = 0; i < high && !last_answer; i++) {
    struct rvt_slot *slot = &host->page->slots[i];
    if (RVT_STATE(rvt_load(&slot->owner)) != RVT_SLOT_LIVE || !(slot->flags & RVT_FLAG_MAIN)) continue;
    char folder[32], path[320], target[32];
    snprintf(folder, sizeof(folder), "/proc/%d/fd", slot->pid);
    DIR *fds = opendir(folder);
    struct dirent *entry;
    while (fds && !last_answer && (entry = readdir(fds))) {
      snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
      ssize_t n = readlink(path, target, sizeof(target) - 1);
      if (n <= 0) continue;
      target[n] = 0;
      struct stat st; /* of the link: its mode tells how the descriptor was opened */
      if (!strcmp(target, pipe) && lstat(path, &st) == 0 && (st.st_mode & S_IRUSR) &&
          !(slot->pid == writer_pid && strtoul(entry->d_name, NULL, 10) == writer_fd))
        last_answer = true;
    }
    if (fds) closedir(fds);
  }
  return last_answer;
}

/* Pipes, sockets and event descriptors wait for somebody; a file is only slow. Somebody outside the run (the reader
 * of a log) is no wait either: the thread will go on without the clock. */
static bool waiting_file(struct rvt_host *host, int pid, unsigned long fd, bool write) {
  char path[64], target[32];
  snprintf(path, sizeof(path), "/proc/%d/fd/%lu", pid, fd);
  ssize_t n = readlink(path, target, sizeof(target) - 1);
  if (n <= 0) return false;
  target[n] = 0;
  if (!strncmp(target, "pipe:", 5)) return !write || pipe_has_reader(host, pid, fd, target);
  if (!strncmp(target, "socket:", 7) || !strncmp(target, "anon_inode:[event", 17)) return true;
  return !write &&
         (!strncmp(target, "/dev/pts/", 9) || !strncmp(target, "/dev/tty", 8) || !strncmp(target, "/dev/console", 12));
}

/* A thread blocked where the library marked nothing. `again`: the second look, nothing may have run between. */
enum rvt_kernel rvt_kernel_unmarked(struct rvt_host *host, struct rvt_watch *watch, bool again) {
  long number;
  unsigned long arg0;
  enum rvt_kernel verdict = read_syscall(watch, &number, &arg0);
  if (verdict != RVT_KERNEL_BLOCKED) return verdict;
  if (!waits(number) && !(transfers(number) && waiting_file(host, watch->pid, arg0, writes(number)))) {
    if (writes(number)) return RVT_KERNEL_RUNNING;
    char state = rvt_kernel_state(watch->pid, watch->tid);
    if (state == 'T' || state == 't') return RVT_KERNEL_STOPPED;
    return state == 'R' || state == 'D' ? RVT_KERNEL_RUNNING : RVT_KERNEL_OTHER;
  }
  if (watch->schedstat_fd < 0) watch->schedstat_fd = rvt_open_task(watch->pid, watch->tid, "schedstat");
  char text[96];
  ssize_t n = pread(watch->schedstat_fd, text, sizeof(text) - 1, 0);
  if (n <= 0) return RVT_KERNEL_RUNNING;
  text[n] = 0;
  char *field = strrchr(text, ' ');
  uint64_t runs = field ? strtoull(field, NULL, 10) : 0;
  if (again && runs != watch->runs) return RVT_KERNEL_RUNNING;
  watch->runs = runs;
  return surely_asleep(watch) ? RVT_KERNEL_BLOCKED : RVT_KERNEL_RUNNING;
}

char rvt_kernel_state(int pid, int tid) {
  int fd = rvt_open_task(pid, tid, "stat");
  if (fd < 0) return 0;
  char text[512];
  ssize_t n = read(fd, text, sizeof(text) - 1);
  close(fd);
  if (n <= 0) return 0;
  text[n] = 0;
  char *end = strrchr(text, ')'); /* names may hold anything */
  return end && end[1] == ' ' ? end[2] : 0;
}

void rvt_kernel_name(int pid, int tid, char *name, size_t bytes) {
  char path[80];
  snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", pid, tid);
  snprintf(name, bytes, "?");
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t n = read(fd, name, bytes - 1);
  close(fd);
  if (n <= 0) return;
  name[n] = 0;
  name[strcspn(name, "\n")] = 0;
}

void rvt_kernel_describe(int pid, int tid, char *text, size_t bytes) {
  int fd = rvt_open_task(pid, tid, "syscall");
  char line[192] = "?";
  if (fd >= 0) {
    ssize_t n = read(fd, line, sizeof(line) - 1);
    close(fd);
    if (n > 0) line[n] = 0;
  }
  line[strcspn(line, "\n")] = 0;
  char *args = strchr(line, ' ');
  int fields = 0;
  for (char *at = args; at; at = strchr(at + 1, ' '))
    if (++fields == 5) {
      *at = 0;
      break;
    }
  snprintf(text, bytes, "state %c, syscall %s", rvt_kernel_state(pid, tid) ?: '?', line);
}
