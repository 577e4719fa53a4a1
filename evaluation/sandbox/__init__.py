"""Running untrusted programs: workers and verdicts (runner), what separates a program from the
machine (sandbox), and the process that decides (judge). sandbox.py and judge.py import nothing of
ours: they run in fresh interpreters.
"""
