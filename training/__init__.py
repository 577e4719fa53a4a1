"""Training: the Trainer, its flags, starting and resuming runs, checkpoints, cost estimates,
sharding, the NLL bound. May import the network (llada_dit, llada_utils, flexmdm_interpolant,
network/), data and common.
"""
