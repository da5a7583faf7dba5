/* Stand-ins for a card's libraries, as a process of a framework meets them: a driver and a runtime that only extension
 * modules load (RTLD_LOCAL), the runtime looking its driver up by itself. -DDRIVER, -DRUNTIME and -DEXTENSION make the
 * libraries, else the program. Work takes 7 us; events are the driver's.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  uint32_t x, y, z;
} dim3;
#define CHECK(condition)                                             \
  if (!(condition)) {                                                \
    printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);   \
    exit(1);                                                         \
  }

#if defined(DRIVER)

static int64_t now_ns = 1000, launches;
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **params, void **extra) {
  now_ns += 7000;
  launches++;
  return 0;
}
int64_t driver_launches(void) { return launches; }
int cuFuncGetName(const char **name, void *f) {
  *name = "driver_kernel";
  return 0;
}
int cuEventCreate(int64_t **event, unsigned flags) { return (*event = malloc(8)) ? 0 : 2; }
int cuEventRecord(int64_t *event, void *stream) {
  *event = now_ns;
  return 0;
}
int cuEventQuery(int64_t *event) { return 0; }
int cuEventSynchronize(int64_t *event) { return 0; }
int cuEventElapsedTime(float *ms, int64_t *from, int64_t *to) {
  *ms = (float)(*to - *from) * 1e-6f;
  return 0;
}
int cuGetProcAddress_v2(const char *name, void **out, int version, uint64_t flags, int *status) {
  *out = dlsym(RTLD_DEFAULT, name); /* not in the global scope: the library asks itself */
  Dl_info self;
  dladdr((void *)driver_launches, &self);
  *out = dlsym(dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD), name);
  return *out ? 0 : 500;
}

#elif defined(RUNTIME)

static int (*driver_launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                            void **);
static int (*driver_event)(void **, unsigned);
__attribute__((constructor)) static void find_driver(void) {
  void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  int (*look)(const char *, void **, int, uint64_t, int *) = dlsym(driver, "cuGetProcAddress_v2");
  CHECK(driver && look);
  CHECK(look("cuLaunchKernel", (void **)&driver_launch, 12000, 0, NULL) == 0);
  driver_event = dlsym(driver, "cuEventCreate");
}
int cudaLaunchKernel(const void *f, dim3 g, dim3 b, void **params, size_t shared, void *stream) {
  return driver_launch((void *)f, g.x, g.y, g.z, b.x, b.y, b.z, (unsigned)shared, stream, params, NULL);
}
int cudaFuncGetName(const char **name, const void *f) {
  *name = "runtime_kernel";
  return 0;
}
int cudaEventCreateWithFlags(void **event, unsigned flags) { return driver_event(event, flags); }
int cudaStreamSynchronize(void *stream) { return 0; }

#elif defined(EXTENSION)

extern int cudaLaunchKernel(const void *, dim3, dim3, void **, size_t, void *), cudaStreamSynchronize(void *);
static char kernel[16];
void run(void) {
  for (int i = 0; i < 3; i++) CHECK(cudaLaunchKernel(kernel, (dim3){2, 1, 1}, (dim3){32, 1, 1}, NULL, 0, NULL) == 0);
  CHECK(cudaStreamSynchronize(NULL) == 0);
}

#else

int main(void) {
  void *extension = dlopen("libextension.so", RTLD_NOW | RTLD_LOCAL);
  CHECK(extension);
  ((void (*)(void))dlsym(extension, "run"))();
  /* As a compiler of kernels does: straight to the driver, by name and through its own look-up. */
  void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
  int (*look)(const char *, void **, int, uint64_t, int *) = dlsym(driver, "cuGetProcAddress_v2");
  launch = dlsym(driver, "cuLaunchKernel");
  CHECK(launch(driver, 4, 1, 1, 64, 1, 1, 0, NULL, NULL, NULL) == 0);
  launch = NULL;
  CHECK(look("cuLaunchKernel", (void **)&launch, 12000, 0, NULL) == 0 && launch);
  CHECK(launch(driver, 5, 1, 1, 64, 1, 1, 0, NULL, NULL, NULL) == 0);
  CHECK(((int64_t(*)(void))dlsym(driver, "driver_launches"))() == 5);
  printf("passed\n");
  return 0;
}
#endif
