"""What `revati record` does after and around the recorded program: reads what the recorder left, joins every operator
with its duration, writes Parquet, and turns recorded rows into rows of a calibration.

The recorder itself is csrc/record; docs/internals-record.md describes both.
"""

__all__: list[str] = []
