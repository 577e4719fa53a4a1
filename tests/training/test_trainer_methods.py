"""transformers' Trainer still has what ours replace or call, private methods too.

Run: pytest tests/training/test_trainer_methods.py        (in this process, no model is loaded)
"""

import ast
import inspect

import pytest
from conftest import ROOT
from transformers import Trainer

from flexmdm_trainer import FlexMDMTrainer
from llada_trainer import LLaDATrainer
from training.trainer_methods import TRAINER_METHODS

OURS = {
    kind
    for trainer in (FlexMDMTrainer, LLaDATrainer)
    for kind in trainer.__mro__
    if issubclass(kind, Trainer) and kind is not Trainer
}
FILES = [
    *sorted(ROOT.glob("training/*.py")),
    ROOT / "flexmdm_trainer.py",
    ROOT / "llada_trainer.py",
]


@pytest.mark.parametrize("name", TRAINER_METHODS)
def test_the_trainer_has_the_method_with_the_parameters(name):
    wanted = TRAINER_METHODS[name][0].split()
    assert hasattr(Trainer, name)
    assert [
        each for each in inspect.signature(getattr(Trainer, name)).parameters if each != "self"
    ] == wanted


@pytest.mark.parametrize("name", TRAINER_METHODS)
def test_ours_takes_what_the_trainer_gives_it(name):
    for kind in OURS:
        if name in vars(kind):
            ours = inspect.signature(vars(kind)[name])
            ours.bind("self", *TRAINER_METHODS[name][0].split())


def test_every_method_that_is_replaced_is_listed():
    replaced = {
        name
        for kind in OURS
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and hasattr(Trainer, name) and name != "__init__"
    }
    assert replaced <= set(TRAINER_METHODS) and {"log", "_save_checkpoint"} <= replaced


def test_every_private_method_that_is_called_is_listed():
    called = {
        node.func.attr
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    private = {name for name in called if name.startswith("_") and hasattr(Trainer, name)}
    assert private - {"__init__"} <= set(TRAINER_METHODS) and "_prepare_inputs" in private
