"""vLLM's V2 request state, one step by hand: staged writes, lengths, sampling, advance. Prints one JSON line.

Written for vLLM 0.25.1 and 0.32.0, whose functions differ in name and whose slots are of 4 and of 8 bytes.
"""

import inspect
import json

import numpy as np
import torch
from vllm.v1.worker.gpu.buffer_utils import StagedWriteTensor, UvaBackedTensor
from vllm.v1.worker.gpu.input_batch import (
    InputBuffers,
    combine_sampled_and_draft_tokens,
    get_num_sampled_and_rejected,
    post_update,
    prepare_pos_seq_lens,
    prepare_prefill_inputs,
)
from vllm.v1.worker.gpu.metrics.logits import get_num_nans
from vllm.v1.worker.gpu.sample import logprob
from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample
from vllm.v1.worker.gpu.states import RequestState

compute_topk = getattr(logprob, "compute_topk_scores", None) or logprob.compute_topk_logprobs
newer = "is_drafting" in inspect.signature(gumbel_sample).parameters
drafting = {"is_drafting": False} if newer else {}
SLOT = np.int64 if newer else np.int32


def upload(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(values).pin_memory().to(device, non_blocking=True)


VOCAB = 32000
device = torch.device("cuda:0")
result: dict[str, object] = {}

single = StagedWriteTensor(8, torch.int32, device)
single.stage_write_elem(3, 42)
single.stage_write_elem(5, 7)
single.apply_write()
result["staged_elements"] = single.gpu.cpu().tolist()
rows = StagedWriteTensor((4, 8), torch.int32, device)
rows.stage_write(1, 2, [9, 8, 7])
rows.stage_write(3, 0, [1])
rows.apply_write()
result["staged_rows"] = rows.gpu.cpu().tolist()

# Request a has its whole prompt in this step, b the first 2 of its 6 tokens.
prompts = {"a": [100, 101, 102, 103, 104], "b": [1, 2, 3, 4, 5, 6]}
state = RequestState(8, 64, 128, 0, VOCAB, device)
for name, tokens in prompts.items():
    state.add_request(name, len(tokens), tokens, 0, 10)
state.apply_staged_writes()
slots = [state.req_id_to_index[name] for name in prompts]
index = upload(np.array(slots, dtype=SLOT), device)
buffers = InputBuffers(8, 128, device)
starts = np.full(9, 7, dtype=np.int32)
starts[:3] = 0, 5, 7
buffers.query_start_loc.copy_(upload(starts, device))
query_start = buffers.query_start_loc[:3]
prepare_prefill_inputs(buffers.input_ids, state.next_prefill_tokens, index, query_start, state.all_token_ids.gpu,
                       state.prefill_len.gpu, state.num_computed_tokens.gpu)  # fmt: skip
prepare_pos_seq_lens(index, query_start, state.num_computed_tokens.gpu, buffers.positions, buffers.seq_lens)
result["seq_lens"] = buffers.seq_lens.cpu().tolist()
cu_logits = torch.arange(3, device=device, dtype=torch.int32)
logits_at = combine_sampled_and_draft_tokens(
    buffers.input_ids, index, state.last_sampled_tokens, query_start, buffers.seq_lens[:2], state.prefill_len.gpu,
    state.draft_tokens, cu_logits, 2)  # fmt: skip
result["logits_at"] = logits_at.cpu().tolist()
logits = torch.randn(2, VOCAB, device=device)
temperature, seeds = UvaBackedTensor(8, torch.float32), UvaBackedTensor(8, torch.int64)
sampled = gumbel_sample(logits, index, temperature.gpu, seeds.gpu, buffers.positions[logits_at], False, **drafting)
result["sampled"] = sampled.cpu().tolist()
again = gumbel_sample(logits, index, temperature.gpu, seeds.gpu, buffers.positions[logits_at], False, **drafting)
result["sampled_again"] = again.cpu().tolist()
logprobs = compute_topk(logits, 4, sampled)
result["logprob_ids"] = logprobs.logprob_token_ids.cpu().tolist()
result["logprobs"] = logprobs.logprobs.cpu().tolist()
result["ranks"] = logprobs.selected_token_ranks.cpu().tolist()
result["nans"] = get_num_nans(logits).cpu().tolist()
count, rejected = get_num_sampled_and_rejected(
    buffers.seq_lens.new_ones(2), buffers.seq_lens[:2], cu_logits, index, state.prefill_len.gpu)  # fmt: skip
result["num_sampled"], result["num_rejected"] = count.cpu().tolist(), rejected.cpu().tolist()
bins = torch.zeros(8, VOCAB, dtype=torch.int32, device=device)
post_update(index, state.num_computed_tokens.gpu, state.last_sampled_tokens, bins, sampled.view(-1, 1), count, rejected,
            query_start, state.all_token_ids.gpu, state.total_len.gpu)  # fmt: skip
result["computed"] = state.num_computed_tokens.gpu.cpu()[slots].tolist()
result["total_len"] = state.total_len.gpu.cpu()[slots].tolist()
result["token_ids"] = state.all_token_ids.gpu.cpu()[slots[0], :6].tolist()
print(json.dumps(result))
