/* Condition variables: both clocks, signal and broadcast, within and between processes, C11. */
#include "check.h"

#include <sys/mman.h>
#include <threads.h>

struct box {
  pthread_mutex_t mutex;
  pthread_cond_t cond;
  int full;
};

static void box_init(struct box *box, clockid_t clock, int shared) {
  pthread_mutexattr_t mutex;
  pthread_condattr_t cond;
  pthread_mutexattr_init(&mutex);
  pthread_mutexattr_setpshared(&mutex, shared ? PTHREAD_PROCESS_SHARED : PTHREAD_PROCESS_PRIVATE);
  pthread_condattr_init(&cond);
  pthread_condattr_setclock(&cond, clock);
  pthread_condattr_setpshared(&cond, shared ? PTHREAD_PROCESS_SHARED : PTHREAD_PROCESS_PRIVATE);
  pthread_mutex_init(&box->mutex, &mutex);
  pthread_cond_init(&box->cond, &cond);
  box->full = 0;
}

static void fill(void *argument) {
  struct box *box = argument;
  pthread_mutex_lock(&box->mutex);
  box->full++;
  pthread_cond_signal(&box->cond);
  pthread_mutex_unlock(&box->mutex);
}

static void fill_all(void *argument) {
  struct box *box = argument;
  pthread_mutex_lock(&box->mutex);
  box->full = 1000;
  pthread_mutex_unlock(&box->mutex);
  pthread_cond_broadcast(&box->cond); /* after the unlock is legal, too */
}

static void time_outs(void) {
  for (int i = 0; i < 4; i++) {
    struct box box;
    clockid_t clock = i % 2 ? CLOCK_MONOTONIC : CLOCK_REALTIME;
    box_init(&box, i < 2 ? clock : CLOCK_REALTIME, 0);
    pthread_mutex_lock(&box.mutex);
    int64_t start_ns = now_ns();
    struct timespec t = ts(clock_ns(clock) + 5 * MS + 13);
    int error = 0;
    while (!error)
      error = i < 2 ? pthread_cond_timedwait(&box.cond, &box.mutex, &t)
                    : pthread_cond_clockwait(&box.cond, &box.mutex, clock, &t);
    is("time-out", error, ETIMEDOUT);
    at("time-out", start_ns + 5 * MS + 13);
    is("the mutex is held again", pthread_mutex_trylock(&box.mutex), EBUSY);
    pthread_mutex_unlock(&box.mutex);
    is("destroy", pthread_cond_destroy(&box.cond), 0);
  }
}

static void static_initializer(void) {
  static struct box box = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
  int64_t start_ns = now_ns();
  struct timespec t = ts(real_ns() + 3 * MS);
  pthread_mutex_lock(&box.mutex);
  while (pthread_cond_timedwait(&box.cond, &box.mutex, &t) == 0) continue;
  pthread_mutex_unlock(&box.mutex);
  at("time-out by REALTIME", start_ns + 3 * MS);
}

static void past_and_invalid(void) {
  struct box box;
  box_init(&box, CLOCK_MONOTONIC, 0);
  pthread_mutex_lock(&box.mutex);
  int64_t start_ns = now_ns();
  struct timespec past = ts(start_ns - MS), bad = {0, NS_PER_S};
  is("past", pthread_cond_timedwait(&box.cond, &box.mutex, &past), ETIMEDOUT);
  is("invalid", pthread_cond_timedwait(&box.cond, &box.mutex, &bad), EINVAL);
  at("no time passes", start_ns);
  pthread_mutex_unlock(&box.mutex);
}

static void signalled(void) {
  for (int way = 0; way < 3; way++) {
    struct box box;
    box_init(&box, CLOCK_MONOTONIC, 0);
    struct later later;
    int64_t start_ns = now_ns();
    struct timespec t = ts(start_ns + NS_PER_S);
    start_later(&later, 3 * MS + 1, fill, &box);
    pthread_mutex_lock(&box.mutex);
    int error = 0;
    while (!box.full && !error)
      error = way == 0   ? pthread_cond_wait(&box.cond, &box.mutex)
              : way == 1 ? pthread_cond_timedwait(&box.cond, &box.mutex, &t)
                         : pthread_cond_clockwait(&box.cond, &box.mutex, CLOCK_MONOTONIC, &t);
    pthread_mutex_unlock(&box.mutex);
    is("wait", error, 0);
    at("wait", start_ns + 3 * MS + 1);
    end_later(&later);
    pthread_cond_destroy(&box.cond);
  }
}

static struct box crowd;
static void *crowd_main(void *argument) {
  struct timespec t = ts(now_ns() + NS_PER_S);
  pthread_mutex_lock(&crowd.mutex);
  int error = 0;
  while (!crowd.full && !error)
    error =
        argument ? pthread_cond_timedwait(&crowd.cond, &crowd.mutex, &t) : pthread_cond_wait(&crowd.cond, &crowd.mutex);
  if (!error) crowd.full--;
  pthread_mutex_unlock(&crowd.mutex);
  return (void *)(intptr_t)error;
}

static void crowd_of(void (*body)(void *), int signals) {
  pthread_t threads[10];
  box_init(&crowd, CLOCK_MONOTONIC, 0);
  int64_t start_ns = now_ns();
  for (int i = 0; i < 10; i++) pthread_create(&threads[i], NULL, crowd_main, i % 2 ? &crowd : NULL);
  for (int i = 0; i < signals; i++) {
    rest(2 * MS);
    body(&crowd);
  }
  for (int i = 0; i < 10; i++) {
    void *error;
    pthread_join(threads[i], &error);
    is("waiter", (intptr_t)error, 0);
  }
  at("all woken", start_ns + signals * 2 * MS);
}
static void broadcast(void) { crowd_of(fill_all, 1); }
static void one_by_one(void) { crowd_of(fill, 10); }

static void between_processes(void) {
  struct box *boxes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  box_init(&boxes[0], CLOCK_MONOTONIC, 1);
  box_init(&boxes[1], CLOCK_REALTIME, 1);
  int64_t start_ns = now_ns();
  fflush(stdout);
  pid_t child = fork();
  for (int i = 1; i <= 20; i++) {
    if (child) fill(&boxes[0]);
    struct box *mine = &boxes[child ? 1 : 0];
    pthread_mutex_lock(&mine->mutex);
    while (!mine->full) pthread_cond_wait(&mine->cond, &mine->mutex);
    mine->full--;
    pthread_mutex_unlock(&mine->mutex);
    if (!child) {
      rest(MS);
      fill(&boxes[1]);
    } else {
      at("ping-pong", start_ns + i * MS);
      if (!inside) start_ns = now_ns() - i * MS;
    }
  }
  if (!child) _exit(0);
  is("child", reap(child), 0);
}

static void c11(void) {
  mtx_t mutex;
  cnd_t cond;
  mtx_init(&mutex, mtx_timed);
  cnd_init(&cond);
  mtx_lock(&mutex);
  int64_t start_ns = now_ns();
  struct timespec t = ts(real_ns() + 3 * MS);
  int result;
  while ((result = cnd_timedwait(&cond, &mutex, &t)) == thrd_success) continue;
  is("cnd_timedwait", result, thrd_timedout);
  at("cnd_timedwait", start_ns + 3 * MS);
  mtx_unlock(&mutex);
  cnd_destroy(&cond);
}

static void never(void *argument) { pthread_mutex_unlock(argument); }
static void *cancelled_main(void *argument) {
  struct box *box = argument;
  pthread_mutex_lock(&box->mutex);
  pthread_cleanup_push(never, &box->mutex);
  for (;;) pthread_cond_wait(&box->cond, &box->mutex);
  pthread_cleanup_pop(0);
  return NULL;
}
static void cancelled(void) {
  struct box box;
  box_init(&box, CLOCK_MONOTONIC, 0);
  pthread_t thread;
  int64_t start_ns = now_ns();
  pthread_create(&thread, NULL, cancelled_main, &box);
  rest(2 * MS);
  pthread_cancel(thread);
  void *result;
  pthread_join(thread, &result);
  truth("cancelled", result == PTHREAD_CANCELED);
  at("cancelled", start_ns + 2 * MS);
  is("the cleanup handler had the mutex", pthread_mutex_trylock(&box.mutex), 0);
}

static void *last_waiter(void *argument) {
  struct box *box = argument;
  pthread_mutex_lock(&box->mutex);
  while (!box->full) pthread_cond_wait(&box->cond, &box->mutex);
  pthread_mutex_unlock(&box->mutex);
  return NULL;
}
static void destroyed_after_broadcast(void) { /* legal: all have been woken; nobody may touch it any more */
  static struct box box;
  pthread_t threads[4];
  pthread_mutex_init(&box.mutex, NULL);
  pthread_cond_init(&box.cond, NULL);
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, last_waiter, &box);
  rest(2 * MS);
  pthread_mutex_lock(&box.mutex);
  box.full = 1;
  pthread_cond_broadcast(&box.cond);
  pthread_mutex_unlock(&box.mutex);
  pthread_cond_destroy(&box.cond);
  unsigned char poison[sizeof(box.cond)];
  memset(poison, 0x5a, sizeof(poison));
  memcpy(&box.cond, poison, sizeof(poison));
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  truth("its memory was left alone", !memcmp(&box.cond, poison, sizeof(poison)));
}

CASES({"time_outs", time_outs}, {"static_initializer", static_initializer}, {"past_and_invalid", past_and_invalid},
      {"signalled", signalled}, {"broadcast", broadcast}, {"one_by_one", one_by_one},
      {"between_processes", between_processes}, {"c11", c11}, {"cancelled", cancelled},
      {"destroyed_after_broadcast", destroyed_after_broadcast})
