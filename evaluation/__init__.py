"""Evaluation: the loop that generates, resumes and scores, models as evaluations see them, how
answers are read, tables and plots, the lm-evaluation-harness adapter. May import sampling, data,
common and the network's loading (llada_utils).
"""
