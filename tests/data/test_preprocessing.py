"""The three preprocessing scripts: rows from real and made-up data, framing, cutting, splits,
reuse, refusals.

    python -m pytest tests/data/test_preprocessing.py
A small byte-level tokenizer, made here, merges across borders on purpose; the tests on real data
use LLaDA's (FLEXMDM_DATA).
"""

import gzip
import json
import random
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from conftest import ROOT, _folder

import flexmdm_transfer_preprocess as transfer
import preprocess_code_infilling as code
import preprocess_math as math_rows
from common.errors import run
from data import chunking, corpora, corpus_splits, infills, instruction_rows, math_prompts
from data.tokenizer import open_tokenizer

SPECIAL = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|mdm_mask|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
MERGES = [
    (">", "T"),
    ("Ċ", "Ċ"),
    (".", "ĊĊ"),
    ("t", "h"),
    ("th", "e"),
    ("Ġ", "Ġ"),
    ("Ċ", "d"),
    ("}", "<"),
]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    """256 bytes, a few merges that cross words and lines, LLaDA's special tokens; the chat template
    is load_tokenizer's.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in MERGES]
    tokenizer = Tokenizer(
        models.BPE({piece: number for number, piece in enumerate(pieces)}, MERGES)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[1],
        mask_token=SPECIAL[2],
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    import datasets

    datasets.disable_progress_bars()
    return open_tokenizer(str(tokenizer_folder), 1)


@pytest.fixture(scope="module")
def llada_tokenizer():

    return open_tokenizer(str(_folder("FLEXMDM_DATA") / "llada_tokenizer"), 1)


@pytest.fixture
def command(monkeypatch, capsys, tokenizer):
    """command(module, *flags) -> (exit code, stdout, stderr) of a script's main, in this
    process.
    """

    def call(module, *flags):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, flags)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run(module.main)
        return end.value.code, *capsys.readouterr()

    return call


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(folder):
    from datasets import load_from_disk

    return load_from_disk(str(folder)), json.loads((folder / "info.json").read_text())


def random_text(length, alphabet="abT>. th\n\né日€{}<"):
    return "".join(random.choice(alphabet) for _ in range(length))


# ---- math ----------------------------------------------------------------------------------------

GSM8K = [
    {
        "question": f"Tom has {n} pens and buys {n}. How many?",
        "answer": f"The sum is <<{n}+{n}={2 * n}>>{2 * n}.\n#### {2 * n}",
    }
    for n in range(1, 13)
]


def test_math_prompt_has_one_start_token_and_ends_where_the_reasoning_begins(tokenizer):
    prompt = math_prompts.math_prompt(tokenizer, "How many?")
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert prompt.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n<reasoning>")
    assert math_prompts.SYSTEM_PROMPT + "\n\nHow many?" in prompt


def test_math_target():
    assert (
        math_prompts.math_target("2+3=5\n#### 5")
        == "2+3=5</reasoning>\n<answer>\\boxed{5}</answer>"
    )
    assert math_prompts.math_target("a #### b\n#### -1,000 ").endswith(
        "<answer>\\boxed{-1,000}</answer>"
    )
    with pytest.raises(ValueError, match="####"):
        math_prompts.math_target("the answer is 5")


def test_prompt_length_is_the_longest_token_prefix_inside_the_prompt(tokenizer):
    for _ in range(200):
        prompt, target = random_text(random.randint(0, 12)), random_text(random.randint(1, 12))
        row = instruction_rows.joint_row(tokenizer, prompt, target)
        assert tokenizer.decode(row["input_ids"]) == prompt + target
        # a character of these is a byte
        pieces = [tokenizer.convert_ids_to_tokens(token) for token in row["input_ids"]]
        ends, border = np.cumsum([len(piece) for piece in pieces]), len(prompt.encode())
        assert row["prompt_length"] == (ends <= border).sum()
        assert row["straddles"] == (border not in [0, *ends])


def test_math_straddling_token_belongs_to_the_answer(tokenizer):
    row = math_prompts.math_row({"question": "q", "answer": "The end\n#### 1"}, tokenizer, False)
    assert row["straddles"] and tokenizer.decode(
        row["input_ids"][row["prompt_length"] :]
    ).startswith(">The end</reasoning>")
    row = math_prompts.math_row(
        {"question": "q", "answer": "an <<1=1>>end\n#### 1"}, tokenizer, True
    )
    assert not row["straddles"] and tokenizer.decode(
        row["input_ids"][row["prompt_length"] :]
    ).startswith("an end</reasoning>")
    assert row["input_ids"][-1] != tokenizer.eos_token_id


def test_math_command_reads_train_files_counts_long_rows_and_keeps_a_finished_output(
    command, tmp_path, tokenizer, tokenizer_folder
):
    (tmp_path / "data").mkdir()
    long = {"question": "word " * 300, "answer": "#### 1"}
    write_jsonl(tmp_path / "data" / "train.jsonl", GSM8K + [long])
    write_jsonl(tmp_path / "data" / "test.jsonl", [{"question": "secret", "answer": "#### 0"}])
    flags = [
        "--data_path",
        tmp_path / "data",
        "--tokenizer",
        tokenizer_folder,
        "--output_dir",
        tmp_path / "out",
    ]
    status, out, _ = command(math_rows, *flags)
    assert status == 0 and "1 longer than --max_length 1024" in out
    rows, info = load(tmp_path / "out")
    assert (info["rows_read"], info["rows"], info["left_out"]["longer_than_max_length"]) == (
        13,
        12,
        1,
    )
    assert rows["train"].column_names == ["input_ids", "prompt_length"] and len(rows["train"]) == 12
    assert info["token_straddles_the_border"] == 12
    expected = [math_prompts.math_row(row, tokenizer, False) for row in GSM8K]
    assert rows["train"]["input_ids"][:] == [row["input_ids"] for row in expected]
    assert rows["train"]["prompt_length"][:] == [row["prompt_length"] for row in expected]

    written = (tmp_path / "out" / "info.json").stat().st_mtime_ns
    status, out, _ = command(math_rows, *flags, "--num_proc", 2)
    assert (
        status == 0
        and "kept" in out
        and (tmp_path / "out" / "info.json").stat().st_mtime_ns == written
    )
    status, _, error = command(math_rows, *flags, "--strip_annotations")
    assert status == 2 and "strip_annotations" in error and "--overwrite" in error
    status, _, _ = command(math_rows, *flags, "--strip_annotations", "--overwrite", "--num_proc", 2)
    rows, _ = load(tmp_path / "out")
    assert status == 0 and not any(
        "<<" in tokenizer.decode(ids) for ids in rows["train"]["input_ids"]
    )
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_math_rows_with_special_tokens_are_left_out_and_empty_answers_refused(
    command, tmp_path, tokenizer, tokenizer_folder
):
    """The mask token in a text would be its own target, and what follows padding would not be seen:
    left out and counted. An answer of nothing
    would be an empty box: refused by its row.
    """
    mask, padding = tokenizer.mask_token, tokenizer.pad_token
    rows = [
        {"question": f"How many {mask}?", "answer": "two #### 2"},
        {"question": "q", "answer": f"a {mask} b #### 2"},
        {"question": "q", "answer": "#### 3"},
        {"question": f"What follows {padding}?", "answer": "#### 4"},
        {"question": "q", "answer": f"it {padding} ends #### 5"},
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    flags = [
        "--data_path",
        tmp_path / "rows.jsonl",
        "--tokenizer",
        tokenizer_folder,
        "--output_dir",
        tmp_path / "out",
    ]
    status, out, _ = command(math_rows, *flags)
    made, info = load(tmp_path / "out")
    assert (
        status == 0
        and "4 with the mask or padding token" in out
        and info["left_out"]["mask_or_padding_token_in_text"] == 4
        and len(made["train"]) == 1
    )
    for empty in ("a ####", "b #### \n ", "####"):
        write_jsonl(tmp_path / "rows.jsonl", [rows[2], {"question": "q", "answer": empty}])
        status, _, error = command(math_rows, *flags, "--overwrite")
        assert status == 2 and "row 2" in error and "empty box" in error


# ---- code infilling ------------------------------------------------------------------------------


@pytest.mark.parametrize("n, prompt_length", [(9, 0), (9, 4), (5, 2)])
def test_middle_is_uniform_over_the_papers_ranges(n, prompt_length):
    first_range, grid = n - 2 - prompt_length, 840  # 840 is divisible by every range here
    drawn = Counter(
        infills.draw_middle(n, prompt_length, (i + 0.5) / (first_range * 4), (j + 0.5) / grid)
        for i in range(first_range * 4)
        for j in range(grid)
    )
    assert {start for start, _ in drawn} == set(range(prompt_length, n - 2))
    for start in range(prompt_length, n - 2):
        counts = [drawn[start, end] for end in range(start + 1, n)]
        assert counts == [4 * grid // (n - 1 - start)] * (n - 1 - start)
    assert sum(drawn.values()) == first_range * 4 * grid  # nothing drawn outside


def test_middle_of_short_outputs_is_their_first_token():
    almost_one = np.nextafter(1.0, 0.0)
    for u in (0.0, 0.5, almost_one):
        assert infills.draw_middle(6, 5, u, u) == (5, 6)  # one token: it is the middle, no suffix
        assert infills.draw_middle(6, 4, u, u) == (4, 5)
        assert infills.draw_middle(1, 0, u, u) == (0, 1)
    for n in range(3, 2000):
        start, end = infills.draw_middle(n, 0, almost_one, almost_one)
        assert start == n - 3 and end == n - 1  # never rounded up to the excluded end
    for n, prompt_length in [(5, 5), (5, 6), (0, 0)]:
        with pytest.raises(ValueError, match="no output"):
            infills.draw_middle(n, prompt_length, 0.5, 0.5)


def test_infill_format_at_inference_equals_training(tokenizer):
    boundary, layout = (
        infills.infill_boundary_ids(tokenizer),
        infills.llada_infill_layout(tokenizer),
    )
    for _ in range(100):
        row = instruction_rows.joint_row(tokenizer, random_text(8) + "\n", random_text(20))
        ids, n = np.array(row["input_ids"]), len(row["input_ids"])
        start, end = infills.draw_middle(n, row["prompt_length"], random.random(), random.random())
        prefix, middle, suffix = ids[:start], ids[start:end], ids[end:]
        texts = tokenizer.decode(prefix), tokenizer.decode(suffix)
        if [infills.text_ids(tokenizer, text) for text in texts] != [
            prefix.tolist(),
            suffix.tolist(),
        ]:
            continue  # a cut inside a character, or where a merge would join
        framed, first, last = infills.format_flexmdm_infill(prefix, middle, suffix, boundary)
        before, after = infills.flexmdm_infill_ids(tokenizer, *texts)
        assert (
            framed.tolist() == before + middle.tolist() + after
            and framed[first:last].tolist() == middle.tolist()
        )
        assert before[len(before) - len(boundary) :] == boundary == after[: len(boundary)]
        framed, prompt_length = infills.format_llada_infill(prefix, middle, suffix, layout)
        prompt = infills.llada_infill_prompt(tokenizer, *texts)
        assert framed.tolist() == prompt + middle.tolist() and prompt_length == len(prompt)


def test_infill_format_of_empty_parts(tokenizer):
    boundary = infills.infill_boundary_ids(tokenizer)
    assert tokenizer.decode(boundary) == infills.INFILL_BOUNDARY
    assert infills.flexmdm_infill_ids(tokenizer, "", "") == (boundary, boundary)
    ids, start, end = infills.format_flexmdm_infill([], [], [], boundary)
    assert ids.dtype == np.int64 and (start, end) == (len(boundary),) * 2
    text = tokenizer.decode(infills.llada_infill_prompt(tokenizer, "x", ""))
    assert text == infills.REQUEST + "<prefix>x</prefix><suffix></suffix>"


def test_code_preprocessing_keeps_rows_that_fit_in_both_infill_formats(
    command, tmp_path, tokenizer, tokenizer_folder
):
    layout = sum(map(len, infills.llada_infill_layout(tokenizer)))
    assert layout > 2 * len(infills.infill_boundary_ids(tokenizer))
    rows = [
        {"instruction": "Write f.", "output": "def f(): pass", "seq_id": 1},
        {"instruction": "Write\n", "output": "g"},
        {"instruction": "no output", "output": ""},
        {"instruction": "y", "output": "x" * 98},
        {"instruction": "y", "output": "x" * 99},
    ]
    write_jsonl(tmp_path / "opc.jsonl", rows)
    status, out, _ = command(
        code,
        "--data_path",
        tmp_path / "opc.jsonl",
        "--tokenizer",
        tokenizer_folder,
        "--output_dir",
        tmp_path / "out",
        "--max_length",
        layout + 100,
    )
    assert status == 0 and "1 longer than" in out and "1 without an answer" in out
    made, info = load(tmp_path / "out")
    texts = [tokenizer.decode(ids) for ids in made["train"]["input_ids"]]
    # exactly 100 tokens of it still fit
    assert texts == ["Write f.\ndef f(): pass", "Write\ng", "y\n" + "x" * 98]
    # newline and d are one token: it is output
    assert made["train"]["prompt_length"][:] == [len("Write f."), len("Write\n"), 2]
    assert (
        info["left_out"]
        == {"longer_than_max_length": 1, "without_answer": 1, "mask_or_padding_token_in_text": 0}
        and info["longest_row_read"] == layout + 101
    )


@pytest.mark.parametrize("token", ["mask_token", "pad_token"])
@pytest.mark.parametrize("place", ["{} first", "in {} between", "last {}", "glued{}together"])
def test_every_preprocessor_leaves_out_rows_with_special_tokens(
    command, tmp_path, tokenizer, tokenizer_folder, token, place
):
    """One rule, wherever in the text the token is written out."""
    text = place.format(getattr(tokenizer, token))
    made_of = {
        math_rows: lambda text: {"question": text, "answer": "#### 1"},
        code: lambda text: {"instruction": "i", "output": text},
        transfer: lambda text: {"text": text},
    }
    for module, row in made_of.items():
        write_jsonl(tmp_path / "rows.jsonl", [row("good"), row(text), row("fine")])
        output = tmp_path / module.__name__
        words = ["--data_path", tmp_path / "rows.jsonl", "--tokenizer", tokenizer_folder]
        assert command(module, *words, "--output_dir", output)[0] == 0
        made, info = load(output)
        assert sum(map(len, made.values())) == 2
        about = info if "left_out" in info else next(iter(info["corpora"].values()))
        assert about["left_out"]["mask_or_padding_token_in_text"] == 1


# ---- cutting documents ---------------------------------------------------------------------------


def cut_slowly(text, starts, max_length, first=0, kind=chunking.WHOLE):
    """cut_document by its definition, recursively, looking at every place. starts: of the tokens
    first + (0..n); text: the whole one, because a run of blank lines does not end where a piece
    ends."""
    n = len(starts)
    if n <= max_length:
        return [(first, first + n, kind)]
    ends = {chunking.BLANK_LINE: [], chunking.NEWLINE: []}
    for place in range(1, len(text) + 1):
        lines = text[:place].split("\n")
        if len(lines) > 1 and not lines[-1]:  # just after a newline
            ends[chunking.NEWLINE].append(place)
            if (
                len(lines) > 2
                and not lines[-2].strip()
                and not (text[place:].split("\n")[0].strip() == "" and "\n" in text[place:])
            ):
                ends[chunking.BLANK_LINE].append(place)  # after the last blank line of a run
    for cut_kind in (chunking.BLANK_LINE, chunking.NEWLINE):
        places = {
            next((token for token in range(n) if starts[token] >= place), n)
            for place in ends[cut_kind]
        } - {0, n}
        if places:
            cut = min(sorted(places), key=lambda place: abs(place - n / 2))
            break
    else:
        cut_kind, cut = chunking.MIDDLE, n // 2
    return cut_slowly(text, starts[:cut], max_length, first, kind) + cut_slowly(
        text, starts[cut:], max_length, first + cut, cut_kind
    )


def test_chunking_equals_its_definition():
    for _ in range(300):
        text = random_text(random.randint(1, 60), "ab \n\n\t.")
        starts = np.array(sorted(random.sample(range(len(text)), random.randint(1, len(text)))))
        starts[0] = 0
        max_length = random.randint(1, 12)
        pieces = chunking.cut_document(text, starts, max_length)
        assert [piece[0] for piece in pieces] == [0] + [
            piece[1] for piece in pieces[:-1]
        ] and pieces[-1][1] == len(starts)
        assert all(0 < end - start <= max_length for start, end, _ in pieces)
        assert pieces == cut_slowly(text, starts, max_length), (text, starts.tolist(), max_length)


def test_cut_is_at_the_blank_line_nearest_the_middle():
    text = "a\n\nbbbb\n\ncccccccccc\nd"
    starts = np.arange(len(text))  # 21 tokens, one a character; blank lines end at 3 and 9
    assert chunking.cut_document(text, starts, 12) == [
        (0, 9, chunking.WHOLE),
        (9, 21, chunking.BLANK_LINE),
    ]
    assert chunking.cut_document(text, starts, 11)[1:] == [
        (9, 20, chunking.BLANK_LINE),
        (20, 21, chunking.NEWLINE),
    ]
    assert chunking.cut_document("x" * 7, np.arange(7), 4) == [
        (0, 3, chunking.WHOLE),
        (3, 7, chunking.MIDDLE),
    ]
    assert chunking.cut_document("", np.arange(0), 4) == []


@pytest.mark.parametrize("paragraph", ["a\n\n", "a\n", "aaa"])
def test_chunking_takes_linear_time(paragraph):
    text = paragraph * 60_000
    begun = time.process_time()
    pieces = chunking.cut_document(text, np.arange(len(text)), 50)
    # measured 0.3 s; a quadratic way takes minutes
    assert len(pieces) > 2_000 and time.process_time() - begun < 5


def test_splits_have_the_papers_shares_and_keep_documents_whole():
    document = np.repeat(np.arange(10_000), 3)
    labels, unit = corpus_splits.split_rows(document)
    counts = Counter(labels[::3])
    assert unit == "documents" and counts == {"heldout": 200, "validation": 10, "train": 9790}
    assert (labels.reshape(-1, 3) == labels[::3, None]).all()
    assert (corpus_splits.split_rows(document)[0] == labels).all()
    for rows, expected in [
        (1, {"train": 1}),
        (2, {"train": 2}),
        (3, {"train": 1, "validation": 1, "heldout": 1}),
    ]:
        labels, unit = corpus_splits.split_rows(np.zeros(rows, dtype=int))
        assert unit == "rows" and Counter(labels) == expected


def test_wikitext_is_cut_into_articles():
    lines = [
        " \n",
        " = One = \n",
        " \n",
        " = = Part = = \n",
        " text \n",
        " = 1 henry and C = \n",
        " \n",
        " = Two = \n",
        " text \n",
    ]
    assert list(corpora.wiki_articles(lines)) == [" \n", "".join(lines[1:7]), "".join(lines[7:])]
    without_blank = [line for line in lines if line.strip() and "henry" not in line]
    assert list(corpora.wiki_articles(without_blank)) == [
        "".join(without_blank[:3]),
        "".join(without_blank[3:]),
    ]


# ---- the transfer command ------------------------------------------------------------------------


def make_corpus(folder, n=60):
    """A folder of every kind of file, and its documents in order."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir()
    texts = [f"{number}: " + random_text(random.randint(1, 150)) for number in range(n)]
    write_jsonl(
        folder / "a.jsonl", [{"text": text, "id": 1} for text in texts[:20]] + [{"text": ""}]
    )
    with gzip.open(folder / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts[20:30])
    (folder / "c.json").write_text(json.dumps([{"text": text} for text in texts[30:40]]))
    pyarrow.parquet.write_table(
        pyarrow.table({"text": texts[40:-1], "other": [1] * (n - 41)}), folder / "d.parquet"
    )
    (folder / "e.txt").write_text(texts[-1], encoding="utf-8")
    return texts


def all_ids(rows):
    return Counter(tuple(ids) for split in rows.values() for ids in split["input_ids"])


def test_transfer_preprocessing_loses_no_text(command, tmp_path, tokenizer, tokenizer_folder):
    texts = make_corpus(tmp_path / "corpus")
    flags = [
        "--data_path",
        tmp_path / "corpus",
        "--tokenizer",
        tokenizer_folder,
        "--max_length",
        40,
        "--cache_path",
        tmp_path / "cache",
    ]
    assert command(transfer, *flags, "--output_dir", tmp_path / "one")[0] == 0
    rows, info = load(tmp_path / "one")
    expected, cuts = Counter(), Counter()
    for text in texts:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        for start, end, kind in chunking.cut_document(
            text, np.array([offset[0] for offset in encoded["offset_mapping"]]), 40
        ):
            expected[tuple(encoded["input_ids"][start:end])] += 1
            cuts[kind] += 1
    assert all_ids(rows) == expected and max(map(len, expected)) <= 40
    about = info["corpora"][str(tmp_path / "corpus")]
    assert (
        about["documents"] == len(texts) + 1
        and about["documents_without_text"] == 1
        and about["split_by"] == "documents"
    )
    kinds = {
        "blank_line": chunking.BLANK_LINE,
        "newline": chunking.NEWLINE,
        "middle_token": chunking.MIDDLE,
    }
    assert about["cuts"] == {name: cuts[kind] for name, kind in kinds.items()}
    assert (
        about["tokens"]
        == sum(len(ids) * count for ids, count in expected.items())
        == sum(about["tokens_by_split"].values())
    )
    assert about["rows"] == {
        split: len(rows[split]) for split in ("train", "validation", "heldout")
    }
    assert set(rows["train"]["prompt_length"]) == {0}

    assert (
        command(
            transfer,
            *flags,
            "--output_dir",
            tmp_path / "two",
            "--num_proc",
            2,
            "--cache_path",
            tmp_path / "other",
        )[0]
        == 0
    )
    again, _ = load(tmp_path / "two")
    assert all(again[split]["input_ids"][:] == rows[split]["input_ids"][:] for split in rows)


def test_interrupted_transfer_preprocessing_resumes(
    command, monkeypatch, tmp_path, tokenizer_folder
):
    write_jsonl(tmp_path / "t.jsonl", [{"text": f"document {number}"} for number in range(50)])
    flags = [
        "--data_path",
        tmp_path / "t.jsonl",
        "--tokenizer",
        tokenizer_folder,
        "--output_dir",
        tmp_path / "out",
    ]
    monkeypatch.setattr(chunking, "DOCUMENTS_A_PART", 20)
    whole, done = chunking.tokenise_and_cut, []

    def stopped(batch, numbers, tokenizer, max_length, first):
        if first == 20 and not done.count(20):
            done.append(first)
            raise KeyboardInterrupt
        done.append(first)
        return whole(batch, numbers, tokenizer, max_length, first)

    monkeypatch.setattr(chunking, "tokenise_and_cut", stopped)
    status, _, error = command(transfer, *flags)
    assert status == 130 and not (tmp_path / "out").exists() and done[-1] == 20 and 0 in done
    done[:] = [20]
    assert command(transfer, *flags)[0] == 0
    assert 0 not in done and {20, 40} <= set(done)  # the first part was not tokenised again
    rows, _ = load(tmp_path / "out")
    assert sum(map(len, rows.values())) == 50
    done.clear()
    assert "kept" in command(transfer, *flags)[1]
    status, _, error = command(transfer, *flags, "--max_length", 5)
    assert status == 2 and "max_length" in error and not done
    # the same pieces serve
    assert command(transfer, *flags, "--min_tokens", 2, "--overwrite")[0] == 0 and not done
    write_jsonl(tmp_path / "t.jsonl", [{"text": "other documents"}])
    status, _, error = command(transfer, *flags, "--min_tokens", 2)
    assert status == 2 and "sources" in error  # changed data is noticed
    assert command(transfer, *flags, "--overwrite")[0] == 0 and done


def test_rows_that_are_left_out_are_counted(command, tmp_path, tokenizer, tokenizer_folder):
    rows = [{"text": "abcdef"}] * 10 + [
        {"text": "a"},
        {"text": "it says <|mdm_mask|>"},
        {"text": "end<|endoftext|>"},
    ]
    write_jsonl(tmp_path / "t.jsonl", rows)
    flags = [
        "--data_path",
        tmp_path / "t.jsonl",
        "--tokenizer",
        tokenizer_folder,
        "--output_dir",
        tmp_path / "out",
        "--min_tokens",
        2,
        "--rows_per_corpus",
        5,
    ]
    assert command(transfer, *flags)[0] == 0
    made, info = load(tmp_path / "out")
    (about,) = info["corpora"].values()
    assert about["left_out"] == {
        "shorter_than_min_tokens": 1,
        "mask_or_padding_token_in_text": 2,
        "over_rows_per_corpus": 3,
    }
    assert (
        about["rows"] == {"train": 5, "validation": 1, "heldout": 1} and about["split_by"] == "rows"
    )
    assert not any(
        {tokenizer.mask_token_id, tokenizer.pad_token_id} & set(ids)
        for split in made.values()
        for ids in split["input_ids"]
    )


def test_a_prompt_field_is_kept_clean_while_its_document_is_whole(
    command, tmp_path, tokenizer, tokenizer_folder
):
    rows = [
        {"text": "2 + 3 = 5", "prompt": "2 + 3 ="},
        {"text": "x" * 30, "prompt": "xx"},
        {"text": "plain", "prompt": ""},
    ]
    write_jsonl(tmp_path / "t.jsonl", rows)
    flags = [
        "--data_path",
        tmp_path / "t.jsonl",
        "--tokenizer",
        tokenizer_folder,
        "--prompt_field",
        "prompt",
        "--max_length",
        20,
    ]
    assert command(transfer, *flags, "--output_dir", tmp_path / "out")[0] == 0
    made, _ = load(tmp_path / "out")
    lengths = {
        tokenizer.decode(ids): length
        for split in made.values()
        for ids, length in zip(split["input_ids"], split["prompt_length"])
    }
    assert lengths == {"2 + 3 = 5": 7, "x" * 15: 0, "plain": 0}
    write_jsonl(tmp_path / "t.jsonl", [{"text": "abc", "prompt": "b"}])
    status, _, error = command(transfer, *flags, "--output_dir", tmp_path / "no")
    assert status == 2 and "--prompt_field" in error


def test_hub_corpora_are_read_file_by_file(
    command, monkeypatch, tmp_path, tokenizer, tokenizer_folder
):
    import huggingface_hub
    import pyarrow
    import pyarrow.parquet

    lines = ["", " = One = \n", "", " text \n", "", " = Two = \n", "", " more \n"]
    pyarrow.parquet.write_table(pyarrow.table({"text": lines}), tmp_path / "wiki.parquet")
    pyarrow.parquet.write_table(
        pyarrow.table({"text": ["first", "second"]}), tmp_path / "web.parquet"
    )
    names = {
        "Salesforce/wikitext": [
            "README.md",
            "wikitext-103-raw-v1/test-0.parquet",
            "wikitext-103-raw-v1/train-0.parquet",
        ],
        "Skylion007/openwebtext": [
            "plain_text/partial-train/0000.parquet",
            "plain_text/partial-train/0001.parquet",
        ],
    }
    fetched = []

    def fetch(repo, name, repo_type, revision):
        fetched.append(name)
        return str(tmp_path / ("wiki.parquet" if repo == "Salesforce/wikitext" else "web.parquet"))

    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "list_repo_files",
        lambda self, repo, repo_type, revision: names[repo],
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    flags = ["--tokenizer", tokenizer_folder, "--corpus", "wikitext", "openwebtext"]
    assert command(transfer, *flags, "--output_dir", tmp_path / "out")[0] == 0
    made, info = load(tmp_path / "out")
    texts = sorted(tokenizer.decode(ids) for split in made.values() for ids in split["input_ids"])
    assert texts == sorted(
        [
            " \n",
            " = One = \n \n text \n \n",
            " = Two = \n \n more \n",
            "first",
            "second",
            "first",
            "second",
        ]
    )
    assert fetched == ["wikitext-103-raw-v1/train-0.parquet", *names["Skylion007/openwebtext"]]
    fetched.clear()
    assert (
        command(
            transfer,
            *flags[:2],
            "--corpus",
            "openwebtext",
            "--max_documents",
            1,
            "--output_dir",
            tmp_path / "few",
        )[0]
        == 0
    )
    assert fetched == ["plain_text/partial-train/0000.parquet"]  # the second file was not needed
    assert sum(map(len, load(tmp_path / "few")[0].values())) == 1
    monkeypatch.delattr(huggingface_hub.HfApi, "list_repo_files")  # as without network
    assert "kept" in command(transfer, *flags, "--output_dir", tmp_path / "out")[1]
    status, _, error = command(transfer, *flags, "--output_dir", tmp_path / "new")
    assert status == 2 and "--corpus wikitext" in error and "--data_path" in error


# ---- refusals ------------------------------------------------------------------------------------


def refusals():
    """(script, what to write to x.jsonl or None, flags instead of --data_path or None, words of the
    message)
    """
    fields = {transfer: {"text": 1}, math_rows: {"question": "q"}, code: {"instruction": "i"}}
    for module, wrong in fields.items():
        yield module, None, None, ["--data_path", "does not exist"]
        yield module, "", None, ["--data_path", "empty"]
        yield module, "{broken\n", None, ["--data_path", "line 1 is not JSON"]
        yield module, json.dumps(wrong) + "\n", None, ["row 1", "field"]
        yield module, "{}\n", ["--max_length", "0"], ["--max_length"]
        yield module, "{}\n", ["--tokenizer", "no/such/folder"], ["--tokenizer"]
    yield math_rows, json.dumps({"question": "q", "answer": "5"}) + "\n", None, ["row 1", "####"]
    yield (
        math_rows,
        json.dumps({"question": 1, "answer": "5"}) + "\n",
        None,
        ["question", "not text"],
    )
    yield (
        math_rows,
        json.dumps({"question": "q", "answer": "#### 5"}) + "\n",
        ["--max_length", "3"],
        ["--max_length 3", "no row fits"],
    )
    yield transfer, json.dumps({"text": " "}) + "\n", ["--min_tokens", "9"], ["--min_tokens 9"]
    yield transfer, json.dumps({"text": ""}) + "\n", None, ["holds no text"]


@pytest.mark.parametrize("module, content, flags, words", list(refusals()))
def test_refusals_are_one_line_and_write_nothing(
    command, tmp_path, tokenizer_folder, module, content, flags, words
):
    if content is not None:
        (tmp_path / "x.jsonl").write_text(content)
    flags = [
        "--tokenizer",
        tokenizer_folder,
        "--data_path",
        tmp_path / "x.jsonl",
        "--output_dir",
        tmp_path / "out",
    ] + (flags or [])
    status, _, error = command(module, *flags)
    lines = [line for line in error.splitlines() if line.strip()]
    assert status == 2 and len(lines) == 1 and all(word in lines[0] for word in words), error
    assert not (tmp_path / "out").exists()


def test_missing_flags_and_unreadable_corpora_are_refused(command, tmp_path, tokenizer_folder):
    write_jsonl(tmp_path / "x.jsonl", [{"text": "words"}])
    flags = ["--tokenizer", tokenizer_folder, "--output_dir", tmp_path / "out"]
    assert "--corpus" in command(transfer, *flags)[2]
    (tmp_path / "x.bin").write_text("?")
    assert ".jsonl" in command(transfer, *flags, "--data_path", tmp_path / "x.bin")[2]
    (tmp_path / "x.parquet").write_text("not parquet")
    assert "cannot read" in command(transfer, *flags, "--data_path", tmp_path / "x.parquet")[2]
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\xff")
    assert (
        "cannot read"
        in command(transfer, *flags, "--data_path", tmp_path / "x.txt", "--num_proc", 2)[2]
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    status, _, error = command(transfer, *flags, "--data_path", tmp_path / "x.jsonl", "--overwrite")
    assert status == 2 and "name another" in error and (tmp_path / "out" / "mine.txt").exists()
    status, _, error = command(
        transfer,
        *flags[:2],
        "--data_path",
        tmp_path / "x.jsonl",
        "--output_dir",
        tmp_path / "x.bin" / "sub",
    )
    assert status == 2 and "--output_dir" in error


def test_scripts_import_nothing_heavy():
    """`--help` answers before torch, transformers and datasets are loaded."""
    check = (
        "import sys, preprocess_math, preprocess_code_infilling, flexmdm_transfer_preprocess;"
        " print([name for name in ('torch', 'transformers', 'datasets', 'tokenizers') if name in"
        " sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )
    for name in (
        "preprocess_math.py",
        "preprocess_code_infilling.py",
        "flexmdm_transfer_preprocess.py",
    ):
        assert (
            "Slurm"
            in subprocess.run(
                [sys.executable, name, "--help"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )


# ---- real data -----------------------------------------------------------------------------------


def test_real_gsm8k(data_dir, llada_tokenizer):
    rows = [json.loads(line) for line in open(data_dir / "gsm8k" / "train.jsonl", encoding="utf-8")]
    straddling = 0
    for row in random.sample(rows, 150):
        prompt = math_prompts.math_prompt(llada_tokenizer, row["question"])
        made = math_prompts.math_row(row, llada_tokenizer, False)
        ids, length = made["input_ids"], made["prompt_length"]
        alone = llada_tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert ids[0] == 126080 and ids.count(126080) == 1 and len(ids) < 700
        assert llada_tokenizer.decode(ids).endswith("</answer>")
        # at most `>` and the first word join
        assert ids[:length] == alone[:length] and len(alone) - length == made["straddles"]
        straddling += made["straddles"]
    assert 10 < straddling < 75  # 1,899 of all 7,473 rows: 25 %


def test_real_code(data_dir, llada_tokenizer):
    rows = [
        json.loads(line) for line in open(data_dir / "code" / "mbpp_as_opc.jsonl", encoding="utf-8")
    ]
    assert len(infills.infill_boundary_ids(llada_tokenizer)) == 6
    for row in random.sample(rows, 200):
        made = infills.code_row(row, llada_tokenizer)
        answer = llada_tokenizer.decode(made["input_ids"][made["prompt_length"] :])
        assert answer == row["output"] and not made["straddles"]
        assert (
            llada_tokenizer.decode(made["input_ids"][: made["prompt_length"]])
            == row["instruction"].removesuffix("\n") + "\n"
        )


def test_real_text(data_dir, llada_tokenizer, command, tmp_path):
    flags = ["--tokenizer", data_dir / "llada_tokenizer", "--output_dir", tmp_path / "out"]
    files = [data_dir / "text" / name for name in ("wiki.test.raw", "tinyshakespeare.txt")]
    assert command(transfer, *flags, "--data_path", *files)[0] == 0
    rows, info = load(tmp_path / "out")
    wiki, shakespeare = (info["corpora"][str(file)] for file in files)
    # 60 articles; two formulas look like headings
    assert wiki["documents"] == 62 and wiki["split_by"] == "documents"
    assert (
        shakespeare["documents"] == 1
        and shakespeare["cuts"]["newline"] == shakespeare["cuts"]["middle_token"] == 0
    )
    tokens = sum(len(ids) for split in rows.values() for ids in split["input_ids"])
    assert tokens == wiki["tokens"] + shakespeare["tokens"] and shakespeare["tokens"] == 334394
    play = rows["train"]["input_ids"][wiki["rows"]["train"] :]
    # a blank line is two tokens, and pieces end after it
    assert sum(ids[-2:] == [198, 198] for ids in play) >= len(play) - 1
