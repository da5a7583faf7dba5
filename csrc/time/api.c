/* rvt_time.h: what the virtual device sees of the clock. */
#include "internal.h"

#include <sys/syscall.h>
#include <unistd.h>

struct rvt_page *rvt_page(void) { return rvt_managed() ? rvt_the_page : NULL; }

bool rvt_managed(void) {
  if (rvt_mode == RVT_MODE_UNKNOWN) rvt_init();
  return rvt_mode == RVT_MODE_MANAGED;
}

int64_t rvt_host_ns(void) {
  struct timespec t;
  if (rvt_mode == RVT_MODE_UNKNOWN) rvt_init();
  rvt_real.clock_gettime(CLOCK_MONOTONIC, &t);
  return rvt_ns_of(&t);
}

int64_t rvt_now_ns(void) {
  if (!rvt_managed()) return rvt_host_ns();
  return rvt_local_ns();
}

void rvt_wait_until_ns(int64_t t_ns, const char *what) {
  if (!rvt_on()) return;
  rvt_sleep_until(RVT_WAIT_DEVICE, t_ns, (uint64_t)what, false);
  /* A thread that is slower than its device never sleeps there, and the others never got on. */
  if (rvt_the_page->policy == RVT_POLICY_MODELLED) rvt_settle();
  rvt_self_tls.polls = 0;
}

void rvt_poll_ns(int64_t t_ns) {
  if (rvt_on()) rvt_busy_poll(t_ns);
}

void rvt_progress(void) {
  if (!rvt_on()) return;
  struct rvt_self *self = &rvt_self_tls;
  self->polls = self->clock_polls = 0;
  rvt_store_relaxed(&self->slot->events, self->slot->events + 1);
}

/* The thread may wait for a process outside the run: no proof may take that for a wait of the program. */
void rvt_internal_begin(void) {
  struct rvt_self *self = &rvt_self_tls;
  if (!self->internal && rvt_mode == RVT_MODE_MANAGED && rvt_the_page->policy == RVT_POLICY_MEASURED)
    rvt_charge_account();
  if (!self->internal++ && self->slot) __atomic_or_fetch(&self->slot->flags, RVT_FLAG_INTERNAL, __ATOMIC_SEQ_CST);
}

void rvt_internal_end(void) {
  struct rvt_self *self = &rvt_self_tls;
  if (--self->internal) return;
  if (self->slot) __atomic_and_fetch(&self->slot->flags, ~RVT_FLAG_INTERNAL, __ATOMIC_SEQ_CST);
  if (rvt_mode == RVT_MODE_MANAGED && rvt_the_page->policy == RVT_POLICY_MEASURED) rvt_charge_mark();
}
