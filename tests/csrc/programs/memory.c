/* Capacity, provenance, pinned memory, pools, virtual memory management. */
#include "device.h"

static size_t free_now(void) {
  size_t free_bytes, total;
  OK(cudaMemGetInfo(&free_bytes, &total));
  CHECK(free_bytes < total);
  return free_bytes;
}

static void capacity(void) {
  void *a, *b, *small[100];
  size_t before = free_now();
  OK(cudaMalloc(&a, 10 << 20));
  CHECK(before - free_now() == 10 << 20);
  OK(cudaMalloc(&b, (3 << 20) - 5)); /* charged in 2 MiB pages */
  CHECK(before - free_now() == 14 << 20);
  OK(cudaFree(b));
  for (int i = 0; i < 100; i++) OK(cudaMalloc(&small[i], 1000)); /* share one page */
  CHECK(before - free_now() == 12 << 20);
  for (int i = 0; i < 100; i++) {
    CHECK((uint64_t)small[i] % 512 == 0);
    for (int j = 0; j < i; j++) CHECK(small[i] != small[j]);
    OK(cudaFree(small[i]));
  }
  OK(cudaFree(a));
  CHECK(cudaMalloc(&a, before + (64ull << 20)) == 2 && a == NULL); /* out of memory */
  CHECK(cudaGetLastError() == 2 && cudaGetLastError() == 0);
  OK(cudaMalloc(&a, before - (8ull << 20)));                       /* nearly all of it costs no RAM */
  OK(cudaFree(a));
  CHECK(cudaFree((char *)&a) == 1);
}

static void provenance(void) {
  char host[4096], back[4096], *device;
  for (int i = 0; i < 4096; i++) host[i] = (char)(i * 7);
  OK(cudaMalloc((void **)&device, 8 << 20));
  memset(back, 9, sizeof back);
  OK(cudaMemcpy(back, device, 64, D2H));
  for (int i = 0; i < 64; i++) CHECK(back[i] == 0); /* unknown: the policy value, not what was there */
  OK(cudaMemcpy(device + 100, host, 4096, H2D));
  OK(cudaMemcpy(back, device + 100, 4096, D2H));
  CHECK(!memcmp(host, back, 4096));
  OK(cudaMemcpy(device + 4000000, device + 200, 1000, D2D)); /* crosses 4 KiB and 2 MiB borders */
  OK(cudaMemcpy(back, device + 4000000, 1000, D2H));
  CHECK(!memcmp(host + 100, back, 1000));
  OK(cudaMemset(device + 150, 0x5A, 50));
  OK(cudaMemcpy(back, device + 100, 4096, D2H));
  CHECK(back[49] == host[49] && back[50] == 0x5A && back[99] == 0x5A && back[100] == host[100]);
  OK(cudaMemset(device, 1, 8 << 20)); /* large writes are not stored: what was there is unknown now */
  OK(cudaMemcpy(back, device + 100, 64, D2H));
  CHECK(back[0] == 0);
  OK(cudaMemcpy2D(device, 512, host, 64, 64, 10, H2D));
  OK(cudaMemcpy2D(back, 64, device, 512, 64, 10, D2H));
  CHECK(!memcmp(host, back, 640));
  OK(cudaFree(device));
  char *again;
  OK(cudaMalloc((void **)&again, 8 << 20));
  OK(cudaMemcpy(back, again, 64, D2H)); /* a recycled address does not show old bytes */
  CHECK(back[0] == 0);
  OK(cudaFree(again));
}

struct attributes {
  int type, device;
  void *device_pointer, *host_pointer;
  long reserved[8];
};

static void pointers(void) {
  char *device, *pinned, plain[8192];
  struct attributes a;
  OK(cudaMalloc((void **)&device, 4096));
  OK(cudaHostAlloc((void **)&pinned, 4096, 0));
  OK(cudaPointerGetAttributes(&a, device + 5));
  CHECK(a.type == 2 && a.device == 0 && a.device_pointer == device + 5);
  OK(cudaPointerGetAttributes(&a, pinned + 4095));
  CHECK(a.type == 1 && a.device_pointer == pinned + 4095);
  OK(cudaPointerGetAttributes(&a, plain));
  CHECK(a.type == 0 && a.device == -2);
  OK(cudaHostRegister(plain, sizeof plain, 0));
  CHECK(cudaHostRegister(plain + 10, 10, 0) == 712);
  OK(cudaPointerGetAttributes(&a, plain + 1));
  CHECK(a.type == 1);
  OK(cudaHostUnregister(plain));
  CHECK(cudaHostUnregister(plain) == 713);
  OK(cudaFreeHost(pinned));
  CHECK(cudaFreeHost(pinned) == 1);
  OK(cudaFree(device));
}

static void pools(void) {
  void *stream, *pool, *a, *b;
  uint64_t reserved, used, keep = ~0ull;
  size_t before = free_now();
  OK(cudaStreamCreate(&stream));
  OK(cudaDeviceGetDefaultMemPool(&pool, 0));
  OK(cudaMallocAsync(&a, 4 << 20, stream));
  OK(cudaMemPoolGetAttribute(pool, 5, &reserved));
  OK(cudaMemPoolGetAttribute(pool, 7, &used));
  CHECK(reserved == 4 << 20 && used == 4 << 20 && before - free_now() == 4 << 20);
  OK(cudaFreeAsync(a, stream));
  CHECK(free_now() == before); /* threshold 0: nothing is kept */
  OK(cudaMemPoolSetAttribute(pool, 4, &keep));
  OK(cudaMallocAsync(&a, 4 << 20, stream));
  OK(cudaFreeAsync(a, stream));
  CHECK(before - free_now() == 4 << 20);
  OK(cudaMallocAsync(&b, 4 << 20, stream));
  CHECK(a == b);
  OK(cudaFreeAsync(b, stream));
}

struct prop {
  int type, handle_types, location_type, location_id;
  void *win32;
  unsigned char flags[8];
};

static void virtual_memory(void) {
  uint64_t at;
  void *handle;
  char host[16] = "hello, mapping", back[16];
  struct prop prop = {1, 0, 1, 0, NULL, {0}};
  size_t before = free_now(), bytes = 4 << 20;
  OK(cuMemAddressReserve(&at, bytes * 4, 0, 0, 0));
  CHECK(free_now() == before);
  OK(cuMemCreate(&handle, bytes, &prop, 0));
  CHECK(before - free_now() == bytes);
  OK(cuMemMap(at + bytes, bytes, 0, handle, 0));
  CHECK(cuMemMap(at + bytes, bytes, 0, handle, 0) == 1);
  OK(cuMemSetAccess(at + bytes, bytes, NULL, 0));
  OK(cuMemRelease(handle));
  CHECK(before - free_now() == bytes); /* still mapped */
  OK(cudaMemcpy((void *)(at + bytes), host, sizeof host, H2D));
  OK(cudaMemcpy(back, (void *)(at + bytes), sizeof back, D2H));
  CHECK(!memcmp(host, back, sizeof host));
  OK(cuMemUnmap(at + bytes, bytes));
  CHECK(free_now() == before);
  OK(cuMemAddressFree(at, bytes * 4));
}

int main(void) {
  capacity();
  provenance();
  pointers();
  pools();
  virtual_memory();
  puts("passed");
}
