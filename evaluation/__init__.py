"""Evaluation: the loop that generates, resumes and scores, models ready to answer, answer rules,
tables and plots, the lm-evaluation-harness adapter, what the demo answers. May import sampling,
data, common and the network (loading in llada_utils, checkpoint folders
and devices in network/).
"""
