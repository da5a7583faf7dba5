"""What a calibration would measure, how long it takes, what is there already, and what a case still lacks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from revati._errors import UsageError
from revati.calibration.cells import COLUMNS, MODELS, Cell, cells_for_steps, plan_cells, seconds, within
from revati.calibration.dataset import load_results

__all__ = ["case_cells", "parse_duration", "plan_text"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def parse_duration(text: str) -> float:
    """Seconds in "90", "90s", "10m" or "1.5h". Raises UsageError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found:
        raise UsageError(f"'{text}' is no duration; write 90s, 10m or 1h")
    return float(found[1]) * _UNITS[found[2]]


def case_cells(path: Path) -> list[Cell]:
    """The cells that a case file's model needs (tier 0). Raises UsageError if its model has no known shape."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as problem:
        raise UsageError(f"{path}: {str(problem).splitlines()[0]}") from None
    model = content.get("model") if isinstance(content, dict) else None
    name = model.get("name") if isinstance(model, dict) else model
    if name not in MODELS:
        raise UsageError(f"{path}: the sweep has no shapes for model '{name}'; it knows {', '.join(MODELS)}")
    return cells_for_steps(str(name), max_batch=256, max_tokens=8192, max_len=16384)


def plan_text(
    budget_s: float, results: Sequence[Path] = (), case: Path | None = None, models: Sequence[str] = ()
) -> str:
    """The plan as text for people: by tier and family, cells, seconds, how many are done and how many fit the
    budget.
    """
    cells = case_cells(case) if case else plan_cells(models)
    measured = load_results(results) if results else None
    done = measured.keys if measured else set()
    todo = [c for c in cells if c.key not in done]
    fit = {c.key for c in within(todo, budget_s)}
    lines = [f"{'tier':>4} {'family':<13} {'cells':>6} {'done':>6} {'seconds':>8} {'in budget':>9}"]
    for tier in sorted({c.tier for c in cells}):
        for family in COLUMNS:
            group = [c for c in cells if c.tier == tier and c.family == family]
            if group:
                rest = [c for c in group if c.key not in done]
                lines.append(
                    f"{tier:>4} {family:<13} {len(group):>6} {len(group) - len(rest):>6} "
                    f"{sum(map(seconds, rest)):>8.0f} "
                    f"{sum(c.key in fit for c in rest):>9}"
                )
    lines.append(
        f"{len(todo)} cells to measure, about {sum(map(seconds, todo)):.0f} s; {len(fit)} of them fit {budget_s:.0f} s"
    )
    if case:
        lines.append(
            f"{case}: nothing is missing"
            if not todo
            else f"{case}: {len(todo)} of {len(cells)} cells are missing, first:"
        )
        lines += [f"  {c.key}" for c in todo[:10]]
    if measured:
        lines.append(
            f"measured on {measured.conditions['gpu']['name']}, {len(measured.rows)} rows, "
            f"left out: {dict(measured.left_out)}"
        )
    return "\n".join(lines) + "\n"
