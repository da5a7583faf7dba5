"""`python -m revati_predictors`: the same commands as `revati predict` and `revati packs`."""

from __future__ import annotations

import sys

from revati_predictors.cli import main

sys.exit(main())
