/* Status, the table of threads, and what each of them waits for in words. */
#include "host.h"

#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *const kinds[] = {
    [RVT_WAIT_SLEEP] = "sleep",      [RVT_WAIT_FUTEX] = "futex",       [RVT_WAIT_SEM] = "semaphore",
    [RVT_WAIT_COND] = "condition",   [RVT_WAIT_MUTEX] = "mutex",       [RVT_WAIT_RWLOCK] = "read-write lock",
    [RVT_WAIT_JOIN] = "thread end",  [RVT_WAIT_BARRIER] = "barrier",   [RVT_WAIT_CHILD] = "child process",
    [RVT_WAIT_SIGNAL] = "signal",    [RVT_WAIT_READ] = "read",         [RVT_WAIT_WRITE] = "write",
    [RVT_WAIT_ACCEPT] = "accept",    [RVT_WAIT_CONNECT] = "connect",   [RVT_WAIT_POLL] = "poll",
    [RVT_WAIT_SELECT] = "select",    [RVT_WAIT_EPOLL] = "epoll",       [RVT_WAIT_DEVICE] = "device",
    [RVT_WAIT_CHARGE] = "host time", [RVT_WAIT_SPIN] = "busy-polling", [RVT_WAIT_CLOCK] = "reading the clock",
    [RVT_WAIT_TURN] = "its turn",
};

static void fd_target(int pid, uint64_t fd, char *text, size_t bytes) {
  char path[64], target[64];
  snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, (int)fd);
  ssize_t n = readlink(path, target, sizeof(target) - 1);
  target[n > 0 ? n : 0] = 0;
  snprintf(text, bytes, " on descriptor %d (%s)", (int)fd, target);
}

static void words(const struct rvt_host *host, const struct rvt_slot *slot, char *text, size_t bytes) {
  uint32_t kind = slot->kind & 0xff;
  const char *name = kind < sizeof(kinds) / sizeof(kinds[0]) && kinds[kind] ? kinds[kind] : "unknown wait";
  char detail[128] = "";
  switch (kind) {
  case RVT_WAIT_READ:
  case RVT_WAIT_ACCEPT:
  case RVT_WAIT_CONNECT:
  case RVT_WAIT_EPOLL:
  case RVT_WAIT_POLL:
  case RVT_WAIT_SELECT:
    if ((int64_t)slot->what >= 0) fd_target(slot->pid, slot->what, detail, sizeof(detail));
    break;
  case RVT_WAIT_DEVICE: {
    char what[64] = "";
    struct iovec mine = {what, sizeof(what) - 1}, theirs = {(void *)slot->what, sizeof(what) - 1};
    if (slot->what && process_vm_readv(slot->pid, &mine, 1, &theirs, 1, 0) > 0)
      snprintf(detail, sizeof(detail), ": %s", what);
    break;
  }
  case RVT_WAIT_FUTEX:
  case RVT_WAIT_SEM:
  case RVT_WAIT_COND:
  case RVT_WAIT_MUTEX:
  case RVT_WAIT_RWLOCK:
  case RVT_WAIT_BARRIER: snprintf(detail, sizeof(detail), " at 0x%llx", (unsigned long long)slot->what); break;
  }
  int64_t deadline_ns = rvt_load(&slot->deadline_ns);
  if (deadline_ns == RVT_FOREVER_NS) snprintf(text, bytes, "%s%s", name, detail);
  else snprintf(text, bytes, "%s%s until +%.6f s", name, detail, (double)(deadline_ns - host->core.now_ns) / 1e9);
}

static bool describe(struct rvt_host *host, int index, struct rvt_host_thread *out) {
  struct rvt_slot *slot = &host->page->slots[index];
  uint32_t state = RVT_STATE(rvt_load(&slot->owner));
  if (state == RVT_SLOT_FREE) return false;
  uint32_t seq = rvt_load(&slot->seq);
  *out = (struct rvt_host_thread){
      .pid = slot->pid,
      .tid = slot->tid,
      .kind = slot->kind & 0xff,
      .deadline_ns = seq & 1 ? rvt_load(&slot->deadline_ns) : RVT_FOREVER_NS,
      .order = slot->order,
      .waits = slot->waits,
      .spins = slot->spins,
      .fired = slot->fired,
      .charged_ns = slot->charged_ns,
  };
  bool parked = (slot->kind & 0xff) == RVT_WAIT_SPIN || (slot->kind & 0xff) == RVT_WAIT_CLOCK;
  out->state = state == RVT_SLOT_EXITING ? 4
               : state == RVT_SLOT_ACTOR ? 5
               : state != RVT_SLOT_LIVE  ? 0
               : !(seq & 1)              ? 1
               : parked                  ? 3
                                         : 2;
  if (slot->pid > 0) rvt_kernel_name(slot->pid, slot->pid, out->process, sizeof(out->process));
  if (slot->tid > 0) rvt_kernel_name(slot->pid, slot->tid, out->thread, sizeof(out->thread));
  if (state == RVT_SLOT_ACTOR) snprintf(out->process, sizeof(out->process), "actor %d", index);
  if (out->state == 0)
    snprintf(out->wait, sizeof(out->wait), "started without the preload library (static or setuid?), or loading it");
  else if (out->state == 4) snprintf(out->wait, sizeof(out->wait), "ending");
  else if (seq & 1) words(host, slot, out->wait, sizeof(out->wait));
  else if (slot->tid > 0) {
    char call[64];
    rvt_kernel_describe(slot->pid, slot->tid, call, sizeof(call));
    snprintf(out->wait, sizeof(out->wait), "not in a known wait: %s", call);
  }
  return true;
}

int rvt_host_threads(rvt_host *host, struct rvt_host_thread *threads, int max) {
  int count = 0;
  uint32_t high = rvt_load(&host->page->slots_high);
  for (uint32_t i = 0; i < high; i++) {
    struct rvt_host_thread one;
    if (!describe(host, (int)i, &one)) continue;
    if (count < max) threads[count] = one;
    count++;
  }
  return count;
}

void rvt_report(struct rvt_host *host, char *text, size_t bytes) {
  uint32_t high = rvt_load(&host->page->slots_high);
  size_t at = 0;
  for (uint32_t i = 0; i < high && at + 1 < bytes; i++) {
    struct rvt_host_thread one;
    if (!describe(host, (int)i, &one)) continue;
    int n =
        snprintf(text + at, bytes - at, "  %s (pid %d), thread %s (tid %d): %s%s\n", one.process, one.pid, one.thread,
                 one.tid, one.wait, rvt_load(&host->page->slots[i].kick) ? " [woken, not answering]" : "");
    at += n > 0 && (size_t)n < bytes - at ? (size_t)n : bytes - at - 1;
  }
}

void rvt_host_status_get(rvt_host *host, struct rvt_host_status *status) {
  struct rvt_page *page = host->page;
  int64_t now_ns = rvt_load(&page->now_ns);
  *status = (struct rvt_host_status){
      .now_ns = now_ns,
      .start_ns = host->start_ns,
      .realtime_ns = now_ns + page->realtime_offset_ns,
      .real_ns = rvt_real_ns() - host->real_start_ns,
      .jumps = host->jumps,
      .fires = host->fires,
      .rounds = host->rounds,
      .turns = host->turns,
      .turns_lost = rvt_load(&page->turns_lost),
      .aborts = host->aborts,
      .slow_proofs = host->slow_proofs,
      .proof_ns = host->proof_ns,
      .threads_seen = host->threads_seen,
      .actors = host->actors,
      .holds = host->holds,
      .paused = host->paused,
      .ended = (uint32_t)host->ended,
  };
  uint32_t high = rvt_load(&page->slots_high);
  for (uint32_t i = 0; i < high; i++) {
    struct rvt_slot *slot = &page->slots[i];
    uint32_t state = RVT_STATE(rvt_load(&slot->owner));
    if (state == RVT_SLOT_FREE || state == RVT_SLOT_ACTOR) continue;
    uint32_t seq = rvt_load(&slot->seq);
    status->threads++;
    status->processes += (slot->flags & RVT_FLAG_MAIN) != 0;
    status->running += !(seq & 1);
    status->spinning += (seq & 1) && (slot->kind & 0xff) == RVT_WAIT_SPIN;
  }
}

void rvt_trace(struct rvt_host *host, const struct rvt_view *view, const char *what) {
  double at_s = (double)(host->core.now_ns - host->start_ns) / 1e9;
  struct rvt_host_thread one;
  if (view->index >= RVT_MAX_SLOTS)
    fprintf(stderr, "revati: %.6f %s timer of pid %d\n", at_s, what,
            host->page->timers[view->index - RVT_MAX_SLOTS].pid);
  else if (describe(host, view->index, &one))
    fprintf(stderr, "revati: %.6f %s %s/%s (pid %d tid %d): %s\n", at_s, what, one.process, one.thread, one.pid,
            one.tid, one.wait);
}
