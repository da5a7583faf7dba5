/* What the nvml*.c files share. The structures restate NVML's public binary interface (NVML API reference). */
#ifndef RVT_NVML_H
#define RVT_NVML_H

#include <stddef.h>
#include <stdint.h>

#include "device/device.h"

enum nvml_return {
  NVML_SUCCESS = 0,
  NVML_ERROR_UNINITIALIZED = 1,
  NVML_ERROR_INVALID_ARGUMENT = 2,
  NVML_ERROR_NOT_SUPPORTED = 3,
  NVML_ERROR_NO_PERMISSION = 4,
  NVML_ERROR_NOT_FOUND = 6,
  NVML_ERROR_INSUFFICIENT_SIZE = 7,
  NVML_ERROR_DRIVER_NOT_LOADED = 9,
  NVML_ERROR_FUNCTION_NOT_FOUND = 13,
  NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
  NVML_ERROR_UNKNOWN = 999,
};

typedef int nvml_ret;
/* A handle is a pointer to the catalogue entry in the shared page: stable, unique, and checked before use. */
typedef struct rvt_gpu *nvml_device;

/* NULL in a process that no coordinator manages: NVML then says that no driver is loaded. */
struct rvt_device_page *rvt_nvml_page(void);
/* Index of a valid handle, -1 otherwise. */
int rvt_nvml_index(nvml_device device);
nvml_ret rvt_nvml_string(char *out, unsigned length, const char *text);

/* Every query begins with the same two checks, in NVML's order: library initialised, arguments valid. */
#define NVML_DEVICE(device, out)                               \
  struct rvt_device_page *page = rvt_nvml_page();              \
  if (!page) return NVML_ERROR_UNINITIALIZED;                  \
  int index = rvt_nvml_index(device);                          \
  if (index < 0 || !(out)) return NVML_ERROR_INVALID_ARGUMENT; \
  const struct rvt_gpu *gpu = &page->gpus[index];              \
  (void)gpu;                                                   \
  (void)page

struct nvml_pci_info {
  char bus_id_legacy[16];
  unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
  char bus_id[32];
};

void rvt_nvml_pci(const struct rvt_gpu *gpu, struct nvml_pci_info *info);

#endif
