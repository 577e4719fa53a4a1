"""Text and rows: prompt and infill formats, corpora and chunking, tokenised rows, the order in
which training reads them, and the built-in data (word problems, functions). May import common only.
"""
