/* Waits for a byte, then asks for an operator that nothing has priced yet. */
#include <stdio.h>
#include <unistd.h>

#include "device.h"

int main(void) {
  void *p;
  char c;
  cudaMalloc(&p, 1 << 20);
  if (read(0, &c, 1) != 1) return 1;
  cudaMemsetAsync(p, 0, 12345, 0);
  puts("went on");
  return 0;
}
