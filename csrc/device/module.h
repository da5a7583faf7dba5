/* Modules and libraries as the driver and runtime interfaces call them. */
#ifndef RVT_MODULE_H
#define RVT_MODULE_H

#include "device/core.h"

int rvt_module_load(const void *image, bool is_library, struct rvt_module **out);
int rvt_module_unload(struct rvt_module *m);
int rvt_module_kernel(struct rvt_module *m, const char *name, struct rvt_kernel **out);
int rvt_module_symbol(struct rvt_module *m, const char *name, struct rvt_symbol **out);
size_t rvt_elf_bytes(const void *image);
void rvt_kernel_register_host(const void *host, struct rvt_kernel *k);

#endif
