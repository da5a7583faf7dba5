/* Capture over several streams, replay with effects and times, update, forbidden calls. Kernels take 2 us. */
#include "device.h"

static char host_function[16];
static const void *kernel;

static void *stream(void) {
  void *s;
  OK(cudaStreamCreateWithFlags(&s, 1));
  return s;
}
static void *event(void) {
  void *e;
  OK(cudaEventCreate(&e));
  return e;
}

static void fork_and_join(void) {
  void *s = stream(), *t = stream(), *fork = event(), *joined = event(), *graph, *exec, *nodes[16], *a = event(), *b = event();
  int status;
  size_t n = 16;
  OK(cudaStreamBeginCapture(s, 0));
  launch(kernel, s);
  OK(cudaEventRecord(fork, s));
  OK(cudaStreamWaitEvent(t, fork, 0)); /* t joins the capture */
  OK(cudaStreamIsCapturing(t, &status));
  CHECK(status == 1);
  for (int i = 0; i < 3; i++) launch(kernel, t);
  launch(kernel, s);
  OK(cudaEventRecord(joined, t));
  OK(cudaStreamWaitEvent(s, joined, 0));
  launch(kernel, s);
  CHECK(cudaStreamSynchronize(s) == 900);
  CHECK(cudaEventQuery(fork) == 907);
  OK(cudaStreamEndCapture(s, &graph));
  OK(cudaStreamIsCapturing(t, &status));
  CHECK(status == 0);
  OK(cudaGraphGetNodes(graph, nodes, &n));
  CHECK(n == 6);
  OK(cudaGraphInstantiateWithFlags(&exec, graph, 0));
  OK(cudaGraphDestroy(graph));
  OK(cudaEventRecord(a, s));
  OK(cudaGraphLaunch(exec, s));
  OK(cudaGraphLaunch(exec, s));
  OK(cudaEventRecord(b, s));
  OK(cudaStreamSynchronize(s));
  CHECK(elapsed_us(a, b) == 20.0f); /* critical path of each: 1 + 3 + 1 kernels */
  OK(cudaGraphExecDestroy(exec));
}

static void effects_at_replay(void) {
  void *s = stream(), *graph, *exec;
  int *device, *pinned, back = 0;
  OK(cudaMalloc((void **)&device, 4096));
  OK(cudaHostAlloc((void **)&pinned, 4096, 0));
  *pinned = 1;
  OK(cudaMemcpy(device, pinned, 4, H2D));
  OK(cudaStreamBeginCapture(s, 1));
  OK(cudaMemcpyAsync(device, pinned, 4, H2D, s));
  OK(cudaMemsetAsync(device + 1, 0x11, 4, s));
  OK(cudaStreamEndCapture(s, &graph));
  OK(cudaGraphInstantiateWithFlags(&exec, graph, 0));
  *pinned = 2; /* the copy reads host memory at replay, not at capture */
  OK(cudaMemcpy(&back, device, 4, D2H));
  CHECK(back == 1);
  OK(cudaGraphLaunch(exec, s));
  OK(cudaStreamSynchronize(s));
  OK(cudaMemcpy(&back, device, 4, D2H));
  CHECK(back == 2);
  OK(cudaMemcpy(&back, device + 1, 4, D2H));
  CHECK(back == 0x11111111);
}

static void update(void) {
  void *s = stream(), *graph, *bigger, *exec, *a = event(), *b = event();
  struct { int result; void *x, *y; } info;
  for (int nodes = 1; nodes <= 2; nodes++) {
    OK(cudaStreamBeginCapture(s, 2));
    for (int i = 0; i < nodes; i++) launch(kernel, s);
    OK(cudaStreamEndCapture(s, nodes == 1 ? &graph : &bigger));
  }
  OK(cudaGraphInstantiateWithFlags(&exec, graph, 0));
  OK(cudaGraphExecUpdate(exec, graph, &info));
  CHECK(cudaGraphExecUpdate(exec, bigger, &info) == 910 && info.result == 1);
  OK(cudaEventRecord(a, s));
  OK(cudaGraphLaunch(exec, s));
  OK(cudaEventRecord(b, s));
  OK(cudaStreamSynchronize(s));
  CHECK(elapsed_us(a, b) == 2.0f);
}

/* A graph of two kernels as a node between two others: four in a row. */
static void children(void) {
  void *s = stream(), *inner, *outer, *exec, *first, *middle, *last, *a = event(), *b = event();
  OK(cudaStreamBeginCapture(s, 2));
  launch(kernel, s);
  launch(kernel, s);
  OK(cudaStreamEndCapture(s, &inner));
  struct { const void *func; dim3 grid, block; unsigned shared; void **params, **extra; } p = {kernel, {1, 1, 1}, {32, 1, 1}, 0, NULL, NULL};
  OK(cudaGraphCreate(&outer, 0));
  OK(cudaGraphAddKernelNode(&first, outer, NULL, 0, &p));
  OK(cudaGraphAddChildGraphNode(&middle, outer, &first, 1, inner));
  OK(cudaGraphAddKernelNode(&last, outer, &middle, 1, &p));
  OK(cudaGraphInstantiateWithFlags(&exec, outer, 0));
  OK(cudaEventRecord(a, s));
  OK(cudaGraphLaunch(exec, s));
  OK(cudaEventRecord(b, s));
  OK(cudaStreamSynchronize(s));
  CHECK(elapsed_us(a, b) == 8.0f);
  OK(cudaGraphDestroy(outer));
  OK(cudaGraphDestroy(inner));
}

static void mistakes(void) {
  void *s = stream(), *t = stream(), *fork = event(), *graph, *p;
  OK(cudaStreamBeginCapture(s, 0));
  CHECK(cudaStreamBeginCapture(s, 0) == 401);
  CHECK(cudaMalloc(&p, 100) == 900); /* global mode forbids it ... */
  int relaxed = 2;
  OK(cudaThreadExchangeStreamCaptureMode(&relaxed));
  OK(cudaMalloc(&p, 100)); /* ... unless this thread opted out */
  OK(cudaThreadExchangeStreamCaptureMode(&relaxed));
  CHECK(relaxed == 2);
  launch(kernel, s);
  OK(cudaEventRecord(fork, s));
  OK(cudaStreamWaitEvent(t, fork, 0));
  launch(kernel, t);
  CHECK(cudaStreamEndCapture(t, &graph) == 903);
  CHECK(cudaStreamEndCapture(s, &graph) == 904 && graph == NULL); /* t was not joined */
  CHECK(cudaStreamEndCapture(s, &graph) == 401);
  CHECK(cudaStreamBeginCapture(NULL, 0) == 900);
}

int main(void) {
  kernel = make_kernel("plain_kernel", host_function);
  fork_and_join();
  effects_at_replay();
  update();
  children();
  mistakes();
  puts("passed");
}
