"""The parts of scripts/benchmark_gpu.py, each a function of the run's `Bench`. May import
everything; torch only inside of functions.
"""
