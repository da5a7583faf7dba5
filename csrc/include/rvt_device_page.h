/* The device part of the shared page: what the virtual GPUs are (written once by the coordinator from the
 * device catalogue, before the first process starts) and what the run has used (written by every shim).
 * Plain C without pointers; also cffi input, so keep it to declarations.
 */
#ifndef RVT_DEVICE_PAGE_H
#define RVT_DEVICE_PAGE_H

#include <stdint.h>

#define RVT_MAX_GPUS 16
#define RVT_MAX_ATTRS 256
#define RVT_MAX_FAMILIES 16
#define RVT_MAX_SOURCES 4

/* What the target's host spends: one entry per kind of work, in nanoseconds each time. */
enum rvt_host_cost {
  RVT_HOST_LAUNCH = 0,       /* a kernel or library call outside a graph, with the framework's dispatch */
  RVT_HOST_GRAPH_LAUNCH = 1, /* a graph launch */
  RVT_HOST_COPY = 2,         /* an asynchronous copy or memset */
  RVT_HOST_EVENT = 3,        /* record or wait of an event */
  RVT_HOST_MALLOC = 4,       /* cudaMalloc */
  RVT_HOST_STEP = 5,         /* an engine step: scheduling, preparing its inputs, taking in its outputs */
  RVT_HOST_SEQUENCE = 6,     /* each sequence of a step */
  RVT_HOST_REQUEST = 7,      /* a request new to the engine */
  RVT_HOST_OUTPUTS = 8,      /* the API server takes in the outputs of a step */
  RVT_HOST_OUTPUT = 9,       /* each sequence's output there: detokenise, answer */
  RVT_HOST_INPUT = 10,       /* a request at the API server: parse, tokenise, hand over */
  RVT_HOST_COSTS = 11,
};

struct rvt_gpu {
  char name[96];
  char uuid[40];       /* GPU-xxxxxxxx-... */
  char pci_bus_id[16]; /* 00000000:1B:00.0 is 16 with the zero: domain in 8 digits is built on demand */
  int32_t cc_major, cc_minor;
  int32_t sm_count;
  int32_t numa_node;
  uint64_t total_bytes;      /* as cudaMemGetInfo reports total */
  uint64_t nvml_total_bytes; /* as NVML reports total (a little more) */
  uint64_t reserved_bytes;   /* used before any process has a context */
  uint64_t context_bytes;    /* charged for each process that has a context */
  uint64_t l2_bytes;
  int32_t clock_khz, mem_clock_khz, mem_bus_bits;
  int32_t power_limit_mw;
  int32_t nvlinks; /* active NVLink links, 0 on PCIe cards */
  int32_t nvlink_version;
  int32_t pcie_gen, pcie_width;
  int32_t attr[RVT_MAX_ATTRS]; /* CUdevice_attribute value by its number; unused = 0 */
};

struct rvt_gpu_use {
  uint64_t used_bytes; /* atomic: contexts, allocations, modules, graphs of all live processes */
  uint64_t peak_bytes;
  uint64_t busy_ns; /* atomic: sum of predicted durations executed */
};

/* One per process that made a context, so that the memory of a killed process can be given back. */
struct rvt_gpu_client {
  int32_t pid; /* 0 = free; claimed by compare-and-swap */
  int32_t gpu;
  uint64_t used_bytes;
};
#define RVT_MAX_GPU_CLIENTS 128
#define RVT_MAX_OPERATORS 4096

struct rvt_device_page {
  uint32_t abi_version; /* RVT_ABI_VERSION */
  uint32_t gpu_count;
  int32_t driver_version;     /* 13000 = CUDA 13.0 */
  uint32_t peer_access;       /* 1 = all pairs */
  char driver_string[32];     /* 580.65.06 */
  char predictor_socket[108]; /* unix socket of the predictor service; empty = constant durations */
  int64_t constant_kernel_ns; /* used when predictor_socket is empty */
  int64_t host_cost_ns[16];   /* by enum rvt_host_cost; all zero unless the host-time policy is `modelled` */
  struct rvt_gpu gpus[RVT_MAX_GPUS];
  struct rvt_gpu_use use[RVT_MAX_GPUS];
  struct rvt_gpu_client clients[RVT_MAX_GPU_CLIENTS];
  /* Results. All atomic adds with relaxed order. */
  uint64_t time_ns[RVT_MAX_FAMILIES][RVT_MAX_SOURCES];
  uint64_t launches[RVT_MAX_FAMILIES];
  uint64_t operator_ns[RVT_MAX_OPERATORS]; /* of those that no table covers, by the predictor's index */
  uint64_t memo_hits, memo_misses;
  uint64_t unknown_reads; /* read-backs of unknown device bytes that no oracle answered */
  uint64_t oracle_reads;
  uint64_t unsupported_calls;
};

#endif
