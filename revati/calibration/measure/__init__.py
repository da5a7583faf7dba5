"""What runs on the machine with the GPU: torch, Triton, CUPTI through torch.profiler, NVML through ctypes, vLLM
where it is.

Each module writes its rows at once and can be cut at any time; a second start goes on where the first one stopped.
"""
