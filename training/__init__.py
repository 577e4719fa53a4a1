"""Training: the Trainer, its flags, runs that start and resume, checkpoints, estimates, sharding,
the NLL bound. May import the network (llada_dit, llada_utils, flexmdm_interpolant), data and
common.
"""
