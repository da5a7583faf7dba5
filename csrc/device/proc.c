/* cuGetProcAddress and the runtime's driver entry points: names and versions from the generated table. */
#include <string.h>

#include "device/core.h"
#include "device/proc.h"

/* Newest entry of the name that is not newer than `version`; the table is sorted by name, then version. */
static void *find(const char *name, int version, bool *known) {
  long low = 0, high = (long)rvt_proc_count - 1, first = -1;
  while (low <= high) {
    long mid = (low + high) / 2;
    int order = strcmp(rvt_proc_table[mid].name, name);
    if (order == 0) first = mid;
    if (order >= 0) high = mid - 1;
    else low = mid + 1;
  }
  *known = first >= 0;
  void *found = NULL;
  for (long i = first; i >= 0 && i < (long)rvt_proc_count && strcmp(rvt_proc_table[i].name, name) == 0; i++)
    if (rvt_proc_table[i].version <= version) found = rvt_proc_table[i].fn;
  return found;
}

/* CUdriverProcAddressQueryResult: 0 found, 1 no such symbol, 2 version not sufficient. */
static int look_up(const char *name, void **out, int version, int *status) {
  bool known;
  if (!name || !out) return RVT_E_INVALID_VALUE;
  *out = find(name, version, &known);
  if (status) *status = *out ? 0 : known ? 2 : 1;
  return *out ? RVT_OK : RVT_E_NOT_FOUND;
}

RVT_API int cuGetProcAddress_v2(const char *name, void **out, int version, uint64_t flags, int *status) {
  return look_up(name, out, version, status);
}
RVT_API int cuGetProcAddress(const char *name, void **out, int version, uint64_t flags) {
  return look_up(name, out, version, NULL);
}

/* The runtime answers success with a NULL pointer where the driver says "not found". */
RVT_API int cudaGetDriverEntryPointByVersion(const char *name, void **out, unsigned version, unsigned long long flags,
                                             int *status) {
  int rc = look_up(name, out, (int)version, status);
  if (rc == RVT_E_NOT_FOUND) return status ? RVT_OK : rvt_rt(RVT_E_NOT_FOUND);
  return rvt_rt(rc);
}
RVT_API int cudaGetDriverEntryPoint(const char *name, void **out, unsigned long long flags, int *status) {
  return cudaGetDriverEntryPointByVersion(name, out, rvt_cuda_major() >= 13 ? 13000 : 12080, flags, status);
}

/* NVIDIA's private tables are not imitated. A library that asks has a CUDA runtime of its own inside. */
RVT_API int cuGetExportTable(const void **out, const void *id) {
  if (out) *out = NULL;
  return (int)RVT_UNSUPPORTED("cuGetExportTable (a private CUDA runtime inside the calling library)", RVT_E_NOT_FOUND);
}
