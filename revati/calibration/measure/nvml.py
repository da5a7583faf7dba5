"""NVML through ctypes: clocks, temperature, power and identity of a GPU, without a Python package.

A call that the library or the device does not support gives None, with its return code kept for the device facts.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int, c_uint, c_ulonglong, c_void_p, create_string_buffer
from typing import Any

__all__ = ["Nvml"]

CLOCK_GRAPHICS, CLOCK_SM, CLOCK_MEM, CLOCK_VIDEO = 0, 1, 2, 3

# Calls (handle, unsigned *) that describe the device and how it is set; the facts record every answer and return code.
UINT_CALLS = (
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetPowerManagementLimit",
    "nvmlDeviceGetPowerManagementDefaultLimit",
    "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetPersistenceMode",
    "nvmlDeviceGetComputeMode",
    "nvmlDeviceGetPerformanceState",
    "nvmlDeviceGetMemoryBusWidth",
    "nvmlDeviceGetNumGpuCores",
    "nvmlDeviceGetBoardId",
    "nvmlDeviceGetMaxPcieLinkGeneration",
    "nvmlDeviceGetMaxPcieLinkWidth",
    "nvmlDeviceGetCurrPcieLinkGeneration",
    "nvmlDeviceGetCurrPcieLinkWidth",
    "nvmlDeviceGetGpuMaxPcieLinkGeneration",
    "nvmlDeviceGetPcieSpeed",
    "nvmlDeviceGetPcieLinkMaxSpeed",
    "nvmlDeviceGetArchitecture",
    "nvmlDeviceGetBrand",
    "nvmlDeviceGetIndex",
    "nvmlDeviceGetMinorNumber",
    "nvmlDeviceGetMultiGpuBoard",
    "nvmlDeviceGetDisplayMode",
    "nvmlDeviceGetDisplayActive",
    "nvmlDeviceGetFanSpeed",
    "nvmlDeviceGetBusType",
    "nvmlDeviceGetIrqNum",
    "nvmlDeviceGetNumaNodeId",
    "nvmlDeviceGetAdaptiveClockInfoStatus",
)
# Calls (handle, char *, length).
STRING_CALLS = (
    "nvmlDeviceGetName",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetVbiosVersion",
    "nvmlDeviceGetBoardPartNumber",
    "nvmlDeviceGetInforomImageVersion",
)


class _Memory(ctypes.Structure):
    _fields_ = [("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong)]


class _MemoryV2(ctypes.Structure):
    _fields_ = [
        ("version", c_uint),
        ("total", c_ulonglong),
        ("reserved", c_ulonglong),
        ("free", c_ulonglong),
        ("used", c_ulonglong),
    ]


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", c_uint), ("memory", c_uint)]


class Nvml:
    """One device's NVML handle; raises OSError when there is no driver, RuntimeError when it does not answer."""

    def __init__(self, index: int = 0) -> None:
        self._lib = ctypes.CDLL("libnvidia-ml.so.1")
        if (code := self._lib.nvmlInit_v2()) != 0:
            raise RuntimeError(f"nvmlInit_v2 returned {code}")
        self._handle = c_void_p()
        if (code := self._lib.nvmlDeviceGetHandleByIndex_v2(c_uint(index), byref(self._handle))) != 0:
            raise RuntimeError(f"nvmlDeviceGetHandleByIndex_v2({index}) returned {code}")

    def call(self, name: str, *args: Any) -> int:
        """The return code of `name(handle, *args)`; 13 (function not found) if this driver has no such name."""
        function = getattr(self._lib, name, None)
        return 13 if function is None else int(function(self._handle, *args))

    def uint(self, name: str, *before: Any) -> tuple[int, int | None]:
        """(return code, value) of a call that ends in an unsigned *."""
        value = c_uint()
        code = self.call(name, *before, byref(value))
        return code, value.value if code == 0 else None

    def string(self, name: str) -> tuple[int, str | None]:
        buffer = create_string_buffer(128)
        code = self.call(name, buffer, c_uint(128))
        return code, buffer.value.decode() if code == 0 else None

    def memory(self) -> dict[str, int]:
        """Bytes: total, free, used (v1) and reserved (v2), as NVML reports them."""
        v1, v2 = _Memory(), _MemoryV2()
        v2.version = ctypes.sizeof(_MemoryV2) | (2 << 24)
        answer: dict[str, int] = {}
        if self.call("nvmlDeviceGetMemoryInfo", byref(v1)) == 0:
            answer.update(total=v1.total, free=v1.free, used=v1.used)
        if self.call("nvmlDeviceGetMemoryInfo_v2", byref(v2)) == 0:
            answer.update(reserved=v2.reserved, used_v2=v2.used, free_v2=v2.free)
        return answer

    def reasons(self) -> int | None:
        """Bit mask of why the clocks are where they are (NVML clocks event reasons)."""
        mask = c_ulonglong()
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            if self.call(name, byref(mask)) == 0:
                return mask.value
        return None

    def state(self) -> dict[str, int | float | None]:
        """What changes while measuring: clocks in MHz, temperature in Celsius, power in W, reasons bit mask."""
        power = self.uint("nvmlDeviceGetPowerUsage")[1]
        return {
            "sm_mhz": self.uint("nvmlDeviceGetClockInfo", c_int(CLOCK_SM))[1],
            "mem_mhz": self.uint("nvmlDeviceGetClockInfo", c_int(CLOCK_MEM))[1],
            "temp_c": self.uint("nvmlDeviceGetTemperature", c_int(0))[1],
            "power_w": None if power is None else power / 1000,
            "reasons": self.reasons(),
        }

    def identity(self) -> dict[str, Any]:
        """What must not change within a pack: the card, its driver and its clock settings."""
        return {
            "name": self.string("nvmlDeviceGetName")[1],
            "uuid": self.string("nvmlDeviceGetUUID")[1],
            "driver": self._system("nvmlSystemGetDriverVersion"),
            "clocks": {
                "max_sm_mhz": self.uint("nvmlDeviceGetMaxClockInfo", c_int(CLOCK_SM))[1],
                "max_mem_mhz": self.uint("nvmlDeviceGetMaxClockInfo", c_int(CLOCK_MEM))[1],
                "app_sm_mhz": self.uint("nvmlDeviceGetApplicationsClock", c_int(CLOCK_SM))[1],
                "power_limit_w": (self.uint("nvmlDeviceGetEnforcedPowerLimit")[1] or 0) / 1000,
                "persistence": self.uint("nvmlDeviceGetPersistenceMode")[1],
            },
        }

    def answers(self) -> dict[str, Any]:
        """Every fact that the catalogue wants: {call: [return code, value]}."""
        facts: dict[str, Any] = {name: self.string(name) for name in STRING_CALLS}
        facts.update({name: self.uint(name) for name in UINT_CALLS})
        for which in range(4):
            for name in ("nvmlDeviceGetClockInfo", "nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetApplicationsClock"):
                facts[f"{name}({which})"] = self.uint(name, c_int(which))
        for threshold in range(5):
            facts[f"nvmlDeviceGetTemperatureThreshold({threshold})"] = self.uint(
                "nvmlDeviceGetTemperatureThreshold", c_int(threshold)
            )
        for link in range(18):
            facts[f"nvmlDeviceGetNvLinkState({link})"] = self.uint("nvmlDeviceGetNvLinkState", c_uint(link))
        low, high = c_uint(), c_uint()
        code = self.call("nvmlDeviceGetPowerManagementLimitConstraints", byref(low), byref(high))
        facts["nvmlDeviceGetPowerManagementLimitConstraints"] = (code, [low.value, high.value])
        major, minor = c_int(), c_int()
        code = self.call("nvmlDeviceGetCudaComputeCapability", byref(major), byref(minor))
        facts["nvmlDeviceGetCudaComputeCapability"] = (code, [major.value, minor.value])
        code = self.call("nvmlDeviceGetMigMode", byref(low), byref(high))
        facts["nvmlDeviceGetMigMode"] = (code, [low.value, high.value])
        code = self.call("nvmlDeviceGetEccMode", byref(low), byref(high))
        facts["nvmlDeviceGetEccMode"] = (code, [low.value, high.value])
        bar1, use = _Memory(), _Utilization()
        code = self.call("nvmlDeviceGetBAR1MemoryInfo", byref(bar1))
        facts["nvmlDeviceGetBAR1MemoryInfo"] = (code, [bar1.total, bar1.free, bar1.used])
        code = self.call("nvmlDeviceGetUtilizationRates", byref(use))
        facts["nvmlDeviceGetUtilizationRates"] = (code, [use.gpu, use.memory])
        facts["memory"] = (0, self.memory())
        for name in ("nvmlSystemGetDriverVersion", "nvmlSystemGetNVMLVersion"):
            facts[name] = (0, self._system(name))
        version = c_int()
        self._lib.nvmlSystemGetCudaDriverVersion_v2(byref(version))
        facts["nvmlSystemGetCudaDriverVersion_v2"] = (0, version.value)
        return facts

    def _system(self, name: str) -> str:
        buffer = create_string_buffer(96)
        function = getattr(self._lib, name)
        function.argtypes = [c_char_p, c_uint]
        return buffer.value.decode() if function(buffer, 96) == 0 else ""
