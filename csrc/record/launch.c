/* Kernel launches, runtime and driver. */
#include <string.h>

#include "device/describe.h"
#include "record/record.h"

struct dim3 {
  uint32_t x, y, z;
};

static void describe(struct rvt_op *op, const struct rvt_name **name, const struct rvt_name *kernel, struct dim3 grid,
                     struct dim3 block, size_t shared_bytes) {
  uint32_t g[3] = {grid.x, grid.y, grid.z}, b[3] = {block.x, block.y, block.z};
  rvt_describe_kernel(op, g, b, (uint32_t)shared_bytes, kernel->length);
  *name = kernel;
}

#define RUNTIME_LAUNCH(function, handle_kind)                                                                      \
  RVT_SUBMITS(function,                                                                                            \
              (const void *func, struct dim3 grid, struct dim3 block, void **params, size_t shared, void *stream), \
              (func, grid, block, params, shared, stream), stream,                                                 \
              describe(&op, &name, rvt_kernel_name(func, handle_kind), grid, block, shared))
RUNTIME_LAUNCH(cudaLaunchKernel, RVT_HOST_FUNCTION)
RUNTIME_LAUNCH(cudaLaunchCooperativeKernel, RVT_HOST_FUNCTION)
RUNTIME_LAUNCH(__cudaLaunchKernel, RVT_KERNEL_HANDLE)

struct runtime_config { /* cudaLaunchConfig_t */
  struct dim3 grid, block;
  size_t shared;
  void *stream, *attributes;
  unsigned attribute_count;
};
RVT_SUBMITS(cudaLaunchKernelExC, (const struct runtime_config *c, const void *func, void **params), (c, func, params),
            c->stream, describe(&op, &name, rvt_kernel_name(func, RVT_HOST_FUNCTION), c->grid, c->block, c->shared))

#define DRIVER_DIMS \
  unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *stream
#define DRIVER_DESCRIBE                                                                       \
  describe(&op, &name, rvt_kernel_name(func, RVT_DRIVER_FUNCTION), (struct dim3){gx, gy, gz}, \
           (struct dim3){bx, by, bz}, shared)
RVT_SUBMITS(cuLaunchKernel, (void *func, DRIVER_DIMS, void **params, void **extra),
            (func, gx, gy, gz, bx, by, bz, shared, stream, params, extra), stream, DRIVER_DESCRIBE)
RVT_SUBMITS(cuLaunchCooperativeKernel, (void *func, DRIVER_DIMS, void **params),
            (func, gx, gy, gz, bx, by, bz, shared, stream, params), stream, DRIVER_DESCRIBE)

struct driver_config { /* CUlaunchConfig */
  struct dim3 grid, block;
  unsigned shared;
  void *stream, *attributes;
  unsigned attribute_count;
};
RVT_SUBMITS(cuLaunchKernelEx, (const struct driver_config *c, void *func, void **params, void **extra),
            (c, func, params, extra), c->stream,
            describe(&op, &name, rvt_kernel_name(func, RVT_DRIVER_FUNCTION), c->grid, c->block, c->shared))
