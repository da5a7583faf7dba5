/* NVML: clocks, power, temperature and utilisation.
 *
 * The virtual card has no physics. Clocks are the catalogue's boost clocks, which is what the duration model
 * assumes; power and temperature are a plain function of how busy the timeline was, so that monitoring code
 * shows something sensible, and nothing in the product reads them back.
 */
#include <string.h>

#include "device/nvml.h"

enum { CLOCK_GRAPHICS = 0, CLOCK_SM = 1, CLOCK_MEM = 2, CLOCK_VIDEO = 3, CLOCK_COUNT = 4 };

static unsigned clock_mhz(const struct rvt_gpu *gpu, unsigned type) {
  return (unsigned)(type == CLOCK_MEM ? gpu->mem_clock_khz : gpu->clock_khz) / 1000;
}

/* Busy share of the virtual time since this process last asked, 0..100. */
static unsigned busy_percent(struct rvt_device_page *page, int index) {
  static struct {
    uint64_t busy_ns;
    int64_t now_ns;
    unsigned percent;
  } last[RVT_MAX_GPUS];
  uint64_t busy_ns = __atomic_load_n(&page->use[index].busy_ns, __ATOMIC_RELAXED);
  int64_t now_ns = rvt_now_ns();
  int64_t span_ns = now_ns - last[index].now_ns;
  if (span_ns >= 10 * 1000 * 1000) {
    uint64_t share = (busy_ns - last[index].busy_ns) * 100 / (uint64_t)span_ns;
    last[index].percent = share > 100 ? 100 : (unsigned)share;
    last[index].busy_ns = busy_ns;
    last[index].now_ns = now_ns;
  }
  return last[index].percent;
}

static unsigned power_mw(struct rvt_device_page *page, int index) {
  uint64_t limit = (uint64_t)page->gpus[index].power_limit_mw;
  uint64_t idle = limit / 10;
  return (unsigned)(idle + (limit - idle) * busy_percent(page, index) / 100);
}

RVT_API nvml_ret nvmlDeviceGetClockInfo(nvml_device device, unsigned type, unsigned *mhz) {
  NVML_DEVICE(device, mhz);
  if (type >= CLOCK_COUNT) return NVML_ERROR_INVALID_ARGUMENT;
  *mhz = clock_mhz(gpu, type);
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetMaxClockInfo(nvml_device device, unsigned type, unsigned *mhz) {
  return nvmlDeviceGetClockInfo(device, type, mhz);
}
RVT_API nvml_ret nvmlDeviceGetMaxCustomerBoostClock(nvml_device device, unsigned type, unsigned *mhz) {
  return nvmlDeviceGetClockInfo(device, type, mhz);
}
RVT_API nvml_ret nvmlDeviceGetApplicationsClock(nvml_device device, unsigned type, unsigned *mhz) {
  return nvmlDeviceGetClockInfo(device, type, mhz);
}
RVT_API nvml_ret nvmlDeviceGetDefaultApplicationsClock(nvml_device device, unsigned type, unsigned *mhz) {
  return nvmlDeviceGetClockInfo(device, type, mhz);
}
RVT_API nvml_ret nvmlDeviceGetClock(nvml_device device, unsigned type, unsigned id, unsigned *mhz) {
  return nvmlDeviceGetClockInfo(device, type, mhz);
}

static nvml_ret one_clock(nvml_device device, unsigned type, unsigned *count, unsigned *mhz) {
  NVML_DEVICE(device, count);
  unsigned room = mhz ? *count : 0;
  *count = 1;
  if (room < 1) return NVML_ERROR_INSUFFICIENT_SIZE;
  *mhz = clock_mhz(gpu, type);
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetSupportedMemoryClocks(nvml_device device, unsigned *count, unsigned *mhz) {
  return one_clock(device, CLOCK_MEM, count, mhz);
}
RVT_API nvml_ret nvmlDeviceGetSupportedGraphicsClocks(nvml_device device, unsigned memory_mhz, unsigned *count,
                                                      unsigned *mhz) {
  return one_clock(device, CLOCK_GRAPHICS, count, mhz);
}

RVT_API nvml_ret nvmlDeviceGetPerformanceState(nvml_device device, unsigned *state) {
  NVML_DEVICE(device, state);
  *state = 0; /* P0 */
  return NVML_SUCCESS;
}
RVT_API nvml_ret nvmlDeviceGetPowerState(nvml_device device, unsigned *state) {
  return nvmlDeviceGetPerformanceState(device, state);
}

RVT_API nvml_ret nvmlDeviceGetCurrentClocksEventReasons(nvml_device device, unsigned long long *reasons) {
  NVML_DEVICE(device, reasons);
  *reasons = 0;
  return NVML_SUCCESS;
}
RVT_API nvml_ret nvmlDeviceGetCurrentClocksThrottleReasons(nvml_device device, unsigned long long *reasons) {
  return nvmlDeviceGetCurrentClocksEventReasons(device, reasons);
}

RVT_API nvml_ret nvmlDeviceGetPowerUsage(nvml_device device, unsigned *mw) {
  NVML_DEVICE(device, mw);
  *mw = power_mw(page, index);
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetPowerManagementLimit(nvml_device device, unsigned *mw) {
  NVML_DEVICE(device, mw);
  *mw = (unsigned)gpu->power_limit_mw;
  return NVML_SUCCESS;
}
RVT_API nvml_ret nvmlDeviceGetEnforcedPowerLimit(nvml_device device, unsigned *mw) {
  return nvmlDeviceGetPowerManagementLimit(device, mw);
}
RVT_API nvml_ret nvmlDeviceGetPowerManagementDefaultLimit(nvml_device device, unsigned *mw) {
  return nvmlDeviceGetPowerManagementLimit(device, mw);
}
RVT_API nvml_ret nvmlDeviceGetPowerManagementLimitConstraints(nvml_device device, unsigned *low, unsigned *high) {
  NVML_DEVICE(device, low && high);
  *low = *high = (unsigned)gpu->power_limit_mw;
  return NVML_SUCCESS;
}
RVT_API nvml_ret nvmlDeviceGetPowerManagementMode(nvml_device device, unsigned *mode) {
  NVML_DEVICE(device, mode);
  *mode = 1;
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetTotalEnergyConsumption(nvml_device device, unsigned long long *mj) {
  NVML_DEVICE(device, mj);
  uint64_t busy_ns = __atomic_load_n(&page->use[index].busy_ns, __ATOMIC_RELAXED);
  /* mW times s is mJ; the busy time draws the limit, the idle rest is left out. */
  *mj = (unsigned long long)((double)busy_ns * 1e-9 * gpu->power_limit_mw);
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetTemperature(nvml_device device, unsigned sensor, unsigned *celsius) {
  NVML_DEVICE(device, celsius);
  *celsius = 30 + busy_percent(page, index) * 40 / 100;
  return NVML_SUCCESS;
}

struct nvml_temperature { /* nvmlTemperature_v1_t */
  unsigned version, sensor;
  int celsius;
};
RVT_API nvml_ret nvmlDeviceGetTemperatureV(nvml_device device, struct nvml_temperature *out) {
  NVML_DEVICE(device, out);
  if (out->version != 0x100000Cu) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  return nvmlDeviceGetTemperature(device, out->sensor, (unsigned *)&out->celsius);
}

RVT_API nvml_ret nvmlDeviceGetTemperatureThreshold(nvml_device device, unsigned kind, unsigned *celsius) {
  NVML_DEVICE(device, celsius);
  *celsius = kind == 0 ? 92 : 89; /* 0: shutdown; the rest: slow-down and limits */
  return NVML_SUCCESS;
}

RVT_API nvml_ret nvmlDeviceGetFanSpeed(nvml_device device, unsigned *percent) {
  NVML_DEVICE(device, percent);
  return NVML_ERROR_NOT_SUPPORTED; /* data-centre cards have no fan */
}
RVT_API nvml_ret nvmlDeviceGetNumFans(nvml_device device, unsigned *count) {
  NVML_DEVICE(device, count);
  *count = 0;
  return NVML_SUCCESS;
}

struct nvml_utilization {
  unsigned gpu, memory;
};
RVT_API nvml_ret nvmlDeviceGetUtilizationRates(nvml_device device, struct nvml_utilization *out) {
  NVML_DEVICE(device, out);
  out->gpu = busy_percent(page, index);
  out->memory = out->gpu / 2;
  return NVML_SUCCESS;
}

static nvml_ret idle_engine(nvml_device device, unsigned *percent, unsigned *period_us) {
  NVML_DEVICE(device, percent && period_us);
  *percent = 0;
  *period_us = 166000;
  return NVML_SUCCESS;
}
RVT_API nvml_ret nvmlDeviceGetEncoderUtilization(nvml_device device, unsigned *percent, unsigned *period_us) {
  return idle_engine(device, percent, period_us);
}
RVT_API nvml_ret nvmlDeviceGetDecoderUtilization(nvml_device device, unsigned *percent, unsigned *period_us) {
  return idle_engine(device, percent, period_us);
}

/* --- host link ----------------------------------------------------------------------------------------- */

RVT_API nvml_ret nvmlDeviceGetCurrPcieLinkGeneration(nvml_device device, unsigned *generation) {
  NVML_DEVICE(device, generation);
  *generation = (unsigned)gpu->pcie_gen;
  return NVML_SUCCESS;
}
RVT_API nvml_ret nvmlDeviceGetMaxPcieLinkGeneration(nvml_device device, unsigned *generation) {
  return nvmlDeviceGetCurrPcieLinkGeneration(device, generation);
}
RVT_API nvml_ret nvmlDeviceGetGpuMaxPcieLinkGeneration(nvml_device device, unsigned *generation) {
  return nvmlDeviceGetCurrPcieLinkGeneration(device, generation);
}
RVT_API nvml_ret nvmlDeviceGetCurrPcieLinkWidth(nvml_device device, unsigned *lanes) {
  NVML_DEVICE(device, lanes);
  *lanes = (unsigned)gpu->pcie_width;
  return NVML_SUCCESS;
}
RVT_API nvml_ret nvmlDeviceGetMaxPcieLinkWidth(nvml_device device, unsigned *lanes) {
  return nvmlDeviceGetCurrPcieLinkWidth(device, lanes);
}

/* MB/s of one lane after encoding, by PCIe generation. */
RVT_API nvml_ret nvmlDeviceGetPcieSpeed(nvml_device device, unsigned *mbps) {
  static const unsigned per_lane[] = {0, 2500, 5000, 8000, 16000, 32000, 64000};
  NVML_DEVICE(device, mbps);
  *mbps = per_lane[gpu->pcie_gen >= 1 && gpu->pcie_gen <= 6 ? gpu->pcie_gen : 0];
  return NVML_SUCCESS;
}
RVT_API nvml_ret nvmlDeviceGetPcieThroughput(nvml_device device, unsigned counter, unsigned *kbps) {
  NVML_DEVICE(device, kbps);
  *kbps = 0;
  return NVML_SUCCESS;
}
RVT_API nvml_ret nvmlDeviceGetPcieReplayCounter(nvml_device device, unsigned *count) {
  NVML_DEVICE(device, count);
  *count = 0;
  return NVML_SUCCESS;
}
RVT_API nvml_ret nvmlDeviceGetMemoryBusWidth(nvml_device device, unsigned *bits) {
  NVML_DEVICE(device, bits);
  *bits = (unsigned)gpu->mem_bus_bits;
  return NVML_SUCCESS;
}
RVT_API nvml_ret nvmlDeviceGetVbiosVersion(nvml_device device, char *version, unsigned length) {
  NVML_DEVICE(device, version);
  return rvt_nvml_string(version, length, "96.00.00.00.00");
}
RVT_API nvml_ret nvmlDeviceGetSerial(nvml_device device, char *serial, unsigned length) {
  NVML_DEVICE(device, serial);
  return NVML_ERROR_NOT_SUPPORTED;
}
