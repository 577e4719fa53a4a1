"""The house: the top level is the paper's 14 scripts and the demo, and imports point down.

Run: pytest tests/scripts/test_layout.py
"""

import ast
import functools
import re
import subprocess
import tomllib
from pathlib import Path

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
    "demo",
}
FOLDERS = ("common", "data", "network", "sampling", "training", "evaluation")
NETWORK = {"flexmdm_interpolant", "network", "llada_dit", "llada_utils"}
# who may import whom, itself apart; scripts, tests and the rest of the top level: everybody
MAY_IMPORT = {
    "common": set(),
    "data": {"common"},
    "flexmdm_interpolant": {"common"},
    "network": {"common", "flexmdm_interpolant"},
    "llada_dit": {"common", "flexmdm_interpolant", "network"},
    "llada_utils": {"common", "data"} | NETWORK,
    "sampling": {"common"} | NETWORK,
    "training": {"common", "data"} | NETWORK,
    "evaluation": {"common", "data", "sampling"} | NETWORK,
}
# Methods of the networks that are short names for functions built on them, as transformers' users
# expect (from_pretrained, generate_text): imported inside of these methods only
SHORT_NAMES = {"network/base": {"llada_utils", "flexmdm_inference", "llada_inference"}}
COLUMNS = 100


def tracked(*patterns):
    """Names of the files that git knows and that are there."""
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


def tracked_python():
    return [name for name in tracked("*.py") if not name.startswith("tests/")]


def imported(name):
    """Modules of ours that a file imports anywhere, as dotted names (of scripts/ without the
    folder), but for SHORT_NAMES.
    """
    found, tree = set(), ast.parse((ROOT / name).read_text())
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        short = SHORT_NAMES.get(name.removesuffix(".py"), set()) if node in inside else set()
        if isinstance(node, ast.ImportFrom) and node.module and node.module not in short:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} - short
    ours = {*MAY_IMPORT, *TOP_LEVEL, *(module.split(".")[0] for module in script_modules())}
    return {module for module in found if module.split(".")[0] in ours}


@functools.cache
def script_modules():
    """{dotted name: file} of scripts/, which is on the path of its scripts."""
    return {
        name.removeprefix("scripts/").removesuffix(".py").replace("/", "."): name
        for name in tracked("scripts/*.py")
    }


def test_the_top_level_is_the_papers_scripts_and_the_demo():
    assert {name[:-3] for name in tracked_python() if "/" not in name} == TOP_LEVEL


def test_every_folder_has_a_description():
    folders = {str(Path(name).parent) for name in tracked_python()} - {".", "scripts"}
    assert {*FOLDERS, "evaluation/sandbox", "scripts/results_page"} <= folders
    for name in folders:
        tree = ast.parse((ROOT / name / "__init__.py").read_text())
        assert ast.get_docstring(tree) and len(tree.body) == 1, name


def test_every_folder_and_script_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    inits = [name for name in tracked_python() if re.fullmatch(r"(?!scripts/).+/__init__.py", name)]
    folders = {name.removesuffix("/__init__.py").replace("/", ".") for name in inits}
    assert set(settings["packages"]) == folders and set(settings["py-modules"]) == TOP_LEVEL


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
    modules |= script_modules()
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


def prose(lines):
    """(number, line) of Markdown without what may be wider: tables, fenced code, lines with an
    address.
    """
    fenced = False
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and not line.lstrip().startswith("|") and not re.search(r"https?://", line):
            yield number, line


def too_wide(name):
    """FILE:LINE of every line over 100 columns."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    numbered = prose(lines) if name.endswith(".md") else enumerate(lines, 1)
    return [f"{name}:{number}" for number, line in numbered if len(line) > COLUMNS]


def test_no_line_is_wider_than_100_columns():
    names = tracked("*.py", "*.sh", "*.md", ".ci/run")
    wide = [place for name in names for place in too_wide(name)]
    assert not wide, "\n".join(["over 100 columns:", *wide])


def public_functions(body, inside_class=False):
    """(function, whether its first argument is self or cls) of a module's or class's public names,
    __init__ and __call__ among them; what is defined inside functions does not count.
    """
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, inside_class=True)
        elif isinstance(node, (ast.If, ast.Try)):
            yield from public_functions(node.body, inside_class)
            yield from public_functions(node.orelse, inside_class)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (
            not node.name.startswith("_") or node.name in ("__init__", "__call__")
        ):
            static = any(
                isinstance(each, ast.Name) and each.id == "staticmethod"
                for each in node.decorator_list
            )
            yield node, inside_class and not static


def untyped(source):
    """(line, name) of the public functions that lack a type of an argument or of what they
    return.
    """
    found = []
    for function, bound in public_functions(ast.parse(source).body):
        given = function.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs][int(bound) :]
        arguments += [each for each in (given.vararg, given.kwarg) if each]
        returns = function.returns is not None or function.name == "__init__"
        if not returns or any(each.annotation is None for each in arguments):
            found.append((function.lineno, function.name))
    return found


def test_every_public_function_is_typed():
    missing = [
        f"{name}:{line} {function}"
        for name in tracked_python()
        for line, function in untyped((ROOT / name).read_text())
    ]
    assert not missing, "\n".join(["without full types:", *missing])


def test_what_is_not_typed_is_noticed():
    source = """
def typed(a: int, *, b: str = "", **rest: object) -> None:
    def nested(c): ...
def no_return(a: int): ...
def rest(*words) -> None: ...
def _private(a): ...
if True:
    def within(a) -> int: ...
class Public:
    def __init__(self, a): ...
    def __call__(self, a: int) -> int: ...
    @staticmethod
    def static(a) -> int: ...
    @property
    def value(self): ...
class _Private:
    def method(self, a): ...
"""
    names = [name for _, name in untyped(source)]
    assert names == ["no_return", "rest", "within", "__init__", "static", "value"]


def test_the_sandbox_imports_nothing_of_ours():
    """Its processes run with `python -I -S`: they find nothing of ours."""
    for name in ("sandbox", "judge"):
        assert not imported(f"evaluation/sandbox/{name}.py")


@pytest.mark.parametrize(
    "line",
    [
        "from llada_dit import FIXED_SETTINGS, FlexMDMConfig, LLaDAConfig, LLaDADiT, LLaDAModelLM",
        "from llada_utils import load_llada, load_flexmdm, new_flexmdm, load_tokenizer",
        "from llada_utils import checkpoint_kind, pick_device, pick_dtype, write_checkpoint",
        "from flexmdm_inference import generate_flexmdm, generate_flexmdm_infilling",
        "from llada_inference import generate_mdm, generate_mdm_infilling",
        "from flexmdm_interpolant import LinearSchedule, PowerSchedule, GeometricSchedule",
        "from flexmdm_interpolant import AnyOrderMaskInsertionInterpolant, JointInterpolantResult",
    ],
)
def test_public_imports_keep_working(line):
    exec(line, {})


def test_docs_method_says_where_each_formula_is():
    text = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    section = text.split("## Where each formula is\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\|.*\|(.*)\| `([\w/]+\.py)` \|$", section, re.MULTILINE)
    assert len(rows) == section.count("\n|") - 2  # all but the head
    for names, file in rows:
        defined = {
            node.name
            for node in ast.walk(ast.parse((ROOT / file).read_text()))
            if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        }
        named = set(re.findall(r"`(\w+)`", names))
        assert named and named <= defined, (file, named - defined)


def test_measuring_scripts_from_outside_find_two_modules_by_their_old_names():
    import flexmdm_sampler
    import training_estimate

    assert flexmdm_sampler.FlexMDMSampler.__module__ == "sampling.flexmdm_sampler"
    assert training_estimate.flops_a_token.__module__ == "training.estimate"
