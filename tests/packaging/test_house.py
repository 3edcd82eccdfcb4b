"""Rules of the source tree that can be counted."""

from __future__ import annotations

import ast
import subprocess
from collections import defaultdict
from pathlib import Path

from dlmbench import registry

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "dlmbench"
FILES = [*SOURCE.rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
PLUG_INS = {name for kind in registry.KINDS for name in registry.names(kind)}


def test_no_file_for_odds_and_ends():
    assert not {p.stem for p in FILES} & {"utils", "util", "common", "helpers", "misc"}


def test_every_private_function_and_class_is_used():
    nodes = [n for tree in TREES.values() for n in ast.walk(tree)]
    used = {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    used |= {a.name for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names}
    defined = [
        n for tree in TREES.values() for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)
    ]  # decorated ones are registered, or kept for a side effect
    assert {n.name for n in defined if n.name.startswith("_") and not n.decorator_list} - used == set()


def test_no_two_public_classes_share_a_name():
    places = defaultdict(list)
    for path, tree in ((p, t) for p, t in TREES.items() if p.is_relative_to(SOURCE)):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_nobody_imports_a_private_module_or_name_of_another_package():
    found = []
    for path, tree in TREES.items():
        own = ".".join(path.relative_to(ROOT / "src").parts[:-1]) if path.is_relative_to(SOURCE) else "scripts"
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dlmbench"):
                package, _, last = (node.module or "").rpartition(".")
                names = [last, *(a.name for a in node.names)]
                private = [n for n in names if n.startswith("_") and not n.startswith("__")]
                if private and own not in (package, node.module):
                    found.append(f"{path.relative_to(ROOT)}: {node.module} {private}")
    assert found == []


def test_plug_in_folders_hold_plug_ins_and_nothing_else():
    for kind in registry.KINDS:
        folder = SOURCE.joinpath(*registry.KINDS[kind].subpackage.split("."))
        found = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
        assert {name for name in found if name.startswith("_")} <= {"__init__"}, kind
        for name in registry.names(kind):
            registry.load(kind, name)


# Names of plug-ins that are also plain values: kinds of weights, paradigms, likelihoods of tasks.
WORDS = {"random", "none", "autoregressive", "tiny", "elbo"}
# The command lines of the two published programs, which are named after their models.
PUBLISHED_PROGRAMS = SOURCE / "roofline" / "command.py"


def test_no_code_compares_with_the_name_of_a_plug_in():
    """What others must know of a plug-in is its attribute; a second one with the same property needs no edit."""
    found = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and not isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE):
                sides = (
                    [node.left, *node.comparators] if isinstance(node.ops[0], ast.Eq | ast.NotEq) else node.comparators
                )
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "startswith":
                sides = node.args
            else:
                continue
            values = [v for side in sides for v in (side.elts if isinstance(side, ast.Tuple | ast.Set) else [side])]
            named = {v.value for v in values if isinstance(v, ast.Constant)} & (PLUG_INS - WORDS)
            if named and path != PUBLISHED_PROGRAMS:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {sorted(named)}")
    assert found == []


def test_no_path_of_a_build_machine_is_committed():
    words = ["/" + "work/", "/" + "opt/wheels", "file:" + "///opt"]
    found = subprocess.run(["git", "grep", "-lF", *(f"-e{w}" for w in words)], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == ""
