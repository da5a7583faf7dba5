/* Registers fat binaries made for several architectures (headers, no code) and prints, for each, what the device takes:
 * PTX and binary version by cudaFuncGetAttributes, and the error of a launch. Arguments: one list of images each, such
 * as "sm_80,sm_90,compute_90". */
#include "device.h"

int cudaFuncGetAttributes(void *, const void *);

struct container {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;
  struct entry {
    uint16_t kind, version;
    uint32_t header_bytes;
    uint64_t bytes;
    uint32_t compressed_bytes, options;
    uint16_t minor, major;
    uint32_t arch;
    char rest[32 + 8];
  } entries[16];
};

static void *made_for(char *list) {
  struct container *c = calloc(1, sizeof *c);
  *c = (struct container){.magic = 0xba55ed50u, .version = 1, .header_bytes = 16};
  int n = 0;
  for (char *image = strtok(list, ","); image; image = strtok(NULL, ","))
    c->entries[n++] = (struct entry){.kind = image[0] == 's' ? 2 : image[0] == 'c' ? 1 : 64,
                                     .header_bytes = 64,
                                     .bytes = sizeof(struct entry) - 64,
                                     .arch = (uint32_t)atoi(strchr(image, '_') + 1)};
  c->bytes = (uint64_t)n * sizeof(struct entry);
  struct {
    uint32_t magic, version;
    void *container, *file;
  } *wrapper = calloc(1, sizeof *wrapper);
  wrapper->magic = 0x466243b1u;
  wrapper->version = 1;
  wrapper->container = c;
  return wrapper;
}

int main(int argc, char **argv) {
  static char functions[16];
  for (int i = 1; i < argc; i++) {
    __cudaRegisterFunction(__cudaRegisterFatBinary(made_for(argv[i])), &functions[i], NULL, "kernel", -1, NULL, NULL,
                           NULL, NULL, NULL);
    struct {
      size_t bytes[3];
      int max_threads, registers, ptx, binary, more[32];
    } a = {0};
    int known = cudaFuncGetAttributes(&a, &functions[i]);
    int launched = cudaLaunchKernel(&functions[i], (dim3){1, 1, 1}, (dim3){1, 1, 1}, NULL, 0, NULL);
    printf("%d %d %d %d\n", known, a.ptx, a.binary, launched);
  }
  return 0;
}
