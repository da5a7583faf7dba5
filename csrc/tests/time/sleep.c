/* Sleeps: relative, absolute, long, past, invalid, and the clocks that follow them. */
#include "check.h"

#include <sys/time.h>
#include <threads.h>

static void relative(void) {
  int64_t start_ns = now_ns();
  struct timespec t = ts(5 * MS + 123);
  is("nanosleep", nanosleep(&t, NULL), 0);
  at("nanosleep", start_ns + 5 * MS + 123);
  start_ns = now_ns();
  is("clock_nanosleep", clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL), 0);
  at("clock_nanosleep", start_ns + 5 * MS + 123);
  start_ns = now_ns();
  is("usleep", usleep(7001), 0);
  at("usleep", start_ns + 7001000);
  start_ns = now_ns();
  is("thrd_sleep", thrd_sleep(&t, NULL), 0);
  at("thrd_sleep", start_ns + 5 * MS + 123);
}

static void whole_seconds(void) {
  int64_t start_ns = now_ns();
  is("sleep", sleep(1), 0);
  at("sleep", start_ns + NS_PER_S);
}

static void absolute(void) {
  static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME};
  for (int i = 0; i < 3; i++) {
    int64_t start_ns = now_ns();
    struct timespec t = ts(clock_ns(clocks[i]) + 4 * MS + 7);
    is("clock_nanosleep absolute", clock_nanosleep(clocks[i], TIMER_ABSTIME, &t, NULL), 0);
    at("clock_nanosleep absolute", start_ns + 4 * MS + 7);
  }
}

static void past_and_zero(void) {
  int64_t start_ns = now_ns();
  struct timespec t = ts(start_ns - 3 * MS), zero = {0, 0};
  is("past deadline", clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL), 0);
  is("zero", nanosleep(&zero, NULL), 0);
  is("usleep 0", usleep(0), 0);
  at("no time passes", start_ns);
}

static void invalid(void) {
  struct timespec bad = {0, NS_PER_S};
  is("nanosleep", nanosleep(&bad, NULL), -1);
  is("errno", errno, EINVAL);
  is("clock_nanosleep", clock_nanosleep(CLOCK_MONOTONIC, 0, &bad, NULL), EINVAL);
}

static void hours(void) {
  int64_t start_ns = now_ns(), delay_ns = long_ns(36 * 3600 * NS_PER_S + 1);
  rest(delay_ns);
  at("a long sleep", start_ns + delay_ns);
}

static void clocks_agree(void) {
  int64_t mono_ns = now_ns(), wall_ns = real_ns(), boot_ns = clock_ns(CLOCK_BOOTTIME),
          raw_ns = clock_ns(CLOCK_MONOTONIC_RAW);
  rest(10 * MS);
  int64_t step_ns = now_ns() - mono_ns;
  truth("REALTIME follows", llabs(real_ns() - wall_ns - step_ns) < (inside ? 1 : 50 * MS));
  truth("BOOTTIME follows", llabs(clock_ns(CLOCK_BOOTTIME) - boot_ns - step_ns) < (inside ? 1 : 50 * MS));
  truth("MONOTONIC_RAW follows", llabs(clock_ns(CLOCK_MONOTONIC_RAW) - raw_ns - step_ns) < (inside ? 1 : 50 * MS));
  struct timeval day;
  gettimeofday(&day, NULL);
  int64_t day_ns = (int64_t)day.tv_sec * NS_PER_S + (int64_t)day.tv_usec * 1000;
  truth("gettimeofday is REALTIME", llabs(real_ns() - day_ns) < (inside ? 1000 : 50 * MS));
  truth("time is REALTIME", llabs(time(NULL) - real_ns() / NS_PER_S) <= (inside ? 0 : 1));
  struct timespec utc;
  is("timespec_get", timespec_get(&utc, TIME_UTC), TIME_UTC);
  truth("timespec_get is REALTIME",
        llabs(real_ns() - (int64_t)utc.tv_sec * NS_PER_S - utc.tv_nsec) < (inside ? 1 : 50 * MS));
}

static void cpu_clocks_stay_real(void) {
  int64_t start_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
  for (volatile int i = 0; i < 3000000; i++) continue;
  truth("thread CPU time passes", clock_ns(CLOCK_THREAD_CPUTIME_ID) > start_ns);
  int64_t before_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
  rest(long_ns(100 * NS_PER_S));
  truth("a sleep is no CPU time", clock_ns(CLOCK_PROCESS_CPUTIME_ID) - before_ns < NS_PER_S);
}

static void *sleeper(void *argument) {
  int64_t delay_ns = *(int64_t *)argument, start_ns = now_ns();
  rest(delay_ns);
  at("one of many sleepers", start_ns + delay_ns);
  return NULL;
}

static void many_at_once(void) {
  pthread_t threads[40];
  int64_t delays[40], start_ns = now_ns();
  for (int i = 0; i < 40; i++) {
    delays[i] = (1 + i % 8) * 3 * MS;
    pthread_create(&threads[i], NULL, sleeper, &delays[i]);
  }
  for (int i = 0; i < 40; i++) pthread_join(threads[i], NULL);
  at("the last one", start_ns + 24 * MS);
}

CASES({"relative", relative}, {"whole_seconds", whole_seconds}, {"absolute", absolute},
      {"past_and_zero", past_and_zero}, {"invalid", invalid}, {"hours", hours}, {"clocks_agree", clocks_agree},
      {"cpu_clocks_stay_real", cpu_clocks_stay_real}, {"many_at_once", many_at_once})
