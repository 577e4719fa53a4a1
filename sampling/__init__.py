"""Generation: sampler options, FlexMDM's clocks, LLaDA's blocks, token choice, the prompt cache,
CUDA graphs, and the page that replays a generation. May import the network
(llada_dit, llada_utils, flexmdm_interpolant) and common.
"""
