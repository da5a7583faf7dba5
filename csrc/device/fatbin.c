/* Which image of a fat binary a device runs: compiled code of the same major version that is not newer than the device,
 * the newest of it; else the newest PTX that is not newer (CUDA programming guide, "Binary Compatibility").
 *
 * Only the architectures in the container's headers are read, what `cuobjdump --list-elf --list-ptx` lists. Libraries
 * depend on the answer: CUB chooses its tuning by the architecture that cudaFuncGetAttributes reports, and refuses one
 * that it was not built for. */
#include "device/fatbin.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct wrapper {
  uint32_t magic, version;
  const void *container;
};

struct container {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes; /* of the entries */
};

struct entry {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;
  uint32_t compressed_bytes, options;
  uint16_t minor, major;
  uint32_t arch;
};

#define WRAPPER_MAGIC 0x466243b1u
#define CONTAINER_MAGIC 0xba55ed50u
enum { KIND_PTX = 1, KIND_CUBIN = 2 };

static const struct container *container_of(const void *at) {
  const struct wrapper *w = at;
  if (!w || w->magic != WRAPPER_MAGIC || !w->container) return NULL;
  const struct container *c = w->container;
  return c->magic == CONTAINER_MAGIC && c->header_bytes >= sizeof *c ? c : NULL;
}

struct rvt_image rvt_fatbin_choose(const void *wrapper, int cc) {
  const struct container *c = container_of(wrapper);
  int cubin = 0, ptx = 0;
  bool other = !c || !c->bytes;
  for (uint64_t at = 0; c && at + sizeof(struct entry) <= c->bytes;) {
    struct entry e;
    memcpy(&e, (const char *)c + c->header_bytes + at, sizeof e);
    int arch = (int)e.arch;
    bool older = arch <= cc;
    if (e.kind == KIND_CUBIN && older && arch / 10 == cc / 10 && arch > cubin) cubin = arch;
    if (e.kind == KIND_PTX && older && arch > ptx) ptx = arch;
    if ((e.kind != KIND_CUBIN && e.kind != KIND_PTX) || e.header_bytes < sizeof e) other = true;
    if (e.header_bytes < sizeof e || e.bytes > c->bytes) break;
    at += e.header_bytes + e.bytes;
  }
  if (cubin) return (struct rvt_image){.ptx_version = cubin, .binary_version = cubin};
  if (ptx) return (struct rvt_image){.ptx_version = ptx, .binary_version = cc};
  return (struct rvt_image){.ptx_version = cc, .binary_version = cc, .none = !other};
}
