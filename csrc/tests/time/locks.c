/* Mutexes, reader-writer locks, barriers, joins: time limits and hand-over at the very moment of release. */
#include "check.h"

#include <sys/mman.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static int64_t hold_ns;

/* Holds a lock from the call on for `hold_ns`. */
enum sort { SORT_MUTEX, SORT_READ, SORT_WRITE };
struct holder {
  pthread_t thread;
  enum sort sort;
  pthread_barrier_t held;
  int64_t start_ns;
};
static void *holder_main(void *argument) {
  struct holder *holder = argument;
  if (holder->sort == SORT_MUTEX) pthread_mutex_lock(&mutex);
  if (holder->sort == SORT_READ) pthread_rwlock_rdlock(&rwlock);
  if (holder->sort == SORT_WRITE) pthread_rwlock_wrlock(&rwlock);
  holder->start_ns = now_ns(); /* before the barrier: natively this thread may rest before the other one looks */
  pthread_barrier_wait(&holder->held);
  rest(hold_ns);
  if (holder->sort == SORT_MUTEX) pthread_mutex_unlock(&mutex);
  else pthread_rwlock_unlock(&rwlock);
  return NULL;
}
static int64_t hold(struct holder *holder, enum sort sort, int64_t for_ns) {
  hold_ns = for_ns;
  holder->sort = sort;
  pthread_barrier_init(&holder->held, NULL, 2);
  pthread_create(&holder->thread, NULL, holder_main, holder);
  pthread_barrier_wait(&holder->held);
  return holder->start_ns;
}

static void mutex_time_outs(void) {
  struct holder holder;
  hold(&holder, SORT_MUTEX, 200 * MS);
  int64_t start_ns = now_ns();
  struct timespec t = ts(real_ns() + 3 * MS + 1);
  is("timedlock", pthread_mutex_timedlock(&mutex, &t), ETIMEDOUT);
  at("timedlock", start_ns + 3 * MS + 1);
  start_ns = now_ns();
  t = ts(start_ns + 3 * MS + 1);
  is("clocklock", pthread_mutex_clocklock(&mutex, CLOCK_MONOTONIC, &t), ETIMEDOUT);
  at("clocklock", start_ns + 3 * MS + 1);
  pthread_join(holder.thread, NULL);
}

static void mutex_hand_over(void) {
  for (int way = 0; way < 3; way++) {
    struct holder holder;
    int64_t start_ns = hold(&holder, SORT_MUTEX, 5 * MS);
    struct timespec wall = ts(real_ns() + NS_PER_S), mono = ts(start_ns + NS_PER_S);
    is("lock",
       way == 0   ? pthread_mutex_lock(&mutex)
       : way == 1 ? pthread_mutex_timedlock(&mutex, &wall)
                  : pthread_mutex_clocklock(&mutex, CLOCK_MONOTONIC, &mono),
       0);
    at("lock", start_ns + 5 * MS);
    pthread_mutex_unlock(&mutex);
    pthread_join(holder.thread, NULL);
  }
}

static void rwlock_time_outs(void) {
  for (int way = 0; way < 4; way++) {
    struct holder holder;
    hold(&holder, way == 3 ? SORT_READ : SORT_WRITE, 100 * MS);
    int64_t start_ns = now_ns();
    struct timespec wall = ts(real_ns() + 3 * MS + 1), mono = ts(start_ns + 3 * MS + 1);
    int error = way == 0   ? pthread_rwlock_timedrdlock(&rwlock, &wall)
                : way == 1 ? pthread_rwlock_timedwrlock(&rwlock, &wall)
                : way == 2 ? pthread_rwlock_clockrdlock(&rwlock, CLOCK_MONOTONIC, &mono)
                           : pthread_rwlock_clockwrlock(&rwlock, CLOCK_MONOTONIC, &mono);
    is("rwlock", error, ETIMEDOUT);
    at("rwlock", start_ns + 3 * MS + 1);
    pthread_join(holder.thread, NULL);
  }
}

static void rwlock_hand_over(void) {
  for (int way = 0; way < 4; way++) {
    struct holder holder;
    int64_t start_ns = hold(&holder, SORT_WRITE, 5 * MS);
    struct timespec wall = ts(real_ns() + NS_PER_S);
    is("rwlock",
       way == 0   ? pthread_rwlock_rdlock(&rwlock)
       : way == 1 ? pthread_rwlock_wrlock(&rwlock)
       : way == 2 ? pthread_rwlock_timedrdlock(&rwlock, &wall)
                  : pthread_rwlock_timedwrlock(&rwlock, &wall),
       0);
    at("rwlock", start_ns + 5 * MS);
    pthread_rwlock_unlock(&rwlock);
    pthread_join(holder.thread, NULL);
  }
}

static void past_and_recursive(void) {
  pthread_mutexattr_t attributes;
  pthread_mutex_t own;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
  pthread_mutex_init(&own, &attributes);
  struct timespec past = ts(real_ns() - MS);
  is("a free mutex needs no time", pthread_mutex_timedlock(&own, &past), 0);
  is("recursive", pthread_mutex_timedlock(&own, &past), 0);
  pthread_mutex_unlock(&own);
  pthread_mutex_unlock(&own);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
  pthread_mutex_init(&own, &attributes);
  pthread_mutex_lock(&own);
  struct timespec future = ts(real_ns() + MS);
  is("error check", pthread_mutex_timedlock(&own, &future), EDEADLK);
  pthread_mutex_unlock(&own);
}

static pthread_barrier_t barrier;
static void *barrier_main(void *argument) {
  rest(*(int64_t *)argument);
  pthread_barrier_wait(&barrier);
  return NULL;
}
static void barriers(void) {
  int64_t delays[] = {MS, 4 * MS, 2 * MS}, start_ns = now_ns();
  pthread_t threads[3];
  pthread_barrier_init(&barrier, NULL, 4);
  for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, barrier_main, &delays[i]);
  pthread_barrier_wait(&barrier);
  at("barrier", start_ns + 4 * MS);
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
}

static void nothing(void *argument) {}
static void joins(void) {
  struct later later;
  int64_t start_ns = now_ns();
  start_later(&later, 5 * MS, nothing, NULL);
  struct timespec t = ts(real_ns() + 2 * MS);
  is("timedjoin", pthread_timedjoin_np(later.thread, NULL, &t), ETIMEDOUT);
  at("timedjoin", start_ns + 2 * MS);
  t = ts(now_ns() + MS);
  int64_t again_ns = now_ns();
  is("clockjoin", pthread_clockjoin_np(later.thread, NULL, CLOCK_MONOTONIC, &t), ETIMEDOUT);
  at("clockjoin", again_ns + MS);
  is("join", pthread_join(later.thread, NULL), 0);
  at("join", start_ns + 5 * MS);
}

static void robust(void) { /* the holder dies with the lock: the next one learns it at that time */
  pthread_mutex_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(shared, &attributes);
  int ends[2];
  if (pipe(ends)) abort();
  int64_t start_ns = now_ns();
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    pthread_mutex_lock(shared);
    if (write(ends[1], "x", 1) != 1) _exit(1);
    rest(4 * MS);
    _exit(0);
  }
  char byte;
  if (read(ends[0], &byte, 1) != 1) abort();
  is("lock", pthread_mutex_lock(shared), EOWNERDEAD);
  at("lock", start_ns + 4 * MS);
  pthread_mutex_consistent(shared);
  pthread_mutex_unlock(shared);
  is("child", reap(child), 0);
}

static void *contender(void *argument) {
  for (int i = 0; i < 50; i++) {
    pthread_mutex_lock(&mutex);
    rest(100000);
    ++*(int *)argument;
    pthread_mutex_unlock(&mutex);
  }
  return NULL;
}
static void contention(void) { /* held across sleeps by turns: the sum of all sleeps, not less and not more */
  int count = 0;
  pthread_t threads[4];
  int64_t start_ns = now_ns();
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, contender, &count);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  is("turns", count, 200);
  at("200 sleeps of 0.1 ms one after another", start_ns + 20 * MS);
}

CASES({"mutex_time_outs", mutex_time_outs}, {"mutex_hand_over", mutex_hand_over},
      {"rwlock_time_outs", rwlock_time_outs}, {"rwlock_hand_over", rwlock_hand_over},
      {"past_and_recursive", past_and_recursive}, {"barriers", barriers}, {"joins", joins}, {"robust", robust},
      {"contention", contention})
