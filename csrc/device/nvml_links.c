/* NVML: what connects the GPUs: P2P, NVLink, fabric, PCIe topology, NUMA and CPU affinity, field values. */
#define _GNU_SOURCE
#include <sched.h>
#include <string.h>

#include "device/nvml.h"

/* MB/s of one NVLink link in one direction, by NVML's version number (4: 3.0 ... 7: 5.0). */
static unsigned link_mbps(const struct rvt_gpu *gpu) {
  switch (gpu->nvlink_version) {
  case 7:
  case 5: return 53125; /* the catalogue may give the marketing generation: 5 = NVLink 5 */
  case 6:
  case 4: return 26562;
  default: return 25781;
  }
}

/* NVML numbers NVLink versions 3.0 = 4, 3.1 = 5, 4.0 = 6, 5.0 = 7; the catalogue holds the generation. */
static unsigned nvml_link_version(const struct rvt_gpu *gpu) {
  switch (gpu->nvlink_version) {
  case 3: return 4;
  case 4: return 6;
  case 5: return 7;
  default: return 0;
  }
}

static bool linked(const struct rvt_device_page *page, int a, int b) {
  return a != b && page->peer_access && page->gpus[a].nvlinks > 0 && page->gpus[b].nvlinks > 0;
}

RVT_API nvml_ret nvmlDeviceGetP2PStatus(nvml_device device, nvml_device peer, unsigned what, unsigned *status) {
  enum { READ = 0, WRITE = 1, NVLINK = 2, ATOMICS = 3, PCI = 4 };
  enum { OK = 0, NOT_SUPPORTED = 5 };
  NVML_DEVICE(device, status);
  int other = rvt_nvml_index(peer);
  if (other < 0 || what > PCI) return NVML_ERROR_INVALID_ARGUMENT;
  bool nvlink = linked(page, index, other);
  bool ok = what == NVLINK ? nvlink : what == ATOMICS ? nvlink : what == PCI ? !nvlink : true;
  *status = ok && page->peer_access ? OK : NOT_SUPPORTED;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetNvLinkState(nvml_device device, unsigned link, unsigned *active) {
  NVML_DEVICE(device, active);
  if (gpu->nvlinks == 0) return NVML_ERROR_NOT_SUPPORTED;
  if (link >= (unsigned)gpu->nvlinks) return NVML_ERROR_INVALID_ARGUMENT;
  *active = 1;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetNvLinkVersion(nvml_device device, unsigned link, unsigned *version) {
  NVML_DEVICE(device, version);
  if (gpu->nvlinks == 0) return NVML_ERROR_NOT_SUPPORTED;
  if (link >= (unsigned)gpu->nvlinks) return NVML_ERROR_INVALID_ARGUMENT;
  *version = nvml_link_version(gpu);
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetNvLinkCapability(nvml_device device, unsigned link, unsigned what, unsigned *value) {
  enum { P2P = 0, SYSMEM = 1, P2P_ATOMICS = 2, SYSMEM_ATOMICS = 3, SLI = 4, VALID = 5 };
  NVML_DEVICE(device, value);
  if (gpu->nvlinks == 0) return NVML_ERROR_NOT_SUPPORTED;
  if (link >= (unsigned)gpu->nvlinks || what > VALID) return NVML_ERROR_INVALID_ARGUMENT;
  *value = what == P2P || what == P2P_ATOMICS || what == VALID;
  return NVML_SUCCESS;
}

/* The links of a data-centre card end in NVSwitch; one switch device stands for them all. */
RVT_API nvml_ret nvmlDeviceGetNvLinkRemotePciInfo_v2(nvml_device device, unsigned link, struct nvml_pci_info *info) {
  NVML_DEVICE(device, info);
  if (gpu->nvlinks == 0) return NVML_ERROR_NOT_SUPPORTED;
  if (link >= (unsigned)gpu->nvlinks) return NVML_ERROR_INVALID_ARGUMENT;
  *info = (struct nvml_pci_info){
      .bus = 0x01, .pci_device_id = 0x22A310DE, .bus_id = "00000000:01:00.0", .bus_id_legacy = "0000:01:00.0"};
  return NVML_SUCCESS;
}
RVT_API nvml_ret nvmlDeviceGetNvLinkRemotePciInfo(nvml_device device, unsigned link, struct nvml_pci_info *info) {
  return nvmlDeviceGetNvLinkRemotePciInfo_v2(device, link, info);
}

RVT_API nvml_ret nvmlDeviceGetNvLinkRemoteDeviceType(nvml_device device, unsigned link, unsigned *type) {
  enum { SWITCH = 2 };
  NVML_DEVICE(device, type);
  if (gpu->nvlinks == 0) return NVML_ERROR_NOT_SUPPORTED;
  if (link >= (unsigned)gpu->nvlinks) return NVML_ERROR_INVALID_ARGUMENT;
  *type = SWITCH;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetNvLinkErrorCounter(nvml_device device, unsigned link, unsigned counter,
                                                 unsigned long long *count) {
  NVML_DEVICE(device, count);
  *count = 0;
  return NVML_SUCCESS;
}

/* --- fabric -------------------------------------------------------------------------------------------- */

enum { FABRIC_NOT_SUPPORTED = 0, FABRIC_COMPLETED = 3 };

struct nvml_fabric {
  unsigned char cluster[16];
  unsigned status, clique, state;
};
struct nvml_fabric_v { /* versions 2 and 3 differ only in the last byte */
  unsigned version;
  unsigned char cluster[16];
  unsigned status, clique, state, health;
  unsigned char summary;
};

/* An NVSwitch machine of the Hopper generation or later registers with its fabric manager; the cluster is this
 * one node (all-zero id), as on a single HGX board. */
static unsigned fabric_state(const struct rvt_gpu *gpu) {
  return gpu->nvlinks > 0 && gpu->cc_major >= 9 ? FABRIC_COMPLETED : FABRIC_NOT_SUPPORTED;
}

RVT_API nvml_ret nvmlDeviceGetGpuFabricInfo(nvml_device device, struct nvml_fabric *out) {
  NVML_DEVICE(device, out);
  *out = (struct nvml_fabric){.state = fabric_state(gpu)};
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetGpuFabricInfoV(nvml_device device, struct nvml_fabric_v *out) {
  NVML_DEVICE(device, out);
  unsigned version = out->version >> 24, size = out->version & 0xFFFFFFu;
  if ((version != 2 || size != 36) && (version != 3 || size != 40)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  memset(out->cluster, 0, sizeof out->cluster);
  out->status = NVML_SUCCESS;
  out->clique = 0;
  out->state = fabric_state(gpu);
  out->health = 0;
  if (version == 3) out->summary = out->state == FABRIC_COMPLETED ? 1 : 0;
  return NVML_SUCCESS;
}

/* --- host topology ------------------------------------------------------------------------------------- */

RVT_API nvml_ret nvmlDeviceGetTopologyCommonAncestor(nvml_device device, nvml_device peer, unsigned *level) {
  enum { INTERNAL = 0, NODE = 40, SYSTEM = 50 };
  NVML_DEVICE(device, level);
  int other = rvt_nvml_index(peer);
  if (other < 0) return NVML_ERROR_INVALID_ARGUMENT;
  *level = other == index ? INTERNAL : gpu->numa_node == page->gpus[other].numa_node ? NODE : SYSTEM;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetTopologyNearestGpus(nvml_device device, unsigned level, unsigned *count,
                                                  nvml_device *devices) {
  NVML_DEVICE(device, count);
  unsigned room = devices ? *count : 0, found = 0;
  for (unsigned i = 0; i < page->gpu_count; i++) {
    unsigned shared = 0;
    nvmlDeviceGetTopologyCommonAncestor(device, &page->gpus[i], &shared);
    if ((int)i == index || shared > level) continue;
    if (found < room) devices[found] = &page->gpus[i];
    found++;
  }
  *count = found;
  return found > room && devices ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceOnSameBoard(nvml_device device, nvml_device peer, int *same) {
  NVML_DEVICE(device, same);
  *same = device == peer;
  return NVML_SUCCESS;
}

/* The real host decides where threads may run: a virtual NUMA node that this machine lacks would make a
 * framework pin itself to CPUs that do not exist. So: no NUMA node, and the mask of the CPUs that are there. */
RVT_API nvml_ret nvmlDeviceGetNumaNodeId(nvml_device device, unsigned *node) {
  NVML_DEVICE(device, node);
  return NVML_ERROR_NOT_SUPPORTED;
}

static nvml_ret cpu_mask(unsigned words, unsigned long *mask) {
  cpu_set_t set;
  memset(mask, 0, words * sizeof *mask);
  if (sched_getaffinity(0, sizeof set, &set)) return NVML_ERROR_UNKNOWN;
  for (unsigned cpu = 0; cpu < words * 64 && cpu < CPU_SETSIZE; cpu++) {
    if (CPU_ISSET(cpu, &set)) mask[cpu / 64] |= 1ul << cpu % 64;
  }
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetCpuAffinity(nvml_device device, unsigned words, unsigned long *mask) {
  NVML_DEVICE(device, mask && words);
  return cpu_mask(words, mask);
}
RVT_API nvml_ret nvmlDeviceGetCpuAffinityWithinScope(nvml_device device, unsigned words, unsigned long *mask,
                                                     unsigned scope) {
  NVML_DEVICE(device, mask && words);
  return cpu_mask(words, mask);
}
RVT_API nvml_ret nvmlDeviceGetMemoryAffinity(nvml_device device, unsigned words, unsigned long *nodes, unsigned scope) {
  NVML_DEVICE(device, nodes && words);
  memset(nodes, 0, words * sizeof *nodes);
  nodes[0] = 1;
  return NVML_SUCCESS;
}
RVT_API nvml_ret nvmlDeviceSetCpuAffinity(nvml_device device) {
  NVML_DEVICE(device, 1);
  return NVML_SUCCESS;
}
RVT_API nvml_ret nvmlDeviceClearCpuAffinity(nvml_device device) {
  NVML_DEVICE(device, 1);
  return NVML_SUCCESS;
}

/* --- field values -------------------------------------------------------------------------------------- */

struct nvml_field {
  unsigned id, scope;
  long long timestamp, latency_us;
  unsigned type;
  nvml_ret result;
  union {
    double f64;
    unsigned u32;
    unsigned long long u64;
  } value;
};

enum { TYPE_U32 = 1, TYPE_U64 = 3 };
enum {
  FI_ECC_CURRENT = 1,
  FI_ECC_PENDING = 2,
  FI_ENERGY = 83,
  FI_NVLINK_SPEED_L0 = 84,
  FI_NVLINK_SPEED_L5 = 89,
  FI_NVLINK_SPEED_COMMON = 90,
  FI_NVLINK_LINK_COUNT = 91,
  FI_NVLINK_SPEED_L6 = 132,
  FI_NVLINK_SPEED_L11 = 137,
  FI_NVLINK_TX = 138,
  FI_NVLINK_RAW_RX = 141,
  FI_NVLINK_GET_SPEED = 164,
  FI_NVLINK_GET_STATE = 165,
  FI_NVLINK_GET_VERSION = 166,
  FI_C2C_LINK_COUNT = 170,
  FI_POWER_AVERAGE = 185,
  FI_POWER_INSTANT = 186,
  FI_POWER_MIN_LIMIT = 187,
  FI_POWER_CURRENT_LIMIT = 190,
};

nvml_ret nvmlDeviceGetEccMode(nvml_device, unsigned *, unsigned *);
nvml_ret nvmlDeviceGetPowerUsage(nvml_device, unsigned *);
nvml_ret nvmlDeviceGetTotalEnergyConsumption(nvml_device, unsigned long long *);

static void answer(nvml_device device, const struct rvt_gpu *gpu, struct nvml_field *field) {
  unsigned id = field->id, pending;
  field->type = TYPE_U32;
  field->result = NVML_SUCCESS;
  field->value.u64 = 0;
  if (id == FI_ECC_CURRENT || id == FI_ECC_PENDING) {
    nvmlDeviceGetEccMode(device, &field->value.u32, &pending);
  } else if (id == FI_ENERGY) {
    field->type = TYPE_U64;
    nvmlDeviceGetTotalEnergyConsumption(device, &field->value.u64);
  } else if (id == FI_NVLINK_LINK_COUNT) {
    field->value.u32 = (unsigned)gpu->nvlinks;
  } else if (id == FI_C2C_LINK_COUNT) {
    field->value.u32 = 0;
  } else if (id == FI_POWER_AVERAGE || id == FI_POWER_INSTANT) {
    nvmlDeviceGetPowerUsage(device, &field->value.u32);
  } else if (id >= FI_POWER_MIN_LIMIT && id <= FI_POWER_CURRENT_LIMIT) {
    field->value.u32 = (unsigned)gpu->power_limit_mw;
  } else if (gpu->nvlinks == 0) {
    field->result = NVML_ERROR_NOT_SUPPORTED;
  } else if (id == FI_NVLINK_SPEED_COMMON || id == FI_NVLINK_GET_SPEED ||
             (id >= FI_NVLINK_SPEED_L0 && id <= FI_NVLINK_SPEED_L5) ||
             (id >= FI_NVLINK_SPEED_L6 && id <= FI_NVLINK_SPEED_L11)) {
    field->value.u32 = link_mbps(gpu);
  } else if (id == FI_NVLINK_GET_STATE) {
    field->value.u32 = field->scope < (unsigned)gpu->nvlinks;
  } else if (id == FI_NVLINK_GET_VERSION) {
    field->value.u32 = nvml_link_version(gpu);
  } else if (id >= FI_NVLINK_TX && id <= FI_NVLINK_RAW_RX) {
    field->type = TYPE_U64;
  } else {
    field->result = NVML_ERROR_NOT_SUPPORTED;
  }
}

RVT_API nvml_ret nvmlDeviceGetFieldValues(nvml_device device, int count, struct nvml_field *fields) {
  NVML_DEVICE(device, fields);
  for (int i = 0; i < count; i++) {
    fields[i].timestamp = rvt_now_ns() / 1000;
    fields[i].latency_us = 0;
    answer(device, gpu, &fields[i]);
  }
  return NVML_SUCCESS;
}
