// Host time of CUDA API calls on this machine, one JSON line each: {"call", "ns_p50", "ns_p10", "ns_p90", "n"}.
// The calls are those that a serving step makes, and the ones whose cost decides when the GPU can start.
#include <cuda.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#define CHECK(call)                                                                          \
  do {                                                                                       \
    cudaError_t code_ = (call);                                                              \
    if (code_ != cudaSuccess) {                                                              \
      std::fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(code_));                    \
      std::exit(1);                                                                          \
    }                                                                                        \
  } while (0)

__global__ void empty_kernel() {}
__global__ void arguments_kernel(int *a, int *b, int *c, int *d, long e, long f, float g, float h) {
  if (e == -1) *a = *b + *c + *d + (int)f + (int)g + (int)h;
}
__global__ void spin_kernel(long long cycles) {
  long long start = clock64();
  while (clock64() - start < cycles) {
  }
}

static double now_ns() {
  return (double)std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// `settle` runs outside the timed part after every `every` calls: an empty queue keeps a launch from waiting for room.
static void cost(const char *name, int n, const std::function<void()> &call, const std::function<void()> &settle,
                 int every = 64) {
  for (int i = 0; i < 20; i++) call();
  settle();
  std::vector<double> samples;
  for (int i = 0; i < n; i++) {
    double start = now_ns();
    call();
    samples.push_back(now_ns() - start);
    if (i % every == every - 1) settle();
  }
  settle();
  std::sort(samples.begin(), samples.end());
  std::printf("{\"call\":\"%s\",\"ns_p50\":%.0f,\"ns_p10\":%.0f,\"ns_p90\":%.0f,\"n\":%d}\n", name, samples[n / 2],
              samples[n / 10], samples[n * 9 / 10], n);
  std::fflush(stdout);
}

int main() {
  CHECK(cudaFree(nullptr));
  cudaStream_t stream, other;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  cudaEvent_t event, timed, blocking;
  CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  CHECK(cudaEventCreate(&timed));
  CHECK(cudaEventCreateWithFlags(&blocking, cudaEventBlockingSync | cudaEventDisableTiming));
  char *device, *device2, *pinned, *pageable = (char *)std::malloc(1 << 24);
  CHECK(cudaMalloc(&device, 1 << 24));
  CHECK(cudaMalloc(&device2, 1 << 24));
  CHECK(cudaMallocHost(&pinned, 1 << 24));
  auto sync = [&] { CHECK(cudaDeviceSynchronize()); };
  auto nothing = [] {};
  int value, n = 2000;
  size_t free_bytes, total_bytes;
  CUcontext context;
  void *driver = dlopen("libcuda.so.1", RTLD_NOW);
  auto current = driver ? (CUresult(*)(CUcontext *))dlsym(driver, "cuCtxGetCurrent") : nullptr;

  cost("clock (cost of measuring)", n, nothing, nothing);
  cost("cudaGetDevice", n, [&] { cudaGetDevice(&value); }, nothing);
  cost("cudaSetDevice", n, [&] { cudaSetDevice(0); }, nothing);
  cost("cudaGetLastError", n, [&] { cudaGetLastError(); }, nothing);
  if (current) cost("cuCtxGetCurrent", n, [&] { current(&context); }, nothing);
  cost("cudaDeviceGetAttribute", n, [&] { cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 0); }, nothing);
  cost("cudaMemGetInfo", 200, [&] { cudaMemGetInfo(&free_bytes, &total_bytes); }, nothing);
  cost("cudaStreamIsCapturing", n, [&] { cudaStreamCaptureStatus s; cudaStreamIsCapturing(stream, &s); }, nothing);
  cost("cudaPointerGetAttributes", n, [&] { cudaPointerAttributes a; cudaPointerGetAttributes(&a, device); }, nothing);
  cost("cudaFuncGetAttributes", n, [&] { cudaFuncAttributes a; cudaFuncGetAttributes(&a, empty_kernel); }, nothing);
  cost("cudaOccupancyMaxActiveBlocksPerMultiprocessor", n,
       [&] { cudaOccupancyMaxActiveBlocksPerMultiprocessor(&value, empty_kernel, 256, 0); }, nothing);
  cost("cudaLaunchKernel empty", n, [&] { empty_kernel<<<1, 32, 0, stream>>>(); }, sync);
  cost("cudaLaunchKernel 8 arguments", n,
       [&] { arguments_kernel<<<132, 256, 0, stream>>>((int *)device, (int *)device, (int *)device, (int *)device, 1, 2, 3, 4); },
       sync);
  cost("launch and stream synchronize", 500, [&] { empty_kernel<<<1, 32, 0, stream>>>(); cudaStreamSynchronize(stream); },
       sync);
  cost("cudaEventRecord", n, [&] { cudaEventRecord(event, stream); }, sync);
  cost("cudaEventRecord timing", n, [&] { cudaEventRecord(timed, stream); }, sync);
  cost("cudaEventQuery done", n, [&] { cudaEventQuery(event); }, nothing);
  cost("cudaEventSynchronize done", n, [&] { cudaEventSynchronize(event); }, nothing);
  cost("cudaStreamSynchronize idle", n, [&] { cudaStreamSynchronize(stream); }, nothing);
  cost("cudaStreamQuery idle", n, [&] { cudaStreamQuery(stream); }, nothing);
  cost("cudaStreamWaitEvent", n, [&] { cudaStreamWaitEvent(other, event, 0); }, sync);
  cost("cudaEventCreate and destroy", n,
       [&] { cudaEvent_t e; cudaEventCreateWithFlags(&e, cudaEventDisableTiming); cudaEventDestroy(e); }, nothing);
  for (size_t bytes : {8ul, 4096ul, 65536ul, 1ul << 20, 1ul << 24}) {
    char name[64];
    std::snprintf(name, sizeof name, "cudaMemcpyAsync h2d pinned %zu", bytes);
    cost(name, 500, [&] { cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, stream); }, sync, 16);
    std::snprintf(name, sizeof name, "cudaMemcpyAsync d2h pinned %zu", bytes);
    cost(name, 500, [&] { cudaMemcpyAsync(pinned, device, bytes, cudaMemcpyDeviceToHost, stream); }, sync, 16);
    std::snprintf(name, sizeof name, "cudaMemcpyAsync h2d pageable %zu", bytes);
    cost(name, 200, [&] { cudaMemcpyAsync(device, pageable, bytes, cudaMemcpyHostToDevice, stream); }, sync, 16);
    std::snprintf(name, sizeof name, "cudaMemcpy d2h pageable %zu", bytes);
    cost(name, 200, [&] { cudaMemcpy(pageable, device, bytes, cudaMemcpyDeviceToHost); }, sync, 16);
    std::snprintf(name, sizeof name, "cudaMemcpyAsync d2d %zu", bytes);
    cost(name, 500, [&] { cudaMemcpyAsync(device2, device, bytes, cudaMemcpyDeviceToDevice, stream); }, sync, 16);
    std::snprintf(name, sizeof name, "cudaMemsetAsync %zu", bytes);
    cost(name, 500, [&] { cudaMemsetAsync(device, 1, bytes, stream); }, sync, 16);
  }
  for (size_t bytes : {1ul << 10, 2ul << 20, 64ul << 20, 1ul << 30}) {
    char name[64];
    std::snprintf(name, sizeof name, "cudaMalloc and cudaFree %zu", bytes);
    cost(name, 50, [&] { void *p; CHECK(cudaMalloc(&p, bytes)); CHECK(cudaFree(p)); }, sync);
    std::snprintf(name, sizeof name, "cudaMallocAsync and cudaFreeAsync %zu", bytes);
    cost(name, 50, [&] { void *p; CHECK(cudaMallocAsync(&p, bytes, stream)); CHECK(cudaFreeAsync(p, stream)); }, sync);
  }
  cost("cudaMallocHost and cudaFreeHost 1048576", 50, [&] { void *p; CHECK(cudaMallocHost(&p, 1 << 20)); CHECK(cudaFreeHost(p)); },
       sync);

  for (int nodes : {1, 32, 450, 2000}) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < nodes; i++) empty_kernel<<<1, 32, 0, stream>>>();
    CHECK(cudaStreamEndCapture(stream, &graph));
    double start = now_ns();
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    std::printf("{\"call\":\"cudaGraphInstantiate %d\",\"ns_p50\":%.0f,\"n\":1}\n", nodes, now_ns() - start);
    char name[64];
    std::snprintf(name, sizeof name, "cudaGraphLaunch %d", nodes);
    cost(name, 200, [&] { CHECK(cudaGraphLaunch(exec, stream)); }, sync, 1);
    std::snprintf(name, sizeof name, "cudaGraphLaunch and synchronize %d", nodes);
    cost(name, 200, [&] { CHECK(cudaGraphLaunch(exec, stream)); CHECK(cudaStreamSynchronize(stream)); }, sync);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
  }

  // How long after the GPU is done a waiting thread runs again: spin for a known time, then subtract it.
  int khz = 0;
  CHECK(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0));
  long long cycles = (long long)khz * 1000 / 1000 / 2;  // about 0.5 ms at the highest clock
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  for (int kind = 0; kind < 3; kind++) {
    std::vector<double> late;
    for (int i = 0; i < 100; i++) {
      double start = now_ns();
      cudaEventRecord(begin, stream);
      spin_kernel<<<1, 1, 0, stream>>>(cycles);
      cudaEventRecord(end, stream);
      cudaEventRecord(kind == 1 ? blocking : event, stream);
      if (kind == 0) cudaStreamSynchronize(stream);
      if (kind == 1) cudaEventSynchronize(blocking);
      if (kind == 2)
        while (cudaEventQuery(event) == cudaErrorNotReady) {
        }
      double took = now_ns() - start;
      float ms;
      CHECK(cudaEventSynchronize(end));
      CHECK(cudaEventElapsedTime(&ms, begin, end));
      late.push_back(took - ms * 1e6);
    }
    std::sort(late.begin(), late.end());
    const char *kinds[] = {"stream synchronize", "blocking event synchronize", "event query loop"};
    std::printf("{\"call\":\"launch to wake-up beyond kernel time, %s\",\"ns_p50\":%.0f,\"ns_p10\":%.0f,\"ns_p90\":%.0f,\"n\":100}\n",
                kinds[kind], late[50], late[10], late[90]);
  }
  // What the GPU itself takes between dependent launches: stream order and graph order.
  float ms;
  CHECK(cudaEventRecord(begin, stream));
  spin_kernel<<<1, 1, 0, stream>>>(cycles * 8);  // covers the host time of the launches behind it
  CHECK(cudaEventRecord(timed, stream));
  for (int i = 0; i < 500; i++) empty_kernel<<<1, 32, 0, stream>>>();
  CHECK(cudaEventRecord(end, stream));
  CHECK(cudaEventSynchronize(end));
  CHECK(cudaEventElapsedTime(&ms, timed, end));
  std::printf("{\"call\":\"gpu ns per empty kernel in a stream\",\"ns_p50\":%.0f,\"n\":500}\n", ms * 1e6 / 500);
  return 0;
}
