"""The service over its socket: models, batches, constants, delay, statistics, and bad peers."""

from __future__ import annotations

import random
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from revati_predictors import PredictorService, RooflinePredictor, find_gpu, load_predictor
from revati_predictors.operators import Attention, Gemm, Mla, Moe, Operator, Stream
from revati_predictors.pricing import Pricer, Statistics
from revati_predictors.wire import (
    FAMILY,
    HEADER,
    KIND,
    NEEDS_BATCH,
    PREDICTION,
    SOURCE,
    OpRecord,
    pack_model,
    pack_request,
    unpack_predictions,
)
from tests.conftest import wait_until

LLAMA = {
    "framework": "vllm",
    "version": "0.25.1",
    "dtype": "bfloat16",
    "layers": 32,
    "hidden": 4096,
    "intermediate": 14336,
    "vocab": 128256,
    "heads_q": 32,
    "heads_kv": 8,
    "head_dim": 128,
    "tp": 1,
}


def _read(peer: socket.socket, nbytes: int) -> bytes:
    data = b""
    while len(data) < nbytes:
        chunk = peer.recv(nbytes - len(data))
        assert chunk, "connection closed"
        data += chunk
    return data


def _ask(peer: socket.socket, records: list[OpRecord]) -> list[tuple[int, int, int, int, int, int]]:
    peer.sendall(pack_request(records))
    count, zero = HEADER.unpack(_read(peer, HEADER.size))
    assert (count, zero) == (len(records), 0)
    return unpack_predictions(_read(peer, count * PREDICTION.size))


def _connect(path: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.connect(str(path))
    return peer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "p.sock"


def test_batch_model_and_statistics(path: Path) -> None:
    with PredictorService(RooflinePredictor(find_gpu("h100-sxm")), path) as service, _connect(path) as peer:
        peer.sendall(pack_model(LLAMA))
        model, zero = HEADER.unpack(_read(peer, HEADER.size))
        assert model > 0 and zero == 0
        gemm = OpRecord(KIND["GEMM"], dtype=3, p=(8, 6144, 4096, 1), model=model)
        attention = OpRecord(
            KIND["KERNEL"],
            name="flash::FlashAttnFwdSm90<x>",
            model=model,
            seqs=((1, 900),) * 8,
            p=(132, 1, 1, 256, 1, 1, 0, -1),
        )
        rows = _ask(peer, [gemm, attention, gemm])
        assert rows[0] == rows[2]
        assert rows[0][3] == FAMILY["GEMM"] and rows[1][3] == FAMILY["ATTENTION"]
        assert rows[1][5] & NEEDS_BATCH and not rows[0][5] & NEEDS_BATCH
        assert all(lo <= us <= hi and us > 0 for us, lo, hi, *_ in rows)
        assert all(row[4] == SOURCE["FALLBACK"] for row in rows)
        longer = OpRecord(KIND["KERNEL"], name=attention.name, model=model, seqs=((1, 90000),) * 8, p=attention.p)
        assert _ask(peer, [longer])[0][0] > rows[1][0]
        stats = service.statistics()
        assert stats["records"] == 4 and stats["requests"] == 2
        assert stats["by_family"]["gemm"]["asked"] == 2
        assert str(Gemm(8, 6144, 4096)) in stats["operators"] and attention.name in stats["operators"]
    assert not path.exists()


def _decode(*keys: int) -> OpRecord:
    return OpRecord(KIND["KERNEL"], name="flash_fwd_kernel", seqs=tuple((1, kv) for kv in keys), p=(132,) + (1,) * 5)


def test_what_is_asked_ahead_has_the_same_answer_and_counts_in_no_statistics(path: Path) -> None:
    with PredictorService(RooflinePredictor(find_gpu("h100-sxm")), path) as service, _connect(path) as peer:
        ahead = [replace(_decode(100 + i, 200 + i), ahead=i > 0) for i in range(5)]
        rows = _ask(peer, ahead)
        assert service.statistics()["records"] == 1
        assert [_ask(peer, [_decode(100 + i, 200 + i)])[0] for i in range(5)] == rows
        assert service.statistics()["records"] == 6


@pytest.mark.parametrize("gpu", ["h100-sxm", "l40s", "rtx-4090"])
def test_rows_of_a_pack_do_not_depend_on_what_else_is_asked(gpu: str) -> None:
    """What is asked together, and what is priced before anybody asks, is the host's affair and differs between runs."""
    predictor = load_predictor(gpu)
    draw = random.Random(5)
    keys = [[draw.randint(17, 9000) for _ in range(draw.choice((1, 3, 12)))] for _ in range(30)]
    operators: list[Operator] = [
        Attention((*((1, kv) for kv in many), (draw.randint(2, 700), 900)), 32, 8, 128) for many in keys
    ]
    operators += [Attention(tuple((1, kv) for kv in many), 28, 4, 128) for many in keys]  # heads that no table has
    operators += [Gemm(draw.randint(1, 4000), draw.choice((6144, 5000)), 4096) for _ in range(30)]
    operators += [Moe(draw.randint(1, 900), 2048, 768, 8, 128, 1, 1) for _ in range(10)]
    operators += [Moe(draw.randint(1, 900), 2304, 704, 7, 90, 1, 1) for _ in range(10)]  # a model that no table has
    operators += [Mla(tuple((1, kv) for kv in many), 16) for many in keys]
    alone = [load_predictor(gpu).predict([operator])[0] for operator in operators]
    assert predictor.predict(operators) == alone


def test_products_of_one_step_are_priced_together() -> None:
    def product(m: int, n: int) -> OpRecord:
        return OpRecord(KIND["GEMM"], dtype=3, p=(m, n, 4096, 1))

    pricer, alone = (Pricer([RooflinePredictor(find_gpu("h100-sxm"))]) for _ in range(2))
    for m, n in ((8, 6144), (8, 4096), (16, 6144)):
        pricer.price([product(m, n)])
    priced = pricer.statistics.priced
    assert priced == 4
    together, by_itself = (p.price([product(16, 4096)])[0] for p in (pricer, alone))
    assert together[:5] == by_itself[:5]  # the last field has the index of the operator
    assert pricer.statistics.priced == priced
    # Logits: rows of their own from the first, so neither they nor the layers ask for one another.
    pricer.price([product(2, 128256)])
    pricer.price([product(3, 128256)])
    assert pricer.statistics.priced == priced + 2
    pricer.price([product(32, 4096)])
    assert pricer.statistics.priced == priced + 4


def test_operators_over_the_limit_share_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("revati_predictors.pricing.MAX_OPERATORS", 4)
    statistics = Statistics()
    assert [statistics.operator(name) for name in ("a", "b", "c", "d", "a")] == [1, 2, 3, 3, 1]
    assert statistics.as_dict()["operators"] == ["", "a", "b", "other operators"]


def test_constant_mode(path: Path) -> None:
    with PredictorService(RooflinePredictor(find_gpu("a100-sxm")), path, constant_ns=1234), _connect(path) as peer:
        rows = _ask(peer, [OpRecord(KIND["KERNEL"], name="anything"), OpRecord(KIND["COPY"], p=(1 << 30, 1))])
        assert [row[0] for row in rows] == [1234, 1234]


def test_delay(path: Path) -> None:
    predictor = RooflinePredictor(find_gpu("h100-sxm"))
    with PredictorService(predictor, path, delay_s=0.25) as service, _connect(path) as peer:
        start = time.monotonic()
        _ask(peer, [OpRecord(KIND["MEMSET"], p=(1024,))])
        assert time.monotonic() - start >= 0.25
        wait_until(lambda: service.pricer.statistics.waited_s >= 0.25, 10, "the figure for that")


def test_two_gpus_and_a_restart(path: Path) -> None:
    both = [RooflinePredictor(find_gpu("h100-sxm")), RooflinePredictor(find_gpu("l4"))]
    for _ in range(2):  # the path is free again after stop
        with PredictorService(both, path), _connect(path) as peer:
            fast, slow = _ask(peer, [OpRecord(KIND["GEMM"], dtype=3, p=(4096, 4096, 4096, 1), gpu=g) for g in (0, 1)])
            assert slow[0] > 4 * fast[0]


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEADER.pack(3, 16) + b"\0" * 16,
        HEADER.pack(1, 0xFFFFFFFF),
        HEADER.pack(0xFFFFFFFF, 4) + b"nope",
        pack_model({"hidden": "wide"}),
    ],
)
def test_malformed_request_closes_only_its_connection(path: Path, request_bytes: bytes) -> None:
    with PredictorService(RooflinePredictor(find_gpu("h100-sxm")), path), _connect(path) as bad, _connect(path) as good:
        bad.sendall(request_bytes)
        assert bad.recv(1) == b""
        assert _ask(good, [OpRecord(KIND["MEMSET"], p=(1024,))])[0][0] > 0


def test_what_is_to_come_is_priced_in_quiet_times(path: Path) -> None:
    def product(m: int, n: int = 4096) -> OpRecord:
        return OpRecord(KIND["GEMM"], dtype=3, p=(m, n, 4096, 1))

    alone = Pricer([load_predictor("h100-sxm")])
    with PredictorService(load_predictor("h100-sxm"), path) as service, _connect(path) as peer:
        pricer = service.pricer
        first = _ask(peer, [product(600)])
        wait_until(lambda: not pricer.to_come.more.is_set(), 60, "the end of what is to come")
        priced = pricer.statistics.priced
        assert priced == 1  # what nobody asked for is not counted
        assert _ask(peer, [product(77)]) == alone.price([product(77)]) != first
        assert pricer.statistics.priced == priced
        _ask(peer, [product(4097)])
        assert pricer.statistics.priced == priced + 1
    assert "revati-predictor-ahead" not in [thread.name for thread in threading.enumerate()]


def test_what_is_to_come_is_priced_in_small_parts() -> None:
    """A question that comes meanwhile waits for 32 operators at most."""
    pricer = Pricer([load_predictor("h100-sxm")])
    pricer.price([OpRecord(KIND["GEMM"], dtype=3, p=(4096, 4096, 4096, 1))])
    assert pricer.price_ahead()
    found = pricer.to_come.take()
    assert found is not None
    assert [op.m for op in found[1] if isinstance(op, Gemm)] == list(range(33, 65))


def test_what_is_to_come_of_each_kind() -> None:
    predictor = load_predictor("h100-sxm")
    experts = list(predictor.to_come(Moe(100, 2048, 768, 8, 128)))[:100]
    assert [op.tokens for op in experts if isinstance(op, Moe)] == list(range(1, 101))
    latent = list(predictor.to_come(Mla(((1, 700), (1, 800)), 16)))
    assert Mla(((33, 33),), 16) in latent and Mla(((1, 512),) * 7, 16) in latent
    assert not list(predictor.to_come(Stream("norm", 4096.0, 1, 2048)))
    assert all(estimate.us > 0 for estimate in predictor.predict(experts + latent[::100]))


def test_an_operator_that_cannot_be_priced_ends_its_kind_only(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = load_predictor("h100-sxm")
    pricer = Pricer([predictor])
    for n in (4096, 6144):
        pricer.price([OpRecord(KIND["GEMM"], dtype=3, p=(8, n, 4096, 1))])
    with monkeypatch.context() as broken:
        broken.setattr(predictor, "predict", lambda operators: 1 / 0)
        assert pricer.price_ahead()
    assert pricer.price_ahead()
    priced = pricer.statistics.priced
    for n in (6144, 4096):
        pricer.price([OpRecord(KIND["GEMM"], dtype=3, p=(5, n, 4096, 1))])
        assert pricer.statistics.priced == priced + (n == 4096)


def test_a_roofline_is_not_worth_pricing_ahead() -> None:
    pricer = Pricer([load_predictor("h100-sxm", "roofline")])
    pricer.price([OpRecord(KIND["GEMM"], dtype=3, p=(4096, 4096, 4096, 1))])
    assert not pricer.price_ahead()
