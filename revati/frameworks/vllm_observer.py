"""Tells the virtual device what vLLM is executing: the model once, every new request, and each step's batch.

Loaded by vLLM itself (entry point group `vllm.general_plugins`) in every one of its processes. It only reads, and
only where the preload library is present; an error here is logged once and switches the observer off, vLLM goes on.
A run without it works too: the device then derives lengths and tokens from the buffers that vLLM's kernels use.

The runner modules are heavy and most processes never import them, so the hooks are put in when they are imported.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import json
import logging
import os
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from revati.frameworks.quantization import quantization_kind

__all__ = ["register"]

_log = logging.getLogger("revati.vllm_observer")

_RUNNER_V2 = "vllm.v1.worker.gpu.model_runner"
_RUNNER_V1 = "vllm.v1.worker.gpu_model_runner"
_OUTPUTS = "vllm.v1.engine.output_processor"
_INPUTS = "vllm.v1.engine.input_processor"
_DRAFTER_V2 = "vllm.v1.worker.gpu.spec_decode.autoregressive.speculator"
_DRAFTER_V1 = "vllm.v1.spec_decode.llm_base_proposer"
# Methods of speculative decoding whose kernels the virtual device emulates, and the releases where they were run.
_SPECULATION = ("ngram", "draft_model", "eagle", "eagle3", "mtp", "suffix")
_SPECULATION_VERSIONS = ("0.25.", "0.32.")
# enum rvt_host_cost
_HOST_OUTPUTS, _HOST_OUTPUT, _HOST_INPUT = 8, 9, 10


class _Sequence(ctypes.Structure):
    """struct rvt_seq"""

    _fields_ = (("q_len", ctypes.c_uint32), ("kv_len", ctypes.c_uint32))


class _Device:
    """The observer's functions of the preload library. Raises AttributeError when the library is not loaded."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._model = library.revati_observe_model
        self._model.argtypes = (ctypes.c_char_p,)
        self._batch = library.revati_observe_batch
        self._batch.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
        self._request = library.revati_observe_request
        self._request.argtypes = (
            ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int32,
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32,
        )  # fmt: skip
        self._request.restype = None
        self._lacking = library.revati_observe_lacking
        self._lacking.argtypes = (ctypes.c_char_p,)
        self._lacking.restype = None
        self._host = library.revati_observe_host
        self._host.argtypes = (ctypes.c_uint32, ctypes.c_uint64)
        self._host.restype = None
        self._names: dict[str, bytes] = {}

    def host(self, kind: int, times: int) -> None:
        self._host(kind, times)

    def model(self, facts: bytes) -> None:
        self._model(facts)

    def lacking(self, what: str) -> None:
        self._lacking(what.encode())

    def batch(self, ids: Sequence[str], q_lens: Sequence[int], kv_lens: Sequence[int], padded: int) -> None:
        count = len(ids)
        pairs = array("I", [0]) * (2 * count)
        pairs[0::2] = array("I", q_lens)
        pairs[1::2] = array("I", kv_lens)
        names = (ctypes.c_char_p * count)(*[self._name(i) for i in ids])
        address, _ = pairs.buffer_info()
        self._batch(address, count, padded, names)

    def no_batch(self) -> None:
        self._batch(None, 0, 0, None)

    def request(
        self, name: str, prompt: Sequence[int], seed: int, min_tokens: int, eos: int, avoid: Sequence[int],
        allowed: Sequence[int],
    ) -> None:  # fmt: skip
        tokens, ids, only = array("i", prompt), array("i", avoid), array("i", allowed)
        self._request(
            self._name(name), tokens.buffer_info()[0], len(tokens), seed & (2**64 - 1), min_tokens, eos,
            ids.buffer_info()[0] if ids else None, len(ids), only.buffer_info()[0] if only else None, len(only),
        )  # fmt: skip

    def _name(self, request_id: str) -> bytes:
        name = self._names.get(request_id)
        if name is None:
            if len(self._names) > 65536:
                self._names.clear()
            name = self._names[request_id] = request_id.encode()
        return name


_device: _Device | None = None
_announced = False


def register() -> None:
    """Entry point of the plugin. Does nothing outside an emulated or recorded process."""
    global _device
    if _device is not None or os.environ.get("REVATI_OBSERVER") == "0":
        return
    if "REVATI_PAGE" not in os.environ and "REVATI_RECORD" not in os.environ:
        return
    try:
        _device = _Device()
    except (AttributeError, OSError):
        return
    hooks: dict[str, Callable[[ModuleType], None]] = {
        _RUNNER_V2: _hook_v2,
        _RUNNER_V1: _hook_v1,
        _OUTPUTS: _hook_outputs,
        _INPUTS: _hook_inputs,
        _DRAFTER_V2: _hook_drafter_v2,
        _DRAFTER_V1: _hook_drafter_v1,
    }
    for name in [name for name in hooks if name in sys.modules]:
        _guarded(hooks.pop(name))(sys.modules[name])
    sys.meta_path.insert(0, _AfterImport(hooks))


class _AfterImport(importlib.abc.MetaPathFinder):
    """Runs a hook when one of the named modules has been imported, and changes nothing about the import."""

    def __init__(self, hooks: dict[str, Callable[[ModuleType], None]]) -> None:
        self._hooks = hooks

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        hook = self._hooks.pop(fullname, None)
        if hook is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _guarded(hook)(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _guarded(function: Callable[..., Any]) -> Callable[..., None]:
    """`function` without its result, and whose first error switches the observer off instead of reaching vLLM."""

    def call(*args: Any) -> None:
        global _device
        if _device is None:
            return
        try:
            function(*args)
        except Exception:
            device, _device = _device, None
            _log.warning("the vLLM observer does not fit this vLLM and is switched off", exc_info=True)
            device.no_batch()

    return call


def _after(owner: type, method: str, look: Callable[[Any, tuple[Any, ...], Any], None]) -> bool:
    """Calls `look(self, arguments, result)` after each call of a method; False when there is no such method."""
    inner = getattr(owner, method, None)
    if inner is None:
        return False
    see = _guarded(look)

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = inner(self, *args, **kwargs)
        see(self, (*args, *kwargs.values()), result)
        return result

    wrapped.__name__, wrapped.__doc__, wrapped.__wrapped__ = method, inner.__doc__, inner  # type: ignore[attr-defined]
    setattr(owner, method, wrapped)
    return True


# --- what is announced --------------------------------------------------------------------------------------


def _model_loaded(runner: Any, _arguments: tuple[Any, ...], _result: Any) -> None:
    """Before any graph is captured: what a graph holds keeps the model that was known at its capture."""
    _announce_model(runner)


def _announce_model(runner: Any) -> None:
    global _announced
    if _announced or _device is None:
        return
    _announced = True
    config = runner.vllm_config
    _device.model(_facts_of(config, config.model_config))
    lacking = lacking_speculation(getattr(getattr(config, "speculative_config", None), "method", None), _version())
    if lacking:
        _device.lacking(lacking)


def lacking_speculation(method: str | None, version: str) -> str | None:
    """What to tell the user about a method of speculative decoding; None = it is emulated, or there is none."""
    if method is None:
        return None
    if method not in _SPECULATION:
        return f"speculative decoding by '{method}' is not emulated"
    if not version.startswith(_SPECULATION_VERSIONS):
        return f"speculative decoding has not been tried with vLLM {version}"
    return None


def _facts_of(config: Any, model: Any) -> bytes:
    return json.dumps(model_facts(config, model)).encode()


def model_facts(config: Any, model: Any = None) -> dict[str, Any]:
    """Facts for the predictors (revati_predictors.facts) from a VllmConfig: sizes of the whole model.

    `model`: the configuration of its draft model instead.
    """
    model = model or config.model_config
    parallel, cache = config.parallel_config, config.cache_config
    text = getattr(model, "hf_text_config", None) or model.hf_config
    whole = _first(text, "num_attention_heads", default=0)
    facts: dict[str, Any] = {
        "framework": "vllm",
        "version": _version(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "kv_dtype": str(cache.cache_dtype),
        "quantization": _quantization(model, text),
        "layers": _first(text, "num_hidden_layers", default=0),
        "hidden": _first(text, "hidden_size", default=0),
        "intermediate": _first(text, "intermediate_size", default=0),
        "vocab": _first(text, "vocab_size", default=0),
        "heads_q": whole,
        "heads_kv": _first(text, "num_key_value_heads", default=whole),
        "head_dim": _number(model.get_head_size),
        "window": _first(text, "sliding_window", default=0),
        "experts": _first(text, "num_local_experts", "num_experts", "n_routed_experts", default=0),
        "topk": _first(text, "num_experts_per_tok", default=0),
        "moe_intermediate": _first(text, "moe_intermediate_size", default=0),
        "shared_experts": _first(text, "n_shared_experts", default=0),
        "kv_lora_rank": _first(text, "kv_lora_rank", default=0),
        "tp": int(parallel.tensor_parallel_size),
        "pp": int(parallel.pipeline_parallel_size),
        "ep": int(parallel.tensor_parallel_size) if getattr(parallel, "enable_expert_parallel", False) else 1,
        "block_size": int(getattr(cache, "block_size", 0) or 0),
    }
    return facts


def _first(config: Any, *names: str, default: int) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return default


def _number(getter: Callable[[], Any]) -> int:
    try:
        return int(getter())
    except Exception:
        return 0


def _version() -> str:
    module = sys.modules.get("vllm")
    return str(getattr(module, "__version__", ""))


def _quantization(model: Any, text: Any) -> str:
    details = getattr(text, "quantization_config", None) or getattr(model.hf_config, "quantization_config", None)
    name = str(getattr(model, "quantization", None) or "")
    return quantization_kind(name, details if isinstance(details, Mapping) else {})


def _announce_requests(runner: Any, arguments: tuple[Any, ...], _result: Any) -> None:
    scheduled = arguments[0].scheduled_new_reqs
    if not scheduled or _device is None:
        return
    _announce_model(runner)
    for new in scheduled:
        params = new.sampling_params
        if params is None or new.prompt_token_ids is None:
            continue
        eos = getattr(params, "eos_token_id", None)
        stops = set(getattr(params, "all_stop_token_ids", None) or ()) | set(params.stop_token_ids or ())
        ignore = bool(getattr(params, "ignore_eos", False))
        if eos is None:
            eos = _eos_of(runner)
        if eos is not None:
            stops.add(eos)
        seed = params.seed
        _device.request(
            new.req_id, new.prompt_token_ids, 0 if seed is None else seed + 1, params.min_tokens or 0,
            -2 if ignore else -1 if eos is None else eos, sorted(stops),
            list(getattr(params, "allowed_token_ids", None) or ()),
        )  # fmt: skip


def _eos_of(runner: Any) -> int | None:
    config = getattr(runner.model_config, "hf_text_config", None) or runner.model_config.hf_config
    eos = getattr(config, "eos_token_id", None)
    if isinstance(eos, list):
        return int(eos[0]) if eos else None
    return eos if isinstance(eos, int) else None


# --- the two model runners ----------------------------------------------------------------------------------


def _hook_v2(module: ModuleType) -> None:
    runner = module.GPUModelRunner
    _after(runner, "load_model", _model_loaded)
    hooked = _after(runner, "add_requests", _announce_requests) and _after(runner, "prepare_inputs", _batch_v2)
    if not hooked:
        _log.warning("this vLLM has no prepare_inputs in %s; batches are not observed", module.__name__)


def _batch_v2(runner: Any, _arguments: tuple[Any, ...], batch: Any) -> None:
    """After prepare_inputs: `batch` is the InputBatch; its upper bound of the lengths is exact without speculation."""
    if _device is None:
        return
    count = batch.num_reqs
    lengths = batch.num_computed_tokens_np[:count] if batch.num_computed_tokens_np is not None else None
    scheduled = batch.num_scheduled_tokens[:count]
    kv = batch.seq_lens_cpu_upper_bound[:count].tolist() if lengths is None else (lengths + scheduled).tolist()
    _device.batch(batch.req_ids, scheduled.tolist(), kv, batch.num_tokens_after_padding)


def _hook_v1(module: ModuleType) -> None:
    runner = module.GPUModelRunner
    _after(runner, "load_model", _model_loaded)
    hooked = _after(runner, "_update_states", _announce_requests) and (
        _after(runner, "_determine_batch_execution_and_padding", _batch_v1)
        or _after(runner, "_prepare_inputs", _batch_v1_inputs)
    )
    if not hooked:
        _log.warning("this vLLM has no known batch preparation in %s; batches are not observed", module.__name__)


def _batch_v1(runner: Any, arguments: tuple[Any, ...], result: Any) -> None:
    """After the padding was decided (arguments: tokens, requests, tokens of each request, ...).

    The persistent batch is in execution order then. Dummy runs come here too, with other numbers than its own.
    """
    descriptor = result[1] if isinstance(result, tuple) and len(result) > 1 else None
    if arguments[1] == runner.input_batch.num_reqs:
        _persistent_batch(runner, arguments[2], int(getattr(descriptor, "num_tokens", 0) or 0))


def _batch_v1_inputs(runner: Any, arguments: tuple[Any, ...], _result: Any) -> None:
    """After _prepare_inputs(scheduler_output, tokens of each request): releases without the method above."""
    if len(arguments) > 1 and len(arguments[1]) == runner.input_batch.num_reqs:
        _persistent_batch(runner, arguments[1], 0)


def _persistent_batch(runner: Any, scheduled: Any, padded: int) -> None:
    batch = runner.input_batch
    count = batch.num_reqs
    if _device is None or not count:
        return
    q_lens = scheduled[:count].tolist()
    computed = batch.num_computed_tokens_cpu[:count].tolist()
    _device.batch(batch.req_ids[:count], q_lens, [q + c for q, c in zip(q_lens, computed)], padded)


# --- draft models -------------------------------------------------------------------------------------------


def _hook_drafter_v2(module: ModuleType) -> None:
    for method in ("propose", "capture"):
        _of_drafter(module.AutoRegressiveSpeculator, method)


def _hook_drafter_v1(module: ModuleType) -> None:
    for method in ("propose", "dummy_run"):
        _of_drafter(module.SpecDecodeBaseProposer, method)


def _of_drafter(owner: type, method: str) -> None:
    """What a method launches belongs to the draft model: the sizes of its heads are others than the target's."""
    inner = getattr(owner, method, None)
    if inner is None:
        return
    facts: dict[int, tuple[bytes, bytes]] = {}

    def enter(drafter: Any, which: int) -> None:
        if _device is None:
            return
        if id(drafter) not in facts:
            config = drafter.vllm_config
            draft = config.speculative_config.draft_model_config
            facts[id(drafter)] = _facts_of(config, draft), _facts_of(config, config.model_config)
        _device.model(facts[id(drafter)][which])

    see = _guarded(enter)

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        see(self, 0)
        try:
            return inner(self, *args, **kwargs)
        finally:
            see(self, 1)

    wrapped.__name__, wrapped.__doc__, wrapped.__wrapped__ = method, inner.__doc__, inner  # type: ignore[attr-defined]
    setattr(owner, method, wrapped)


# --- host time of the API server (policy `modelled`; engine steps are charged with their batch) ----------------


def _hook_outputs(module: ModuleType) -> None:
    if not _after(module.OutputProcessor, "process_outputs", _outputs_taken_in):
        _log.warning("this vLLM has no process_outputs in %s; its host time is not modelled", module.__name__)


def _outputs_taken_in(_processor: Any, arguments: tuple[Any, ...], _result: Any) -> None:
    if _device is not None:
        _device.host(_HOST_OUTPUTS, 1)
        _device.host(_HOST_OUTPUT, len(arguments[0]))


def _hook_inputs(module: ModuleType) -> None:
    if not _after(module.InputProcessor, "process_inputs", _input_taken_in):
        _log.warning("this vLLM has no process_inputs in %s; its host time is not modelled", module.__name__)


def _input_taken_in(_processor: Any, _arguments: tuple[Any, ...], _result: Any) -> None:
    if _device is not None:
        _device.host(_HOST_INPUT, 1)
