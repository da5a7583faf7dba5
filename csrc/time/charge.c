/* Host time in virtual time: the policies `modelled` and `measured`.
 *
 * A thread's local time is max(clock, local_ns). Charging moves local_ns ahead of the clock. It is carried, never
 * dropped: over waits (a thread that wakes at clock T goes on at max(T, its local time)), and from waker to woken
 * through the object that joins them (lock, semaphore, condition variable, futex: `hand`/`take`). Only before an
 * action that another process can see does the thread sleep until the clock has caught up (`settle`).
 *
 * `modelled` does not hand over: at which of its calls a thread loses Python's interpreter lock to another is up to the
 * real scheduler, and the time that went along would be, too. Instead every wait for the device settles, so that a
 * thread is ahead by the work between two such waits at most.
 */
#include "internal.h"

#include <string.h>

/* Below this the measured policy does not spend a jump. The time stays charged. */
#define RVT_EPSILON_NS 20000
/* A hand-over after less real time than this is not worth reading the CPU clock (0.24 us). */
#define RVT_UNREAD_NS 2000

static int64_t cpu_ns(void) {
  struct timespec t;
  rvt_real.clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return rvt_ns_of(&t);
}

void rvt_charge_mark(void) {
  struct rvt_self *self = &rvt_self_tls;
  self->cpu_mark_ns = cpu_ns();
  self->real_mark_ns = rvt_host_ns();
}

static void advance(struct rvt_self *self, int64_t cost_ns) {
  int64_t clock_ns = rvt_clock_ns();
  self->local_ns = (self->local_ns > clock_ns ? self->local_ns : clock_ns) + cost_ns;
  if (self->slot) self->slot->charged_ns += (uint64_t)cost_ns;
}

/* Measured: charges the CPU time since the last mark. */
void rvt_charge_account(void) {
  struct rvt_self *self = &rvt_self_tls;
  if (self->internal) return;
  int64_t now_ns = cpu_ns();
  int64_t spent_ns = self->cpu_mark_ns ? now_ns - self->cpu_mark_ns : 0;
  self->cpu_mark_ns = now_ns;
  if (spent_ns > 0) advance(self, spent_ns * rvt_the_page->charge_ppm / 1000000);
}

int64_t rvt_local_ns(void) {
  struct rvt_self *self = &rvt_self_tls;
  uint32_t policy = rvt_the_page->policy;
  int64_t now_ns = rvt_clock_ns();
  if (policy == RVT_POLICY_FREE) return now_ns;
  if (policy == RVT_POLICY_MEASURED) rvt_charge_account();
  if (self->local_ns > now_ns) now_ns = self->local_ns;
  if (now_ns < self->seen_ns)
    rvt_fail("a thread's local time went back by %lld ns", (long long)(self->seen_ns - now_ns));
  self->seen_ns = now_ns;
  return now_ns;
}

void rvt_settle_charge(void) {
  struct rvt_self *self = &rvt_self_tls;
  if (self->settling) return;
  int64_t ahead_ns = rvt_local_ns() - rvt_clock_ns();
  if (ahead_ns <= 0 || (rvt_the_page->policy == RVT_POLICY_MEASURED && ahead_ns < RVT_EPSILON_NS)) return;
  if (rvt_vforked()) return; /* it borrows our slot and cannot sleep in it; its parent carries the time on */
  self->settling = 1;
  rvt_sleep_clock(RVT_WAIT_CHARGE, self->local_ns);
  self->settling = 0;
}

/* Local times at hand-over, by the address of the object. Entries that the clock has passed are free. A full
 * bucket drops the earliest entry: late by less than the time that a thread runs ahead. */
struct handed {
  uintptr_t address;
  int64_t local_ns;
};
#define RVT_BUCKETS 1024
#define RVT_WAYS 4
static struct bucket {
  uint32_t lock;
  struct handed ways[RVT_WAYS];
} buckets[RVT_BUCKETS];

static struct bucket *bucket_of(const void *object) {
  uintptr_t x = (uintptr_t)object >> 3;
  x ^= x >> 13;
  struct bucket *bucket = &buckets[x % RVT_BUCKETS];
  while (__atomic_exchange_n(&bucket->lock, 1, __ATOMIC_ACQUIRE)) {
  }
  return bucket;
}

static void release(struct bucket *bucket) { __atomic_store_n(&bucket->lock, 0, __ATOMIC_RELEASE); }

void rvt_hand_charge(const void *object) {
  struct rvt_self *self = &rvt_self_tls;
  if (self->internal || rvt_the_page->policy == RVT_POLICY_MODELLED) return;
  int64_t real_ns = rvt_host_ns();
  if (real_ns - self->real_mark_ns > RVT_UNREAD_NS) {
    rvt_charge_account();
    self->real_mark_ns = real_ns;
  }
  int64_t clock_ns = rvt_clock_ns();
  if (self->local_ns <= clock_ns) return;
  struct bucket *bucket = bucket_of(object);
  struct handed *best = &bucket->ways[0];
  for (int i = 0; i < RVT_WAYS; i++) {
    struct handed *way = &bucket->ways[i];
    if (way->address == (uintptr_t)object) {
      best = way;
      break;
    }
    if (way->local_ns < best->local_ns) best = way;
  }
  if (best->address != (uintptr_t)object || best->local_ns < self->local_ns)
    *best = (struct handed){(uintptr_t)object, self->local_ns};
  release(bucket);
}

void rvt_take_charge(const void *object) {
  struct rvt_self *self = &rvt_self_tls;
  struct bucket *bucket = bucket_of(object);
  for (int i = 0; i < RVT_WAYS; i++)
    if (bucket->ways[i].address == (uintptr_t)object && bucket->ways[i].local_ns > self->local_ns)
      self->local_ns = bucket->ways[i].local_ns;
  release(bucket);
}

void rvt_charge_ns(int64_t cost_ns) {
  if (cost_ns > 0 && rvt_mode == RVT_MODE_MANAGED && rvt_the_page->policy == RVT_POLICY_MODELLED &&
      !rvt_self_tls.internal)
    advance(&rvt_self_tls, cost_ns);
}
