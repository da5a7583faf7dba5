/* PHOLD, the customary load of event simulators, on real threads and pipes: each token waits at a thread for an
 * exponential virtual time (mean 1 ms) and moves on to a random thread. One hold is one jump of the clock, because no
 * two deadlines are equal. Prints one JSON line with the wall time per hold.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ll
#define MAX_THREADS 2048

struct shared {
  int64_t holds_left;
  uint64_t late;
  int64_t host_start_ns, host_end_ns;
  int pipes[MAX_THREADS][2];
};
static struct shared *shared;
static int threads = 20, processes = 4, tokens = 0, seed = 1;
static int64_t holds = 2000;

static void die(const char *what) {
  fprintf(stderr, "phold: %s: %s\n", what, strerror(errno));
  _exit(2);
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

static int64_t host_ns(void) { /* past any interposition */
  struct timespec t;
#if defined(__x86_64__)
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(SYS_clock_gettime), "D"(CLOCK_MONOTONIC), "S"(&t)
                   : "rcx", "r11", "memory");
#else
  register long x8 __asm__("x8") = SYS_clock_gettime;
  register long x0 __asm__("x0") = CLOCK_MONOTONIC;
  register long x1 __asm__("x1") = (long)&t;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1) : "memory");
#endif
  return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

static void *thread_main(void *argument) {
  int me = (int)(intptr_t)argument;
  unsigned short state[3] = {(unsigned short)seed, (unsigned short)me, 7};
  char token;
  for (;;) {
    if (read(shared->pipes[me][0], &token, 1) != 1) die("read");
    if (token == 'x') return NULL;
    int64_t at_ns = now_ns() + 1 + (int64_t)(-log(1.0 - erand48(state)) * 1e6);
    struct timespec at = {at_ns / NS_PER_S, at_ns % NS_PER_S};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
    if (now_ns() != at_ns) __atomic_fetch_add(&shared->late, 1, __ATOMIC_RELAXED);
    int64_t left = __atomic_sub_fetch(&shared->holds_left, 1, __ATOMIC_SEQ_CST);
    if (left == 0) {
      shared->host_end_ns = host_ns();
      for (int i = 0; i < threads; i++)
        if (write(shared->pipes[i][1], "x", 1) != 1) die("write");
    } else if (left > 0 && write(shared->pipes[nrand48(state) % threads][1], "t", 1) != 1) {
      die("write");
    }
  }
}

static void process_main(int process) {
  pthread_t ids[MAX_THREADS];
  int count = 0;
  for (int i = process; i < threads; i += processes)
    if (pthread_create(&ids[count++], NULL, thread_main, (void *)(intptr_t)i)) die("pthread_create");
  for (int i = 0; i < count; i++) pthread_join(ids[i], NULL);
  _exit(0);
}

int main(int argc, char **argv) {
  static const struct option names[] = {{"threads", 1, NULL, 't'}, {"processes", 1, NULL, 'p'}, {"holds", 1, NULL, 'n'},
                                        {"tokens", 1, NULL, 'k'},  {"seed", 1, NULL, 's'},      {NULL, 0, NULL, 0}};
  for (int letter; (letter = getopt_long(argc, argv, "", names, NULL)) != -1;) {
    if (letter == 't') threads = atoi(optarg);
    else if (letter == 'p') processes = atoi(optarg);
    else if (letter == 'n') holds = atoll(optarg);
    else if (letter == 'k') tokens = atoi(optarg);
    else if (letter == 's') seed = atoi(optarg);
    else optind = argc + 1;
  }
  if (optind != argc || threads < 1 || threads > MAX_THREADS || processes < 1 || holds < 1) {
    fprintf(stderr, "usage: phold [--threads N] [--processes N] [--holds N] [--tokens N] [--seed N]\n");
    return 2;
  }
  if (!tokens) tokens = threads > 3 ? threads / 4 : 1;
  shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) die("shared memory");
  shared->holds_left = holds;
  for (int i = 0; i < threads; i++)
    if (pipe(shared->pipes[i])) die("pipe");
  pid_t children[MAX_THREADS];
  for (int i = 0; i < processes; i++) {
    children[i] = fork();
    if (children[i] < 0) die("fork");
    if (children[i] == 0) process_main(i);
  }
  struct timespec settle = {.tv_nsec = 50000000}; /* virtual: returns when every thread waits for its first token */
  nanosleep(&settle, NULL);
  int64_t start_ns = now_ns();
  shared->host_start_ns = host_ns();
  for (int i = 0; i < tokens; i++)
    if (write(shared->pipes[i % threads][1], "t", 1) != 1) die("write");
  for (int i = 0; i < processes; i++) waitpid(children[i], NULL, 0);
  double wall_us = (double)(shared->host_end_ns - shared->host_start_ns) / 1e3;
  printf("{\"threads\": %d, \"processes\": %d, \"tokens\": %d, \"holds\": %lld, \"late\": %llu, \"wall_us_per_hold\": "
         "%.2f, \"virtual_s\": %.6f}\n",
         threads, processes, tokens, (long long)holds, (unsigned long long)shared->late, wall_us / (double)holds,
         (double)(now_ns() - start_ns) / 1e9);
  return 0;
}
