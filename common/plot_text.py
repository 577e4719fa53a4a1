"""Text that may come from anywhere, as it is shown in a plot."""


def plot_text(text: str) -> str:
    """A text as matplotlib shows it: one line, no mathematics, and no leading underscore, which
    would hide it from a legend.
    """
    text = " ".join(text.split()).replace("$", r"\$")
    return " " + text if text.startswith("_") else text
