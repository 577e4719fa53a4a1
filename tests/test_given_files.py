"""Files as other systems and programs write them: read the same, or refused by one line that names
the row; no number is silently wrong.

pytest tests/test_given_files.py                              seconds
"""

import codecs
import gzip
import json
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import eval_gsm8k
import eval_humaneval_infill
from common.command_line import ArgumentParser
from common.errors import InputError
from common.files import open_text, parse_json, require_writable, write_json, write_text
from common.rows import read_file, read_finished, read_rows, write_rows
from evaluation.results_table import (
    describe,
    item_scores,
    make_result,
    markdown,
    plot,
    read_results,
    share_of,
    table_rows,
)
from sampling.options import (
    LLaDAOptions,
    SamplerOptions,
    add_flexmdm_flags,
    add_llada_flags,
    add_model_flags,
    options_from,
    refuse_mask_tokens,
    refuse_padding,
)


def evaluate(script, monkeypatch, capsys, *arguments):
    """What main() prints; InputError as it is raised."""
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
    script.main()
    return capsys.readouterr()


def math_row(number, answer, truth, **more):
    return {
        "question": f"q{number}",
        "generations": f"\\boxed{{{answer}}}",
        "ground_truth": truth,
        **more,
    }


def code_item(number, test="def check(f):\n    assert f(1) == 2\n"):
    return {
        "task_id": f"t/{number}",
        "entry_point": "f",
        "prompt": "def f(x):\n",
        "suffix": "",
        "canonical_solution": "    return x + 1\n",
        "test": test,
    }


# ---- text files ----------------------------------------------------------------------------------

ROWS = st.lists(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=5),
        st.text(st.characters(codec="utf-8"), max_size=8) | st.integers() | st.none(),
        max_size=3,
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(
    ROWS,
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_jsonl_is_the_same_rows_however_it_was_saved(
    tmp_path_factory, rows, mark, end, blank, last_end, zipped, ascii_only
):
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    text = (end + (end + "  " + end if blank else "")).join(lines) + (end if last_end else "")
    content = (codecs.BOM_UTF8 if mark else b"") + text.encode()
    path = tmp_path_factory.mktemp("rows") / ("rows.jsonl" + ".gz" * zipped)
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert read_file(path, "--x") == rows
    whole = path.with_name("rows.json")
    whole.write_bytes((codecs.BOM_UTF8 if mark else b"") + json.dumps(rows).encode())
    assert read_file(whole, "--x") == rows


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-cut"])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".jsonl.gz"])
def test_other_encodings_are_refused_by_name(tmp_path, encoding, ending):
    text = json.dumps([{"a": "é"}] if ending == ".json" else {"a": "é"}, ensure_ascii=False)
    content = {
        "utf-16-be": codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        "utf-8-cut": text.encode("latin-1"),
    }.get(encoding)
    content = text.encode(encoding) if content is None else content
    path = tmp_path / f"x{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    with pytest.raises(
        InputError,
        match="--flag: cannot read .*"
        + (encoding[:6].upper() if encoding != "utf-8-cut" else "utf-8"),
    ):
        read_file(path, "--flag")


@pytest.mark.parametrize(
    "text, words",
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a": "\\ud83d"}', "half of a character"),
        ('{"a": "\\uDE00 x"}', "half of a"),
        ('{"a": ' + "9" * 5000 + "}", "line 2 is not JSON"),
        ('{"a": 1', "line 2 is not JSON"),
    ],
)
def test_rows_that_cannot_be_kept_are_refused_by_line(tmp_path, text, words):
    path = tmp_path / "generations-000.jsonl"
    path.write_text('{"a": 0}\n' + text + "\n")
    for read in (lambda: read_file(path, "--x"), lambda: read_finished(path)):
        with pytest.raises(InputError, match=words):
            read()
    assert parse_json('{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}  # both halves


@pytest.mark.parametrize("cut", [4, 30, -1])
def test_a_gzip_cut_short_is_refused(tmp_path, cut):
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n{"a": 22222}\n' * 20)[:cut])
    with pytest.raises(InputError, match="cannot read"):
        read_rows(tmp_path / "x.jsonl.gz", fields=("a",), flag="--x")


def test_open_text_reads_a_marked_file_as_an_unmarked_one(tmp_path):
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + "= é =\r\nb".encode())
    with open_text(tmp_path / "a.txt") as file:
        assert file.read() == "= é =\nb"


# ---- output folders ------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_refused_and_one_that_can_is_left_as_it_was(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "sub", tmp_path / ("n" * 300)):
        with pytest.raises(InputError, match="--output_dir: cannot write"):
            require_writable(folder, "--output_dir")
        with pytest.raises(InputError, match="cannot write"):
            write_text(folder / "results.json", "x")
    require_writable(tmp_path / "new" / "deep", "--output_dir")
    require_writable(tmp_path, "--output_dir")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("script", [eval_gsm8k, eval_humaneval_infill])
def test_the_folder_is_tried_before_a_model_is_loaded_or_a_program_run(
    script, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        f"{script.__name__}.EvaluatedModel", lambda *a, **k: pytest.fail("a model was loaded")
    )
    monkeypatch.setattr(
        "evaluation.sandbox.runner.CodeRunner.__init__",
        lambda *a, **k: pytest.fail("a program would have run"),
    )
    (tmp_path / "file").write_text("x")
    data = [{"question": "q", "answer": "#### 1"}] if script is eval_gsm8k else [code_item(0)]
    write_rows(tmp_path / "data.jsonl", data)
    modes = [["--checkpoint_path", "x"], ["--check_references"]]
    for mode in modes:
        allow = ["--allow_code_execution"] if script is eval_humaneval_infill else []
        with pytest.raises(InputError, match="--output_dir: cannot write"):
            evaluate(
                script,
                monkeypatch,
                capsys,
                *mode,
                *allow,
                "--data_path",
                tmp_path / "data.jsonl",
                "--output_dir",
                tmp_path / "file",
            )


def test_results_are_written_before_anything_is_printed(tmp_path, monkeypatch):
    """`... | head -1` closes standard output: the results are on disk by then."""
    write_rows(tmp_path / "rows.jsonl", [math_row(0, 1, 1)])
    monkeypatch.setattr(
        sys,
        "argv",
        ["x", "--score_only", str(tmp_path / "rows.jsonl"), "--output_dir", str(tmp_path / "out")],
    )
    monkeypatch.setattr("builtins.print", lambda *a, **k: (_ for _ in ()).throw(BrokenPipeError()))
    with pytest.raises(BrokenPipeError):
        eval_gsm8k.main()
    assert (
        json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]["pass@1"]["right"]
        == 1
    )


def test_a_closed_standard_output_is_no_traceback(tmp_path):
    import subprocess

    write_rows(tmp_path / "rows.jsonl", [math_row(number, 1, 1) for number in range(3)])
    command = f"{sys.executable} {ROOT / 'eval_gsm8k.py'} --score_only {tmp_path}/rows.jsonl | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


# ---- generations of other programs: GSM8K --------------------------------------------------------


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_the_last_row_counts_with_or_without_a_line_end(tmp_path, monkeypatch, capsys, end):
    for n in (1, 2, 3):
        (tmp_path / "rows.jsonl").write_bytes(
            ("\n".join(json.dumps(math_row(number, 1, 1)) for number in range(n)) + end).encode()
        )
        assert (
            f"{n} of {n}"
            in evaluate(
                eval_gsm8k, monkeypatch, capsys, "--score_only", tmp_path / "rows.jsonl"
            ).out
        )


def test_a_last_line_that_was_cut_short_is_refused(tmp_path, monkeypatch, capsys):
    text = "".join(json.dumps(math_row(number, 1, 1)) + "\n" for number in range(3))
    for folder in (tmp_path / "generations-000.jsonl", tmp_path):
        (tmp_path / "generations-000.jsonl").write_text(text[:-9])
        with pytest.raises(InputError, match="line 3 is not JSON"):
            evaluate(eval_gsm8k, monkeypatch, capsys, "--score_only", folder)


@pytest.mark.parametrize("rule", ["paper", "strict"])
@pytest.mark.parametrize("truth", ["1000", "1,000", "so he has #### 1,000", "$1,000", 1000, 1000.0])
def test_ground_truths_are_read_from_numbers_and_from_text(
    tmp_path, monkeypatch, capsys, rule, truth
):
    write_rows(
        tmp_path / "rows.jsonl",
        [math_row(0, 1000, truth), math_row(1, 999, truth), math_row(2, 1, None)],
    )
    shown = evaluate(
        eval_gsm8k,
        monkeypatch,
        capsys,
        "--score_only",
        tmp_path / "rows.jsonl",
        "--answer_rule",
        rule,
    ).out
    assert "1 of 3" in shown


@pytest.mark.parametrize(
    "truth", ["1,5", "none", "nan", "", True, [1], {"a": 1}, float("nan"), float("-inf"), "9" * 400]
)
def test_a_ground_truth_that_cannot_be_read_is_named(tmp_path, monkeypatch, capsys, truth):
    write_rows(tmp_path / "rows.jsonl", [math_row(0, 1, 1), math_row(1, 1, truth)])
    with pytest.raises(InputError, match="row 2 .*ground_truth"):
        evaluate(eval_gsm8k, monkeypatch, capsys, "--score_only", tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    "answer",
    ["5", "nothing #### ", "#### 1,5", "#### nan", "#### inf", "#### " + "9" * 5000, 5, None],
)
def test_an_item_without_a_readable_gold_answer_is_refused(tmp_path, monkeypatch, capsys, answer):
    write_rows(
        tmp_path / "data.jsonl",
        [{"question": "q", "answer": "#### 5"}, {"question": "r", "answer": answer}],
    )
    with pytest.raises(InputError, match="item 2"):
        evaluate(
            eval_gsm8k,
            monkeypatch,
            capsys,
            "--check_references",
            "--data_path",
            tmp_path / "data.jsonl",
        )


ODD_ROWS = [
    ("question", [1], "no text under 'question'"),
    ("question", None, "no text under 'question'"),
    ("item", -1, "'item'"),
    ("item", "0", "'item'"),
    ("item", True, "'item'"),
    ("sample", 1.5, "'sample'"),
    ("sample", None, "'sample'"),
    ("evaluations", "8", "'evaluations'"),
    ("length", "9", "'length'"),
    ("length", float("nan"), "'length'"),
    ("seconds", [], "'seconds'"),
    ("configuration", ["a"], "'configuration'"),
    ("generations", 3, "'generations'"),
]


@pytest.mark.parametrize("field, value, words", ODD_ROWS)
def test_odd_fields_are_refused_by_row(tmp_path, monkeypatch, capsys, field, value, words):
    rows = [math_row(number, 1, 1, item=number, sample=0) for number in range(3)]
    rows[1][field] = value
    write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(InputError, match=f"row 2 .*{words}"):
        evaluate(eval_gsm8k, monkeypatch, capsys, "--score_only", tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    "content",
    ["3", "[]", "null", '"text"', "[[1]]", '{"generations": [3]}', '{"generations": []}', "{}"],
)
def test_files_that_hold_no_rows_are_refused(tmp_path, monkeypatch, capsys, content):
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(InputError, match="--score_only"):
        evaluate(eval_gsm8k, monkeypatch, capsys, "--score_only", tmp_path / "rows.json")


@pytest.mark.parametrize("content", ["3", "[]", "[1, 2]", "null"])
def test_settings_that_are_no_object_are_refused(tmp_path, monkeypatch, capsys, content):
    write_rows(tmp_path / "generations-000.jsonl", [math_row(0, 1, 1)])
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(InputError, match="settings.json does not hold one JSON object"):
        evaluate(eval_gsm8k, monkeypatch, capsys, "--score_only", tmp_path)


@given(st.permutations([0, 1, 2, 3]), st.integers(1, 3), st.sampled_from(["sample", "item"]))
@settings(max_examples=20, deadline=None)
def test_rows_with_and_without_a_number_are_refused_in_every_order(
    tmp_path_factory, order, without, field
):
    from evaluation.generation_run import read_generations

    rows = [math_row(number, 1, 1, item=number, sample=0) for number in range(4)]
    for row in rows[:without]:
        del row[field]
    path = tmp_path_factory.mktemp("mixed") / "rows.jsonl"
    write_rows(path, [rows[place] for place in order])
    with pytest.raises(InputError, match=f"row \\d of .* has (a|no) '{field}', unlike row 1"):
        read_generations([path], "question")


def test_two_names_of_one_item_are_refused(tmp_path, monkeypatch, capsys):
    write_rows(
        tmp_path / "rows.jsonl",
        [math_row(0, 1, 1, item=0, sample=0), math_row(1, 1, 1, item=0, sample=1)],
    )
    with pytest.raises(InputError, match="item 0 has two names: 'q0' and 'q1'"):
        evaluate(eval_gsm8k, monkeypatch, capsys, "--score_only", tmp_path / "rows.jsonl")


@pytest.mark.parametrize("field", ["item", "sample"])
def test_a_number_of_a_thousand_million_is_counted_not_listed(tmp_path, monkeypatch, capsys, field):
    write_rows(
        tmp_path / "rows.jsonl",
        [
            math_row(0, 1, 1, item=0, sample=0),
            math_row(1, 1, 1, **{"item": 1, "sample": 0, field: 10**9}),
        ],
    )
    with pytest.raises(InputError, match=r"\d{9,} rows are missing"):
        evaluate(eval_gsm8k, monkeypatch, capsys, "--score_only", tmp_path / "rows.jsonl")
    assert (
        "2 of 2"
        in evaluate(
            eval_gsm8k,
            monkeypatch,
            capsys,
            "--score_only",
            tmp_path / "rows.jsonl",
            "--allow_missing",
        ).out
    )


# two items share a question, and two of these the answer too
SHARED = [("p", 1), ("same", 2), ("same", 3), ("r", 4), ("same", 3)]


@pytest.mark.parametrize("with_item", [True, False])
@pytest.mark.parametrize("with_data", [True, False])
@given(order=st.permutations(range(5)), samples=st.integers(1, 2), wrong=st.integers(0, 4))
@settings(max_examples=10, deadline=None)
def test_items_that_share_a_question_stay_two(
    tmp_path_factory, with_item, with_data, order, samples, wrong
):
    folder = tmp_path_factory.mktemp("shared")
    if not (with_item or with_data):
        return  # nothing says that there are two
    rows = []
    for item in order:
        question, truth = SHARED[item]
        for sample in range(samples):
            answer = 99 if item == wrong and sample == 0 else truth
            rows.append(
                {
                    "question": question,
                    "generations": f"\\boxed{{{answer}}}",
                    "ground_truth": truth,
                    **({"item": item, "sample": sample} if with_item else {}),
                }
            )
    write_rows(folder / "rows.jsonl", rows)
    write_rows(
        folder / "data.jsonl",
        [{"question": question, "answer": f"#### {truth}"} for question, truth in SHARED],
    )
    for rule in ("paper", "strict"):
        args = SimpleNamespace(
            score_only=[folder / "rows.jsonl"],
            data_path=folder / "data.jsonl" if with_data else None,
            subsample=None,
            num_samples=samples,
            allow_duplicates=False,
            allow_missing=False,
            answer_rule=rule,
            label=None,
            output_dir=str(folder / rule),
        )
        args.score_only = [str(folder / "rows.jsonl")]
        args.data_path = args.data_path and str(args.data_path)
        eval_gsm8k.score_only(args)
        metrics = json.loads((folder / rule / "results.json").read_text())["metrics"]
        assert metrics["pass@1"]["n"] == 5 and metrics["pass@1"]["right"] == pytest.approx(
            5 - 1 / samples
        )
        assert ("pass@2" in metrics) == (samples == 2)
        scores = item_scores(folder / rule)
        assert len(scores) == 5 and sum(scores.values()) == pytest.approx(5 - 1 / samples)


def test_given_rows_are_not_named_gsm8k(tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "their_rows.jsonl", [math_row(0, 1, 1)])
    evaluate(
        eval_gsm8k,
        monkeypatch,
        capsys,
        "--score_only",
        tmp_path / "their_rows.jsonl",
        "--output_dir",
        tmp_path / "out",
    )
    assert json.loads((tmp_path / "out" / "results.json").read_text())["benchmark"] == "their_rows"


# ---- infilling -----------------------------------------------------------------------------------


def test_a_set_in_which_only_some_items_have_a_test_is_refused_before_anything_runs(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        "eval_humaneval_infill.EvaluatedModel", lambda *a, **k: pytest.fail("a model was loaded")
    )
    monkeypatch.setattr(
        "evaluation.sandbox.runner.CodeRunner.__init__",
        lambda *a, **k: pytest.fail("a program would have run"),
    )
    write_rows(tmp_path / "items.jsonl", [code_item(0), code_item(1, test=" \n"), code_item(2)])
    write_rows(
        tmp_path / "rows.jsonl",
        [{"task_id": f"t/{number}", "completion": "    return x + 1\n"} for number in range(3)],
    )
    for mode in (
        ["--score_only", tmp_path / "rows.jsonl"],
        ["--checkpoint_path", "x"],
        ["--check_references"],
    ):
        with pytest.raises(InputError, match="1 of 3 items have no test .*t/1"):
            evaluate(
                eval_humaneval_infill,
                monkeypatch,
                capsys,
                *mode,
                "--data_path",
                tmp_path / "items.jsonl",
                "--allow_code_execution",
            )
    shown = evaluate(
        eval_humaneval_infill,
        monkeypatch,
        capsys,
        "--score_only",
        tmp_path / "rows.jsonl",
        "--data_path",
        tmp_path / "items.jsonl",
    )
    assert "exact_match" in shown.out


def test_a_set_without_tests_says_that_its_score_is_exact_match(tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "items.jsonl", [code_item(0, test="")])
    write_rows(
        tmp_path / "rows.jsonl",
        [{"task_id": "t/0", "completion": "    return 1\n", "length": None, "reference_length": 4}],
    )
    shown = evaluate(
        eval_humaneval_infill,
        monkeypatch,
        capsys,
        "--score_only",
        tmp_path / "rows.jsonl",
        "--data_path",
        tmp_path / "items.jsonl",
        "--allow_code_execution",
    )
    assert "the score is exact match" in shown.err and "0 of 1" in shown.out


def test_scoring_text_is_bounded_work(tmp_path, monkeypatch, capsys):
    import time

    began = time.process_time()
    assert eval_humaneval_infill.edit_similarity("ab" * 100_000, "ba" * 1000 + "c") < 0.011
    assert not eval_humaneval_infill.parses("a" + ".a" * 200_000)
    assert time.process_time() - began < 10
    write_rows(tmp_path / "items.jsonl", [code_item(0)])
    write_rows(tmp_path / "rows.jsonl", [{"task_id": "t/0", "completion": "x" * 200_001}])
    with pytest.raises(InputError, match="row 1 has more than 200,000"):
        evaluate(
            eval_humaneval_infill,
            monkeypatch,
            capsys,
            "--score_only",
            tmp_path / "rows.jsonl",
            "--data_path",
            tmp_path / "items.jsonl",
        )
    write_rows(tmp_path / "items.jsonl", [{**code_item(0), "canonical_solution": "x" * 20_001}])
    with pytest.raises(InputError, match="'canonical_solution' of row 1"):
        evaluate(
            eval_humaneval_infill,
            monkeypatch,
            capsys,
            "--score_only",
            tmp_path / "rows.jsonl",
            "--data_path",
            tmp_path / "items.jsonl",
        )


# ---- the table -----------------------------------------------------------------------------------


def result(label, metric="pass@1", benchmark="their set", **details):
    return make_result(
        benchmark=benchmark,
        label=label,
        metrics={metric: share_of(3, 10)},
        rows=[{"evaluations": 8}] * 10,
        settings={"kind": "flexmdm", "steps": 8},
        details=details,
    )


def test_two_measures_of_one_run_are_two_lines_that_say_so(tmp_path):
    results = [
        ("a", result("x")),
        ("b", result("x", "exact_match")),
        ("c", result("x", answer_rule="paper")),
        ("d", result("x", answer_rule="strict")),
    ]
    rows = table_rows(results)
    lines = markdown(rows).splitlines()[2:]
    assert len(
        {tuple(line.split("|")[1:5]) for line in lines}
    ) == 4 and "| pass@1, strict rule |" in markdown(rows)
    plot(rows, tmp_path / "plot.svg")


@settings(max_examples=15, deadline=None)
@given(
    st.text(st.sampled_from("a|$_\n\r\\^{}%#&~`\u2028 é"), max_size=8),
    st.sampled_from(["label", "benchmark"]),
)
def test_any_label_is_one_cell_and_one_line_of_the_legend(tmp_path_factory, text, field):
    row = dict(result("x"), **{field: text})
    rows = table_rows([("a", row)])
    line = markdown(rows).splitlines()
    assert len(line) == 3
    unescaped = line[2].replace("\\\\", "").replace("\\|", "")
    assert unescaped.count("|") == 9
    import matplotlib.figure

    shown = []
    save = matplotlib.figure.Figure.savefig
    path = tmp_path_factory.mktemp("plot") / "x.svg"
    matplotlib.figure.Figure.savefig = lambda figure, *a, **k: (
        shown.extend(t.get_text() for panel in figure.axes for t in panel.get_legend().get_texts()),
        save(figure, *a, **k),
    )
    try:
        plot(rows, path)
    finally:
        matplotlib.figure.Figure.savefig = save
    assert len(shown) == 1 and "(n = 10)" in shown[0]


@pytest.mark.parametrize(
    "field, value",
    [
        ("label", None),
        ("label", 3),
        ("label", ["x"]),
        ("benchmark", 1),
        ("metrics", []),
        ("metrics", None),
        ("settings", []),
        ("evaluations", 3),
    ],
)
def test_a_result_whose_fields_are_of_another_kind_is_refused(tmp_path, field, value):
    write_json(tmp_path / "results.json", dict(result("x"), **{field: value}))
    with pytest.raises(InputError, match=f"RESULTS: {field!r} of .* is not"):
        read_results([tmp_path])


@pytest.mark.parametrize(
    "row",
    [
        {"name": 1, "sample": 0, "right": True},
        {"name": "a", "sample": "0", "right": True},
        {"name": "a", "sample": 0, "right": None},
    ],
)
def test_odd_verdicts_are_refused(tmp_path, row):
    write_rows(tmp_path / "verdicts.jsonl", [row])
    with pytest.raises(InputError, match="--pair: row 1"):
        item_scores(tmp_path)


def test_a_description_needs_no_evaluations():
    assert "their set" in describe(
        make_result(
            benchmark="their set",
            label="x",
            metrics={"pass@1": share_of(0, 1)},
            rows=[{}],
            settings={},
            details={},
        )
    )


# ---- values of flags -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--insertion_schedule", "geometric:inf,1"],
        ["--insertion_schedule", "power:inf"],
        ["--insertion_schedule", "power:nan"],
        ["--insertion_schedule", "power:1e999"],
        ["--insertion_schedule", "geometric:1,-inf"],
        ["--temperature", "nan"],
        ["--unmasking", "confidence", "--confidence_threshold", "nan"],
        ["--unmasking", "confidence", "--confidence_threshold", "-inf"],
        ["--alpha", "inf"],
    ],
)
def test_flexmdm_values_that_are_not_finite_are_refused_by_flag(words):
    parser = ArgumentParser()
    add_model_flags(parser, checkpoint_required=False)
    add_flexmdm_flags(parser)
    with pytest.raises(InputError, match=words[-2]):
        options_from(parser.parse_args(words), SamplerOptions)


@pytest.mark.parametrize("value", ["1e39", "nan", "inf", "-1"])
def test_a_guidance_beyond_the_logits_range_is_refused(value):
    parser = ArgumentParser()
    add_model_flags(parser, checkpoint_required=False)
    add_llada_flags(parser)
    with pytest.raises(InputError, match="--cfg_scale"):
        options_from(parser.parse_args(["--cfg_scale", value]), LLaDAOptions)


def test_a_command_line_that_is_not_utf_8_is_refused():
    with pytest.raises(InputError, match="not UTF-8"):
        ArgumentParser().parse_args([b"--prompt=\xff".decode("utf-8", "surrogateescape")])


ROW = st.lists(st.integers(0, 6), max_size=6)  # 7 is padding


@given(st.lists(ROW, min_size=1, max_size=3), st.data())
def test_padding_anywhere_among_what_is_given_is_refused(rows, data):
    refuse_padding(rows, 7, "--prompt", data.draw(st.sampled_from([None, 1, 7])))
    row = data.draw(st.sampled_from(rows))
    row.insert(data.draw(st.integers(0, len(row))), 7)
    start = data.draw(st.sampled_from([None, 1]))
    with pytest.raises(InputError, match="--prompt: holds the padding token 7"):
        refuse_padding(rows, 7, "--prompt", start)


@given(ROW.filter(len), st.integers(1, 6))
def test_a_start_token_that_is_padding_as_well_may_only_start(row, place):
    refuse_padding([[7, *row]], 7, "--prompt", start_id=7)
    for wrong in ([7], [7, *row[:place], 7, *row[place:]]):
        with pytest.raises(InputError, match="--prompt: holds the padding token 7"):
            refuse_padding([row, wrong], 7, "--prompt", start_id=7)


def test_mask_tokens_among_what_is_given_are_refused():
    refuse_mask_tokens(([1, 2], []), 7, "--prompt")
    with pytest.raises(InputError, match="--prompt: holds the mask token 7"):
        refuse_mask_tokens(([1], [2, 7]), 7, "--prompt")


# ---- pages of generations ------------------------------------------------------------------------

PANEL = {
    "title": "_$x$",
    "t": [0.0, 1.0],
    "evaluations": [0, 3],
    "tokens": [["a", 0], ["b", 0]],
    "slots": [[0, 0, 0, 1], [1, 1, 1, 0]],
}


@pytest.mark.parametrize(
    "field, value",
    [
        ("slots", [[2, 0, 0, 0]]),
        ("slots", [[0, 2, 1, 0]]),
        ("slots", [[0, 0, 2, 0]]),
        ("slots", [[0, 0, -2, 0]]),
        ("slots", [[-1, 0, 0, 0]]),
        ("slots", [[0, 0, 0]]),
        ("slots", [3]),
        ("slots", 3),
        ("slots", None),
        ("slots", [[0, 0.5, 1, 0]]),
        ("t", []),
        ("t", 3),
        ("t", [0, "1"]),
        ("t", [0, float("nan")]),
        ("evaluations", [0]),
        ("evaluations", None),
        ("tokens", [["a"]]),
        ("tokens", {}),
        ("title", None),
    ],
)
@pytest.mark.parametrize("ending", ["png", "html"])
def test_a_page_with_a_damaged_panel_is_refused_and_nothing_is_written(
    tmp_path, monkeypatch, ending, field, value
):
    import trace_page as command

    from sampling import trace_page

    trace_page.write_trace_page(tmp_path / "page.html", [PANEL, {**PANEL, field: value}])
    monkeypatch.setattr(
        sys, "argv", ["x", str(tmp_path / "page.html"), "--output", str(tmp_path / f"out.{ending}")]
    )
    with pytest.raises(InputError, match="page.html is not a page .* of panel 2"):
        command.main()
    assert not (tmp_path / f"out.{ending}").exists()


def test_a_whole_panel_is_drawn_and_a_picture_that_cannot_be_written_is_one_line(tmp_path):
    from sampling import trace_page

    trace_page.write_trace_page(tmp_path / "page.html", [PANEL])
    panels = trace_page.read_panels(tmp_path / "page.html")
    trace_page.write_panels(tmp_path / "out.png", panels)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="cannot write"):
        trace_page.write_panels(tmp_path / "page.html" / "out.png", panels)
