/* POSIX semaphores, within a process and between processes. */
#include "check.h"

#include <fcntl.h>
#include <semaphore.h>
#include <sys/mman.h>

static void post(void *argument) { sem_post(argument); }

static void time_outs(void) {
  sem_t sem;
  sem_init(&sem, 0, 0);
  int64_t start_ns = now_ns();
  struct timespec t = ts(real_ns() + 5 * MS + 3);
  is("sem_timedwait", sem_timedwait(&sem, &t), -1);
  is("errno", errno, ETIMEDOUT);
  at("sem_timedwait", start_ns + 5 * MS + 3);
  start_ns = now_ns();
  t = ts(start_ns + 4 * MS + 9);
  is("sem_clockwait MONOTONIC", sem_clockwait(&sem, CLOCK_MONOTONIC, &t), -1);
  at("sem_clockwait MONOTONIC", start_ns + 4 * MS + 9);
  start_ns = now_ns();
  t = ts(real_ns() + 4 * MS + 9);
  is("sem_clockwait REALTIME", sem_clockwait(&sem, CLOCK_REALTIME, &t), -1);
  at("sem_clockwait REALTIME", start_ns + 4 * MS + 9);
}

static void posted(void) {
  for (int way = 0; way < 3; way++) {
    sem_t sem;
    sem_init(&sem, 0, 0);
    struct later later;
    int64_t start_ns = now_ns();
    struct timespec wall = ts(real_ns() + NS_PER_S), mono = ts(start_ns + NS_PER_S);
    start_later(&later, 3 * MS + 5, post, &sem);
    is("wait",
       way == 0   ? sem_wait(&sem)
       : way == 1 ? sem_timedwait(&sem, &wall)
                  : sem_clockwait(&sem, CLOCK_MONOTONIC, &mono),
       0);
    at("wait", start_ns + 3 * MS + 5);
    end_later(&later);
    int value = -1;
    sem_getvalue(&sem, &value);
    is("value", value, 0);
  }
}

static void available(void) {
  sem_t sem;
  sem_init(&sem, 0, 2);
  int64_t start_ns = now_ns();
  struct timespec past = ts(real_ns() - MS), bad = {0, -1};
  is("a past deadline does not matter", sem_timedwait(&sem, &past), 0);
  is("an invalid one does", sem_timedwait(&sem, &bad), -1);
  is("errno", errno, EINVAL);
  is("sem_trywait", sem_trywait(&sem), 0);
  is("sem_trywait", sem_trywait(&sem), -1);
  is("errno", errno, EAGAIN);
  is("past deadline", sem_timedwait(&sem, &past), -1);
  is("errno", errno, ETIMEDOUT);
  is("invalid deadline", sem_timedwait(&sem, &bad), -1);
  is("errno", errno, EINVAL);
  at("no time passes", start_ns);
}

static void between_processes(void) {
  sem_t *sems = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  sem_init(&sems[0], 1, 0);
  sem_init(&sems[1], 1, 0);
  int64_t start_ns = now_ns();
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    for (int i = 0; i < 20; i++) {
      while (sem_wait(&sems[0])) continue;
      rest(MS);
      sem_post(&sems[1]);
    }
    _exit(0);
  }
  for (int i = 1; i <= 20; i++) {
    sem_post(&sems[0]);
    struct timespec t = ts(real_ns() + NS_PER_S);
    is("sem_timedwait", i % 2 ? sem_timedwait(&sems[1], &t) : sem_wait(&sems[1]), 0);
    at("ping-pong", start_ns + i * MS);
    if (!inside) start_ns = now_ns() - i * MS;
  }
  is("child", reap(child), 0);
}

static void named(void) {
  char name[64];
  snprintf(name, sizeof(name), "/rvt-test-%d", (int)getpid());
  sem_t *sem = sem_open(name, O_CREAT | O_EXCL, 0600, 0);
  if (sem == SEM_FAILED) {
    fail("sem_open", strerror(errno));
    return;
  }
  sem_unlink(name);
  struct later later;
  int64_t start_ns = now_ns();
  start_later(&later, 2 * MS, post, sem);
  is("sem_wait", sem_wait(sem), 0);
  at("named semaphore", start_ns + 2 * MS);
  end_later(&later);
  sem_close(sem);
}

static sem_t crowd;
static void *crowd_main(void *argument) {
  while (sem_wait(&crowd)) continue;
  return (void *)(intptr_t)1;
}
static void many_waiters(void) { /* each post wakes one, none is lost */
  pthread_t threads[12];
  sem_init(&crowd, 0, 0);
  for (int i = 0; i < 12; i++) pthread_create(&threads[i], NULL, crowd_main, NULL);
  int64_t start_ns = now_ns();
  for (int i = 0; i < 12; i++) {
    rest(MS / 2);
    sem_post(&crowd);
  }
  for (int i = 0; i < 12; i++) pthread_join(threads[i], NULL);
  at("all woken", start_ns + 6 * MS);
}

CASES({"time_outs", time_outs}, {"posted", posted}, {"available", available}, {"between_processes", between_processes},
      {"named", named}, {"many_waiters", many_waiters})
