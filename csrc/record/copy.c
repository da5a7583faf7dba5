/* Copies and memsets, runtime and driver. */
#include <string.h>

#include "record/record.h"

enum { POINTER_MEMORY_TYPE = 2, MEMORY_HOST = 1, MEMORY_DEVICE = 2 }; /* of cuPointerGetAttribute */
enum { KIND_H2H, KIND_H2D, KIND_D2H, KIND_D2D, KIND_DEFAULT };        /* cudaMemcpyKind */

/* 0: memory that CUDA does not know, which is pageable. */
static unsigned memory_of(const void *p) {
  int (*ask)(void *, int, uint64_t) = RVT_KEPT("cuPointerGetAttribute");
  unsigned type = 0;
  return ask && ask(&type, POINTER_MEMORY_TYPE, (uint64_t)(uintptr_t)p) == 0 ? type : 0;
}

static void copy(struct rvt_op *op, struct rvt_call *call, const void *to, const void *from, size_t bytes, int kind) {
  static const uint8_t copy_kind[] = {RVT_COPY_H2H, RVT_COPY_H2D, RVT_COPY_D2H, RVT_COPY_D2D};
  if (kind < 0 || kind >= KIND_DEFAULT) {
    bool to_device = memory_of(to) == MEMORY_DEVICE, from_device = memory_of(from) == MEMORY_DEVICE;
    kind = to_device ? from_device ? KIND_D2D : KIND_H2D : from_device ? KIND_D2H : KIND_H2H;
  }
  bool pageable = (kind == KIND_H2D && !memory_of(from)) || (kind == KIND_D2H && !memory_of(to));
  if (pageable) call->flags |= RVT_CALL_PAGEABLE;
  op->kind = RVT_OP_COPY;
  op->p[0] = (int64_t)bytes;
  op->p[1] = copy_kind[kind];
}

static void peer_copy(struct rvt_op *op, size_t bytes, bool same) {
  op->kind = RVT_OP_COPY;
  op->p[0] = (int64_t)bytes;
  op->p[1] = same ? RVT_COPY_D2D : RVT_COPY_P2P;
}

static void set(struct rvt_op *op, size_t bytes) {
  op->kind = RVT_OP_MEMSET;
  op->p[0] = (int64_t)bytes;
}

/* ---- runtime -------------------------------------------------------------------------------------------------------
 */

RVT_SUBMITS(cudaMemcpy, (void *to, const void *from, size_t n, int kind), (to, from, n, kind), NULL,
            copy(&op, &call, to, from, n, kind))
RVT_SUBMITS(cudaMemcpyAsync, (void *to, const void *from, size_t n, int kind, void *stream),
            (to, from, n, kind, stream), stream, copy(&op, &call, to, from, n, kind))
RVT_SUBMITS(cudaMemcpyPeer, (void *to, int to_device, const void *from, int from_device, size_t n),
            (to, to_device, from, from_device, n), NULL, peer_copy(&op, n, to_device == from_device))
RVT_SUBMITS(cudaMemcpyPeerAsync, (void *to, int to_device, const void *from, int from_device, size_t n, void *stream),
            (to, to_device, from, from_device, n, stream), stream, peer_copy(&op, n, to_device == from_device))
RVT_SUBMITS(cudaMemcpy2D, (void *to, size_t tp, const void *from, size_t fp, size_t w, size_t h, int kind),
            (to, tp, from, fp, w, h, kind), NULL, copy(&op, &call, to, from, w *h, kind))
RVT_SUBMITS(cudaMemcpy2DAsync,
            (void *to, size_t tp, const void *from, size_t fp, size_t w, size_t h, int kind, void *stream),
            (to, tp, from, fp, w, h, kind, stream), stream, copy(&op, &call, to, from, w *h, kind))
RVT_SUBMITS(cudaMemcpyToSymbol, (const void *symbol, const void *from, size_t n, size_t offset, int kind),
            (symbol, from, n, offset, kind), NULL,
            copy(&op, &call, symbol, from, n, kind == KIND_D2D ? kind : KIND_H2D))
RVT_SUBMITS(cudaMemcpyToSymbolAsync,
            (const void *symbol, const void *from, size_t n, size_t offset, int kind, void *stream),
            (symbol, from, n, offset, kind, stream), stream,
            copy(&op, &call, symbol, from, n, kind == KIND_D2D ? kind : KIND_H2D))
RVT_SUBMITS(cudaMemcpyFromSymbol, (void *to, const void *symbol, size_t n, size_t offset, int kind),
            (to, symbol, n, offset, kind), NULL, copy(&op, &call, to, symbol, n, kind == KIND_D2D ? kind : KIND_D2H))
RVT_SUBMITS(cudaMemcpyFromSymbolAsync, (void *to, const void *symbol, size_t n, size_t offset, int kind, void *stream),
            (to, symbol, n, offset, kind, stream), stream,
            copy(&op, &call, to, symbol, n, kind == KIND_D2D ? kind : KIND_D2H))
RVT_SUBMITS(cudaMemset, (void *to, int value, size_t n), (to, value, n), NULL, set(&op, n))
RVT_SUBMITS(cudaMemsetAsync, (void *to, int value, size_t n, void *stream), (to, value, n, stream), stream, set(&op, n))
RVT_SUBMITS(cudaMemset2D, (void *to, size_t pitch, int value, size_t w, size_t h), (to, pitch, value, w, h), NULL,
            set(&op, w *h))
RVT_SUBMITS(cudaMemset2DAsync, (void *to, size_t pitch, int value, size_t w, size_t h, void *stream),
            (to, pitch, value, w, h, stream), stream, set(&op, w *h))

/* ---- driver --------------------------------------------------------------------------------------------------------
 */

#define DRIVER_COPY(function, kind)                                                  \
  RVT_SUBMITS(function, (void *to, const void *from, size_t n), (to, from, n), NULL, \
              copy(&op, &call, to, from, n, kind))
#define DRIVER_COPY_ASYNC(function, kind)                                                                    \
  RVT_SUBMITS(function, (void *to, const void *from, size_t n, void *stream), (to, from, n, stream), stream, \
              copy(&op, &call, to, from, n, kind))
DRIVER_COPY(cuMemcpy, KIND_DEFAULT)
DRIVER_COPY(cuMemcpyHtoD_v2, KIND_H2D)
DRIVER_COPY(cuMemcpyDtoH_v2, KIND_D2H)
DRIVER_COPY(cuMemcpyDtoD_v2, KIND_D2D)
DRIVER_COPY_ASYNC(cuMemcpyAsync, KIND_DEFAULT)
DRIVER_COPY_ASYNC(cuMemcpyHtoDAsync_v2, KIND_H2D)
DRIVER_COPY_ASYNC(cuMemcpyDtoHAsync_v2, KIND_D2H)
DRIVER_COPY_ASYNC(cuMemcpyDtoDAsync_v2, KIND_D2D)
RVT_SUBMITS(cuMemcpyPeer, (uint64_t to, void *to_ctx, uint64_t from, void *from_ctx, size_t n),
            (to, to_ctx, from, from_ctx, n), NULL, peer_copy(&op, n, to_ctx == from_ctx))
RVT_SUBMITS(cuMemcpyPeerAsync, (uint64_t to, void *to_ctx, uint64_t from, void *from_ctx, size_t n, void *stream),
            (to, to_ctx, from, from_ctx, n, stream), stream, peer_copy(&op, n, to_ctx == from_ctx))

#define DRIVER_SET(function, value_type, element)                                                                   \
  RVT_SUBMITS(function##_v2, (uint64_t to, value_type value, size_t n), (to, value, n), NULL, set(&op, n *element)) \
  RVT_SUBMITS(function##Async, (uint64_t to, value_type value, size_t n, void *stream), (to, value, n, stream),     \
              stream, set(&op, n *element))
DRIVER_SET(cuMemsetD8, unsigned char, 1)
DRIVER_SET(cuMemsetD16, unsigned short, 2)
DRIVER_SET(cuMemsetD32, unsigned, 4)
