"""What everything else builds on: input errors, files and folders, rows on disk, the argument
parser, allowed values of a config, GPU memory. Every module may import it; it imports none of ours.
"""
