/* Function attributes and occupancy, from the kernel's metadata and the catalogue. */
#ifndef RVT_FUNC_H
#define RVT_FUNC_H

#include "device/core.h"

int rvt_max_dynamic_shared(const struct rvt_kernel *k);
int rvt_func_set(struct rvt_kernel *k, int attribute, int value);
int rvt_func_get(struct rvt_kernel *k, int attribute, int *value);
int rvt_func_param(struct rvt_kernel *k, size_t index, size_t *offset, size_t *bytes);
/* Resident blocks per multiprocessor. */
int rvt_occupancy(struct rvt_kernel *k, int threads, size_t shared_bytes);

#endif
