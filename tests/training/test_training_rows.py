"""Rows that cannot be trained on are refused by their number before a run begins; good ones pass,
whatever their form.
"""

import json

import numpy as np
import pytest
import tiny
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from data.tokenizer import tokenizer_hash
from training.rows import check_origin, check_rows

VOCABULARY, LONGEST = 60, 12
RESERVED = {"mask": tiny.MASK, "padding": tiny.PAD}


def check(rows, answers=False):
    check_rows(
        Dataset.from_dict(rows), VOCABULARY, RESERVED, LONGEST, "--train_data (train)", answers
    )


row_of_ids = st.lists(st.integers(0, 57), max_size=LONGEST)


@settings(max_examples=40, deadline=None)
@given(st.lists(row_of_ids, min_size=1, max_size=8), st.data())
def test_one_bad_row_is_named(rows, data):
    """A good set passes; with one thing wrong in one row the line names that row."""
    prompts = [data.draw(st.integers(0, len(row))) for row in rows]
    if any(rows):
        check({"input_ids": rows, "prompt_length": prompts})
        check({"input_ids": rows})
    place = data.draw(st.integers(0, len(rows) - 1))
    fault = data.draw(
        st.sampled_from(["mask", "padding", "negative", "large", "long", "prompt", "before"])
    )
    rows, prompts = [list(row) for row in rows], list(prompts)
    row = rows[place]
    if fault in ("mask", "padding", "negative", "large"):
        at = data.draw(st.integers(0, max(len(row) - 1, 0)))
        row[at : at + 1] = [
            {
                "mask": tiny.MASK,
                "padding": tiny.PAD,
                "negative": -1 - data.draw(st.integers(0, 9)),
                "large": VOCABULARY + data.draw(st.integers(0, 99)),
            }[fault]
        ]
    elif fault == "long":
        rows[place] = [3] * (LONGEST + 1)
    else:
        prompts[place] = -1 if fault == "before" else len(row) + 1 + data.draw(st.integers(0, 500))
    with pytest.raises(InputError, match=rf"--train_data \(train\): row {place} "):
        check({"input_ids": rows, "prompt_length": prompts})


@pytest.mark.parametrize(
    "rows, word",
    [
        ({"input_ids": [[], []]}, "every row is empty"),
        ({"input_ids": [[1.5, 2.0]]}, "whole numbers"),
        ({"input_ids": ["abc"]}, "whole numbers"),
        ({"input_ids": [[1], None]}, "null"),
        ({"input_ids": [[1, None]]}, "null"),
        ({"input_ids": [[1, 2]], "prompt_length": [0.5]}, "prompt_length"),
        ({"input_ids": [[1, 2]], "prompt_length": ["1"]}, "prompt_length"),
    ],
)
def test_malformed_id_columns_are_refused(rows, word):
    with pytest.raises(InputError, match=word):
        check(rows)


def test_an_instruction_row_needs_an_answer():
    rows = {"input_ids": [[1, 2, 3], [4, 5]], "prompt_length": [1, 2]}
    check(rows)
    with pytest.raises(InputError, match="row 1 has no tokens after its prompt"):
        check(rows, answers=True)


def test_rows_beyond_the_first_batch_are_checked_and_unselected_ones_ignored():
    rows = Dataset.from_dict({"input_ids": [[1, 2]] * 4500 + [[1, tiny.MASK]] + [[2]] * 9})
    with pytest.raises(InputError, match="row 4500 holds the mask token"):
        check_rows(rows, VOCABULARY, RESERVED, LONGEST, "--train_data")
    kept = rows.select(np.random.default_rng().permutation(4500)[:2100])
    check_rows(kept, VOCABULARY, RESERVED, LONGEST, "--train_data")


def test_rows_of_another_tokenizer_or_task_are_refused(tmp_path):
    tokenizer = tiny.tokenizer()
    check_origin(tmp_path, tokenizer, "math", "--train_data")  # no info.json: nothing is known

    def say(**changes):
        (tmp_path / "info.json").write_text(
            json.dumps(
                {
                    "tokenizer": "t",
                    "settings": {
                        "script": "preprocess_math.py",
                        "tokenizer_hash": tokenizer_hash(tokenizer),
                        **changes,
                    },
                }
            )
        )

    say()
    check_origin(tmp_path, tokenizer, "math", "--train_data")
    with pytest.raises(InputError, match="--task code"):
        check_origin(tmp_path, tokenizer, "code", "--train_data")
    with pytest.raises(InputError, match="another tokenizer"):
        check_origin(tmp_path, tiny.tokenizer(["extra"]), "math", "--train_data")
    for damaged in ("[]", "{", '{"settings": 3}'):
        (tmp_path / "info.json").write_text(damaged)
        with pytest.raises(InputError):
            check_origin(tmp_path, tokenizer, None, "--train_data")
