/* Copies and fills by address. */
#ifndef RVT_COPY_H
#define RVT_COPY_H

#include "device/core.h"

struct rvt_copy2d {
  uint64_t to, to_pitch, from, from_pitch, width, height;
};

/* Bytes by address kind. `sync`: the call must behave like cudaMemcpy (no stream argument). */
int rvt_copy(uint64_t to, uint64_t from, size_t n, struct rvt_stream *s, bool sync);
int rvt_copy_2d(const struct rvt_copy2d *c, struct rvt_stream *s, bool sync);
int rvt_fill(uint64_t to, uint64_t pattern, size_t pattern_bytes, size_t n, struct rvt_stream *s, bool sync);
int rvt_fill_2d(uint64_t to, size_t pitch, uint64_t pattern, size_t pattern_bytes, size_t width, size_t height,
                struct rvt_stream *s, bool sync);
struct rvt_stream *rvt_default_stream(void);

#endif
