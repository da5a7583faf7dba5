/* One entry per 2 MiB of the device address range: the allocation there, and the known bytes. */
#ifndef RVT_CHUNK_H
#define RVT_CHUNK_H

#include <stdbool.h>
#include <stdint.h>

#define RVT_CHUNK_BYTES (2ull << 20)
#define RVT_PAGE_BYTES 4096u
#define RVT_CHUNK_PAGES (RVT_CHUNK_BYTES / RVT_PAGE_BYTES)

struct rvt_alloc;
struct rvt_slab;

/* Bytes of one page that the host wrote or an emulated kernel computed. */
struct rvt_known_page {
  bool any;                            /* false: no bit below is set */
  uint64_t known[RVT_PAGE_BYTES / 64]; /* bit per byte */
  uint64_t start[RVT_PAGE_BYTES / 64]; /* a host write began at this byte: forgetting by pointer stops here */
  unsigned char bytes[RVT_PAGE_BYTES];
};

struct rvt_known_chunk {
  struct rvt_known_page *page[RVT_CHUNK_PAGES];
};

struct rvt_chunk {
  struct rvt_alloc *alloc;
  struct rvt_slab *slab;
  struct rvt_known_chunk *known;
  void *reserved;
};
extern struct rvt_chunk *rvt_chunks;

#endif
