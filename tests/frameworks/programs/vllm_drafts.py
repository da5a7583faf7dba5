"""vLLM's rejection samplers by hand, of both runners, on two announced requests. Prints one JSON line.

The oracle's file gives request "all" acceptance 1 and request "none" 0.
"""

import json
from types import SimpleNamespace

import torch
from vllm.v1.sample.rejection_sampler import rejection_sample

from revati.frameworks.vllm_observer import _Device

VOCAB, DRAFTS = 32000, 3
device = torch.device("cuda:0")
observer = _Device()
result: dict[str, object] = {}


def upload(values: list[int], dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype).pin_memory().to(device, non_blocking=True)


# Tensors read through indices, as the runner collects its draft tokens.
values, index = upload([10, 11, 12, 13, 14, 15]), upload([5, 0, -2, 3])
result["indexed"] = values[index].cpu().tolist()
result["indexed_twice"] = values[index.to(torch.int64) + 0][upload([1, 3], torch.int64)].cpu().tolist()

# Three output tokens are there: the step computes the last of them and the drafts behind it.
names = ["all", "none"]
for i, name in enumerate(names):
    observer.request(name, list(range(10 * i, 10 * i + 5)), 0, 0, -1, [], [])
drafts = upload([101, 102, 103, 201, 202, 203])
ends = upload([3, 6])


def step(computed: list[int]) -> None:
    observer.batch(names, [1 + DRAFTS] * 2, [n + 1 + DRAFTS for n in computed], 0)


def v1(greedy: bool, rates: torch.Tensor | None = None) -> list[list[int]]:
    logits = torch.empty(2 * DRAFTS, VOCAB, device=device)
    bonus = torch.empty(2, VOCAB, device=device).argmax(dim=-1).to(torch.int32).unsqueeze(1)
    temperature = torch.zeros(2, device=device) if greedy else torch.ones(2, device=device)
    metadata = SimpleNamespace(all_greedy=greedy, all_random=not greedy, temperature=temperature, generators={})
    extra = {} if rates is None else {"synthetic_mode": True, "synthetic_conditional_rates": rates}
    return rejection_sample(drafts, [DRAFTS] * 2, DRAFTS, ends, None, logits, bonus, metadata, **extra).cpu().tolist()


step([7, 7])
result["greedy"], result["random"] = v1(True), v1(False)
step([7, 7])
result["again"] = v1(True)
# The framework thinks that all were accepted; the device knows better.
step([11, 11])
result["next"] = v1(True)
step([11, 8])
result["next_told"] = v1(True)
result["synthetic"] = v1(True, upload([1.0, 1.0, 0.0], torch.float32))  # type: ignore[list-item]
try:
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample as rejection_sample_v2
except ImportError:
    rejection_sample_v2 = None
if rejection_sample_v2 is not None:
    step([7, 7])
    starts, slots = upload([0, 4, 8]), upload([0, 1])
    expanded, local = upload([0] * 4 + [1] * 4), upload([0, 1, 2, 3] * 2)
    logits = torch.empty(8, VOCAB, device=device)
    sampled, counts = rejection_sample_v2(
        logits, None, upload([0] * 8), starts, upload([0] * 8, torch.int64), slots, expanded, local,
        torch.zeros(2, device=device), upload([0, 0], torch.int64), DRAFTS)  # fmt: skip
    lengths = counts.cpu().tolist()
    result["v2"] = [row[:n] for row, n in zip(sampled.cpu().tolist(), lengths)]
print(json.dumps(result))
