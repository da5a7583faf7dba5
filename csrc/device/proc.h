/* The generated table behind cuGetProcAddress. */
#ifndef RVT_PROC_H
#define RVT_PROC_H

struct rvt_proc {
  const char *name; /* base name as callers ask for it */
  int version;      /* first CUDA version in which the name means this function */
  void *fn;
};
extern const struct rvt_proc rvt_proc_table[];
extern const unsigned rvt_proc_count;

#endif
