"""Generation: sampler options, FlexMDM's loop and what it calls (clocks, unmasking, insertion, the
network as it is queried), LLaDA's blocks, token choice, the prompt cache, CUDA graphs, the page
that replays a generation, and the frames of one that runs. May import the network (llada_dit,
llada_utils, flexmdm_interpolant, network/) and common.
"""
