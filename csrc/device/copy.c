/* Copies and memsets: what they do to known memory, how long they take, when they block the host. */
#define _GNU_SOURCE
#include <string.h>

#include "device/copy.h"

#define STAGED_BYTES 65536u /* a pageable upload up to this size returns before it has arrived */

struct rvt_stream *rvt_default_stream(void) { return rvt_stream_resolve(NULL); }

static bool pinned(uint64_t addr) {
  uint64_t base, bytes;
  int kind;
  return rvt_host_range(addr, &base, &bytes, &kind);
}

static enum rvt_copy_kind kind_of(uint64_t to, uint64_t from, const struct rvt_stream *s) {
  bool to_device = rvt_is_device_address(to), from_device = rvt_is_device_address(from);
  if (to_device && from_device) {
    struct rvt_alloc *a = rvt_alloc_find(to), *b = rvt_alloc_find(from);
    return a && b && a->device != b->device ? RVT_COPY_P2P : RVT_COPY_D2D;
  }
  return to_device ? RVT_COPY_H2D : from_device ? RVT_COPY_D2H : RVT_COPY_H2H;
}

/* A read-back: known bytes, else the oracle's, else zeros that are counted. */
static void read_back(void *to, uint64_t from, size_t n) {
  if (rvt_mem_read(from, to, n)) return;
  if (rvt_oracle_read(from, to, n)) {
    __atomic_fetch_add(&rvt_g.page->oracle_reads, 1, __ATOMIC_RELAXED);
    return;
  }
  rvt_count_unknown_read(from, n);
}

static void trace_copy(uint64_t to, uint64_t from, size_t n) {
  uint64_t head = 0;
  bool known = rvt_is_device_address(from) ? rvt_mem_read(from, &head, n < 8 ? n : 8) : true;
  rvt_trace("copy %s to %llx from %llx bytes %zu %s %llx", kind_of(to, from, NULL) == RVT_COPY_D2H ? "d2h" : "",
            (unsigned long long)to, (unsigned long long)from, n, known ? "known" : "unknown", (unsigned long long)head);
}

static void move_bytes(uint64_t to, uint64_t from, size_t n) {
  if (RVT_UNLIKELY(rvt_tracing)) trace_copy(to, from, n);
  switch (kind_of(to, from, NULL)) {
  case RVT_COPY_H2H: memmove((void *)to, (const void *)from, n); break;
  case RVT_COPY_H2D: rvt_mem_write_host(to, (const void *)from, n); break;
  case RVT_COPY_D2H: read_back((void *)to, from, n); break;
  default: rvt_mem_copy(to, from, n); break;
  }
}

static void effect_copy(const void *ctx, struct rvt_stream *s, bool replay) {
  const struct rvt_copy2d *c = ctx;
  if (c->height == 1 || (c->to_pitch == c->width && c->from_pitch == c->width)) {
    move_bytes(c->to, c->from, c->width * c->height);
    return;
  }
  for (uint64_t row = 0; row < c->height; row++)
    move_bytes(c->to + row * c->to_pitch, c->from + row * c->from_pitch, c->width);
}

/* Whether the host waits for the end of the copy, as documented under "API synchronization behavior". */
static bool blocks_host(enum rvt_copy_kind kind, const struct rvt_copy2d *c, bool sync) {
  uint64_t bytes = c->width * c->height;
  switch (kind) {
  case RVT_COPY_H2D: return pinned(c->from) ? sync : bytes > STAGED_BYTES;
  case RVT_COPY_D2H: return sync || !pinned(c->to);
  case RVT_COPY_H2H: return true;
  default: return false;
  }
}

int rvt_copy_2d(const struct rvt_copy2d *c, struct rvt_stream *s, bool sync) {
  if (!s) return RVT_E_INVALID_HANDLE;
  if (c->width == 0 || c->height == 0) return RVT_OK;
  if (!c->to || !c->from) return RVT_E_INVALID_VALUE;
  bool capturing = rvt_stream_is_capturing(s);
  int rc = sync ? rvt_capture_forbids() : RVT_OK;
  if (rc) return rc;
  enum rvt_copy_kind kind = kind_of(c->to, c->from, s);
  struct rvt_op op = {.kind = RVT_OP_COPY, .p = {(int64_t)(c->width * c->height), kind}};
  rvt_host_cost(RVT_HOST_COPY);
  rc = rvt_submit_op(s, &op, NULL, effect_copy, c, sizeof *c);
  if (rc == RVT_OK && !capturing && blocks_host(kind, c, sync)) rvt_wait_stream(s, "cudaMemcpy");
  return rc;
}

int rvt_copy(uint64_t to, uint64_t from, size_t n, struct rvt_stream *s, bool sync) {
  struct rvt_copy2d c = {to, n, from, n, n, 1};
  return rvt_copy_2d(&c, s, sync);
}

/* ---- memset ----------------------------------------------------------------------------------------------- */

struct fill {
  uint64_t to, pitch, pattern, pattern_bytes, width, height;
};

static void effect_fill(const void *ctx, struct rvt_stream *s, bool replay) {
  const struct fill *f = ctx;
  for (uint64_t row = 0; row < f->height; row++)
    rvt_mem_fill(f->to + row * f->pitch, &f->pattern, f->pattern_bytes, f->width);
}

int rvt_fill_2d(uint64_t to, size_t pitch, uint64_t pattern, size_t pattern_bytes, size_t width, size_t height,
                struct rvt_stream *s, bool sync) {
  if (!s) return RVT_E_INVALID_HANDLE;
  if (width == 0 || height == 0) return RVT_OK;
  if (!to) return RVT_E_INVALID_VALUE;
  if (sync) {
    int rc = rvt_capture_forbids();
    if (rc) return rc;
  }
  struct fill f = {to, pitch, pattern, pattern_bytes, width, height};
  if (pitch == width) {
    f.width = width * height;
    f.height = 1;
  }
  struct rvt_op op = {.kind = RVT_OP_MEMSET, .p = {(int64_t)(width * height)}};
  rvt_host_cost(RVT_HOST_COPY);
  return rvt_submit_op(s, &op, NULL, effect_fill, &f, sizeof f);
}

int rvt_fill(uint64_t to, uint64_t pattern, size_t pattern_bytes, size_t n, struct rvt_stream *s, bool sync) {
  return rvt_fill_2d(to, n, pattern, pattern_bytes, n, 1, s, sync);
}
