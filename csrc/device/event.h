/* Events and streams as the runtime and the driver interface call them. */
#ifndef RVT_EVENT_H
#define RVT_EVENT_H

#include "device/core.h"

int rvt_event_create(int ordinal, unsigned flags, struct rvt_event **out);
int rvt_event_destroy(struct rvt_event *e);
bool rvt_event_valid(const struct rvt_event *e);
void rvt_event_drop_capture(struct rvt_event *e);
int rvt_event_record(struct rvt_event *e, struct rvt_stream *s, bool external);
int rvt_event_wait(struct rvt_stream *s, struct rvt_event *e, bool external);
int rvt_event_query(struct rvt_event *e);
int rvt_event_synchronize(struct rvt_event *e);
int rvt_event_elapsed(struct rvt_event *from, struct rvt_event *to, float *ms);

int rvt_stream_destroy(void *handle);
int rvt_stream_query(struct rvt_stream *s);
int rvt_host_call_at(struct rvt_stream *s, int64_t at_ns, void (*fn)(void *), void *arg);

/* A record (or wait) node for an event outside the graph. */
int rvt_capture_event_node(struct rvt_stream *s, struct rvt_event *e, bool record);

#endif
