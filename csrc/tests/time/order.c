/* Processes and threads whose deadlines fall together tell one reader: the order must be the same in every run. With
 * an argument, prints the whole sequence and not only its sum. Natively any order is right. */
#include "check.h"

#define PROCESSES 6
#define THREADS 3
#define ROUNDS 40

static int ends[2];
static int64_t origin_ns;

static void *teller(void *argument) {
  int id = (int)(intptr_t)argument;
  for (int round = 1; round <= ROUNDS; round++) {
    struct timespec at_round = ts(origin_ns + round * MS); /* the same for all */
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at_round, NULL)) continue;
    unsigned char byte = (unsigned char)id;
    if (write(ends[1], &byte, 1) != 1) abort();
  }
  return NULL;
}

static void process_main(int process) {
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++)
    pthread_create(&threads[i], NULL, teller, (void *)(intptr_t)(process * THREADS + i));
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  _exit(0);
}

int main(int argc, char **argv) {
  inside = getenv("REVATI_PAGE") != NULL;
  if (pipe(ends)) return 2;
  origin_ns = now_ns() + 100 * MS;
  for (int i = 0; i < PROCESSES; i++)
    if (fork() == 0) process_main(i);
  uint64_t sum = 14695981039346656037ull;
  int counts[ROUNDS + 1] = {0};
  for (int i = 0; i < PROCESSES * THREADS * ROUNDS; i++) {
    unsigned char byte;
    if (read(ends[0], &byte, 1) != 1) return 2;
    int64_t round = (now_ns() - origin_ns) / MS;
    if (round >= 1 && round <= ROUNDS) counts[round]++;
    sum = (sum ^ byte) * 1099511628211ull;
    if (argc > 1) printf("%d%c", byte, i % (PROCESSES * THREADS) == PROCESSES * THREADS - 1 ? '\n' : ' ');
  }
  while (wait(NULL) > 0) continue;
  for (int round = 1; inside && round <= ROUNDS; round++) is("messages of a round", counts[round], PROCESSES * THREADS);
  printf("ok order %016llx\n", (unsigned long long)sum);
  return failures ? 1 : 0;
}
