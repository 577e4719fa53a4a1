"""The house: the top level is the paper's 14 scripts, and imports point down.

Run: pytest tests/scripts/test_layout.py
"""

import ast
import subprocess

import pytest
from conftest import ROOT

TOP_LEVEL = {
    "llada_dit",
    "llada_utils",
    "flexmdm_interpolant",
    "flexmdm_trainer",
    "llada_trainer",
    "flexmdm_transfer_preprocess",
    "flexmdm_transfer_openwebtext",
    "preprocess_math",
    "preprocess_code_infilling",
    "instruction_finetuning",
    "flexmdm_inference",
    "llada_inference",
    "eval_gsm8k",
    "eval_humaneval_infill",
}
NETWORK = {"flexmdm_interpolant", "llada_dit", "llada_utils"}
# who may import whom, itself apart; scripts, tests and the rest of the top level: everybody
MAY_IMPORT = {
    "common": set(),
    "data": {"common"},
    "flexmdm_interpolant": {"common"},
    "llada_dit": {"common", "flexmdm_interpolant"},
    "llada_utils": {"common", "data", "llada_dit", "flexmdm_interpolant"},
    "sampling": {"common"} | NETWORK,
    "training": {"common", "data"} | NETWORK,
    "evaluation": {"common", "data", "sampling"} | NETWORK,
}


def tracked_python():
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    return [name for name in listed if not name.startswith("tests/")]


def imported(name):
    """Modules of ours that a file imports anywhere, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {module for module in found if module.split(".")[0] in {*MAY_IMPORT, *TOP_LEVEL}}


def test_the_top_level_is_the_papers_scripts():
    assert {name[:-3] for name in tracked_python() if "/" not in name} == TOP_LEVEL


def test_every_folder_has_a_description():
    for name in ("common", "data", "sampling", "training", "evaluation", "evaluation/sandbox"):
        tree = ast.parse((ROOT / name / "__init__.py").read_text())
        assert ast.get_docstring(tree) and len(tree.body) == 1, name


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_down(room):
    """Function-level imports count as well."""
    allowed = MAY_IMPORT[room] | {room}
    for name in tracked_python():
        if name.split("/")[0].removesuffix(".py") == room:
            wrong = {module for module in imported(name) if module.split(".")[0] not in allowed}
            assert not wrong, (name, wrong)


def test_imports_never_go_in_a_circle():
    modules = {name.removesuffix(".py").replace("/", "."): name for name in tracked_python()}
    graph = {module: imported(name) & modules.keys() for module, name in modules.items()}
    done, under_way = set(), []

    def visit(module):
        assert module not in under_way, under_way[under_way.index(module) :] + [module]
        if module not in done:
            under_way.append(module)
            for other in graph[module] - {module}:
                visit(other)
            done.add(under_way.pop())

    for module in graph:
        visit(module)


def test_the_sandbox_imports_nothing_of_ours():
    """Its processes run with `python -I -S`: they find nothing of ours."""
    for name in ("sandbox", "judge"):
        assert not imported(f"evaluation/sandbox/{name}.py")


@pytest.mark.parametrize(
    "line",
    [
        "from llada_utils import load_llada, load_flexmdm, load_tokenizer",
        "from flexmdm_inference import generate_flexmdm, generate_flexmdm_infilling",
        "from llada_inference import generate_mdm, generate_mdm_infilling",
        "from flexmdm_interpolant import LinearSchedule, PowerSchedule, GeometricSchedule",
        "from flexmdm_interpolant import AnyOrderMaskInsertionInterpolant, JointInterpolantResult",
    ],
)
def test_public_imports_keep_working(line):
    exec(line, {})
