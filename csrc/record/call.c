/* One wrapped call: what is written about it, and the method that times its work. */
#include <stdlib.h>
#include <string.h>

#include "record/record.h"

_Atomic uint32_t rvt_model, rvt_step;

static _Atomic int method = -1;

static void at_exit(void) {
  if (rvt_here.depth) return; /* exit() from inside a wrapped call: the libraries are in use */
  if (rvt_method() == RVT_METHOD_CUPTI) rvt_cupti_flush();
  else rvt_events_drain(RVT_DRAIN_ALL);
}

static void write_start(int chosen, const char *why) {
  struct rvt_record head = {.type = RVT_REC_START, .method = (uint8_t)chosen, .value = rvt_times_nodes()};
  head.begin_ns = rvt_clock_ns();
  rvt_put_text(&head, why, strlen(why));
}

/* REVATI_RECORD_METHOD is cupti, event or auto; `auto` falls back to events, says so and goes on. */
static int choose(void) {
  const char *wanted = getenv("REVATI_RECORD_METHOD"), *why = "";
  bool only = wanted && strcmp(wanted, "cupti") == 0;
  int chosen = RVT_METHOD_EVENT;
  if (wanted && strcmp(wanted, "event") == 0) why = "asked for";
  else if (getenv("REVATI_PAGE") && !getenv("REVATI_CUPTI")) why = "the GPU is virtual";
  else if (rvt_cupti_start(&why)) chosen = RVT_METHOD_CUPTI;
  else if (only) rvt_say("%s: durations are NOT recorded, since --method cupti allows nothing else", why);
  else rvt_say("%s: durations come from CUDA events, which cost more", why);
  if (chosen == RVT_METHOD_EVENT && only) chosen = RVT_METHOD_NONE;
  atexit(at_exit);
  write_start(chosen, why);
  return chosen;
}

enum rvt_method rvt_method(void) {
  static _Atomic int choosing;
  int chosen = atomic_load_explicit(&method, memory_order_acquire);
  if (RVT_LIKELY(chosen >= 0)) return (enum rvt_method)chosen;
  int free = 0;
  /* Calls of other threads in these first moments are written without a duration. */
  if (!atomic_compare_exchange_strong(&choosing, &free, 1)) return RVT_METHOD_NONE;
  chosen = choose();
  atomic_store_explicit(&method, chosen, memory_order_release);
  return (enum rvt_method)chosen;
}

bool rvt_enter(struct rvt_call *call, struct rvt_site *site) {
  if (RVT_UNLIKELY(!rvt_recording()) || rvt_here.depth) return false;
  rvt_here.depth = 1;
  call->site = site;
  call->flags = 0;
  call->op = 0;
  call->graph = 0;
  call->begin_ns = rvt_clock_ns();
  return true;
}

void rvt_submitting(struct rvt_call *call, struct rvt_op *op, const struct rvt_name *name, void *stream) {
  op->gpu = rvt_here.device;
  op->model = atomic_load_explicit(&rvt_model, memory_order_relaxed);
  op->name_len = name ? name->length : 0;
  call->op = rvt_here.op = rvt_op_number(op, name);
  call->stream = stream;
  call->correlation = rvt_next_correlation();
  uint64_t capture = rvt_capture_of(stream);
  if (RVT_UNLIKELY(capture == RVT_UNKNOWN_CAPTURE)) {
    call->flags |= RVT_CALL_UNTIMED;
  } else if (RVT_UNLIKELY(capture)) {
    call->flags |= RVT_CALL_CAPTURED;
    call->graph = capture;
  }
  switch (rvt_method()) {
  case RVT_METHOD_CUPTI: rvt_cupti_push(call->correlation); break;
  case RVT_METHOD_EVENT: rvt_events_before(call); break;
  default: break;
  }
  call->begin_ns = rvt_clock_ns();
}

static void write_call(const struct rvt_call *call, int64_t end_ns) {
  struct rvt_record *r = rvt_reserve();
  if (!r) return;
  *r = (struct rvt_record){.type = RVT_REC_CALL,
                           .site = call->site->number,
                           .op = call->op,
                           .correlation = call->correlation,
                           .begin_ns = call->begin_ns,
                           .end_ns = end_ns,
                           .stream = (uint64_t)(uintptr_t)call->stream,
                           .graph = call->graph,
                           .step = atomic_load_explicit(&rvt_step, memory_order_relaxed),
                           .flags = call->flags,
                           .device = (uint16_t)rvt_here.device};
  rvt_commit();
}

void rvt_leave(struct rvt_call *call, bool failed) {
  int64_t end_ns = rvt_clock_ns();
  rvt_count_call(call->site, end_ns - call->begin_ns);
  if (call->op) {
    if (failed) call->flags |= RVT_CALL_FAILED;
    enum rvt_method by = rvt_method();
    if (by == RVT_METHOD_CUPTI) rvt_cupti_pop();
    else if (by == RVT_METHOD_EVENT) rvt_events_after(call, failed);
    if ((call->flags & RVT_CALL_CAPTURED) && !failed)
      rvt_capture_add(call->graph, call->op, by == RVT_METHOD_EVENT ? call->begin : NULL, call->end);
    write_call(call, end_ns);
    rvt_here.op = 0;
  }
  rvt_here.depth = 0;
}
