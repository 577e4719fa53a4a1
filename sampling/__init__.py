"""Generation: the options of both samplers, FlexMDM's clocks, LLaDA's blocks, choosing tokens, the
prompt cache, CUDA graphs, and the page that plays a generation. May import the network
(llada_dit, llada_utils, flexmdm_interpolant) and common.
"""
