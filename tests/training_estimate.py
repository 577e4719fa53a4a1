"""training/estimate.py by its name of before the folders (CHANGELOG.md): measuring scripts from
outside this repository put tests/ on their path and import it.
"""

from training.estimate import flops_per_token as flops_a_token

__all__ = ["flops_a_token"]
