/* Semaphores, condition variables, mutexes, joins: the waits inside libc.
 *
 * Condition variables are replaced as a whole (init to broadcast): glibc's own cannot be woken from outside. A
 * condvar here is one word: bit 0 says that somebody may wait, the rest counts signals. All-zero is valid. */
#include "internal.h"

#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Semaphores: glibc >= 2.21, 64-bit: value in the low word, number of waiters in the high one. */
struct sem_words {
  uint64_t data;
  int32_t private_flag; /* FUTEX_PRIVATE_FLAG when shared between processes, 0 when private: glibc keeps it inverted */
};

static int sem_until(sem_t *sem, int64_t deadline_ns) {
  struct sem_words *words = (struct sem_words *)sem;
  bool is_private = words->private_flag == 0;
  rvt_test_cancel();
  __atomic_add_fetch(&words->data, 1ull << 32, __ATOMIC_SEQ_CST);
  for (;;) {
    uint64_t data = rvt_load(&words->data);
    while ((uint32_t)data > 0) {
      if (__atomic_compare_exchange_n(&words->data, &data, data - 1 - (1ull << 32), false, __ATOMIC_SEQ_CST,
                                      __ATOMIC_SEQ_CST))
        return 0;
    }
    int kind = RVT_WAIT_SEM | (is_private ? RVT_WAIT_COUNTED : 0);
    int error = rvt_futex_until(kind, (uint32_t *)&words->data, 0, is_private, deadline_ns);
    if (error == 0) continue;
    __atomic_sub_fetch(&words->data, 1ull << 32, __ATOMIC_SEQ_CST);
    rvt_test_cancel();
    errno = error;
    return -1;
  }
}

static int sem_deadline(sem_t *sem, int64_t deadline_ns, const struct timespec *t) {
  int saved = errno;
  if (t && rvt_timespec_bad(t)) {
    errno = EINVAL;
    return -1;
  }
  if (rvt_real.sem_trywait(sem) == 0) {
    rvt_take(sem);
    return 0;
  }
  errno = saved;
  rvt_active();
  int result = sem_until(sem, deadline_ns);
  if (!result) rvt_take(sem);
  return result;
}

RVT_EXPORT int sem_trywait(sem_t *sem) {
  if (!rvt_on()) return rvt_real.sem_trywait(sem);
  int result = rvt_real.sem_trywait(sem);
  if (!result) rvt_take(sem);
  return result;
}

RVT_EXPORT int sem_post(sem_t *sem) {
  if (((struct sem_words *)sem)->private_flag == 0) rvt_count_wake(sem);
  if (rvt_on() && rvt_charging()) {
    if (((struct sem_words *)sem)->private_flag == 0) rvt_hand(sem);
    else rvt_settle();
  }
  int result = rvt_real.sem_post(sem);
  rvt_count_wake(sem); /* the semaphore may be gone: only its address counts */
  return result;
}

RVT_EXPORT int sem_wait(sem_t *sem) {
  if (!rvt_on()) return rvt_real.sem_wait(sem);
  return sem_deadline(sem, RVT_FOREVER_NS, NULL);
}

RVT_EXPORT int sem_timedwait(sem_t *sem, const struct timespec *t) {
  if (!rvt_on()) return rvt_real.sem_timedwait(sem, t);
  return sem_deadline(sem, rvt_absolute_ns(CLOCK_REALTIME, t), t);
}

RVT_EXPORT int sem_clockwait(sem_t *sem, clockid_t clock, const struct timespec *t) {
  if (!rvt_on()) return rvt_real.sem_clockwait(sem, clock, t);
  return sem_deadline(sem, rvt_absolute_ns(clock, t), t);
}

/* Condition variables. */
struct cond {
  uint32_t state;  /* signals << 1 | may have waiters */
  uint32_t inside; /* threads between entry and exit of a wait: destroy waits for them */
  int32_t clock;   /* CLOCK_REALTIME (0) or CLOCK_MONOTONIC (1) */
  uint32_t shared;
};
_Static_assert(sizeof(struct cond) <= sizeof(pthread_cond_t), "a condvar must fit");

static void cond_wake(struct cond *cond, int count) {
  if (!cond->shared) rvt_count_wake(cond);
  rvt_raw(SYS_futex, (long)&cond->state, FUTEX_WAKE | (cond->shared ? 0 : FUTEX_PRIVATE_FLAG), count, 0, 0, 0);
  rvt_count_wake(cond);
}

/* A thread that computes keeps the clock still, so the request for Python's global lock would never come to it, and a
 * loop that waits for another thread's deed without ever blocking would not end. */
#define RVT_PYTHON_LOCK_NS 1000000000ll

static int cond_until(struct cond *cond, pthread_mutex_t *mutex, int64_t deadline_ns, int64_t real_limit_ns) {
  rvt_test_cancel(); /* one that came while this thread waited for a turn, too */
  uint32_t seen = __atomic_or_fetch(&cond->state, 1, __ATOMIC_SEQ_CST);
  int kind = RVT_WAIT_COND | (!cond->shared && !real_limit_ns ? RVT_WAIT_COUNTED : 0);
  __atomic_add_fetch(&cond->inside, 1, __ATOMIC_SEQ_CST);
  int error = pthread_mutex_unlock(mutex);
  if (error) {
    __atomic_sub_fetch(&cond->inside, 1, __ATOMIC_SEQ_CST);
    return error;
  }
  do error = rvt_futex_limited(kind, &cond->state, seen, !cond->shared, deadline_ns, real_limit_ns);
  while (error == EINTR && !rvt_cancelled()); /* POSIX: not seen by the caller */
  if (error == EINTR) error = 0;
  __atomic_sub_fetch(&cond->inside, 1, __ATOMIC_SEQ_CST);
  if (!error) rvt_take(cond);
  int relock = pthread_mutex_lock(mutex);
  rvt_test_cancel(); /* with the mutex held, as cleanup handlers expect */
  return relock ? relock : error;
}

static int cond_signal(struct cond *cond, int count) {
  uint32_t state = rvt_load(&cond->state);
  if (!(state & 1)) return 0;
  if (cond->shared) rvt_settle();
  else rvt_hand(cond);
  /* Waking all clears the mark: later waiters set it again with another count. */
  while (!__atomic_compare_exchange_n(&cond->state, &state, count == 1 ? state + 2 : (state + 2) & ~1u, false,
                                      __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
  }
  cond_wake(cond, count);
  return 0;
}

static int64_t cond_deadline(clockid_t clock, const struct timespec *t, const void *caller) {
  int64_t deadline_ns = rvt_absolute_ns(clock, t);
  if (deadline_ns == RVT_FOREVER_NS) return deadline_ns;
  int64_t delay_ns = deadline_ns - rvt_local_ns();
  if (delay_ns <= 0 || !rvt_idle_timer(caller, delay_ns)) return deadline_ns;
  return rvt_deadline_after(delay_ns * rvt_the_page->idle_stretch);
}

RVT_EXPORT int pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *attr) {
  if (!rvt_on()) return rvt_real.pthread_cond_init(c, attr);
  struct cond *cond = (struct cond *)c;
  memset(c, 0, sizeof(*c));
  if (attr) {
    int shared = PTHREAD_PROCESS_PRIVATE;
    clockid_t clock = CLOCK_REALTIME;
    pthread_condattr_getpshared(attr, &shared);
    pthread_condattr_getclock(attr, &clock);
    cond->shared = shared == PTHREAD_PROCESS_SHARED;
    cond->clock = clock;
  }
  return 0;
}

RVT_EXPORT int pthread_cond_destroy(pthread_cond_t *c) {
  if (!rvt_on()) return rvt_real.pthread_cond_destroy(c);
  struct cond *cond = (struct cond *)c;
  /* Waiters that were woken may still be on their way out. After a fork the count can be that of threads which
   * do not exist here: hence the limit. */
  for (int i = 0; rvt_load(&cond->inside) && i < 1000; i++) {
    if (i == 0) cond_wake(cond, INT32_MAX);
    if (rvt_the_page->turns && i < 3) rvt_turn(); /* theirs come before */
    else rvt_raw(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
  }
  return 0;
}

RVT_EXPORT int pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *mutex) {
  if (!rvt_on()) return rvt_real.pthread_cond_wait(c, mutex);
  return cond_until((struct cond *)c, mutex, RVT_FOREVER_NS, 0);
}

RVT_EXPORT int pthread_cond_clockwait(pthread_cond_t *c, pthread_mutex_t *mutex, clockid_t clock,
                                      const struct timespec *t) {
  if (!rvt_on()) return rvt_real.pthread_cond_clockwait(c, mutex, clock, t);
  if (rvt_timespec_bad(t)) return EINVAL;
  return cond_until((struct cond *)c, mutex, cond_deadline(clock, t, __builtin_return_address(0)), 0);
}

RVT_EXPORT int pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *mutex, const struct timespec *t) {
  if (!rvt_on()) return rvt_real.pthread_cond_timedwait(c, mutex, t);
  if (rvt_timespec_bad(t)) return EINVAL;
  struct cond *cond = (struct cond *)c;
  const void *caller = __builtin_return_address(0);
  return cond_until(cond, mutex, cond_deadline(cond->clock, t, caller),
                    rvt_from_python(caller) ? RVT_PYTHON_LOCK_NS : 0);
}

RVT_EXPORT int pthread_cond_signal(pthread_cond_t *c) {
  if (!rvt_on()) return rvt_real.pthread_cond_signal(c);
  return cond_signal((struct cond *)c, 1);
}

RVT_EXPORT int pthread_cond_broadcast(pthread_cond_t *c) {
  if (!rvt_on()) return rvt_real.pthread_cond_broadcast(c);
  return cond_signal((struct cond *)c, INT32_MAX);
}

/* C11 threads: the same objects under other names. */
static int thrd_of(int error) {
  return error == 0 ? thrd_success : error == ETIMEDOUT ? thrd_timedout : error == ENOMEM ? thrd_nomem : thrd_error;
}

RVT_EXPORT int cnd_init(cnd_t *c) { return thrd_of(pthread_cond_init((pthread_cond_t *)c, NULL)); }
RVT_EXPORT void cnd_destroy(cnd_t *c) { pthread_cond_destroy((pthread_cond_t *)c); }
RVT_EXPORT int cnd_signal(cnd_t *c) { return thrd_of(pthread_cond_signal((pthread_cond_t *)c)); }
RVT_EXPORT int cnd_broadcast(cnd_t *c) { return thrd_of(pthread_cond_broadcast((pthread_cond_t *)c)); }
RVT_EXPORT int cnd_wait(cnd_t *c, mtx_t *mutex) {
  return thrd_of(pthread_cond_wait((pthread_cond_t *)c, (pthread_mutex_t *)mutex));
}
RVT_EXPORT int cnd_timedwait(cnd_t *c, mtx_t *mutex, const struct timespec *t) {
  return thrd_of(pthread_cond_timedwait((pthread_cond_t *)c, (pthread_mutex_t *)mutex, t));
}

/* Mutexes: a contended lock is marked, so that the clock needs no slow proof while its owner waits. */
RVT_EXPORT int pthread_mutex_lock(pthread_mutex_t *mutex) {
  if (!rvt_on()) return rvt_mode == RVT_MODE_STARTING ? 0 : rvt_real.pthread_mutex_lock(mutex);
  int error = rvt_real.pthread_mutex_trylock(mutex);
  if (RVT_UNLIKELY(error == EBUSY)) {
    rvt_block(RVT_WAIT_MUTEX, RVT_FOREVER_NS, (uint64_t)mutex);
    error = rvt_real.pthread_mutex_lock(mutex);
    rvt_unblock();
    rvt_turn();
  }
  rvt_take(mutex);
  return error;
}

RVT_EXPORT int pthread_mutex_unlock(pthread_mutex_t *mutex) {
  if (rvt_mode == RVT_MODE_MANAGED && rvt_charging() && rvt_self_tls.slot) rvt_hand(mutex);
  else if (RVT_UNLIKELY(!rvt_real.pthread_mutex_unlock)) return 0;
  return rvt_real.pthread_mutex_unlock(mutex);
}

/* Kinds whose lock word follows glibc's simple scheme: 0 free, 1 taken, 2 taken with waiters. */
#define RVT_MUTEX_ODD_KINDS (16 /* robust */ | 32 /* PI */ | 64 /* protect */)

static int mutex_until(pthread_mutex_t *mutex, int64_t deadline_ns) {
  int error = rvt_real.pthread_mutex_trylock(mutex);
  if (error != EBUSY) return error;
  if ((mutex->__data.__kind & 3) == PTHREAD_MUTEX_ERRORCHECK && mutex->__data.__owner == rvt_self_tls.slot->tid)
    return EDEADLK;
  uint32_t *word = (uint32_t *)&mutex->__data.__lock;
  bool odd = mutex->__data.__kind & RVT_MUTEX_ODD_KINDS;
  for (;;) {
    if (odd) {
      if (rvt_local_ns() >= deadline_ns) return ETIMEDOUT;
      rvt_sleep_until(RVT_WAIT_MUTEX, rvt_deadline_after(100000), (uint64_t)mutex, false);
    } else {
      uint32_t one = 1;
      __atomic_compare_exchange_n(word, &one, 2, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
      error = rvt_futex_until(RVT_WAIT_MUTEX, word, 2, !(mutex->__data.__kind & 128), deadline_ns);
      if (error == ETIMEDOUT) return error;
    }
    error = rvt_real.pthread_mutex_trylock(mutex);
    if (error == EBUSY) continue;
    /* Others may still wait: the unlock must wake one. */
    uint32_t one = 1;
    rvt_take(mutex);
    if (!odd && !error) __atomic_compare_exchange_n(word, &one, 2, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return error;
  }
}

RVT_EXPORT int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *t) {
  if (!rvt_on()) return rvt_real.pthread_mutex_timedlock(mutex, t);
  return mutex_until(mutex, rvt_absolute_ns(CLOCK_REALTIME, t));
}

RVT_EXPORT int pthread_mutex_clocklock(pthread_mutex_t *mutex, clockid_t clock, const struct timespec *t) {
  if (!rvt_on()) return rvt_real.pthread_mutex_clocklock(mutex, clock, t);
  return mutex_until(mutex, rvt_absolute_ns(clock, t));
}

RVT_EXPORT int mtx_timedlock(mtx_t *mutex, const struct timespec *t) {
  return thrd_of(pthread_mutex_timedlock((pthread_mutex_t *)mutex, t));
}

/* Read-write locks. */
#define RVT_MARKED_LOCK(kind, object, call)                \
  ({                                                       \
    rvt_block((kind), RVT_FOREVER_NS, (uint64_t)(object)); \
    int marked_ = (call);                                  \
    rvt_unblock();                                         \
    rvt_turn();                                            \
    rvt_take((const void *)(object));                      \
    marked_;                                               \
  })

RVT_EXPORT int pthread_rwlock_rdlock(pthread_rwlock_t *lock) {
  if (!rvt_on()) return rvt_real.pthread_rwlock_rdlock(lock);
  int error = rvt_real.pthread_rwlock_tryrdlock(lock);
  if (error != EBUSY) return error;
  return RVT_MARKED_LOCK(RVT_WAIT_RWLOCK, lock, rvt_real.pthread_rwlock_rdlock(lock));
}

RVT_EXPORT int pthread_rwlock_wrlock(pthread_rwlock_t *lock) {
  if (!rvt_on()) return rvt_real.pthread_rwlock_wrlock(lock);
  int error = rvt_real.pthread_rwlock_trywrlock(lock);
  if (error != EBUSY) return error;
  return RVT_MARKED_LOCK(RVT_WAIT_RWLOCK, lock, rvt_real.pthread_rwlock_wrlock(lock));
}

RVT_EXPORT int pthread_rwlock_unlock(pthread_rwlock_t *lock) {
  if (rvt_mode == RVT_MODE_UNKNOWN) rvt_init();
  if (rvt_mode == RVT_MODE_MANAGED && rvt_charging() && rvt_self_tls.slot) rvt_hand(lock);
  int error = rvt_real.pthread_rwlock_unlock(lock);
  rvt_retry_wake();
  return error;
}

/* Timed waits whose words in libc we do not know: whoever may end them in this process says so here. */
static uint32_t retry_word, retry_waiters;

void rvt_retry_wake(void) {
  if (RVT_LIKELY(!rvt_load_relaxed(&retry_waiters))) return;
  __atomic_add_fetch(&retry_word, 1, __ATOMIC_SEQ_CST);
  rvt_raw(SYS_futex, (long)&retry_word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT32_MAX, 0, 0, 0);
}

/* Waits for such a word, at most until the deadline; `polled` adds a pause that grows with the time waited, for
 * objects that other processes end. */
static void await_retry(int kind, uint32_t seen, int64_t began_ns, int64_t deadline_ns, bool polled) {
  if (polled) {
    int64_t step_ns = (rvt_local_ns() - began_ns) / 16;
    int64_t until_ns = rvt_deadline_after(step_ns < 20000 ? 20000 : step_ns);
    if (until_ns < deadline_ns) deadline_ns = until_ns;
  }
  rvt_futex_until(kind, &retry_word, seen, true, deadline_ns);
}

static int rwlock_until(pthread_rwlock_t *lock, bool write, int64_t deadline_ns) {
  int64_t began_ns = rvt_local_ns();
  int error;
  __atomic_add_fetch(&retry_waiters, 1, __ATOMIC_SEQ_CST);
  for (;;) {
    uint32_t seen = rvt_load(&retry_word);
    error = write ? rvt_real.pthread_rwlock_trywrlock(lock) : rvt_real.pthread_rwlock_tryrdlock(lock);
    if (error != EBUSY) break;
    if (write && lock->__data.__cur_writer == rvt_self_tls.slot->tid) {
      error = EDEADLK;
      break;
    }
    if (rvt_local_ns() >= deadline_ns) {
      error = ETIMEDOUT;
      break;
    }
    await_retry(RVT_WAIT_RWLOCK, seen, began_ns, deadline_ns, lock->__data.__shared);
  }
  __atomic_sub_fetch(&retry_waiters, 1, __ATOMIC_SEQ_CST);
  if (!error) rvt_take(lock);
  return error;
}

RVT_EXPORT int pthread_rwlock_timedrdlock(pthread_rwlock_t *lock, const struct timespec *t) {
  if (!rvt_on()) return rvt_real.pthread_rwlock_timedrdlock(lock, t);
  return rwlock_until(lock, false, rvt_absolute_ns(CLOCK_REALTIME, t));
}
RVT_EXPORT int pthread_rwlock_timedwrlock(pthread_rwlock_t *lock, const struct timespec *t) {
  if (!rvt_on()) return rvt_real.pthread_rwlock_timedwrlock(lock, t);
  return rwlock_until(lock, true, rvt_absolute_ns(CLOCK_REALTIME, t));
}
RVT_EXPORT int pthread_rwlock_clockrdlock(pthread_rwlock_t *lock, clockid_t clock, const struct timespec *t) {
  if (!rvt_on()) return rvt_real.pthread_rwlock_clockrdlock(lock, clock, t);
  return rwlock_until(lock, false, rvt_absolute_ns(clock, t));
}
RVT_EXPORT int pthread_rwlock_clockwrlock(pthread_rwlock_t *lock, clockid_t clock, const struct timespec *t) {
  if (!rvt_on()) return rvt_real.pthread_rwlock_clockwrlock(lock, clock, t);
  return rwlock_until(lock, true, rvt_absolute_ns(clock, t));
}

/* Joins and barriers. */
RVT_EXPORT int pthread_join(pthread_t thread, void **result) {
  if (!rvt_on()) return rvt_real.pthread_join(thread, result);
  int error = rvt_real.pthread_tryjoin_np(thread, result);
  if (error != EBUSY) return error;
  rvt_active();
  return RVT_MARKED_LOCK(RVT_WAIT_JOIN, thread, rvt_real.pthread_join(thread, result));
}

/* A thread tells when it begins to end; the kernel's last word comes some microseconds later, in no virtual time. */
static int join_until(pthread_t thread, void **result, int64_t deadline_ns) {
  int64_t began_ns = rvt_local_ns();
  int error;
  __atomic_add_fetch(&retry_waiters, 1, __ATOMIC_SEQ_CST);
  for (int tries = 0;; tries++) {
    uint32_t seen = rvt_load(&retry_word);
    error = rvt_real.pthread_tryjoin_np(thread, result);
    if (error != EBUSY) break;
    if (tries % 40) {
      struct timespec short_while = {0, 50000};
      rvt_raw(SYS_nanosleep, (long)&short_while, 0, 0, 0, 0, 0);
      continue;
    }
    if (rvt_local_ns() >= deadline_ns) {
      error = ETIMEDOUT;
      break;
    }
    await_retry(RVT_WAIT_JOIN, seen, began_ns, deadline_ns, false);
  }
  __atomic_sub_fetch(&retry_waiters, 1, __ATOMIC_SEQ_CST);
  return error;
}

RVT_EXPORT int pthread_timedjoin_np(pthread_t thread, void **result, const struct timespec *t) {
  if (!rvt_on()) return rvt_real.pthread_timedjoin_np(thread, result, t);
  return join_until(thread, result, t ? rvt_absolute_ns(CLOCK_REALTIME, t) : RVT_FOREVER_NS);
}

RVT_EXPORT int pthread_clockjoin_np(pthread_t thread, void **result, clockid_t clock, const struct timespec *t) {
  if (!rvt_on()) return rvt_real.pthread_clockjoin_np(thread, result, clock, t);
  return join_until(thread, result, t ? rvt_absolute_ns(clock, t) : RVT_FOREVER_NS);
}

RVT_EXPORT int pthread_barrier_wait(pthread_barrier_t *barrier) {
  if (!rvt_on()) return rvt_real.pthread_barrier_wait(barrier);
  rvt_active();
  if (rvt_charging()) rvt_settle(); /* may join processes: the latest of all arrivals counts */
  return RVT_MARKED_LOCK(RVT_WAIT_BARRIER, barrier, rvt_real.pthread_barrier_wait(barrier));
}

/* Cancellation: our waits are system calls that libc does not know as cancellation points. The canceller marks the
 * thread's slot and wakes it; the wait ends and libc's own test does the rest. */
bool rvt_cancels;

static void end_wait(struct rvt_slot *slot) {
  uint32_t kind = slot->kind, object = kind & 0xff;
  if (object == RVT_WAIT_COND || object == RVT_WAIT_SEM || object == RVT_WAIT_FUTEX) {
    rvt_raw(SYS_futex, (long)slot->what, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT32_MAX, 0, 0, 0);
    rvt_raw(SYS_futex, (long)slot->what, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
  }
  uint64_t one = 1;
  rvt_store(&slot->kick, RVT_KICK_SIGNAL);
  if (kind & RVT_WAIT_EVENTFD) rvt_raw(SYS_write, slot->evfd, (long)&one, sizeof(one), 0, 0, 0);
  else rvt_raw(SYS_futex, (long)&slot->kick, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
}

RVT_EXPORT int pthread_cancel(pthread_t thread) {
  rvt_store(&rvt_cancels, true);
  rvt_count_signal();
  int error = rvt_real.pthread_cancel(thread);
  for (uint32_t i = 0; !error && rvt_on() && i < rvt_load(&rvt_the_page->slots_high); i++) {
    struct rvt_slot *slot = &rvt_the_page->slots[i];
    if (rvt_load(&slot->pid) != rvt_pid || slot->thread != (uint64_t)thread) continue;
    if (rvt_state_of(rvt_load(&slot->owner)) != RVT_SLOT_LIVE) continue;
    __atomic_or_fetch(&slot->flags, RVT_FLAG_CANCEL, __ATOMIC_SEQ_CST);
    rvt_effect();
    if (rvt_load(&slot->seq) & 1) end_wait(slot);
  }
  rvt_count_signal();
  return error;
}
