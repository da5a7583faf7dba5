/* Processes that die, stop and go on again, and threads that leave while others wait. */
#include "check.h"

#include <poll.h>
#include <sched.h>
#include <sys/mman.h>

static void killed_sleeper(void) {
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t child = fork();
  if (child == 0) {
    rest(long_ns(3600 * NS_PER_S) * 10);
    _exit(0);
  }
  rest(2 * MS);
  kill(child, SIGKILL);
  int status = reap(child);
  is("signal", WTERMSIG(status), SIGKILL);
  if (inside) at("at once", start_ns + 2 * MS);
  rest(5 * MS);
  at("its deadline is forgotten", inside ? start_ns + 7 * MS : now_ns());
}

static void killed_spinner(void) {
  uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t child = fork();
  if (child == 0) {
    while (!__atomic_load_n(word, __ATOMIC_ACQUIRE)) sched_yield();
    _exit(0);
  }
  rest(3 * MS);
  at("a spinner does not hold the clock", start_ns + 3 * MS);
  kill(child, SIGKILL);
  is("signal", WTERMSIG(reap(child)), SIGKILL);
  start_ns = now_ns();
  rest(3 * MS);
  at("the clock goes on", start_ns + 3 * MS);
}

static void killed_while_running(void) {
  int ends[2];
  if (pipe(ends)) abort();
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t child = fork();
  if (child == 0) {
    if (write(ends[1], "x", 1) != 1) _exit(1);
    for (volatile int i = 1; i; i |= 1) continue; /* computes for ever */
  }
  char byte;
  if (read(ends[0], &byte, 1) != 1) abort();
  kill(child, SIGKILL);
  is("signal", WTERMSIG(reap(child)), SIGKILL);
  if (inside) at("at once", start_ns);
  start_ns = now_ns();
  rest(3 * MS);
  at("the clock goes on", start_ns + 3 * MS);
}

static void segmentation_fault(void) {
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t child = fork();
  if (child == 0) {
    struct timespec core = {0, 0};
    (void)core;
    rest(2 * MS);
    raise(SIGSEGV);
    _exit(0);
  }
  is("signal", WTERMSIG(reap(child)), SIGSEGV);
  at("the crash", start_ns + 2 * MS);
}

static void *many_sleeps(void *argument) {
  for (;;) rest(MS);
  return NULL;
}
static void killed_crowd(void) { /* a process of many threads dies in the middle of everything */
  fflush(stdout);
  for (int i = 0; i < 10; i++) {
    int64_t start_ns = now_ns();
    pid_t child = fork();
    if (child == 0) {
      pthread_t thread;
      for (int j = 0; j < 10; j++) pthread_create(&thread, NULL, many_sleeps, NULL);
      many_sleeps(NULL);
    }
    rest(3 * MS + 500000);
    kill(child, SIGKILL);
    reap(child);
    at("killed", start_ns + 3 * MS + 500000);
    if (!inside) continue;
    rest(MS);
    at("the clock goes on", start_ns + 4 * MS + 500000);
  }
}

static void stopped(void) { /* a stopped process holds the world, as a paused debugger does; it must end well */
  int ends[2];
  if (pipe(ends)) abort();
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t child = fork();
  if (child == 0) {
    kill(getpid(), SIGSTOP);
    rest(4 * MS);
    _exit(0);
  }
  int status;
  is("WUNTRACED", waitpid(child, &status, WUNTRACED), child);
  truth("stopped", WIFSTOPPED(status));
  kill(child, SIGCONT);
  is("status", reap(child), 0);
  at("the sleep after SIGCONT", start_ns + 4 * MS);
}

static void *quick(void *argument) {
  rest(*(int64_t *)argument);
  return NULL;
}
static void threads_leave(void) {
  int64_t start_ns = now_ns(), delays[3] = {MS, 2 * MS, 0};
  for (int round = 0; round < 100; round++) {
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, quick, &delays[i]);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    at("three threads", start_ns + (round + 1) * 2 * MS);
    if (!inside) start_ns = now_ns() - (round + 1) * 2 * MS;
  }
}

static void detached(void) {
  static int64_t delays[20];
  int64_t start_ns = now_ns();
  for (int i = 0; i < 20; i++) {
    pthread_t thread;
    delays[i] = (i % 5) * MS;
    pthread_create(&thread, NULL, quick, &delays[i]);
    pthread_detach(thread);
  }
  rest(10 * MS);
  at("beside detached threads", start_ns + 10 * MS);
}

static void *ends_process(void *argument) {
  rest(5 * MS);
  exit(6);
}
static void main_thread_leaves(void) {
  fflush(stdout);
  int64_t start_ns = now_ns();
  pid_t child = fork();
  if (child == 0) {
    pthread_t thread;
    pthread_create(&thread, NULL, ends_process, NULL);
    pthread_exit(NULL);
  }
  is("status", WEXITSTATUS(reap(child)), 6);
  at("the other thread ends the process", start_ns + 5 * MS);
}

static int never[2];
static void *cancelled_main(void *argument) {
  char byte;
  if (argument) rest(long_ns(100 * NS_PER_S));
  else if (read(never[0], &byte, 1)) return NULL;
  return NULL;
}
static void cancelled(void) {
  if (pipe(never)) abort();
  for (int way = 0; way < 2; way++) {
    pthread_t thread;
    int64_t start_ns = now_ns();
    pthread_create(&thread, NULL, cancelled_main, way ? never : NULL);
    rest(2 * MS);
    pthread_cancel(thread);
    void *result;
    pthread_join(thread, &result);
    truth(way ? "sleep" : "read", result == PTHREAD_CANCELED);
    at("cancelled", start_ns + 2 * MS);
  }
}

static void cancelled_early(void) { /* before it has begun to wait, perhaps before it has begun at all */
  if (pipe(never)) abort();
  for (int way = 0; way < 2; way++) {
    pthread_t thread;
    int64_t start_ns = now_ns();
    pthread_create(&thread, NULL, cancelled_main, way ? never : NULL);
    pthread_cancel(thread);
    void *result;
    pthread_join(thread, &result);
    truth(way ? "sleep" : "read", result == PTHREAD_CANCELED);
    at("at once", start_ns);
  }
}

CASES({"killed_sleeper", killed_sleeper}, {"killed_spinner", killed_spinner},
      {"killed_while_running", killed_while_running}, {"segmentation_fault", segmentation_fault},
      {"killed_crowd", killed_crowd}, {"stopped", stopped}, {"threads_leave", threads_leave}, {"detached", detached},
      {"main_thread_leaves", main_thread_leaves}, {"cancelled", cancelled}, {"cancelled_early", cancelled_early})
