/* Processes: fork, vfork, spawn, exec, pipes to shells, and the moment at which their end is seen. */
#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

extern char **environ;

static void forked(void) {
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t child = fork();
  if (child == 0) {
    at("the child starts now", start_ns);
    rest(5 * MS);
    at("the child's sleep", start_ns + 5 * MS);
    _exit(failures ? 1 : 7);
  }
  is("status", WEXITSTATUS(reap(child)), 7);
  at("the end of the child", start_ns + 5 * MS);
}

static void many_forks(void) {
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t children[20];
  for (int i = 0; i < 20; i++) {
    children[i] = fork();
    if (children[i] == 0) {
      rest((i + 1) * MS);
      _exit(i);
    }
  }
  for (int i = 0; i < 20; i++) {
    int status;
    pid_t child = wait(&status);
    if (inside) is("they end in order", child, children[i]);
    at("the end of a child", start_ns + (i + 1) * MS);
  }
}

static void grandchildren(void) { /* the middle process goes; the pipe closes with the last */
  int ends[2];
  if (pipe(ends)) abort();
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t child = fork();
  if (child == 0) {
    if (fork() == 0) {
      rest(8 * MS);
      _exit(0);
    }
    rest(3 * MS);
    _exit(0);
  }
  close(ends[1]);
  reap(child);
  at("the child", start_ns + 3 * MS);
  char byte;
  is("read", read(ends[0], &byte, 1), 0);
  at("the orphan", start_ns + 8 * MS);
  close(ends[0]);
}

static void vforked(void) {
  int64_t start_ns = now_ns();
  pid_t child = vfork();
  if (child == 0) {
    execl("/bin/sleep", "sleep", "0.02", (char *)NULL);
    _exit(127);
  }
  at("exec takes no time", start_ns);
  is("status", reap(child), 0);
  at("sleep 0.02", start_ns + 20 * MS);
}

static void vfork_fails(void) {
  int64_t start_ns = now_ns();
  pid_t child = vfork();
  if (child == 0) {
    execl("/nonexistent", "nonexistent", (char *)NULL);
    _exit(99);
  }
  is("status", WEXITSTATUS(reap(child)), 99);
  rest(2 * MS);
  if (inside) at("the clock goes on", start_ns + 2 * MS);
}

static void spawned(void) {
  char *arguments[] = {"sleep", "0.03", NULL};
  pid_t child;
  int64_t start_ns = now_ns();
  is("posix_spawn", posix_spawn(&child, "/bin/sleep", NULL, NULL, arguments, environ), 0);
  is("status", reap(child), 0);
  at("sleep 0.03", start_ns + 30 * MS);
  start_ns = now_ns();
  is("posix_spawnp", posix_spawnp(&child, "sleep", NULL, NULL, arguments, environ), 0);
  is("status", reap(child), 0);
  at("sleep 0.03", start_ns + 30 * MS);
  is("no such program", posix_spawn(&child, "/nonexistent", NULL, NULL, arguments, environ), ENOENT);
}

static void spawn_with_pipe(void) {
  int ends[2];
  if (pipe(ends)) abort();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  posix_spawn_file_actions_addclose(&actions, ends[0]);
  char *arguments[] = {"sh", "-c", "sleep 0.01; echo one; sleep 0.02; echo two", NULL};
  pid_t child;
  int64_t start_ns = now_ns();
  is("posix_spawn", posix_spawn(&child, "/bin/sh", &actions, NULL, arguments, environ), 0);
  close(ends[1]);
  char text[16];
  is("read", read(ends[0], text, sizeof(text)), 4);
  at("one", start_ns + 10 * MS);
  is("read", read(ends[0], text, sizeof(text)), 4);
  at("two", start_ns + 30 * MS);
  reap(child);
  close(ends[0]);
}

static void shells(void) {
  int64_t start_ns = now_ns();
  is("system", WEXITSTATUS(system("sleep 0.02; exit 5")), 5);
  at("system", start_ns + 20 * MS);
  start_ns = now_ns();
  FILE *stream = popen("sleep 0.02; echo hello", "r");
  char text[16] = "";
  truth("popen", stream && fgets(text, sizeof(text), stream) && !strcmp(text, "hello\n"));
  at("popen", start_ns + 20 * MS);
  is("pclose", pclose(stream), 0);
}

static void waits(void) {
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t child = fork();
  if (child == 0) {
    rest(6 * MS);
    _exit(4);
  }
  is("not yet", waitpid(child, NULL, WNOHANG), 0);
  siginfo_t info;
  is("waitid", waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
  at("waitid", start_ns + 6 * MS);
  is("status", info.si_status, 4);
  int polls = 0, status;
  is("wait4", wait4(child, &status, 0, NULL), child);
  child = fork();
  if (child == 0) {
    rest(5 * MS);
    _exit(0);
  }
  for (start_ns = now_ns(); waitpid(child, &status, WNOHANG) == 0; polls++) rest(2 * MS);
  at("polled every 2 ms", start_ns + 6 * MS);
}

static void pid_fd(void) {
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t child = fork();
  if (child == 0) {
    rest(6 * MS);
    _exit(0);
  }
  struct pollfd one = {.fd = (int)syscall(SYS_pidfd_open, child, 0), .events = POLLIN};
  is("too early", poll(&one, 1, 2), 0);
  at("too early", start_ns + 2 * MS);
  is("poll", poll(&one, 1, -1), 1);
  at("the end of the child", start_ns + 6 * MS);
  reap(child);
  close(one.fd);
}

static void *idle_thread(void *argument) {
  rest(100 * MS);
  return NULL;
}
static void exec_with_threads(void) { /* the other threads' sleeps must not linger */
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t child = fork();
  if (child == 0) {
    pthread_t thread;
    pthread_create(&thread, NULL, idle_thread, NULL);
    rest(2 * MS);
    execl("/bin/sleep", "sleep", "0.01", (char *)NULL);
    _exit(127);
  }
  is("status", reap(child), 0);
  at("exec, then sleep", start_ns + 12 * MS);
}

static void *fork_main(void *argument) {
  int64_t start_ns = now_ns();
  pid_t child = fork();
  if (child == 0) {
    rest(4 * MS);
    _exit(0);
  }
  reap(child);
  at("fork in a thread", start_ns + 4 * MS);
  return NULL;
}
static void fork_in_threads(void) {
  fflush(stdout);
  pthread_t threads[8];
  for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, fork_main, NULL);
  for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
}

static void bare_environment(void) { /* a program that drops LD_PRELOAD does not leave the clock */
  char *arguments[] = {"sleep", "0.05", NULL}, *empty[] = {NULL};
  pid_t child;
  int64_t start_ns = now_ns();
  is("posix_spawn", posix_spawn(&child, "/bin/sleep", NULL, NULL, arguments, empty), 0);
  is("status", reap(child), 0);
  at("sleep in an empty environment", start_ns + 50 * MS);
}

static void short_lives(void) {
  fflush(stdout);
  int64_t start_ns = now_ns();
  for (int i = 0; i < 60; i++) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    reap(child);
  }
  if (inside) at("sixty children take no time", start_ns);
}

static void named_pipe(void) { /* opening it waits for the other side, in a call that nobody marks */
  char path[64];
  snprintf(path, sizeof(path), "/tmp/rvt-fifo-%d", (int)getpid());
  if (mkfifo(path, 0600)) abort();
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t child = fork();
  char byte = 0;
  if (child == 0) {
    int in = open(path, O_RDONLY);
    _exit(read(in, &byte, 1) == 1 ? byte : 99);
  }
  int out = open(path, O_WRONLY);
  if (write(out, "\7", 1) != 1) abort();
  is("status", WEXITSTATUS(reap(child)), 7);
  close(out);
  unlink(path);
  at("at once", start_ns);
}

CASES({"forked", forked}, {"named_pipe", named_pipe}, {"many_forks", many_forks}, {"grandchildren", grandchildren},
      {"vforked", vforked}, {"vfork_fails", vfork_fails}, {"spawned", spawned}, {"spawn_with_pipe", spawn_with_pipe},
      {"shells", shells}, {"waits", waits}, {"pid_fd", pid_fd}, {"exec_with_threads", exec_with_threads},
      {"fork_in_threads", fork_in_threads}, {"bare_environment", bare_environment}, {"short_lives", short_lives})
