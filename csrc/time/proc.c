/* Processes: exec, spawn, system, waiting for children, ends.
 *
 * vfork itself is left alone: its child shares our memory, runs through our exec wrapper and leaves an announced
 * slot there, while the parent (stuck in the kernel, not blocked in our sense) holds the clock. */
#include "internal.h"

#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;

/* A program must not leave the run by dropping two variables from its child's environment. Returns the list to
 * use: the given one when complete. */
static char *const *complete_env(char *const *env, char **room, size_t rooms, char *page_var, char *preload_var) {
  const struct rvt_page *page = rvt_the_page;
  size_t count = 0;
  bool has_page = false, has_preload = false;
  size_t preload_at = 0;
  const char *ours = strrchr(page->preload, '/');
  ours = ours ? ours + 1 : page->preload;
  for (; env && env[count]; count++) {
    if (!strncmp(env[count], "REVATI_PAGE=", 12) && env[count][12]) has_page = true;
    if (!strncmp(env[count], "LD_PRELOAD=", 11)) {
      preload_at = count + 1;
      has_preload = *ours && strstr(env[count] + 11, ours);
    }
  }
  if (!*page->preload || (has_page && has_preload) || count + 3 > rooms) return env;
  memcpy(room, env, count * sizeof(*room));
  if (!has_page) room[count++] = page_var;
  if (!has_preload) {
    if (preload_at) {
      snprintf(preload_var, PATH_MAX, "LD_PRELOAD=%s:%s", page->preload, room[preload_at - 1] + 11);
      room[preload_at - 1] = preload_var;
    } else {
      snprintf(preload_var, PATH_MAX, "LD_PRELOAD=%s", page->preload);
      room[count++] = preload_var;
    }
  }
  room[count] = NULL;
  return room;
}

#define RVT_ENV_ROOM 2048
#define RVT_COMPLETE(env)                                                  \
  char *room_[RVT_ENV_ROOM];                                               \
  char page_var_[128], preload_var_[PATH_MAX];                             \
  snprintf(page_var_, sizeof(page_var_), "REVATI_PAGE=%s", rvt_page_path); \
  (env) = (char *const *)complete_env((env), room_, RVT_ENV_ROOM, page_var_, preload_var_);

/* Before exec: a slot that stays "starting" under this pid until the new program's constructor claims it. */
static struct rvt_slot *before_exec(bool *vforked) {
  struct rvt_slot *slot = rvt_self_tls.slot;
  *vforked = rvt_vforked();
  if (*vforked) {
    slot = rvt_slot_take(RVT_SLOT_STARTING, rvt_child_order());
    rvt_store(&slot->pid, (int)rvt_raw(SYS_getpid, 0, 0, 0, 0, 0, 0));
  } else {
    uint64_t owner = rvt_load(&slot->owner);
    rvt_store(&slot->owner, (owner & ~0xffull) | RVT_SLOT_STARTING);
  }
  return slot;
}

static void exec_failed(struct rvt_slot *slot, bool vforked) {
  int error = errno;
  if (vforked) rvt_slot_drop(slot);
  else rvt_store(&slot->owner, (rvt_load(&slot->owner) & ~0xffull) | RVT_SLOT_LIVE);
  errno = error;
}

RVT_EXPORT int execve(const char *path, char *const *argv, char *const *env) {
  if (!rvt_on()) return rvt_real.execve(path, argv, env);
  rvt_settle();
  bool vforked;
  struct rvt_slot *slot = before_exec(&vforked);
  RVT_COMPLETE(env)
  rvt_real.execve(path, argv, env);
  exec_failed(slot, vforked);
  return -1;
}

RVT_EXPORT int fexecve(int fd, char *const *argv, char *const *env) {
  if (!rvt_on()) return rvt_real.fexecve(fd, argv, env);
  rvt_settle();
  bool vforked;
  struct rvt_slot *slot = before_exec(&vforked);
  RVT_COMPLETE(env)
  rvt_real.fexecve(fd, argv, env);
  exec_failed(slot, vforked);
  return -1;
}

RVT_EXPORT int execvpe(const char *file, char *const *argv, char *const *env) {
  if (!rvt_on()) return rvt_real.execvpe(file, argv, env);
  rvt_settle();
  bool vforked;
  struct rvt_slot *slot = before_exec(&vforked);
  RVT_COMPLETE(env)
  rvt_real.execvpe(file, argv, env);
  exec_failed(slot, vforked);
  return -1;
}

RVT_EXPORT int execv(const char *path, char *const *argv) { return execve(path, argv, environ); }
RVT_EXPORT int execvp(const char *file, char *const *argv) { return execvpe(file, argv, environ); }

#define RVT_MAX_ARGV 1024
#define RVT_ARGV(first)                                                                               \
  char *argv[RVT_MAX_ARGV];                                                                           \
  va_list list;                                                                                       \
  int n = 0;                                                                                          \
  va_start(list, first);                                                                              \
  for (argv[n] = (char *)(first); argv[n] && n < RVT_MAX_ARGV - 2;) argv[++n] = va_arg(list, char *); \
  argv[n] = NULL;

RVT_EXPORT int execl(const char *path, const char *first, ...) {
  RVT_ARGV(first)
  va_end(list);
  return execve(path, argv, environ);
}

RVT_EXPORT int execlp(const char *file, const char *first, ...) {
  RVT_ARGV(first)
  va_end(list);
  return execvpe(file, argv, environ);
}

RVT_EXPORT int execle(const char *path, const char *first, ...) {
  RVT_ARGV(first)
  char *const *env = va_arg(list, char *const *);
  va_end(list);
  return execve(path, argv, env);
}

/* Spawns inside libc: the child's pid is known only afterwards, so its slot is announced under ours, one at a
 * time, and claimed by the child's constructor. */
static pthread_mutex_t spawn_lock = PTHREAD_MUTEX_INITIALIZER;

static struct rvt_slot *announce(void) {
  rvt_effect();
  pthread_mutex_lock(&spawn_lock);
  return rvt_slot_take(RVT_SLOT_SPAWNING, rvt_child_order());
}

/* pid 0: the call does not tell it; the coordinator lets the announcement lapse when nobody claims it. */
static void announced(struct rvt_slot *slot, int pid, bool failed) {
  int error = errno;
  int32_t unknown = 0;
  if (failed && rvt_load(&slot->pid) == 0) rvt_slot_drop(slot);
  else if (pid > 0) __atomic_compare_exchange_n(&slot->pid, &unknown, pid, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  pthread_mutex_unlock(&spawn_lock);
  errno = error;
}

RVT_EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                           const posix_spawnattr_t *attr, char *const *argv, char *const *env) {
  if (!rvt_on()) return rvt_real.posix_spawn(pid, path, actions, attr, argv, env);
  RVT_COMPLETE(env)
  pid_t child = 0;
  struct rvt_slot *slot = announce();
  int error = rvt_real.posix_spawn(&child, path, actions, attr, argv, env);
  announced(slot, child, error != 0);
  if (pid && !error) *pid = child;
  return error;
}

RVT_EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                            const posix_spawnattr_t *attr, char *const *argv, char *const *env) {
  if (!rvt_on()) return rvt_real.posix_spawnp(pid, file, actions, attr, argv, env);
  RVT_COMPLETE(env)
  pid_t child = 0;
  struct rvt_slot *slot = announce();
  int error = rvt_real.posix_spawnp(&child, file, actions, attr, argv, env);
  announced(slot, child, error != 0);
  if (pid && !error) *pid = child;
  return error;
}

RVT_EXPORT FILE *popen(const char *command, const char *mode) {
  if (!rvt_on()) return rvt_real.popen(command, mode);
  struct rvt_slot *slot = announce();
  FILE *file = rvt_real.popen(command, mode);
  announced(slot, 0, file == NULL);
  return file;
}

RVT_EXPORT int system(const char *command) {
  if (!rvt_on() || !command) return rvt_real.system(command);
  char *argv[] = {"sh", "-c", (char *)command, NULL};
  struct sigaction ignore = {.sa_handler = SIG_IGN}, old_int, old_quit;
  sigset_t block, old_mask;
  sigaction(SIGINT, &ignore, &old_int);
  sigaction(SIGQUIT, &ignore, &old_quit);
  sigemptyset(&block);
  sigaddset(&block, SIGCHLD);
  pthread_sigmask(SIG_BLOCK, &block, &old_mask);
  posix_spawnattr_t attr;
  posix_spawnattr_init(&attr);
  sigset_t reset;
  sigemptyset(&reset);
  if (old_int.sa_handler != SIG_IGN) sigaddset(&reset, SIGINT);
  if (old_quit.sa_handler != SIG_IGN) sigaddset(&reset, SIGQUIT);
  posix_spawnattr_setsigdefault(&attr, &reset);
  posix_spawnattr_setsigmask(&attr, &old_mask);
  posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  pid_t child;
  int status = -1;
  int error = posix_spawn(&child, "/bin/sh", NULL, &attr, argv, environ);
  posix_spawnattr_destroy(&attr);
  if (!error)
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
  sigaction(SIGINT, &old_int, NULL);
  sigaction(SIGQUIT, &old_quit, NULL);
  pthread_sigmask(SIG_SETMASK, &old_mask, NULL);
  if (error) errno = error;
  return error ? -1 : status;
}

/* Children: a look without blocking first. */
RVT_EXPORT pid_t wait4(pid_t pid, int *status, int options, struct rusage *usage) {
  if (!rvt_on()) return rvt_real.wait4(pid, status, options, usage);
  pid_t done = rvt_real.wait4(pid, status, options | WNOHANG, usage);
  if (done) {
    rvt_active();
    return done;
  }
  if (options & WNOHANG) {
    rvt_busy_poll(RVT_FOREVER_NS);
    return 0;
  }
  rvt_active();
  rvt_block(RVT_WAIT_CHILD, RVT_FOREVER_NS, (uint64_t)(int64_t)pid);
  done = rvt_real.wait4(pid, status, options, usage);
  int error = errno;
  rvt_unblock();
  rvt_turn();
  errno = error;
  return done;
}

RVT_EXPORT pid_t waitpid(pid_t pid, int *status, int options) { return wait4(pid, status, options, NULL); }
RVT_EXPORT pid_t wait(int *status) { return wait4(-1, status, 0, NULL); }
RVT_EXPORT pid_t wait3(int *status, int options, struct rusage *usage) { return wait4(-1, status, options, usage); }

RVT_EXPORT int waitid(idtype_t type, id_t id, siginfo_t *info, int options) {
  if (!rvt_on()) return rvt_real.waitid(type, id, info, options);
  siginfo_t mine = {0};
  siginfo_t *out = info ? info : &mine;
  out->si_pid = 0;
  int result = rvt_real.waitid(type, id, out, options | WNOHANG);
  if (result || out->si_pid) {
    rvt_active();
    return result;
  }
  if (options & WNOHANG) {
    rvt_busy_poll(RVT_FOREVER_NS);
    return 0;
  }
  rvt_active();
  rvt_block(RVT_WAIT_CHILD, RVT_FOREVER_NS, (uint64_t)id);
  result = rvt_real.waitid(type, id, out, options);
  int error = errno;
  rvt_unblock();
  rvt_turn();
  errno = error;
  return result;
}

RVT_EXPORT void _exit(int code) {
  if (rvt_mode == RVT_MODE_MANAGED && !rvt_vforked()) {
    rvt_settle();
    rvt_slot_leave();
  }
  for (;;) rvt_raw(SYS_exit_group, code, 0, 0, 0, 0, 0);
}
RVT_EXPORT void _Exit(int code) { _exit(code); }
