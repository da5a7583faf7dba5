"""What libraries tune by architecture (CUB: scans, sorts) runs on every GPU that the wheel has code for."""

from __future__ import annotations

import torch

x = torch.arange(4096, dtype=torch.int32, device="cuda")
torch.cumsum(x[:16], 0, out=torch.empty(16, dtype=torch.int32, device="cuda"))
torch.sort(x)
torch.unique(x)
x.nonzero()
torch.topk(x.float(), 50)
torch.multinomial(torch.softmax(x.float(), 0), 4)
torch.mm(*[torch.zeros(64, 64, device="cuda", dtype=torch.bfloat16)] * 2)
torch.cuda.synchronize()
print("passed")
