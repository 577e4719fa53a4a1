"""Generations and results as other systems and programs write them: read the same, or refused by
one line that names the row; no number is silently wrong.

pytest tests/evaluation/test_given_generations.py                              seconds
"""

import json
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import eval_gsm8k
import eval_humaneval_infill
from common.errors import InputError
from common.files import write_json
from common.rows import write_rows
from evaluation.driver import score_only
from evaluation.infill_scores import edit_similarity, parses
from evaluation.results import describe, item_scores, make_result, share_of
from evaluation.results_table import markdown, plot, read_results, table_rows


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


# ---- output folders ------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [eval_gsm8k, eval_humaneval_infill])
def test_output_folder_is_checked_before_a_model_is_loaded_or_a_program_run(
    script, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        "evaluation.driver.EvaluatedModel", lambda *a, **k: pytest.fail("a model was loaded")
    )
    monkeypatch.setattr(
        "evaluation.sandbox.runner.CodeRunner.__init__",
        lambda *a, **k: pytest.fail("a program would have run"),
    )
    (tmp_path / "file").write_text("x")
    data = [{"question": "q", "answer": "#### 1"}] if script is eval_gsm8k else [code_item(0)]
    write_rows(tmp_path / "data.jsonl", data)
    modes = [["--checkpoint_path", ROOT / "LLaDA-tiny-Base"], ["--check_references"]]
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


def test_a_closed_standard_output_gives_no_traceback(tmp_path):
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
def test_malformed_fields_are_refused_by_row(tmp_path, monkeypatch, capsys, field, value, words):
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
def test_settings_that_are_not_a_json_object_are_refused(tmp_path, monkeypatch, capsys, content):
    write_rows(tmp_path / "generations-000.jsonl", [math_row(0, 1, 1)])
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(InputError, match="settings.json does not hold one JSON object"):
        evaluate(eval_gsm8k, monkeypatch, capsys, "--score_only", tmp_path)


@given(st.permutations([0, 1, 2, 3]), st.integers(1, 3), st.sampled_from(["sample", "item"]))
@settings(max_examples=20, deadline=None)
def test_mixing_rows_with_and_without_an_index_is_refused_in_any_order(
    tmp_path_factory, order, without, field
):
    from evaluation.given_rows import read_generations

    rows = [math_row(number, 1, 1, item=number, sample=0) for number in range(4)]
    for row in rows[:without]:
        del row[field]
    path = tmp_path_factory.mktemp("mixed") / "rows.jsonl"
    write_rows(path, [rows[place] for place in order])
    with pytest.raises(InputError, match=f"row \\d of .* has (a|no) '{field}', unlike row 1"):
        read_generations([path], "question")


def test_one_item_with_two_names_is_refused(tmp_path, monkeypatch, capsys):
    write_rows(
        tmp_path / "rows.jsonl",
        [math_row(0, 1, 1, item=0, sample=0), math_row(1, 1, 1, item=0, sample=1)],
    )
    with pytest.raises(InputError, match="item 0 has two names: 'q0' and 'q1'"):
        evaluate(eval_gsm8k, monkeypatch, capsys, "--score_only", tmp_path / "rows.jsonl")


@pytest.mark.parametrize("field", ["item", "sample"])
def test_missing_rows_below_a_huge_index_are_counted_without_listing_them(
    tmp_path, monkeypatch, capsys, field
):
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
def test_items_with_the_same_question_stay_separate(
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
        score_only(eval_gsm8k.Gsm8k(args))
        metrics = json.loads((folder / rule / "results.json").read_text())["metrics"]
        assert metrics["pass@1"]["n"] == 5 and metrics["pass@1"]["right"] == pytest.approx(
            5 - 1 / samples
        )
        assert ("pass@2" in metrics) == (samples == 2)
        scores = item_scores(folder / rule)
        assert len(scores) == 5 and sum(scores.values()) == pytest.approx(5 - 1 / samples)


def test_rows_of_a_user_file_are_not_labelled_gsm8k(tmp_path, monkeypatch, capsys):
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
        "evaluation.driver.EvaluatedModel", lambda *a, **k: pytest.fail("a model was loaded")
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
        ["--checkpoint_path", ROOT / "LLaDA-tiny-Base"],
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


def test_scoring_text_takes_bounded_time(tmp_path, monkeypatch, capsys):
    import time

    began = time.process_time()
    assert edit_similarity("ab" * 100_000, "ba" * 1000 + "c") < 0.011
    assert not parses("a" + ".a" * 200_000)
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


def test_two_metrics_of_one_run_are_two_labelled_table_rows(tmp_path):
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
def test_any_label_fits_one_table_cell_and_one_legend_entry(tmp_path_factory, text, field):
    row = dict(result("x"), **{field: text})
    rows = table_rows([("a", row)])
    line = markdown(rows).splitlines()
    assert len(line) == 3
    unescaped = line[2].replace("\\\\", "").replace("\\|", "")
    assert unescaped.count("|") == 10
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
def test_a_result_with_fields_of_the_wrong_type_is_refused(tmp_path, field, value):
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
def test_malformed_verdicts_are_refused(tmp_path, row):
    write_rows(tmp_path / "verdicts.jsonl", [row])
    with pytest.raises(InputError, match="--pair: row 1"):
        item_scores(tmp_path)


def test_a_result_without_evaluation_counts_can_be_described():
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
