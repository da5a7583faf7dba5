/* What a wake-up costs here, whoever asks for it: two processes that wake each other in turn by a futex, on one CPU
 * and on two. A jump of the clock has two (coordinator, sleeper), PHOLD's token a third. Prints one JSON line, us. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 20000

static void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

/* Waits until it is `mine`, then makes it the other's turn. */
static void pass(uint32_t *turn, uint32_t mine) {
  uint32_t seen;
  while ((seen = __atomic_load_n(turn, __ATOMIC_SEQ_CST)) != mine)
    syscall(SYS_futex, turn, FUTEX_WAIT, seen, NULL, NULL, 0);
  __atomic_store_n(turn, !mine, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, turn, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static double wake_us(int cpu, int other_cpu) {
  uint32_t *turn = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (turn == MAP_FAILED) return -1;
  int child = fork();
  if (child < 0) return -1;
  pin(child ? cpu : other_cpu);
  double began_us = now_us();
  for (int i = 0; i < ROUNDS; i++) pass(turn, child ? 0 : 1);
  if (!child) _exit(0);
  waitpid(child, NULL, 0);
  return (now_us() - began_us) / (2 * ROUNDS);
}

int main(void) {
  cpu_set_t set;
  int cpus[2], found = 0;
  sched_getaffinity(0, sizeof set, &set);
  for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++)
    if (CPU_ISSET(cpu, &set)) cpus[found++] = cpu;
  printf("{\"one CPU\": %.2f, \"two CPUs\": %.2f}\n", wake_us(cpus[0], cpus[0]), wake_us(cpus[0], cpus[found - 1]));
  return 0;
}
