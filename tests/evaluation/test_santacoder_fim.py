"""SantaCoder-FIM's rows as a data set of eval_humaneval_infill.py: Python only, scored by exact
match but for white space at both ends.

pytest tests/evaluation/test_santacoder_fim.py                                       seconds
"""

import json
import random
import sys

import pytest

import eval_humaneval_infill
from common.errors import InputError
from common.rows import write_rows
from data.functions import code_infill_rows


def published_rows():
    """(rows in the published fields, task ids of the Python ones): several lines of one program
    under one name, languages mixed.
    """
    rows, names = [], []
    for place, item in enumerate(code_infill_rows("test", random.randint(3, 6), 0)):
        for number in range(random.randint(1, 3)):
            row = {"name": f"HumanEval_{place}", "tests": item["test"], "language": "py"}
            rows.append(row | {f: item[f] for f in ("prompt", "suffix", "canonical_solution")})
            names.append(f"HumanEval_{place}/{number}")
            if random.random() < 0.5:
                rows.append({**row, "language": random.choice(["js", "java"]), "prompt": "//"})
                rows[-1] |= {"suffix": "", "canonical_solution": "x"}
    return [*rows, {**rows[0], "language": "java"}], names


def evaluate(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["eval_humaneval_infill.py", *map(str, arguments)])
    eval_humaneval_infill.main()
    return capsys.readouterr()


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_exact_match_ignores_white_space_at_both_ends(tmp_path, monkeypatch, capsys, ending):
    rows, names = published_rows()
    data = tmp_path / f"train-00000-of-00001.{ending}"
    if ending == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), data)
    else:
        write_rows(data, rows)
    python = [row for row in rows if row["language"] == "py"]
    given, stripped, exact = [], 0, 0
    for name, row in zip(names, python):
        kind = random.choice(["same", "spaced", "wrong"])
        text = row["canonical_solution"]
        text = {"same": text, "spaced": f"\n {text}\n\n", "wrong": f"{text} + 1 #"}[kind]
        stripped, exact = stripped + (kind != "wrong"), exact + (kind == "same")
        given.append({"task_id": name, "completion": text})
    random.shuffle(given)
    write_rows(tmp_path / "given.jsonl", given)
    shown = evaluate(
        *(monkeypatch, capsys, "--score_only", tmp_path / "given.jsonl", "--data_path", data),
        *("--output_dir", tmp_path / "out", *random.choice([[], ["--allow_code_execution"]])),
    )
    result = json.loads((tmp_path / "out/results.json").read_text())
    metrics = result["metrics"]
    assert next(iter(metrics)) == "exact_match_stripped"  # what tables show
    assert metrics["exact_match_stripped"]["right"] == stripped
    assert metrics["exact_match"]["right"] == exact
    assert metrics["exact_match"]["n"] == len(python)
    assert result["benchmark"] == "santacoder-fim python"
    assert f"{len(rows) - len(python)} rows in other languages" in shown.err
    verdicts = [json.loads(line) for line in open(tmp_path / "out/verdicts.jsonl")]
    assert [verdict["name"] for verdict in verdicts] == names
    assert sum(verdict["right"] for verdict in verdicts) == stripped


@pytest.mark.parametrize("kind", ["flexmdm", "llada"])
def test_a_model_is_evaluated_on_it(tmp_path, monkeypatch, capsys, kind):
    import tiny

    from llada_utils import write_checkpoint

    rows, names = published_rows()
    write_rows(tmp_path / "fim.jsonl", rows)
    (tmp_path / "model").mkdir()
    model = tiny.flexmdm() if kind == "flexmdm" else tiny.llada()
    write_checkpoint(model, tmp_path / "model", tiny.tokenizer(), card="# test\n")
    evaluate(
        *(monkeypatch, capsys, "--checkpoint_path", tmp_path / "model", "--max_length", 200),
        *("--data_path", tmp_path / "fim.jsonl", "--output_dir", tmp_path / "out"),
        *("--diffusion_steps", 2, "--llada_infill", "oracle", "--block_length", 1000),
    )
    made = [json.loads(line) for line in open(tmp_path / "out/generations-000.jsonl")]
    assert sorted(row["task_id"] for row in made) == sorted(names)
    assert json.loads((tmp_path / "out/results.json").read_text())["metrics"][
        "exact_match_stripped"
    ]["n"] == len(names)


def test_rows_that_do_not_fit_are_refused_by_number(tmp_path, monkeypatch, capsys):
    rows, _ = published_rows()
    place = random.randrange(1, len(rows))
    without = {key: value for key, value in rows[place].items() if key != "suffix"}
    for changed, words in (
        (without, f"row {place + 1} of .* has no field 'suffix'"),
        ({**rows[place], "name": [1]}, f"field 'name' of row {place + 1} is not text"),
        ({**rows[place], "prompt": None}, f"field 'prompt' of row {place + 1} is not text"),
    ):
        write_rows(tmp_path / "fim.jsonl", [*rows[:place], changed, *rows[place + 1 :]])
        with pytest.raises(InputError, match=words):
            evaluate(
                *(monkeypatch, capsys, "--checkpoint_path", tmp_path),
                *("--data_path", tmp_path / "fim.jsonl"),
            )
    write_rows(tmp_path / "fim.jsonl", [{**row, "language": "js"} for row in rows])
    with pytest.raises(InputError, match="no row of .* has the language 'py'"):
        evaluate(
            *(monkeypatch, capsys, "--checkpoint_path", tmp_path),
            *("--data_path", tmp_path / "fim.jsonl"),
        )
