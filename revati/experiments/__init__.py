"""Experiments: a case file in, a result with every request out; comparison, report and a gate for pull requests.

The way of a case: `case` reads it strictly, `workloads` turns it into a stream of sessions, `runner` starts server and
load inside one clock (`session` is what runs there), `drivers` measure at the client, `metrics` and `results`
describe what happened, `compare`, `check`, `report` and `perfetto` show it.
"""

from __future__ import annotations
