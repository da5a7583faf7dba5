/* Threads write and forget bytes side by side: what one does to its own changes nothing of another's. */
#include <pthread.h>

#include "device.h"

#define THREADS 4
#define TIMES 200000

static char *device, *unknown;
static pthread_barrier_t together;

/* Nobody waits on the way, so that they run at once. */
static void *work(void *own) {
  long id = (long)own;
  char *mine = device + 4 * id, (*seen)[8];
  void *stream;
  OK(cudaStreamCreateWithFlags(&stream, 1));
  OK(cudaHostAlloc((void **)&seen, sizeof *seen * TIMES, 0));
  pthread_barrier_wait(&together);
  for (int i = 0; i < TIMES; i++) {
    OK(cudaMemsetAsync(mine, i % 100 + 1, 4, stream));
    OK(cudaMemcpyAsync(seen[i], mine, 4, D2H, stream));
    OK(cudaMemcpyAsync(mine, unknown, 4, D2D, stream)); /* what is not known makes it unknown */
    OK(cudaMemcpyAsync(seen[i] + 4, mine, 4, D2H, stream));
  }
  OK(cudaStreamSynchronize(stream));
  for (int i = 0; i < TIMES; i++)
    for (int byte = 0; byte < 8; byte++) CHECK(seen[i][byte] == (byte < 4 ? i % 100 + 1 : 0));
  return NULL;
}

int main(void) {
  pthread_t threads[THREADS];
  OK(cudaMalloc((void **)&device, 4096));
  OK(cudaMalloc((void **)&unknown, 4096));
  OK(pthread_barrier_init(&together, NULL, THREADS));
  for (long i = 0; i < THREADS; i++) OK(pthread_create(&threads[i], NULL, work, (void *)i));
  for (int i = 0; i < THREADS; i++) OK(pthread_join(threads[i], NULL));
  puts("passed");
}
