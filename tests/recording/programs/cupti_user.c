/* Calls in front of the made-up CUPTI (fake_cupti.c): what it answers is set before each. */
#include <dlfcn.h>

#include "device.h"

enum { KERNEL, SPLIT, CAPTURE, REPLAY, COPY, UNOWNED };
static char host_function[16];

int main(void) {
  void *fake = dlopen(getenv("REVATI_CUPTI"), RTLD_NOW), *s, *graph, *exec, *memory;
  CHECK(fake);
  void (*mode)(int) = dlsym(fake, "fake_mode");
  void (*instantiate)(void) = dlsym(fake, "fake_instantiate");
  const void *kernel = make_kernel("asked_for", host_function);
  OK(cudaMalloc(&memory, 4096));
  OK(cudaStreamCreateWithFlags(&s, 1));
  launch(kernel, s); /* API id 1 */
  mode(SPLIT);
  launch(kernel, s); /* 2 */
  mode(COPY);
  OK(cudaMemcpyAsync(memory, host_function, 16, H2D, s)); /* 3 */
  mode(UNOWNED);
  launch(kernel, s); /* 4 */
  mode(CAPTURE);
  OK(cudaStreamBeginCapture(s, 1));
  launch(kernel, s);                        /* 5 */
  OK(cudaMemsetAsync(memory, 0, 4096, s)); /* 6 */
  OK(cudaStreamEndCapture(s, &graph));
  OK(cudaGraphInstantiateWithFlags(&exec, graph, 0));
  instantiate();
  mode(REPLAY);
  OK(cudaGraphLaunch(exec, s)); /* 7 */
  OK(cudaGraphLaunch(exec, s)); /* 8 */
  OK(cudaStreamSynchronize(s));
  printf("passed\n");
  return 0;
}
