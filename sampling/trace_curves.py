"""The length curves of generations as a picture."""

from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError
from common.plot_text import plot_text
from sampling.trace_panel import Panel, curves


def write_trace_png(path: str | Path, panels: Sequence[Panel]) -> None:
    """Length curves: tokens written and clean tokens against network evaluations, and against t.
    Raises InputError where the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for number, panel in enumerate(panels):
        length, clean = curves(panel)
        for axes, x in ((left, panel["evaluations"]), (right, panel["t"])):
            (line,) = axes.step(
                x,
                length,
                where="post",
                color=f"C{number % 10}",
                label=plot_text(panel["title"]) if len(panels) <= 8 else None,
            )
            axes.step(x, clean, where="post", color=line.get_color(), linestyle="--", linewidth=1)
    left.set(xlabel="network evaluations", ylabel="tokens written (dashed: clean)", ylim=(0, None))
    right.set(xlabel="time t (1 = clean)", xlim=(0, 1))
    if len(panels) <= 8:
        left.legend(frameon=False, loc="best")
    left.set_title(
        f"{len(panels)} generation{'s' if len(panels) > 1 else ''}", loc="left", fontsize="medium"
    )
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            figure.savefig(temporary, dpi=150, format="png")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
