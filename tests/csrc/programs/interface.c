/* Entry points by name and version, both property layouts, refused private tables, interposed dlopen. */
#define _GNU_SOURCE
#include <dlfcn.h>

#include "device.h"

static void entry_points(void) {
  void *old, *new, *x;
  int status;
  OK(cuInit(0));
  OK(cuGetProcAddress_v2("cuCtxCreate", &old, 11000, 0, &status));
  CHECK(status == 0);
  OK(cuGetProcAddress_v2("cuCtxCreate", &new, 12050, 0, &status));
  CHECK(old && new && old != new);
  CHECK(old == dlsym(RTLD_DEFAULT, "cuCtxCreate_v2") && new == dlsym(RTLD_DEFAULT, "cuCtxCreate_v4"));
  CHECK(cuGetProcAddress_v2("cuNothing", &x, 13000, 0, &status) == 500 && !x && status == 1);
  CHECK(cuGetProcAddress_v2("cuLaunchKernelEx", &x, 11000, 0, &status) == 500 && status == 2);
  CHECK(cuGetExportTable((const void **)&x, "0123456789abcdef") == 500 && !x);
}

static void properties(void) {
  /* sizeof(cudaDeviceProp) in CUDA 12 and 13, and the offsets of two late fields */
  unsigned char twelve[2048], thirteen[2048];
  int sm = 0, optin = 0, value;
  memset(twelve, 0xEE, sizeof twelve);
  memset(thirteen, 0xEE, sizeof thirteen);
  OK(cudaDeviceGetAttribute(&sm, 16, 0));
  OK(cudaDeviceGetAttribute(&optin, 97, 0));
  OK(cudaGetDeviceProperties_v2(twelve, 0));
  OK(cudaGetDeviceProperties(thirteen, 0));
  CHECK(!strcmp((char *)twelve, (char *)thirteen) && strstr((char *)twelve, "H100"));
  memcpy(&value, twelve + 388, 4);
  CHECK(value == sm);
  memcpy(&value, thirteen + 384, 4);
  CHECK(value == sm);
  CHECK(twelve[1031] == 0 && twelve[1032] == 0xEE);
  CHECK(thirteen[1007] == 0 && thirteen[1008] == 0xEE);
}

static void opened_by_name(void) {
  void *a = dlopen("libcuda.so.1", RTLD_NOW), *b = dlopen("/nowhere/lib/libcudart.so.13", RTLD_NOW);
  void *c = dlopen("libnvidia-ml.so.1", RTLD_LAZY), *d = dlopen("/nowhere/libnccl.so.2", RTLD_NOW);
  CHECK(a && a == b && a == c && a == d);
  CHECK(dlsym(b, "cudaMalloc") == dlsym(RTLD_DEFAULT, "cudaMalloc"));
  CHECK(!dlopen("libcudart_of_another_kind.so", RTLD_NOW));
  CHECK(!dlopen("/nowhere/libz.so.99", RTLD_NOW));
}

int main(void) {
  entry_points();
  properties();
  opened_by_name();
  puts("passed");
}
