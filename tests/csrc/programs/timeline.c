/* Streams, events and host functions with kernels of exactly 2 us (constant predictor, policy free). */
#include "device.h"

#include <time.h>

static char host_function[16];
static const void *kernel;

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void *event(void) {
  void *e;
  OK(cudaEventCreate(&e));
  return e;
}

static void order_and_elapsed(void) {
  void *s, *a = event(), *b = event();
  OK(cudaStreamCreateWithFlags(&s, 1));
  OK(cudaEventRecord(a, s));
  for (int i = 0; i < 5; i++) launch(kernel, s);
  OK(cudaEventRecord(b, s));
  CHECK(cudaEventQuery(b) == 600 && cudaStreamQuery(s) == 600);
  int64_t before = now_ns();
  OK(cudaEventSynchronize(b));
  CHECK(now_ns() - before <= 10000 && now_ns() - before > 0);
  CHECK(elapsed_us(a, b) == 10.0f);
  OK(cudaEventQuery(b));
  OK(cudaStreamQuery(s));
  OK(cudaEventRecord(a, s)); /* nothing between: what divides by it must not divide by zero */
  OK(cudaEventRecord(b, s));
  OK(cudaEventSynchronize(b));
  CHECK(elapsed_us(a, b) == 0.5f && elapsed_us(a, a) == 0.0f);
  OK(cudaStreamDestroy(s));
}

static void streams_overlap_and_wait(void) {
  void *s, *t, *start = event(), *mid = event(), *end = event(), *other = event();
  OK(cudaStreamCreateWithFlags(&s, 1));
  OK(cudaStreamCreateWithFlags(&t, 1));
  OK(cudaEventRecord(start, s));
  for (int i = 0; i < 4; i++) launch(kernel, s);
  OK(cudaEventRecord(mid, s));
  launch(kernel, t); /* beside s */
  OK(cudaEventRecord(other, t));
  OK(cudaStreamWaitEvent(t, mid, 0));
  launch(kernel, t); /* behind s */
  OK(cudaEventRecord(end, t));
  OK(cudaDeviceSynchronize());
  CHECK(elapsed_us(start, mid) == 8.0f && elapsed_us(start, other) == 2.0f && elapsed_us(start, end) == 10.0f);
}

static void legacy_stream(void) {
  void *s, *free_running, *a = event(), *b = event(), *c = event(), *d = event();
  OK(cudaStreamCreate(&s)); /* synchronises with the legacy stream */
  OK(cudaStreamCreateWithFlags(&free_running, 1));
  OK(cudaEventRecord(a, free_running));
  launch(kernel, s);
  launch(kernel, s);
  launch(kernel, NULL); /* behind s */
  OK(cudaEventRecord(b, NULL));
  launch(kernel, s); /* behind the legacy stream */
  OK(cudaEventRecord(c, s));
  launch(kernel, free_running);
  OK(cudaEventRecord(d, free_running));
  OK(cudaDeviceSynchronize());
  CHECK(elapsed_us(a, b) == 6.0f && elapsed_us(a, c) == 8.0f && elapsed_us(a, d) == 2.0f);
}

static int order[4], order_count;
static int64_t called_at;
static void on_host(void *arg) {
  called_at = now_ns();
  order[order_count++] = (int)(intptr_t)arg;
}

static void host_functions(void) {
  void *s;
  OK(cudaStreamCreateWithFlags(&s, 1));
  int64_t before = now_ns();
  launch(kernel, s);
  OK(cudaLaunchHostFunc(s, on_host, (void *)1));
  launch(kernel, s);
  OK(cudaLaunchHostFunc(s, on_host, (void *)2));
  OK(cudaStreamSynchronize(s));
  CHECK(order_count == 2 && order[0] == 1 && order[1] == 2);
  CHECK(called_at - before == 4000);
}

static void pageable_copies_block(void) {
  static char host[1 << 20];
  void *device, *s, *pinned;
  OK(cudaMalloc(&device, 1 << 20));
  OK(cudaHostAlloc(&pinned, 1 << 20, 0));
  OK(cudaStreamCreateWithFlags(&s, 1));
  int64_t before = now_ns();
  OK(cudaMemcpyAsync(device, pinned, 1 << 20, H2D, s));
  CHECK(now_ns() == before);
  OK(cudaMemcpyAsync(host, device, 1 << 20, D2H, s)); /* pageable: waits for both */
  CHECK(now_ns() - before == 4000);
  OK(cudaMemcpyAsync(pinned, device, 1 << 20, D2H, s));
  CHECK(now_ns() - before == 4000);
  OK(cudaStreamSynchronize(s));
  CHECK(now_ns() - before == 6000);
}

/* One engine a direction: copies that are ready share it, one that waits for its stream's kernels does not hold it. */
static void copy_engines(void) {
  void *device, *pinned, *s, *t, *start = event(), *first = event(), *idle = event(), *behind = event();
  OK(cudaMalloc(&device, 4096));
  OK(cudaHostAlloc(&pinned, 4096, 0));
  OK(cudaStreamCreateWithFlags(&s, 1));
  OK(cudaStreamCreateWithFlags(&t, 1));
  OK(cudaEventRecord(start, s));
  for (int i = 0; i < 4; i++) launch(kernel, s);
  OK(cudaMemcpyAsync(pinned, device, 4096, D2H, s)); /* from 8 us on */
  OK(cudaEventRecord(first, s));
  OK(cudaMemcpyAsync(pinned, device, 4096, D2H, t)); /* at once: the engine is free until then */
  OK(cudaEventRecord(idle, t));
  for (int i = 0; i < 3; i++) launch(kernel, t);
  OK(cudaMemcpyAsync(pinned, device, 4096, D2H, t)); /* ready at 8 us, too: behind the other */
  OK(cudaEventRecord(behind, t));
  OK(cudaDeviceSynchronize());
  CHECK(elapsed_us(start, first) == 10.0f && elapsed_us(start, idle) == 2.0f && elapsed_us(start, behind) == 12.0f);
}

static void errors(void) {
  void *e, *f = event();
  float ms;
  OK(cudaEventCreateWithFlags(&e, 2)); /* no timing */
  OK(cudaEventQuery(e));               /* never recorded: complete */
  OK(cudaEventRecord(e, NULL));
  OK(cudaEventRecord(f, NULL));
  CHECK(cudaEventElapsedTime(&ms, e, f) == 400);
  CHECK(cudaLaunchKernel("no kernel", (dim3){1, 1, 1}, (dim3){32, 1, 1}, NULL, 0, NULL) == 98);
  CHECK(cudaLaunchKernel(kernel, (dim3){1, 1, 1}, (dim3){2000, 1, 1}, NULL, 0, NULL) == 1);
  OK(cudaEventDestroy(e));
  CHECK(cudaEventDestroy(e) == 400);
  CHECK(cudaSetDevice(99) == 101);
}

int main(void) {
  kernel = make_kernel("plain_kernel", host_function);
  order_and_elapsed();
  streams_overlap_and_wait();
  legacy_stream();
  host_functions();
  pageable_copies_block();
  copy_engines();
  errors();
  puts("passed");
}
