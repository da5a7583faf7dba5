/* Which file of /proc tells that a thread has been woken and not run yet? One thread, bound to CPU 1, sleeps on a
 * futex; another, on CPU 0, wakes it and looks at once. `syscall` alone is not to be trusted: a wake-up that is on its
 * way to an idle CPU leaves the thread TASK_WAKING, which the kernel prints as if it were still blocked. `wchan` and
 * `stat` know. Prints, per file, how many looks came in time and how many of them said "blocked" (all must be 0 for a
 * file that proves anything; `syscall` shows a few on a quiet machine).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint32_t word, runs, tid;

static void bind_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof(set), &set)) {
    fprintf(stderr, "waking: CPU %d cannot be used; two CPUs are needed\n", cpu);
    _exit(2);
  }
}

static void *sleeper(void *argument) {
  (void)argument;
  bind_to(1);
  __atomic_store_n(&tid, (uint32_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
  for (;;) {
    uint32_t value = __atomic_load_n(&word, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    __atomic_fetch_add(&runs, 1, __ATOMIC_SEQ_CST);
  }
  return NULL;
}

static int says_blocked(int file, const char *text) {
  if (file == 0) return text[0] != 'r';
  if (file == 1) return strrchr(text, ')') && strrchr(text, ')')[2] != 'R';
  return text[0] != '0';
}

int main(int argc, char **argv) {
  static const char *const names[3] = {"syscall", "stat", "wchan"};
  int rounds = argc > 1 ? atoi(argv[1]) : 5000;
  pthread_t thread;
  bind_to(0);
  if (pthread_create(&thread, NULL, sleeper, NULL)) return 2;
  while (!__atomic_load_n(&tid, __ATOMIC_SEQ_CST)) usleep(1000);
  for (int file = 0; file < 3; file++) {
    char path[80], text[600];
    snprintf(path, sizeof(path), "/proc/self/task/%u/%s", tid, names[file]);
    int fd = open(path, O_RDONLY), in_time = 0, blocked = 0;
    for (int i = 0; i < rounds; i++) {
      usleep(100);
      uint32_t before = __atomic_load_n(&runs, __ATOMIC_SEQ_CST);
      __atomic_fetch_add(&word, 1, __ATOMIC_SEQ_CST);
      long woken = syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
      ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
      text[n > 0 ? n : 0] = 0;
      if (woken != 1 || __atomic_load_n(&runs, __ATOMIC_SEQ_CST) != before) continue;
      in_time++;
      blocked += says_blocked(file, text);
    }
    printf("%s: woken and not yet run %d, said to be blocked %d\n", names[file], in_time, blocked);
    close(fd);
  }
  return 0;
}
