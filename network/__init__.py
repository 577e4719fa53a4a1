"""What belongs to the network but not to the paper's equations: its configs, transformers'
interface to it, the chunked cross-entropy, heads that the paper does not have, and reading, writing
and adapting its weights. May import common and flexmdm_interpolant; `llada_dit` and `llada_utils`
import it.
"""
