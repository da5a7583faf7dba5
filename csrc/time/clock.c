/* Clocks and sleeps. */
#include "internal.h"

#include <sys/timeb.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The clocks that follow virtual time; CPU-time clocks stay the host's. */
static bool is_virtual(clockid_t clock, bool *realtime) {
  switch (clock) {
  case CLOCK_REALTIME:
  case CLOCK_REALTIME_COARSE:
  case CLOCK_TAI: *realtime = true; return true;
  case CLOCK_MONOTONIC:
  case CLOCK_MONOTONIC_RAW:
  case CLOCK_MONOTONIC_COARSE:
  case CLOCK_BOOTTIME:
  case CLOCK_REALTIME_ALARM:
  case CLOCK_BOOTTIME_ALARM: *realtime = clock == CLOCK_REALTIME_ALARM; return true;
  default: return false;
  }
}

static int64_t read_clock(bool realtime) {
  rvt_clock_poll();
  int64_t ns = rvt_now_ns();
  return realtime ? ns + rvt_the_page->realtime_offset_ns : ns;
}

RVT_EXPORT int clock_gettime(clockid_t clock, struct timespec *t) {
  bool realtime;
  if (!rvt_on() || !is_virtual(clock, &realtime)) return rvt_real.clock_gettime(clock, t);
  *t = rvt_timespec(read_clock(realtime));
  return 0;
}

RVT_EXPORT int gettimeofday(struct timeval *t, void *zone) {
  if (!rvt_on()) return rvt_real.gettimeofday(t, zone);
  if (zone) rvt_real.gettimeofday(t, zone);
  int64_t ns = read_clock(true);
  *t = (struct timeval){.tv_sec = ns / RVT_NS_PER_S, .tv_usec = ns % RVT_NS_PER_S / 1000};
  return 0;
}

RVT_EXPORT time_t time(time_t *t) {
  if (!rvt_on()) return rvt_real.time(t);
  time_t now = (time_t)(read_clock(true) / RVT_NS_PER_S);
  if (t) *t = now;
  return now;
}

RVT_EXPORT int timespec_get(struct timespec *t, int base) {
  if (!rvt_on() || base != TIME_UTC) return rvt_real.timespec_get(t, base);
  *t = rvt_timespec(read_clock(true));
  return base;
}

RVT_EXPORT int ftime(struct timeb *t) {
  struct timeval now;
  gettimeofday(&now, NULL);
  *t = (struct timeb){.time = now.tv_sec, .millitm = (unsigned short)(now.tv_usec / 1000)};
  return 0;
}

static int sleep_for(int64_t delay_ns, struct timespec *left) {
  if (delay_ns <= 0) {
    rvt_busy_poll(RVT_FOREVER_NS);
    return 0;
  }
  int64_t deadline_ns = rvt_deadline_after(delay_ns);
  int error = rvt_sleep_until(RVT_WAIT_SLEEP, deadline_ns, 0, true);
  if (error == EINTR && left) {
    int64_t rest = deadline_ns - rvt_local_ns();
    *left = rvt_timespec(rest > 0 ? rest : 0);
  }
  return error;
}

RVT_EXPORT int nanosleep(const struct timespec *t, struct timespec *left) {
  if (!rvt_on()) return rvt_real.nanosleep(t, left);
  if (t->tv_sec < 0 || rvt_timespec_bad(t)) {
    errno = EINVAL;
    return -1;
  }
  int error = sleep_for(rvt_ns_of(t), left);
  if (error) errno = error;
  return error ? -1 : 0;
}

RVT_EXPORT int clock_nanosleep(clockid_t clock, int flags, const struct timespec *t, struct timespec *left) {
  bool realtime;
  if (!rvt_on() || !is_virtual(clock, &realtime)) return rvt_real.clock_nanosleep(clock, flags, t, left);
  if (t->tv_sec < 0 || rvt_timespec_bad(t)) return EINVAL;
  if (!(flags & TIMER_ABSTIME)) return sleep_for(rvt_ns_of(t), left);
  int64_t deadline_ns = rvt_absolute_ns(clock, t);
  if (deadline_ns <= rvt_local_ns()) {
    rvt_busy_poll(RVT_FOREVER_NS);
    return 0;
  }
  return rvt_sleep_until(RVT_WAIT_SLEEP, deadline_ns, 0, true);
}

RVT_EXPORT int usleep(useconds_t us) {
  if (!rvt_on()) return rvt_real.usleep(us);
  int error = sleep_for((int64_t)us * 1000, NULL);
  if (error) errno = error;
  return error ? -1 : 0;
}

RVT_EXPORT unsigned sleep(unsigned s) {
  if (!rvt_on()) return rvt_real.sleep(s);
  struct timespec left = {0, 0};
  if (!sleep_for((int64_t)s * RVT_NS_PER_S, &left)) return 0;
  return (unsigned)left.tv_sec + (left.tv_nsec >= RVT_NS_PER_S / 2);
}

RVT_EXPORT int thrd_sleep(const struct timespec *t, struct timespec *left) {
  if (!rvt_on()) return rvt_real.thrd_sleep(t, left);
  int error = sleep_for(rvt_ns_of(t), left);
  return error == 0 ? 0 : error == EINTR ? -1 : -2;
}

RVT_EXPORT int sched_yield(void) {
  int result = rvt_mode == RVT_MODE_UNKNOWN ? 0 : rvt_real.sched_yield();
  if (rvt_on()) rvt_busy_poll(RVT_FOREVER_NS);
  return result;
}
