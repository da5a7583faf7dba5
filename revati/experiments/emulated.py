"""The session under emulation: a coordinator, a virtual GPU and one clock around server and clients.

Run as `python -m revati.experiments.emulated RUN.json` by `runner.EmulatedRunner`, in a process of its own, so that
whatever happens to a run leaves nothing behind in the experiment.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from revati import RevatiError, UnknownNameError, UsageError
from revati.experiments.results import write_json

__all__ = ["EmulatedPlan", "main"]

_TIMELINE_ROWS_MAX = 2000


@dataclass(frozen=True)
class EmulatedPlan:
    """One emulated session."""

    gpu: str  # NAME:COUNT
    policy: str
    order: str
    host_profile: str  # name or file
    predictor: str
    scale: dict[str, float]  # operator family: factor on its durations
    seed: int
    oracle: str | None  # the token oracle's file
    routing: str  # how tokens spread over experts
    session: list[str]  # command
    server: list[str]  # command that the framework's recipe is chosen by
    snapshots: str  # directory of snapshot requests and answers
    steps: str  # directory of step logs
    statistics: str  # file for the outcome


class _Snapshots:
    """Answers the session's requests for the counters of the moment (see session.snapshot)."""

    def __init__(self, run: Any, directory: Path) -> None:
        self._run = run
        self._directory = directory
        self.taken: dict[str, dict[str, Any]] = {}
        self.timeline: list[dict[str, Any]] = []
        self._every = 1
        self._looks = 0

    def __call__(self) -> None:
        self._look()
        for request in sorted(self._directory.glob("*.want")):
            self.taken[request.stem] = self.counters()
            request.rename(request.with_suffix(".done"))

    def _look(self) -> None:
        """A row of the timeline; of a long run every second row is dropped again and again."""
        self._looks += 1
        if self._looks % self._every:
            return
        use = self._run.use()
        row = {"virtual_ns": self._run.coordinator.status().virtual_ns, "gpus": len(use.gpus)}
        self.timeline.append(row | {"family_ns": {name: value for name, value in use.family_ns.items() if value}})
        if len(self.timeline) > _TIMELINE_ROWS_MAX:
            self.timeline = self.timeline[::2]
            self._every *= 2

    def counters(self) -> dict[str, Any]:
        status = self._run.coordinator.status()
        return {
            "use": asdict(self._run.use()),
            "virtual_ns": status.virtual_ns,
            "now_ns": status.now_ns,
            "real_ns": status.real_ns,
            "jumps": status.jumps,
            "turns_lost": status.turns_lost,
            "predictor": self._run.predictor_statistics(),
        }


def _coordinate(plan: EmulatedPlan) -> int:
    from revati._catalogue import parse_gpu_option
    from revati._run import Run, RunOptions, end_error, parse_predictor
    from revati_coordinator.coordinator import signals_to

    options = RunOptions(
        gpus=parse_gpu_option(plan.gpu),
        policy=plan.policy,
        order=plan.order,
        host_profile=plan.host_profile,
        predictor=parse_predictor(plan.predictor),
        seed=plan.seed,
        oracle=None if plan.oracle is None else Path(plan.oracle),
        routing=plan.routing,
        command=" ".join(plan.session),
    )
    with Run(options) as run:
        if plan.scale:
            _scale_durations(run, plan.scale)
        # The recipe is the server's: the session is only what starts it.
        environment = run.environment(plan.server)
        environment |= {"REVATI_SNAPSHOTS": plan.snapshots, "REVATI_STEPS": plan.steps}
        snapshots = _Snapshots(run, Path(plan.snapshots))

        def on_signal(number: int) -> None:
            run.coordinator.stop(f"stopped by {signal.Signals(number).name}")

        with signals_to(on_signal, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
            run.spawn(plan.session, environment)
            run.start()
            end = run.wait(snapshots)
        snapshots()
        snapshots.taken["end"] = snapshots.counters()
    statistics = {
        "end": {"reason": end.reason, "text": end.text},
        "pack": _pack_name(plan, options),
        "snapshots": snapshots.taken,
        "timeline": snapshots.timeline,
    }
    write_json(Path(plan.statistics), statistics)
    error = end_error(end)
    if error is not None:
        raise error
    return int(end.exit_code)


def _pack_name(plan: EmulatedPlan, options: Any) -> str:
    """The predictor with a hash of everything that its packs say: equal names give equal durations."""
    from revati_predictors import load_predictor

    if options.predictor.kind == "constant":
        return plan.predictor
    entries = getattr(load_predictor(options.gpus.gpu.key, options.predictor.kind), "entries", None)
    if entries is None:
        return plan.predictor
    text = " ".join(sorted(entry.sha256 for _, entry in entries()))
    return (
        f"{plan.predictor}:{hashlib.sha256(text.encode()).hexdigest()[:12]}" if text else f"{plan.predictor}:roofline"
    )


def _scale_durations(run: Any, scale: dict[str, float]) -> None:
    """Multiplies what the predictor answers, by operator family. Nothing has asked it yet."""
    from revati_coordinator.use import FAMILIES

    unknown = sorted(set(scale) - set(FAMILIES))
    if unknown:
        raise UnknownNameError("operator family", unknown[0], FAMILIES)
    pricer = run.pricer
    if pricer is None:
        raise UsageError("predictor.scale needs a predictor; with constant durations there is nothing to scale")
    factors = [scale.get(name, 1.0) for name in FAMILIES]
    price = pricer.price

    def scaled(records: Any) -> list[Any]:
        rows = []
        for duration_ns, low_ns, high_ns, family, source, flags in price(records):
            times = [round(time_ns * factors[family]) for time_ns in (duration_ns, low_ns, high_ns)]
            rows.append((*times, family, source, flags))
        return rows

    pricer.price = scaled


def _guarded(plan: EmulatedPlan) -> int:
    try:
        return _coordinate(plan)
    except RevatiError as error:
        sys.stderr.write(f"revati: {error}\n")
        return error.exit_code


def main(arguments: list[str]) -> int:
    from revati_coordinator.supervisor import supervise

    plan = EmulatedPlan(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    return supervise(lambda: _guarded(plan))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
