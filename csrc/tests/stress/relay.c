/* Threads that are woken by one thing and wake another at once: a starter writes to a pipe and goes on waiting, a relay
 * reads and posts a semaphore, a worker must have it at the virtual time at which the starter wrote. Idle threads make
 * each proof long enough to look at a worker while its relay is just about to post; slow_post.c makes that moment long.
 *
 *   relay [ROUNDS]
 *
 * Prints one JSON line; exit status 1 after any message that was late.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define CHAINS 4
#define IDLE 60

struct chain {
  sem_t work;
  int pipe[2];
  int64_t sent_ns;
  uint64_t random;
};
static struct chain chains[CHAINS];
static int rounds = 1000;
static uint64_t late, worst_ns;

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void *work(void *opaque) {
  struct chain *chain = opaque;
  for (int i = 0; i < rounds; i++) {
    if (sem_wait(&chain->work)) abort();
    uint64_t late_ns = (uint64_t)(now_ns() - chain->sent_ns);
    if (!late_ns) continue;
    __atomic_add_fetch(&late, 1, __ATOMIC_SEQ_CST);
    if (late_ns > worst_ns) worst_ns = late_ns;
  }
  return NULL;
}

static void *relay(void *opaque) {
  struct chain *chain = opaque;
  char byte;
  for (int i = 0; i < rounds; i++)
    if (read(chain->pipe[0], &byte, 1) != 1 || sem_post(&chain->work)) abort();
  return NULL;
}

static void *start(void *opaque) {
  struct chain *chain = opaque;
  for (int i = 0; i < rounds; i++) {
    chain->random = chain->random * 6364136223846793005ull + 1442695040888963407ull;
    struct timespec pause = {0, 50000 + (long)((chain->random >> 33) % 400000)};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    chain->sent_ns = now_ns();
    if (write(chain->pipe[1], "x", 1) != 1) abort();
  }
  return NULL;
}

static void *idle(void *unused) {
  int never[2];
  char byte;
  if (pipe(never) || read(never[0], &byte, 1) != 1) abort();
  return unused;
}

static void make(pthread_t *thread, void *(*function)(void *), void *argument) {
  if (pthread_create(thread, NULL, function, argument)) abort();
}

int main(int count, char **arguments) {
  if (count > 1) rounds = atoi(arguments[1]);
  pthread_t threads[3 * CHAINS], other;
  for (int i = 0; i < IDLE / 2; i++) make(&other, idle, NULL);
  for (int i = 0; i < CHAINS; i++) {
    chains[i].random = (uint64_t)i + 1;
    if (sem_init(&chains[i].work, 0, 0) || pipe(chains[i].pipe)) abort();
    make(&threads[i], work, &chains[i]);
  }
  for (int i = 0; i < IDLE / 2; i++) make(&other, idle, NULL);
  for (int i = 0; i < CHAINS; i++) {
    make(&threads[CHAINS + i], relay, &chains[i]);
    make(&threads[2 * CHAINS + i], start, &chains[i]);
  }
  for (int i = 0; i < 3 * CHAINS; i++) pthread_join(threads[i], NULL);
  printf("{\"late\": %llu, \"worst_ns\": %llu}\n", (unsigned long long)late, (unsigned long long)worst_ns);
  fflush(stdout);
  _exit(late != 0);
}
