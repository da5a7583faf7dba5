/* Host nanoseconds per interposed call, as the program sees them. The preload library brings CUDA's symbols. Prints one
 * JSON line. The CPU clock stays real under emulation, so it is the one to measure with.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

extern int cudaGetDevice(int *device);
extern int cudaMalloc(void **pointer, size_t bytes);
extern int cudaMemsetAsync(void *pointer, int value, size_t bytes, void *stream);
extern int cudaEventCreate(void **event);
extern int cudaEventRecord(void *event, void *stream);
extern int cudaStreamSynchronize(void *stream);

static int64_t cpu_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

#define MEASURE(name, count, call)                                                   \
  do {                                                                               \
    int64_t begin = cpu_ns();                                                        \
    for (int i = 0; i < (count); i++) {                                              \
      call;                                                                          \
    }                                                                                \
    printf("%s\"%s\": %.1f", separator, name, (double)(cpu_ns() - begin) / (count)); \
    separator = ", ";                                                                \
  } while (0)

int main(void) {
  const char *separator = "{";
  void *memory = NULL, *event = NULL;
  int device;
  struct timespec t;
  if (cudaMalloc(&memory, 1 << 20) || cudaEventCreate(&event)) return 1;
  for (int i = 0; i < 1000; i++) cudaMemsetAsync(memory, 0, 4096, NULL); /* the memo learns it */
  /* A loop that does nothing but look at the clock would be parked as a busy-poller: now and then it waits. */
  MEASURE("clock_gettime", 2000000, clock_gettime(CLOCK_MONOTONIC, &t); if (!(i & 16383)) usleep(1));
  MEASURE("cudaGetDevice", 5000000, cudaGetDevice(&device));
  MEASURE("cudaEventRecord", 1000000, cudaEventRecord(event, NULL));
  MEASURE("cudaMemsetAsync (memo hit)", 1000000, cudaMemsetAsync(memory, 0, 4096, NULL));
  MEASURE("cudaMemsetAsync of 4 bytes (memo hit)", 1000000, cudaMemsetAsync(memory, 0, 4, NULL));
  cudaStreamSynchronize(NULL);
  printf("}\n");
  return 0;
}
