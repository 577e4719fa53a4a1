"""The ground that everything stands on: refusals, files and folders, rows on disk, the argument
parser, GPU memory, and rows of tokens as one batch. Everybody may import it; it imports nothing of
ours.
"""
