/* What a device says about itself: attributes and properties, all from the catalogue. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/attributes.h"

/* Numbers of CUdevice_attribute used by name here. */
enum {
  A_MAX_THREADS_PER_BLOCK = 1,
  A_MAX_BLOCK_X = 2,
  A_MAX_GRID_X = 5,
  A_SHARED_PER_BLOCK = 8,
  A_CONST = 9,
  A_WARP = 10,
  A_PITCH = 11,
  A_REGS_PER_BLOCK = 12,
  A_CLOCK = 13,
  A_TEXTURE_ALIGN = 14,
  A_SM_COUNT = 16,
  A_PCI_BUS = 33,
  A_PCI_DEVICE = 34,
  A_MEM_CLOCK = 36,
  A_BUS_WIDTH = 37,
  A_L2 = 38,
  A_PCI_DOMAIN = 50,
  A_CC_MAJOR = 75,
  A_CC_MINOR = 76,
  A_NUMA = 131,
};

/* The number after the last part of a "0000:1B:00.0" style bus id: 0 domain, 1 bus, 2 device. */
static int pci_part(const struct rvt_gpu *gpu, int part) {
  unsigned domain = 0, bus = 0, device = 0;
  sscanf(gpu->pci_bus_id, "%x:%x:%x", &domain, &bus, &device);
  return (int)(part == 0 ? domain : part == 1 ? bus : device);
}

int rvt_attribute(int ordinal, int attribute) {
  const struct rvt_gpu *gpu = rvt_dev(ordinal)->info;
  switch (attribute) {
  case A_CLOCK: return gpu->clock_khz;
  case A_SM_COUNT: return gpu->sm_count;
  case A_PCI_BUS: return pci_part(gpu, 1);
  case A_PCI_DEVICE: return pci_part(gpu, 2);
  case A_PCI_DOMAIN: return pci_part(gpu, 0);
  case A_MEM_CLOCK: return gpu->mem_clock_khz;
  case A_BUS_WIDTH: return gpu->mem_bus_bits;
  case A_L2: return (int)gpu->l2_bytes;
  case A_CC_MAJOR: return gpu->cc_major;
  case A_CC_MINOR: return gpu->cc_minor;
  default: return attribute > 0 && attribute < RVT_MAX_ATTRS ? gpu->attr[attribute] : 0;
  }
}

void rvt_uuid(int ordinal, unsigned char out[16]) {
  const char *text = rvt_dev(ordinal)->info->uuid;
  int n = 0;
  if (strncmp(text, "GPU-", 4) == 0) text += 4;
  memset(out, 0, 16);
  while (*text && n < 16) {
    unsigned byte;
    if (*text == '-') text++;
    if (sscanf(text, "%2x", &byte) != 1) break;
    out[n++] = (unsigned char)byte;
    text += 2;
  }
}

void rvt_pci_text(int ordinal, char *out, size_t room) {
  const struct rvt_gpu *gpu = rvt_dev(ordinal)->info;
  snprintf(out, room, "%04X:%02X:%02X.0", pci_part(gpu, 0), pci_part(gpu, 1), pci_part(gpu, 2));
}

/* ---- cudaDeviceProp --------------------------------------------------------------------------------------- */

/* The structure differs between CUDA 12 and 13 by the fields that 13 dropped. It is described as a list of
 * (kind, value) so that both layouts come from one description with C's alignment rules. */
struct writer {
  char *base;
  size_t at;
};

static void put(struct writer *w, const void *v, size_t bytes, size_t align) {
  w->at = (w->at + align - 1) & ~(align - 1);
  memcpy(w->base + w->at, v, bytes);
  w->at += bytes;
}
static void put_int(struct writer *w, int v) { put(w, &v, sizeof v, sizeof v); }
static void put_size(struct writer *w, size_t v) { put(w, &v, sizeof v, sizeof v); }
static void put_attributes(struct writer *w, int ordinal, const short *list, int n) {
  for (int i = 0; i < n; i++) put_int(w, rvt_attribute(ordinal, list[i]));
}
#define PUT(w, ordinal, ...)                                                \
  do {                                                                      \
    static const short list_[] = {__VA_ARGS__};                             \
    put_attributes(w, ordinal, list_, (int)(sizeof list_ / sizeof *list_)); \
  } while (0)

size_t rvt_device_prop(int ordinal, int major, void *out) {
  const struct rvt_gpu *gpu = rvt_dev(ordinal)->info;
  struct writer w = {.base = out};
  char name[256] = {0};
  unsigned char uuid[16], luid[8] = {0};
  bool twelve = major < 13;
  snprintf(name, sizeof name, "%s", gpu->name);
  rvt_uuid(ordinal, uuid);
  put(&w, name, sizeof name, 1);
  put(&w, uuid, sizeof uuid, 1);
  put(&w, luid, sizeof luid, 1);
  put_int(&w, 0); /* luidDeviceNodeMask */
  put_size(&w, gpu->total_bytes);
  put_size(&w, (size_t)rvt_attribute(ordinal, A_SHARED_PER_BLOCK));
  PUT(&w, ordinal, A_REGS_PER_BLOCK, A_WARP);
  put_size(&w, (size_t)(unsigned)rvt_attribute(ordinal, A_PITCH));
  PUT(&w, ordinal, 1, 2, 3, 4, 5, 6, 7); /* maxThreadsPerBlock, maxThreadsDim, maxGridSize */
  if (twelve) PUT(&w, ordinal, A_CLOCK);
  put_size(&w, (size_t)rvt_attribute(ordinal, A_CONST));
  PUT(&w, ordinal, A_CC_MAJOR, A_CC_MINOR);
  put_size(&w, (size_t)rvt_attribute(ordinal, A_TEXTURE_ALIGN));
  put_size(&w, (size_t)rvt_attribute(ordinal, 51)); /* texturePitchAlignment */
  if (twelve) PUT(&w, ordinal, 15);                 /* deviceOverlap */
  PUT(&w, ordinal, A_SM_COUNT);
  if (twelve) PUT(&w, ordinal, 17); /* kernelExecTimeoutEnabled */
  PUT(&w, ordinal, 18, 19);         /* integrated, canMapHostMemory */
  if (twelve) PUT(&w, ordinal, 20); /* computeMode */
  PUT(&w, ordinal, 21, 77);         /* maxTexture1D, maxTexture1DMipmap */
  if (twelve) PUT(&w, ordinal, 69); /* maxTexture1DLinear */
  PUT(&w, ordinal, 22, 23, 73, 74, 70, 71, 72, 45, 46, 24, 25, 26, 47, 48,
      49);                                          /* textures 2D, mipmap, linear, gather, 3D, 3DAlt */
  PUT(&w, ordinal, 52, 42, 43, 27, 28, 29, 53, 54); /* cubemap, 1D layered, 2D layered, cubemap layered */
  PUT(&w, ordinal, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68); /* surfaces */
  put_size(&w, (size_t)rvt_attribute(ordinal, 30));                         /* surfaceAlignment */
  PUT(&w, ordinal, 31, 32, A_PCI_BUS, A_PCI_DEVICE, A_PCI_DOMAIN, 35, 40,
      41); /* concurrentKernels .. unifiedAddressing */
  if (twelve) PUT(&w, ordinal, A_MEM_CLOCK);
  PUT(&w, ordinal, A_BUS_WIDTH, A_L2, 108, 39, 78, 79, 80); /* bus, L2, persisting L2, threads/SM, priorities, L1 */
  put_size(&w, (size_t)rvt_attribute(ordinal, 81));         /* sharedMemPerMultiprocessor */
  PUT(&w, ordinal, 82, 83, 84, 85, 86); /* regs/SM, managed, multi-GPU board (group), native atomics */
  if (twelve) PUT(&w, ordinal, 87);     /* singleToDoublePrecisionPerfRatio */
  PUT(&w, ordinal, 88, 89, 90, 91, 95); /* pageable, concurrent managed, preemption, registered ptr, cooperative */
  if (twelve) PUT(&w, ordinal, 96);     /* cooperativeMultiDeviceLaunch */
  put_size(&w, (size_t)rvt_attribute(ordinal, 97));  /* sharedMemPerBlockOptin */
  PUT(&w, ordinal, 100, 101, 106, 109);              /* host page tables, direct managed, blocks/SM, access policy */
  put_size(&w, (size_t)rvt_attribute(ordinal, 111)); /* reservedSharedMemPerBlock */
  PUT(&w, ordinal, 99, 112, 113, 114, 115, 116, 117, 118, 119, 121, 125, 120,
      129); /* host register .. unified pointers */
  if (twelve) {
    char reserved[(2 + 1 + 60) * 4] = {0};
    put(&w, reserved, sizeof reserved, 4);
  } else {
    PUT(&w, ordinal, 130, A_NUMA, 133, 134); /* NUMA config, NUMA id, MPS, host NUMA id */
    PUT(&w, ordinal, 139, 140, 143);         /* PCI device id, subsystem id, multinode IPC */
    char reserved[56 * 4] = {0};
    put(&w, reserved, sizeof reserved, 4);
  }
  return (w.at + 7) & ~(size_t)7;
}
