/* Actors: members of the run without the preload library. They register, wait for a virtual time and leave. */
#include "host.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct rvt_slot *actor_slot(struct rvt_host *host, int id) {
  if (id < 0 || id >= RVT_MAX_SLOTS || RVT_STATE(rvt_load(&host->page->slots[id].owner)) != RVT_SLOT_ACTOR) {
    rvt_host_fail("no actor %d", id);
    return NULL;
  }
  return &host->page->slots[id];
}

int rvt_host_actor_add(rvt_host *host, const char *name) {
  uint64_t order = 1469598103934665603ull; /* by name: the same in every run */
  for (const char *at = name; *at; at++) order = (order ^ (unsigned char)*at) * 1099511628211ull;
  pthread_mutex_lock(&host->lock);
  struct rvt_slot *slot = rvt_host_slot(host, RVT_SLOT_ACTOR, order);
  if (slot) host->actors++;
  pthread_mutex_unlock(&host->lock);
  return slot ? (int)(slot - host->page->slots) : rvt_host_fail("no free slot");
}

static void actor_leaves_wait(struct rvt_host *host, struct rvt_slot *slot) {
  if (!(slot->seq & 1)) return;
  rvt_store(&slot->seq, slot->seq + 1);
  rvt_store(&slot->kick, 0);
  __atomic_add_fetch(&host->page->running, 1, __ATOMIC_SEQ_CST);
}

int rvt_host_actor_wait(rvt_host *host, int id, int64_t t_ns) {
  pthread_mutex_lock(&host->lock);
  struct rvt_slot *slot = actor_slot(host, id);
  if (slot) {
    actor_leaves_wait(host, slot);
    rvt_store(&slot->deadline_ns, t_ns);
    slot->kind = RVT_WAIT_SLEEP;
    slot->waits++;
    slot->events++;
    rvt_store(&slot->seq, slot->seq + 1);
    __atomic_sub_fetch(&host->page->running, 1, __ATOMIC_SEQ_CST);
  }
  pthread_mutex_unlock(&host->lock);
  rvt_host_poke(host);
  return slot ? 0 : -1;
}

int rvt_host_actor_run(rvt_host *host, int id) {
  pthread_mutex_lock(&host->lock);
  struct rvt_slot *slot = actor_slot(host, id);
  if (slot) actor_leaves_wait(host, slot);
  pthread_mutex_unlock(&host->lock);
  return slot ? 0 : -1;
}

int rvt_host_actor_join(rvt_host *host, int id, int timeout_ms) {
  int64_t until_ns = rvt_real_ns() + timeout_ms * 1000000ll;
  for (;;) {
    uint32_t wake = rvt_load(&host->actor_wake);
    pthread_mutex_lock(&host->lock);
    struct rvt_slot *slot = actor_slot(host, id);
    bool fired = slot && (!(slot->seq & 1) || rvt_load(&slot->kick));
    if (fired) actor_leaves_wait(host, slot);
    pthread_mutex_unlock(&host->lock);
    if (!slot || host->ended) return -1;
    if (fired) return 1;
    int64_t left_ns = until_ns - rvt_real_ns();
    if (left_ns <= 0) return 0;
    struct timespec limit = {left_ns / 1000000000, left_ns % 1000000000};
    syscall(SYS_futex, &host->actor_wake, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, wake, &limit, NULL, 0);
  }
}

int rvt_host_actor_remove(rvt_host *host, int id) {
  pthread_mutex_lock(&host->lock);
  struct rvt_slot *slot = actor_slot(host, id);
  if (slot) {
    rvt_host_reap(host, id, rvt_load(&slot->owner));
    host->actors--;
  }
  pthread_mutex_unlock(&host->lock);
  rvt_host_poke(host);
  return slot ? 0 : -1;
}
