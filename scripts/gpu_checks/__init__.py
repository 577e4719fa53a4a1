"""The checks of scripts/check_gpu.py, each a function of the run's `Work` that returns a few words
or raises. May import everything; torch only inside of functions.
"""
