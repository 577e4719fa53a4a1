"""Evaluation: the data sets, the loop that generates, resumes and scores, models ready to answer,
answer rules, tables and plots, the lm-evaluation-harness adapter, what the demo answers. May import
sampling, data, common and the network (llada_dit, llada_utils, flexmdm_interpolant, network/).
"""
