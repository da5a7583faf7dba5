/* CPU nanoseconds per submission, for runs with and without the recorder in front. Prints one JSON line. */
#include <stdint.h>
#include <stdio.h>
#include <time.h>

typedef struct {
  uint32_t x, y, z;
} dim3;
extern void **__cudaRegisterFatBinary(void *);
extern void __cudaRegisterFunction(void **, const char *, char *, const char *, int, void *, void *, void *, void *,
                                   int *);
extern int cudaLaunchKernel(const void *, dim3, dim3, void **, size_t, void *);
extern int cudaMalloc(void **, size_t), cudaMemsetAsync(void *, int, size_t, void *);
extern int cudaStreamCreateWithFlags(void **, unsigned), cudaStreamSynchronize(void *);
extern int cudaStreamBeginCapture(void *, int), cudaStreamEndCapture(void *, void **);
extern int cudaGraphInstantiateWithFlags(void **, void *, unsigned long long), cudaGraphLaunch(void *, void *);

#define ROUNDS 300
#define EACH 1000 /* between two waits, as in a step of a framework */
static void *stream, *memory, *exec;
static char kernel[16];

static int64_t cpu_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void launch(void) { cudaLaunchKernel(kernel, (dim3){1, 1, 1}, (dim3){32, 1, 1}, NULL, 0, stream); }
static void set(void) { cudaMemsetAsync(memory, 0, 8, stream); }
static void replay(void) { cudaGraphLaunch(exec, stream); }

/* The waits are not counted: there the recorder reads what has ended, which a card's host would do while it waits. */
static double per_call(void (*call)(void)) {
  int64_t total = 0;
  for (int r = 0; r < ROUNDS; r++) {
    int64_t begin = cpu_ns();
    for (int i = 0; i < EACH; i++) call();
    total += cpu_ns() - begin;
    cudaStreamSynchronize(stream);
  }
  return (double)total / ROUNDS / EACH;
}

int main(void) {
  void *graph;
  __cudaRegisterFunction(__cudaRegisterFatBinary(NULL), kernel, NULL, "bench", -1, NULL, NULL, NULL, NULL, NULL);
  if (cudaMalloc(&memory, 4096) || cudaStreamCreateWithFlags(&stream, 1)) return 1;
  if (cudaStreamBeginCapture(stream, 1)) return 1;
  for (int i = 0; i < 450; i++) launch();
  if (cudaStreamEndCapture(stream, &graph) || cudaGraphInstantiateWithFlags(&exec, graph, 0)) return 1;
  per_call(launch);
  double kernels = per_call(launch), sets = per_call(set), graphs = per_call(replay);
  printf("{\"cudaLaunchKernel\": %.1f, \"cudaMemsetAsync\": %.1f, \"cudaGraphLaunch, 450 kernels\": %.1f}\n", kernels,
         sets, graphs);
  return 0;
}
