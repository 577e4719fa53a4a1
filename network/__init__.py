"""What belongs to the network but not to the paper: configs, transformers' interface, packed rows,
the chunked cross-entropy, length heads of our own; and for its weights: checkpoint folders, tensors
on disk, LoRA, 4 and 8 bits, the format of the paper's code, devices, faster blocks. May import
common and flexmdm_interpolant; llada_dit and llada_utils are built on it.
"""
