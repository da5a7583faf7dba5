/* Small programs, one family of calls each, that behave the same natively and inside the virtual clock. Natively a
 * wait may end some time after its deadline (the machine is shared), inside the clock it ends exactly at it.
 *
 *   static void name_of_case(void) { ...; at("what", expected_ns); }
 *   CASES({"name", name_of_case}, ...)
 */
#ifndef RVT_CHECK_H
#define RVT_CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000ll
#define NS_PER_S 1000000000ll
#define SLACK_NS (2000 * MS) /* natively, on a loaded machine */

static bool inside; /* the virtual clock */
static int failures;
static const char *current = "";

static inline int64_t clock_ns(clockid_t clock) {
  struct timespec t;
  if (clock_gettime(clock, &t)) abort();
  return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}
static inline int64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }
static inline int64_t real_ns(void) { return clock_ns(CLOCK_REALTIME); }
static inline struct timespec ts(int64_t ns) {
  return (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
}
static inline struct timeval tv(int64_t ns) {
  return (struct timeval){.tv_sec = ns / NS_PER_S, .tv_usec = ns % NS_PER_S / 1000};
}
/* A duration that would be too long for a native test. */
static inline int64_t long_ns(int64_t ns) { return inside ? ns : 20 * MS; }

static inline void fail(const char *what, const char *why) {
  __atomic_fetch_add(&failures, 1, __ATOMIC_SEQ_CST);
  printf("FAIL %s: %s: %s\n", current, what, why);
  fflush(stdout);
}

static inline void is(const char *what, long long got, long long expected) {
  char why[96];
  if (got == expected) return;
  snprintf(why, sizeof(why), "%lld instead of %lld", got, expected);
  fail(what, why);
}

static inline void truth(const char *what, bool holds) {
  if (!holds) fail(what, "does not hold");
}

/* The present moment must be `expected_ns` of CLOCK_MONOTONIC. */
static inline void at_time(const char *what, int64_t expected_ns, int64_t got_ns) {
  char why[160];
  int64_t late_ns = got_ns - expected_ns;
  if (inside ? late_ns == 0 : late_ns >= 0 && late_ns < SLACK_NS) return;
  snprintf(why, sizeof(why), "%+lld ns off (expected at %lld)", (long long)late_ns, (long long)expected_ns);
  fail(what, why);
}
static inline void at(const char *what, int64_t expected_ns) { at_time(what, expected_ns, now_ns()); }

/* Sleeps by the plainest call there is. */
static inline void rest(int64_t ns) {
  struct timespec t = ts(ns);
  while (clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR) continue;
}

/* Runs `body` in a thread after `delay_ns`. */
struct later {
  pthread_t thread;
  int64_t delay_ns, done_ns;
  void (*body)(void *);
  void *argument;
};
static inline void *later_main(void *argument) {
  struct later *later = argument;
  rest(later->delay_ns);
  later->done_ns = now_ns();
  later->body(later->argument);
  return NULL;
}
static inline void start_later(struct later *later, int64_t delay_ns, void (*body)(void *), void *argument) {
  later->delay_ns = delay_ns;
  later->body = body;
  later->argument = argument;
  if (pthread_create(&later->thread, NULL, later_main, later)) abort();
}
static inline void end_later(struct later *later) { pthread_join(later->thread, NULL); }

struct test_case {
  const char *name;
  void (*body)(void);
};

/* Waits for a child and gives its status; a child that fails a check exits with 1. */
static inline int reap(pid_t child) {
  int status = -1;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  return status;
}

static inline int run_cases(const struct test_case *cases, int count, int argc, char **argv) {
  inside = getenv("REVATI_PAGE") != NULL;
  int ran = 0;
  for (int i = 0; i < count; i++) {
    bool wanted = argc < 2;
    for (int j = 1; j < argc; j++) wanted |= !strcmp(argv[j], cases[i].name);
    if (!wanted) continue;
    current = cases[i].name;
    int before = failures;
    cases[i].body();
    ran++;
    if (failures == before) printf("ok %s\n", current);
    fflush(stdout);
  }
  if (!ran) printf("FAIL: no such case\n");
  return failures || !ran ? 1 : 0;
}
#define CASES(...)                                                                \
  int main(int argc, char **argv) {                                               \
    static const struct test_case cases[] = {__VA_ARGS__};                        \
    return run_cases(cases, (int)(sizeof(cases) / sizeof(cases[0])), argc, argv); \
  }

#endif
