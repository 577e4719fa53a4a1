"""What everything else builds on: input errors, files and folders, rows on disk, the argument
parser, transformers' conventions for loading and saving, GPU memory, and batches of packed rows.
Every module may import it; it imports none of ours.
"""
