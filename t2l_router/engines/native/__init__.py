"""Kernels in C for CPUs with bfloat16 products, built where they run if a compiler is there."""
