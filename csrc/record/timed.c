/* Calls that submit nothing themselves: their host time counts, and some end waits. */
#include "record/record.h"

/* All of these have at most six integer or pointer arguments, which the calling convention keeps in registers: they are
 * handed on as they are. */
#define REGISTERS uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f
#define WRAPS(function, ...)                                                \
  RVT_API int function(REGISTERS);                                          \
  RVT_SITE(function);                                                       \
  RVT_API int function(REGISTERS) {                                         \
    int (*real)(REGISTERS) = rvt_real(&site_##function);                    \
    if (RVT_UNLIKELY(!real)) return rvt_no_real(&site_##function);          \
    struct rvt_call call;                                                   \
    if (!rvt_enter(&call, &site_##function)) return real(a, b, c, d, e, f); \
    int rc = real(a, b, c, d, e, f);                                        \
    rvt_leave(&call, rc != 0);                                              \
    if (rc == 0) {                                                          \
      __VA_ARGS__;                                                          \
    }                                                                       \
    return rc;                                                              \
  }
#define TIMES(function) WRAPS(function, )
/* The host has just waited for the device: what has ended can be read without waiting. */
#define WAITS(function) WRAPS(function, rvt_events_drain(RVT_DRAIN_ENDED))

WAITS(cudaDeviceSynchronize)
WAITS(cudaStreamSynchronize)
WAITS(cudaEventSynchronize)
WAITS(cudaEventQuery)
WAITS(cudaStreamQuery)
WAITS(cuCtxSynchronize)
WAITS(cuStreamSynchronize)
WAITS(cuEventSynchronize)
WAITS(cuEventQuery)
WAITS(cuStreamQuery)

TIMES(cudaEventCreateWithFlags)
TIMES(cudaEventDestroy)
TIMES(cudaEventRecord)
TIMES(cudaEventRecordWithFlags)
TIMES(cudaStreamWaitEvent)
TIMES(cudaStreamCreateWithPriority)
TIMES(cudaMalloc)
TIMES(cudaFree)
TIMES(cudaMallocAsync)
TIMES(cudaFreeAsync)
TIMES(cudaHostAlloc)
TIMES(cudaFreeHost)
TIMES(cudaLaunchHostFunc)
TIMES(cudaGraphUpload)
TIMES(cuEventRecord)
TIMES(cuStreamWaitEvent)
TIMES(cuMemAlloc_v2)
TIMES(cuMemFree_v2)
TIMES(cuModuleLoadData)
WRAPS(cuModuleUnload, rvt_forget_names())
WRAPS(cuLibraryUnload, rvt_forget_names())

WRAPS(cudaSetDevice, rvt_here.device = (uint32_t)a)
