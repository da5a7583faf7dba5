/* Stands in for the virtual device in tests of the clock: makes rvt_time.h callable through the dynamic linker. */
#include "rvt_time.h"

#define RVT_TEST __attribute__((visibility("default")))

RVT_TEST void rvt_test_charge(int64_t ns) { rvt_charge_ns(ns); }
RVT_TEST int64_t rvt_test_now(void) { return rvt_now_ns(); }
RVT_TEST void rvt_test_wait_until(int64_t ns) { rvt_wait_until_ns(ns, "test device"); }
RVT_TEST void rvt_test_poll(int64_t ns) { rvt_poll_ns(ns); }
RVT_TEST void rvt_test_internal(int begin) { begin ? rvt_internal_begin() : rvt_internal_end(); }
