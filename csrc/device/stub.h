/* Generated stubs: weak, so that a hand-written definition wins even before the table is regenerated. */
#ifndef RVT_STUB_H
#define RVT_STUB_H

long rvt_unsupported_call(const char *name, const void *caller, long error, const long arguments[4]);

#define RVT_STUB(name, error)                                                                      \
  __attribute__((weak, visibility("default"))) long name(long a, long b, long c, long d) {         \
    return rvt_unsupported_call(#name, __builtin_return_address(0), error, (long[4]){a, b, c, d}); \
  }

#endif
