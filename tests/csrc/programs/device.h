/* What the C tests of the virtual device share: checks, and the few CUDA declarations that they call. */
#ifndef DEVICE_TEST_H
#define DEVICE_TEST_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);            \
      exit(1);                                                                  \
    }                                                                           \
  } while (0)
#define OK(call)                                                                \
  do {                                                                          \
    int rc_ = (call);                                                           \
    if (rc_) {                                                                  \
      printf("%s:%d: %s answered %d\n", __FILE__, __LINE__, #call, rc_);        \
      exit(1);                                                                  \
    }                                                                           \
  } while (0)

typedef struct {
  uint32_t x, y, z;
} dim3;

int cudaMalloc(void **, size_t), cudaFree(void *), cudaMemGetInfo(size_t *, size_t *), cudaGetLastError(void);
int cudaHostAlloc(void **, size_t, unsigned), cudaFreeHost(void *), cudaHostRegister(void *, size_t, unsigned), cudaHostUnregister(void *);
int cudaMemcpy(void *, const void *, size_t, int), cudaMemcpyAsync(void *, const void *, size_t, int, void *);
int cudaMemcpy2D(void *, size_t, const void *, size_t, size_t, size_t, int);
int cudaMemset(void *, int, size_t), cudaMemsetAsync(void *, int, size_t, void *);
int cudaStreamCreate(void **), cudaStreamCreateWithFlags(void **, unsigned), cudaStreamDestroy(void *), cudaStreamSynchronize(void *);
int cudaStreamQuery(void *), cudaStreamWaitEvent(void *, void *, unsigned), cudaLaunchHostFunc(void *, void (*)(void *), void *);
int cudaEventCreate(void **), cudaEventCreateWithFlags(void **, unsigned), cudaEventDestroy(void *), cudaEventRecord(void *, void *);
int cudaEventQuery(void *), cudaEventSynchronize(void *), cudaEventElapsedTime(float *, void *, void *);
int cudaDeviceSynchronize(void), cudaSetDevice(int), cudaGetDevice(int *), cudaGetDeviceCount(int *);
int cudaDeviceGetAttribute(int *, int, int), cudaGetDeviceProperties(void *, int), cudaGetDeviceProperties_v2(void *, int);
int cudaLaunchKernel(const void *, dim3, dim3, void **, size_t, void *);
int cudaStreamBeginCapture(void *, int), cudaStreamEndCapture(void *, void **), cudaStreamIsCapturing(void *, int *);
int cudaGraphInstantiateWithFlags(void **, void *, unsigned long long), cudaGraphLaunch(void *, void *), cudaGraphExecDestroy(void *);
int cudaGraphDestroy(void *), cudaGraphGetNodes(void *, void **, size_t *), cudaGraphExecUpdate(void *, void *, void *);
int cudaGraphCreate(void **, unsigned), cudaGraphAddChildGraphNode(void **, void *, void **, size_t, void *);
int cudaGraphAddKernelNode(void **, void *, void **, size_t, const void *);
int cudaMallocAsync(void **, size_t, void *), cudaFreeAsync(void *, void *), cudaPointerGetAttributes(void *, const void *);
int cudaDeviceGetDefaultMemPool(void **, int), cudaMemPoolGetAttribute(void *, int, void *), cudaMemPoolSetAttribute(void *, int, void *);
int cuGetProcAddress_v2(const char *, void **, int, uint64_t, int *), cuGetExportTable(const void **, const void *), cuInit(unsigned);
int cuMemAddressReserve(uint64_t *, size_t, size_t, uint64_t, unsigned long long), cuMemAddressFree(uint64_t, size_t);
int cuMemCreate(void **, size_t, const void *, unsigned long long), cuMemMap(uint64_t, size_t, size_t, void *, unsigned long long);
int cuMemUnmap(uint64_t, size_t), cuMemRelease(void *), cuMemSetAccess(uint64_t, size_t, const void *, size_t);
int cudaThreadExchangeStreamCaptureMode(int *);
void **__cudaRegisterFatBinary(void *);
void __cudaRegisterFunction(void **, const char *, char *, const char *, int, void *, void *, void *, void *, int *);

enum { H2D = 1, D2H = 2, D2D = 3 };

/* A kernel that only exists by name: an unmangled one, whose parameters nobody knows. */
static inline const void *make_kernel(const char *name, char *host) {
  __cudaRegisterFunction(__cudaRegisterFatBinary(NULL), host, NULL, name, -1, NULL, NULL, NULL, NULL, NULL);
  return host;
}

static inline void launch(const void *kernel, void *stream) {
  OK(cudaLaunchKernel(kernel, (dim3){1, 1, 1}, (dim3){32, 1, 1}, NULL, 0, stream));
}

static inline float elapsed_us(void *from, void *to) {
  float ms;
  OK(cudaEventElapsedTime(&ms, from, to));
  return ms * 1000;
}

#endif
