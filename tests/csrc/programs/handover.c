/* What the API server's thread has worked out may go on by plain memory (libzmq's queues): the time of the work has
 * passed by then for everybody. Policy modelled. */
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

void revati_observe_host(uint32_t kind, uint64_t times);
enum { HOST_OUTPUT = 9, HOST_INPUT = 10 };

static sem_t handed;
static int64_t taken_ns;

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void *take(void *unused) {
  sem_wait(&handed);
  taken_ns = now_ns();
  return unused;
}

static int64_t passed_elsewhere(uint32_t kind) {
  pthread_t other;
  pthread_create(&other, NULL, take, NULL);
  int64_t before_ns = now_ns();
  revati_observe_host(kind, 1);
  int64_t mine_ns = now_ns() - before_ns;
  sem_post(&handed);
  pthread_join(other, NULL);
  return mine_ns > 0 && taken_ns - before_ns == mine_ns ? mine_ns : -1;
}

int main(void) {
  sem_init(&handed, 0, 0);
  int64_t input_ns = passed_elsewhere(HOST_INPUT), output_ns = passed_elsewhere(HOST_OUTPUT);
  if (input_ns > 0 && output_ns > 0) return puts("passed") < 0;
  printf("input %lld ns, output %lld ns\n", (long long)input_ns, (long long)output_ns);
  return 1;
}
