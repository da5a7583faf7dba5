/* CUDA runtime: streams, events, host functions. */
#include <stdlib.h>

#include "device/event.h"

#define ENTER()                  \
  do {                           \
    int rc_ = rvt_enter();       \
    if (rc_) return rvt_rt(rc_); \
  } while (0)

/* The stream behind a handle, or return "invalid resource handle". */
#define STREAM(s, handle)                            \
  struct rvt_stream *s = rvt_stream_resolve(handle); \
  if (RVT_UNLIKELY(!s)) return rvt_rt(RVT_E_INVALID_HANDLE)

RVT_API int cudaStreamCreateWithPriority(void **out, unsigned flags, int priority) {
  ENTER();
  if (!out || flags > 1) return rvt_rt(RVT_E_INVALID_VALUE);
  return rvt_rt(rvt_stream_create(rvt_t.device, flags, priority, (struct rvt_stream **)out));
}
RVT_API int cudaStreamCreateWithFlags(void **out, unsigned flags) {
  return cudaStreamCreateWithPriority(out, flags, 0);
}
RVT_API int cudaStreamCreate(void **out) { return cudaStreamCreateWithPriority(out, 0, 0); }
RVT_API int cudaStreamDestroy(void *stream) { return rvt_rt(rvt_stream_destroy(stream)); }

RVT_API int cudaStreamGetPriority(void *stream, int *priority) {
  STREAM(s, stream);
  *priority = s->priority;
  return RVT_OK;
}
RVT_API int cudaStreamGetFlags(void *stream, unsigned *flags) {
  STREAM(s, stream);
  *flags = s->flags;
  return RVT_OK;
}
RVT_API int cudaStreamGetId(void *stream, unsigned long long *id) {
  STREAM(s, stream);
  *id = s->id;
  return RVT_OK;
}
RVT_API int cudaStreamGetDevice(void *stream, int *device) {
  STREAM(s, stream);
  *device = s->device;
  return RVT_OK;
}

RVT_API int cudaStreamSynchronize(void *stream) {
  STREAM(s, stream);
  return rvt_rt(rvt_stream_synchronize(s));
}
RVT_API int cudaStreamQuery(void *stream) {
  STREAM(s, stream);
  return rvt_rt(rvt_stream_query(s));
}
RVT_API int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) {
  STREAM(s, stream);
  return rvt_rt(rvt_event_wait(s, event, flags & 1));
}
RVT_API int cudaLaunchHostFunc(void *stream, void (*fn)(void *), void *arg) {
  STREAM(s, stream);
  return rvt_rt(fn ? rvt_stream_host_func(s, fn, arg) : RVT_E_INVALID_VALUE);
}

struct stream_callback {
  void (*fn)(void *stream, int status, void *arg);
  void *stream, *arg;
};
static void run_stream_callback(void *p) {
  struct stream_callback *c = p;
  c->fn(c->stream, RVT_OK, c->arg);
  free(c);
}
RVT_API int cudaStreamAddCallback(void *stream, void (*fn)(void *, int, void *), void *arg, unsigned flags) {
  STREAM(s, stream);
  if (!fn || flags) return rvt_rt(RVT_E_INVALID_VALUE);
  struct stream_callback *c = malloc(sizeof *c);
  if (!c) return rvt_rt(RVT_E_OUT_OF_MEMORY);
  *c = (struct stream_callback){fn, stream, arg};
  return rvt_rt(rvt_stream_host_func(s, run_stream_callback, c));
}

RVT_RECORDED int cudaStreamSetAttribute(void *stream, int attribute, const void *value) {
  STREAM(s, stream);
  return RVT_OK;
}
RVT_RECORDED int cudaStreamCopyAttributes(void *to, void *from) { return RVT_OK; }

/* ---- events ------------------------------------------------------------------------------------------------ */

RVT_API int cudaEventCreateWithFlags(void **out, unsigned flags) {
  ENTER();
  return rvt_rt(out ? rvt_event_create(rvt_t.device, flags, (struct rvt_event **)out) : RVT_E_INVALID_VALUE);
}
RVT_API int cudaEventCreate(void **out) { return cudaEventCreateWithFlags(out, 0); }
RVT_API int cudaEventDestroy(void *event) { return rvt_rt(rvt_event_destroy(event)); }

RVT_API int cudaEventRecordWithFlags(void *event, void *stream, unsigned flags) {
  STREAM(s, stream);
  return rvt_rt(rvt_event_record(event, s, flags & 1));
}
RVT_API int cudaEventRecord(void *event, void *stream) { return cudaEventRecordWithFlags(event, stream, 0); }
RVT_API int cudaEventQuery(void *event) { return rvt_rt(rvt_event_query(event)); }
RVT_API int cudaEventSynchronize(void *event) { return rvt_rt(rvt_event_synchronize(event)); }
RVT_API int cudaEventElapsedTime(float *ms, void *from, void *to) { return rvt_rt(rvt_event_elapsed(from, to, ms)); }
RVT_API int cudaEventElapsedTime_v2(float *ms, void *from, void *to) { return rvt_rt(rvt_event_elapsed(from, to, ms)); }
