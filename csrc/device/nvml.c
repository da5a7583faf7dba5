/* NVML: identity, memory, clocks and the running processes of the virtual GPUs.
 *
 * Every answer comes from the catalogue entry and the accounting in the shared page, the same numbers that the
 * CUDA runtime and driver give, so that a program which compares the two sees one machine. NVML ignores
 * CUDA_VISIBLE_DEVICES (as the real one does); the runtime applies it on top of the same list.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "device/nvml.h"

static int nvml_users; /* nvmlInit minus nvmlShutdown */

struct rvt_device_page *rvt_nvml_page(void) {
  return __atomic_load_n(&nvml_users, __ATOMIC_RELAXED) > 0 ? rvt_devices() : NULL;
}

int rvt_nvml_index(nvml_device device) {
  struct rvt_device_page *page = rvt_devices();
  if (!page || device < page->gpus || device >= page->gpus + page->gpu_count) return -1;
  ptrdiff_t offset = (char *)device - (char *)page->gpus;
  return offset % (ptrdiff_t)sizeof(struct rvt_gpu) ? -1 : (int)(device - page->gpus);
}

/* Texts of the catalogue may fill their field, without a zero at the end. */
static nvml_ret field_string(char *out, unsigned length, const char *field, size_t room) {
  size_t n = strnlen(field, room);
  if (n + 1 > length) return NVML_ERROR_INSUFFICIENT_SIZE;
  memcpy(out, field, n);
  out[n] = 0;
  return NVML_SUCCESS;
}

nvml_ret rvt_nvml_string(char *out, unsigned length, const char *text) {
  if (strlen(text) + 1 > length) return NVML_ERROR_INSUFFICIENT_SIZE;
  memcpy(out, text, strlen(text) + 1);
  return NVML_SUCCESS;
}

/* --- library ------------------------------------------------------------------------------------------- */

RVT_API nvml_ret nvmlInitWithFlags(unsigned flags) {
  struct rvt_device_page *page = rvt_devices();
  if (!page || page->gpu_count == 0) return NVML_ERROR_DRIVER_NOT_LOADED;
  __atomic_add_fetch(&nvml_users, 1, __ATOMIC_RELAXED);
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
RVT_API nvml_ret nvmlInit(void) { return nvmlInitWithFlags(0); }

RVT_API nvml_ret nvmlShutdown(void) {
  if (__atomic_load_n(&nvml_users, __ATOMIC_RELAXED) <= 0) return NVML_ERROR_UNINITIALIZED;
  __atomic_sub_fetch(&nvml_users, 1, __ATOMIC_RELAXED);
  return NVML_SUCCESS;
}

RVT_API const char *nvmlErrorString(nvml_ret result) {
  switch (result) {
  case NVML_SUCCESS: return "Success";
  case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
  case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
  case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
  case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
  case NVML_ERROR_NOT_FOUND: return "Not Found";
  case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
  case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
  case NVML_ERROR_FUNCTION_NOT_FOUND: return "Function Not Found";
  case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument Version Mismatch";
  default: return "Unknown Error";
  }
}

RVT_API nvml_ret nvmlSystemGetDriverVersion(char *version, unsigned length) {
  struct rvt_device_page *page = rvt_nvml_page();
  if (!page) return NVML_ERROR_UNINITIALIZED;
  return version ? rvt_nvml_string(version, length, page->driver_string) : NVML_ERROR_INVALID_ARGUMENT;
}

/* NVML's own version is the CUDA major followed by the driver's. */
RVT_API nvml_ret nvmlSystemGetNVMLVersion(char *version, unsigned length) {
  struct rvt_device_page *page = rvt_nvml_page();
  if (!page) return NVML_ERROR_UNINITIALIZED;
  if (!version) return NVML_ERROR_INVALID_ARGUMENT;
  char text[64];
  snprintf(text, sizeof text, "%d.%s", page->driver_version / 1000, page->driver_string);
  return rvt_nvml_string(version, length, text);
}

RVT_API nvml_ret nvmlSystemGetCudaDriverVersion_v2(int *version) {
  struct rvt_device_page *page = rvt_nvml_page();
  if (!page) return NVML_ERROR_UNINITIALIZED;
  if (!version) return NVML_ERROR_INVALID_ARGUMENT;
  *version = page->driver_version;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

RVT_API nvml_ret nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length) {
  if (!rvt_nvml_page()) return NVML_ERROR_UNINITIALIZED;
  if (!name || !length) return NVML_ERROR_INVALID_ARGUMENT;
  char path[64], text[256];
  snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
  rvt_internal_begin();
  FILE *file = fopen(path, "re");
  size_t read = file ? fread(text, 1, sizeof text - 1, file) : 0;
  if (file) fclose(file);
  rvt_internal_end();
  if (!read) return NVML_ERROR_NOT_FOUND;
  text[read] = 0;
  return rvt_nvml_string(name, length, text);
}

/* --- devices ------------------------------------------------------------------------------------------- */

RVT_API nvml_ret nvmlDeviceGetCount_v2(unsigned *count) {
  struct rvt_device_page *page = rvt_nvml_page();
  if (!page) return NVML_ERROR_UNINITIALIZED;
  if (!count) return NVML_ERROR_INVALID_ARGUMENT;
  *count = page->gpu_count;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }

RVT_API nvml_ret nvmlDeviceGetHandleByIndex_v2(unsigned index, nvml_device *device) {
  struct rvt_device_page *page = rvt_nvml_page();
  if (!page) return NVML_ERROR_UNINITIALIZED;
  if (!device || index >= page->gpu_count) return NVML_ERROR_INVALID_ARGUMENT;
  *device = &page->gpus[index];
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetHandleByIndex(unsigned index, nvml_device *device) {
  return nvmlDeviceGetHandleByIndex_v2(index, device);
}

RVT_API nvml_ret nvmlDeviceGetHandleByUUID(const char *uuid, nvml_device *device) {
  struct rvt_device_page *page = rvt_nvml_page();
  if (!page) return NVML_ERROR_UNINITIALIZED;
  if (!uuid || !device) return NVML_ERROR_INVALID_ARGUMENT;
  for (unsigned i = 0; i < page->gpu_count; i++) {
    /* Real NVML accepts any unambiguous prefix that CUDA_VISIBLE_DEVICES may hold. */
    size_t n = strlen(uuid);
    if (n && n <= sizeof page->gpus[i].uuid && strncasecmp(page->gpus[i].uuid, uuid, n) == 0) {
      *device = &page->gpus[i];
      return NVML_SUCCESS;
    }
  }
  return NVML_ERROR_NOT_FOUND;
}

struct nvml_uuid { /* nvmlUUID_v1_t */
  unsigned version, type;
  union {
    char text[41];
    unsigned char bytes[16];
  } value;
};

static void uuid_bytes(const char *uuid, unsigned char bytes[16]) {
  int nibble = 0;
  memset(bytes, 0, 16);
  for (const char *c = uuid + 4; nibble < 32 && c < uuid + 40; c++) { /* GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx */
    if (*c == '-') continue;
    int value = *c <= '9' ? *c - '0' : (*c | 32) - 'a' + 10;
    bytes[nibble / 2] |= (unsigned char)((value & 15) << (nibble % 2 ? 0 : 4));
    nibble++;
  }
}

RVT_API nvml_ret nvmlDeviceGetHandleByUUIDV(const struct nvml_uuid *uuid, nvml_device *device) {
  struct rvt_device_page *page = rvt_nvml_page();
  if (!page) return NVML_ERROR_UNINITIALIZED;
  if (!uuid || !device) return NVML_ERROR_INVALID_ARGUMENT;
  if (uuid->type == 1) return nvmlDeviceGetHandleByUUID(uuid->value.text, device); /* 1: text, 2: binary */
  for (unsigned i = 0; i < page->gpu_count; i++) {
    unsigned char bytes[16];
    uuid_bytes(page->gpus[i].uuid, bytes);
    if (memcmp(bytes, uuid->value.bytes, 16) == 0) {
      *device = &page->gpus[i];
      return NVML_SUCCESS;
    }
  }
  return NVML_ERROR_NOT_FOUND;
}

void rvt_nvml_pci(const struct rvt_gpu *gpu, struct nvml_pci_info *info) {
  memset(info, 0, sizeof *info);
  sscanf(gpu->pci_bus_id, "%x:%x:%x", &info->domain, &info->bus, &info->device);
  /* Chip ids matter to nobody who only reads them for display; the vendor half (0x10DE) is checked by some. */
  info->pci_device_id = 0x10DE | ((unsigned)(gpu->cc_major * 16 + gpu->cc_minor) << 16);
  info->pci_subsystem_id = 0x10DE;
  snprintf(info->bus_id, sizeof info->bus_id, "%08X:%02X:%02X.0", info->domain & 0xFFFFFFFFu, info->bus & 0xFFu,
           info->device & 0xFFu);
  snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "%04X:%02X:%02X.0", info->domain & 0xFFFFu,
           info->bus & 0xFFu, info->device & 0xFFu);
}

RVT_API nvml_ret nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvml_device *device) {
  struct rvt_device_page *page = rvt_nvml_page();
  if (!page) return NVML_ERROR_UNINITIALIZED;
  unsigned domain = 0, bus = 0, slot = 0;
  if (!bus_id || !device) return NVML_ERROR_INVALID_ARGUMENT;
  if (sscanf(bus_id, "%x:%x:%x", &domain, &bus, &slot) != 3) {
    domain = 0; /* the domain may be left out */
    if (sscanf(bus_id, "%x:%x", &bus, &slot) != 2) return NVML_ERROR_INVALID_ARGUMENT;
  }
  for (unsigned i = 0; i < page->gpu_count; i++) {
    struct nvml_pci_info info;
    rvt_nvml_pci(&page->gpus[i], &info);
    if (info.domain == domain && info.bus == bus && info.device == slot) {
      *device = &page->gpus[i];
      return NVML_SUCCESS;
    }
  }
  return NVML_ERROR_NOT_FOUND;
}

RVT_API nvml_ret nvmlDeviceGetHandleByPciBusId(const char *bus_id, nvml_device *device) {
  return nvmlDeviceGetHandleByPciBusId_v2(bus_id, device);
}

RVT_API nvml_ret nvmlDeviceGetHandleBySerial(const char *serial, nvml_device *device) {
  return rvt_nvml_page() ? NVML_ERROR_NOT_FOUND : NVML_ERROR_UNINITIALIZED;
}

RVT_API nvml_ret nvmlDeviceGetIndex(nvml_device device, unsigned *out) {
  NVML_DEVICE(device, out);
  *out = (unsigned)index;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetMinorNumber(nvml_device device, unsigned *out) { return nvmlDeviceGetIndex(device, out); }
RVT_API nvml_ret nvmlDeviceGetModuleId(nvml_device device, unsigned *out) { return nvmlDeviceGetIndex(device, out); }

RVT_API nvml_ret nvmlDeviceGetName(nvml_device device, char *name, unsigned length) {
  NVML_DEVICE(device, name);
  return field_string(name, length, gpu->name, sizeof gpu->name);
}

RVT_API nvml_ret nvmlDeviceGetUUID(nvml_device device, char *uuid, unsigned length) {
  NVML_DEVICE(device, uuid);
  return field_string(uuid, length, gpu->uuid, sizeof gpu->uuid);
}

RVT_API nvml_ret nvmlDeviceGetPciInfo_v3(nvml_device device, struct nvml_pci_info *info) {
  NVML_DEVICE(device, info);
  rvt_nvml_pci(gpu, info);
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetPciInfo_v2(nvml_device device, struct nvml_pci_info *info) {
  return nvmlDeviceGetPciInfo_v3(device, info);
}

RVT_API nvml_ret nvmlDeviceGetPciInfo(nvml_device device, struct nvml_pci_info *info) {
  return nvmlDeviceGetPciInfo_v3(device, info);
}

RVT_API nvml_ret nvmlDeviceGetCudaComputeCapability(nvml_device device, int *major, int *minor) {
  NVML_DEVICE(device, major && minor);
  *major = gpu->cc_major;
  *minor = gpu->cc_minor;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetArchitecture(nvml_device device, unsigned *architecture) {
  NVML_DEVICE(device, architecture);
  enum { AMPERE = 7, ADA = 8, HOPPER = 9, BLACKWELL = 10 };
  if (gpu->cc_major >= 10) *architecture = BLACKWELL;
  else if (gpu->cc_major == 9) *architecture = HOPPER;
  else *architecture = gpu->cc_minor == 9 ? ADA : AMPERE;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetBrand(nvml_device device, unsigned *brand) {
  NVML_DEVICE(device, brand);
  enum { GEFORCE = 5, NVIDIA = 14 };
  *brand = strstr(gpu->name, "GeForce") ? GEFORCE : NVIDIA;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetNumGpuCores(nvml_device device, unsigned *cores) {
  NVML_DEVICE(device, cores);
  *cores = (unsigned)gpu->sm_count * (gpu->cc_major == 8 && gpu->cc_minor == 0 ? 64 : 128);
  return NVML_SUCCESS;
}

struct nvml_attributes {
  unsigned sm_count, copy_engines, decoders, encoders, jpegs, ofas, gi_slices, ci_slices;
  unsigned long long memory_mib;
};

RVT_API nvml_ret nvmlDeviceGetAttributes_v2(nvml_device device, struct nvml_attributes *out) {
  NVML_DEVICE(device, out);
  return NVML_ERROR_NOT_SUPPORTED; /* MIG instances only, as on a card that is not partitioned */
}

/* --- memory and processes ------------------------------------------------------------------------------ */

struct nvml_memory {
  unsigned long long total, free, used;
};
struct nvml_memory_v2 {
  unsigned version;
  unsigned long long total, reserved, free, used;
};

/* NVML's total is a little larger than CUDA's: firmware and page tables are in its "reserved". Version 1 counts
 * that part as used, version 2 names it. */
RVT_API nvml_ret nvmlDeviceGetMemoryInfo_v2(nvml_device device, struct nvml_memory_v2 *out) {
  NVML_DEVICE(device, out);
  if (out->version != 0x02000028u) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  uint64_t total = gpu->nvml_total_bytes ? gpu->nvml_total_bytes : gpu->total_bytes;
  uint64_t used = __atomic_load_n(&page->use[index].used_bytes, __ATOMIC_RELAXED);
  uint64_t reserved = (total - gpu->total_bytes) + gpu->reserved_bytes;
  out->total = total;
  out->reserved = reserved;
  out->used = used;
  out->free = total > used + reserved ? total - used - reserved : 0;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetMemoryInfo(nvml_device device, struct nvml_memory *out) {
  NVML_DEVICE(device, out);
  struct nvml_memory_v2 all = {.version = 0x02000028u};
  nvmlDeviceGetMemoryInfo_v2(device, &all);
  out->total = all.total;
  out->free = all.free;
  out->used = all.used + all.reserved;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetBAR1MemoryInfo(nvml_device device, struct nvml_memory *out) {
  NVML_DEVICE(device, out);
  uint64_t bar1 = 1;
  while (bar1 < gpu->total_bytes) bar1 <<= 1; /* resizable BAR: the next power of two */
  *out = (struct nvml_memory){.total = bar1, .free = bar1, .used = 0};
  return NVML_SUCCESS;
}

struct nvml_process_v1 {
  unsigned pid;
  unsigned long long used_bytes;
};
struct nvml_process_v2 {
  unsigned pid;
  unsigned long long used_bytes;
  unsigned gpu_instance, compute_instance;
};

/* Fills `out` (either layout) with the processes that hold a context; a null or short array gets the count. */
static nvml_ret compute_processes(nvml_device device, unsigned *count, void *out, size_t stride) {
  NVML_DEVICE(device, count);
  unsigned found = 0, room = out ? *count : 0;
  for (int i = 0; i < RVT_MAX_GPU_CLIENTS; i++) {
    const struct rvt_gpu_client *client = &page->clients[i];
    int pid = __atomic_load_n(&client->pid, __ATOMIC_ACQUIRE);
    if (pid <= 0 || client->gpu != index) continue;
    if (found < room) {
      struct nvml_process_v1 *process = (struct nvml_process_v1 *)((char *)out + found * stride);
      process->pid = (unsigned)pid;
      process->used_bytes = __atomic_load_n(&client->used_bytes, __ATOMIC_RELAXED);
      if (stride == sizeof(struct nvml_process_v2)) {
        struct nvml_process_v2 *longer = (struct nvml_process_v2 *)process;
        longer->gpu_instance = longer->compute_instance = 0xFFFFFFFFu; /* not a MIG instance */
      }
    }
    found++;
  }
  nvml_ret result = found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
  *count = found;
  return result;
}

RVT_API nvml_ret nvmlDeviceGetComputeRunningProcesses(nvml_device device, unsigned *count, void *out) {
  return compute_processes(device, count, out, sizeof(struct nvml_process_v1));
}
RVT_API nvml_ret nvmlDeviceGetComputeRunningProcesses_v2(nvml_device device, unsigned *count, void *out) {
  return compute_processes(device, count, out, sizeof(struct nvml_process_v2));
}
RVT_API nvml_ret nvmlDeviceGetComputeRunningProcesses_v3(nvml_device device, unsigned *count, void *out) {
  return compute_processes(device, count, out, sizeof(struct nvml_process_v2));
}

static nvml_ret no_processes(nvml_device device, unsigned *count) {
  NVML_DEVICE(device, count);
  *count = 0;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetGraphicsRunningProcesses(nvml_device device, unsigned *count, void *out) {
  return no_processes(device, count);
}
RVT_API nvml_ret nvmlDeviceGetGraphicsRunningProcesses_v2(nvml_device device, unsigned *count, void *out) {
  return no_processes(device, count);
}
RVT_API nvml_ret nvmlDeviceGetGraphicsRunningProcesses_v3(nvml_device device, unsigned *count, void *out) {
  return no_processes(device, count);
}
RVT_API nvml_ret nvmlDeviceGetMPSComputeRunningProcesses(nvml_device device, unsigned *count, void *out) {
  return no_processes(device, count);
}
RVT_API nvml_ret nvmlDeviceGetMPSComputeRunningProcesses_v2(nvml_device device, unsigned *count, void *out) {
  return no_processes(device, count);
}
RVT_API nvml_ret nvmlDeviceGetMPSComputeRunningProcesses_v3(nvml_device device, unsigned *count, void *out) {
  return no_processes(device, count);
}

/* --- modes --------------------------------------------------------------------------------------------- */

RVT_API nvml_ret nvmlDeviceGetComputeMode(nvml_device device, unsigned *mode) {
  NVML_DEVICE(device, mode);
  *mode = 0; /* default: several processes may share the card */
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetPersistenceMode(nvml_device device, unsigned *mode) {
  NVML_DEVICE(device, mode);
  *mode = 1;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetMigMode(nvml_device device, unsigned *current, unsigned *pending) {
  NVML_DEVICE(device, current && pending);
  *current = *pending = 0;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceIsMigDeviceHandle(nvml_device device, unsigned *mig) {
  NVML_DEVICE(device, mig);
  *mig = 0;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetMaxMigDeviceCount(nvml_device device, unsigned *count) {
  NVML_DEVICE(device, count);
  *count = 0;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetEccMode(nvml_device device, unsigned *current, unsigned *pending) {
  NVML_DEVICE(device, current && pending);
  enum { CU_ECC_ENABLED = 32 };
  *current = *pending = gpu->attr[CU_ECC_ENABLED] ? 1 : 0;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetDisplayMode(nvml_device device, unsigned *mode) {
  NVML_DEVICE(device, mode);
  *mode = 0;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetDisplayActive(nvml_device device, unsigned *mode) {
  return nvmlDeviceGetDisplayMode(device, mode);
}

RVT_API nvml_ret nvmlDeviceGetTotalEccErrors(nvml_device device, unsigned type, unsigned counter,
                                             unsigned long long *errors) {
  NVML_DEVICE(device, errors);
  *errors = 0;
  return NVML_SUCCESS;
}

struct nvml_cc_settings { /* nvmlSystemConfComputeSettings_v1_t */
  unsigned version, environment, cc_feature, dev_tools_mode, multi_gpu_mode;
};

RVT_API nvml_ret nvmlSystemGetConfComputeSettings(struct nvml_cc_settings *settings) {
  if (!rvt_nvml_page()) return NVML_ERROR_UNINITIALIZED;
  if (!settings) return NVML_ERROR_INVALID_ARGUMENT;
  if (settings->version != 0x1000014u) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  *settings = (struct nvml_cc_settings){.version = settings->version};
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlSystemGetConfComputeState(unsigned *state) {
  if (!rvt_nvml_page()) return NVML_ERROR_UNINITIALIZED;
  if (!state) return NVML_ERROR_INVALID_ARGUMENT;
  memset(state, 0, 3 * sizeof *state); /* environment, feature, developer tools: all off */
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlSystemGetConfComputeCapabilities(unsigned *capabilities) {
  if (!rvt_nvml_page()) return NVML_ERROR_UNINITIALIZED;
  if (!capabilities) return NVML_ERROR_INVALID_ARGUMENT;
  memset(capabilities, 0, 2 * sizeof *capabilities);
  return NVML_SUCCESS;
}
