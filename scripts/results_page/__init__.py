"""What scripts/reproduction.py puts into results/*.json and makes of them: the intervals, the
tables and the plots of RESULTS.md. May import everything.
"""
