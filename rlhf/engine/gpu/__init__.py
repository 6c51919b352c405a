"""Paths that pay on a GPU only. Each has a switch; docs/gpu.md says which are on, and names the rows that measure them.

    fixed_decoding   a decode step of fixed shapes, which a CUDA graph replays
    varlen           attention in a packed row by torch's kernel for sequences of different lengths
    transfer         copies to the device that the program does not wait for

No module is imported here: attention imports varlen, and fixed_decoding imports attention.
"""
