#pragma once
#include <stdbool.h>

struct rvt_image {
  int ptx_version, binary_version; /* 10 * major + minor: what the code was written for, and what it was compiled to */
  bool none;                       /* nothing in the container runs on the device */
};

/* What a device of compute capability `cc` (10 * major + minor) takes from a registered fat binary. A container that
 * cannot be read counts as made for the device. */
struct rvt_image rvt_fatbin_choose(const void *wrapper, int cc);
