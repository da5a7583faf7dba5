/* Attributes and properties of a device by ordinal; the caller has checked the ordinal. */
#ifndef RVT_ATTRIBUTES_H
#define RVT_ATTRIBUTES_H

#include "device/core.h"

int rvt_attribute(int ordinal, int attribute);
void rvt_uuid(int ordinal, unsigned char out[16]);
void rvt_pci_text(int ordinal, char *out, size_t room);
/* Fills cudaDeviceProp as CUDA `major` lays it out; returns its size. */
size_t rvt_device_prop(int ordinal, int major, void *out);

static inline bool rvt_valid_ordinal(int ordinal) { return ordinal >= 0 && ordinal < rvt_g.count; }

/* cudaDeviceCanAccessPeer */
static inline bool rvt_peers(int a, int b) { return a != b && rvt_g.page->peer_access; }

#endif
