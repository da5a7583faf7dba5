"""Calibration: measure operators and frameworks on a real GPU, train packs from it, and compare real with emulated
runs.

`cells`, `rows`, `dataset`, `plan`, `train`, `validate` and `accuracy` need the standard library (and what training
needs); `measure` is the code that runs beside the GPU. It needs torch and nothing of the emulator: importing
`revati.calibration` or `revati.calibration.measure` must stay free of compiled parts and third-party packages,
because the measuring machine has none.
"""
