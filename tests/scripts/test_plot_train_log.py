"""Plots of training logs show what the logs hold, whatever kinds of runs are given together.

Run: pytest tests/scripts/test_plot_train_log.py
"""

import json
import random
import sys

import plot_train_log
import pytest
from plot_train_log import PANELS, figure_of, read_log

from common.errors import InputError

FLEXMDM = [key for quantities in PANELS.values() for key in quantities]
LLADA = ["loss", "unmask_loss", "tokens_per_second"]


def write_run(folder, keys, steps=5):
    """A log as the Trainer writes it: its last line has no loss, and one value is not finite."""
    lines = [{"step": 10 * n, **{key: random.uniform(1, 9) for key in keys}} for n in range(steps)]
    lines[2][keys[0]] = None
    folder.mkdir()
    last = {"step": lines[-1]["step"], "train_runtime": 3.0}
    text = "".join(json.dumps(line) + "\n" for line in [*lines, last])
    (folder / "train_log.jsonl").write_text(text + '{"step": 50, "loss": 1')  # being written
    (folder / "settings.json").write_text('{"global_batch": 32}')
    return lines


def test_every_value_is_drawn_and_nothing_else(tmp_path):
    runs = {"a": write_run(tmp_path / "a", FLEXMDM), "b": write_run(tmp_path / "b", LLADA)}
    figure = figure_of([read_log(str(tmp_path / name)) for name in runs])
    drawn = []
    assert [axes.get_ylabel() for axes in figure.axes] == list(PANELS)
    for axes, quantities in zip(figure.axes, PANELS.values()):
        expected = [
            [(line["step"], line[key]) for line in lines if line[key] is not None]
            for lines in runs.values()
            for key in quantities
            if key in lines[0]
        ]
        drawn = [[tuple(point) for point in line.get_xydata()] for line in axes.get_lines()]
        assert drawn == expected and axes.get_xlabel() == "step"
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == [f"{tmp_path / name} (40 steps of 32 rows)" for name in runs]


def test_a_run_of_llada_has_no_panel_for_gaps(tmp_path):
    write_run(tmp_path / "b", LLADA)
    labels = [axes.get_ylabel() for axes in figure_of([read_log(str(tmp_path / "b"))]).axes]
    assert len(labels) == 3 and not any("gap" in label for label in labels)


@pytest.mark.parametrize(
    "words, reason",
    [
        (["nowhere", "--output", "x.png"], "RUN: nowhere holds no train_log.jsonl"),
        (["a", "--output", "x.jpg"], "--output x.jpg: must end in"),
        (["empty", "--output", "x.png"], "has no line with a step and its loss"),
    ],
)
def test_what_cannot_be_plotted_is_refused(tmp_path, monkeypatch, words, reason):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a", FLEXMDM)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/train_log.jsonl").write_text("")
    monkeypatch.setattr(sys, "argv", ["x", *words])
    with pytest.raises(InputError, match=reason):
        plot_train_log.main()
    assert not list(tmp_path.glob("x.*"))


def test_the_command_writes_the_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a", FLEXMDM)
    for name, start in (("x.png", b"\x89PNG"), ("x.svg", b"<?xml")):
        monkeypatch.setattr(sys, "argv", ["x", "a", "a/train_log.jsonl", "--output", name])
        plot_train_log.main()
        assert (tmp_path / name).read_bytes().startswith(start)
        assert f"where: {name}" in capsys.readouterr().out
