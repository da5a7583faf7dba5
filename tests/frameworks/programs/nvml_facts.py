"""Asks NVML what monitoring tools, torch and vLLM ask; prints the answers as one JSON line."""

import json
import os

import pynvml as nvml

nvml.nvmlInit()
facts: dict[str, object] = {
    "driver": nvml.nvmlSystemGetDriverVersion(),
    "cuda": nvml.nvmlSystemGetCudaDriverVersion(),
    "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
    "gpus": [],
}
handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
for i, handle in enumerate(handles):
    memory, detailed = nvml.nvmlDeviceGetMemoryInfo(handle), nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
    fabric = nvml.c_nvmlGpuFabricInfo_v2_t()
    nvml.nvmlDeviceGetGpuFabricInfoV(handle, nvml.byref(fabric))
    pci = nvml.nvmlDeviceGetPciInfo(handle)
    links = [nvml.NVML_FI_DEV_NVLINK_LINK_COUNT, nvml.NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON]
    fields = nvml.nvmlDeviceGetFieldValues(handle, links)
    facts["gpus"].append({
        "name": nvml.nvmlDeviceGetName(handle),
        "uuid": nvml.nvmlDeviceGetUUID(handle),
        "capability": nvml.nvmlDeviceGetCudaComputeCapability(handle),
        "index": nvml.nvmlDeviceGetIndex(handle),
        "by_uuid": nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(nvml.nvmlDeviceGetUUID(handle))),
        "by_pci": nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByPciBusId(pci.busId)),
        "bytes": [memory.total, memory.free, memory.used],
        "bytes_v2": [detailed.total, detailed.free, detailed.used, detailed.reserved],
        "processes": len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)),
        "links": fields[0].value.uiVal,
        "link_mbps": fields[1].value.uiVal if fields[1].nvmlReturn == 0 else None,
        "link_0": nvml.nvmlDeviceGetNvLinkState(handle, 0) if fields[0].value.uiVal else None,
        "fabric": fabric.state,
        "watts": nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "limit_watts": nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        "mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "utilisation": nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "peers": [nvml.nvmlDeviceGetP2PStatus(handle, other, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
                  for j, other in enumerate(handles) if j != i],
    })  # fmt: skip
nvml.nvmlShutdown()
try:
    nvml.nvmlDeviceGetCount()
    facts["after_shutdown"] = "answers"
except nvml.NVMLError_Uninitialized:
    facts["after_shutdown"] = "uninitialized"
print(json.dumps(facts))
