"""sampling/flexmdm_sampler.py by its name of before the folders (CHANGELOG.md): measuring scripts
from outside this repository put tests/ on their path and import it.
"""

from sampling.flexmdm_sampler import FlexMDMSampler

__all__ = ["FlexMDMSampler"]
