"""Kernels of the operator table in Triton: one operator a file, with its kernel, its configurations and its builds."""
