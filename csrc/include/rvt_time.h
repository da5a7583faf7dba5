/* The in-process interface of csrc/time, as csrc/device and the observers use it.
 *
 * All times are integer nanoseconds of the run's virtual MONOTONIC clock.
 * In a process that no coordinator manages (no REVATI_PAGE in the environment) rvt_managed() is false: the
 * clock is then the host's and the virtual device answers "no device".
 */
#ifndef RVT_TIME_H
#define RVT_TIME_H

#include <stdbool.h>
#include <stdint.h>

struct rvt_page; /* rvt_abi.h */

/* The shared page of the run, mapped by the constructor; NULL in an unmanaged process. */
struct rvt_page *rvt_page(void);
bool rvt_managed(void);

/* Local virtual time of the calling thread: the clock plus what the host-time policy has charged to this
 * thread and not yet slept off. Never decreases within a thread. */
int64_t rvt_now_ns(void);

/* Blocks the calling thread until virtual time t_ns (returns at once when it has passed) after settling the
 * thread's pending charge. `what` names the wait in deadlock reports: a string literal. */
void rvt_wait_until_ns(int64_t t_ns, const char *what);

/* A query answered "not ready"; it would be ready at t_ns (INT64_MAX: unknown). Counts as one poll of a
 * busy-poller and publishes t_ns as a wake-up, so that a loop of queries parks instead of burning a core. */
void rvt_poll_ns(int64_t t_ns);

/* The thread did something another thread, or the device, can see: it is no idle poller. */
void rvt_progress(void);

/* Charges modelled host time to the calling thread (policy `modelled`; nothing in the other policies). */
void rvt_charge_ns(int64_t cost_ns);

/* Runs code of Revati itself: between begin and end the thread's host CPU time is not charged, and interposed
 * calls go straight to libc without enrolment (use around memo misses, logging, file output). Nests. */
void rvt_internal_begin(void);
void rvt_internal_end(void);

/* Ends the process with one sentence on stderr and the exit code of a broken run: for what would else give silently
 * wrong numbers. */
void rvt_fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* The host's own clock, for Revati's own statistics only. */
int64_t rvt_host_ns(void);

#endif
