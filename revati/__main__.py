"""`python -m revati`."""

from __future__ import annotations

import sys

from revati._cli import main

sys.exit(main())
