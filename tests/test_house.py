"""The house rules of the package: rooms in order, imports downward and in no circle, the map in its README, sizes."""

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import wsteer

PACKAGE = Path(wsteer.__file__).parent
# from the top floor down; rooms on one floor do not import each other
FLOORS = (
    ("cli",),
    ("demo",),
    ("elicitation", "training"),
    ("evaluation", "monitoring"),
    ("activations",),
    ("steering",),
    ("models",),
    ("deltas",),
    ("checkpoints",),
    ("files",),
)
CELLAR = ("errors", "progress", "statistics", "workers")  # files beside the rooms, below all of them
FRONT = ("__init__", "__main__")  # above all of them
# each command's program: its room, and in it a file with the command's own name
PROGRAMS = {
    "generate": "elicitation.generate",
    "finetune": "training.finetune",
    "diff": "deltas.diff",
    "steer": "steering.steer",
    "actvec": "activations.actvec",
    "eval": "evaluation.evaluate",  # `eval` is Python's own word
    "monitor": "monitoring.monitor",
    "report": "evaluation.report",
    "demo": "demo.demo",
}
# where a library that takes long to import, or that belongs to one room, may be imported; a prefix of the path
LIBRARIES = {
    "typer": ("cli/",),
    "rich": ("cli/output.py", "evaluation/inspection/inspection.py"),
    "transformers": (
        *("models/", "training/", "steering/memory.py", "steering/positions.py"),
        *("activations/recording.py", "activations/convert.py", "activations/exports.py"),
        *("monitoring/callback.py", "monitoring/measuring.py", "monitoring/projection_callback.py"),
        *("checkpoints/architecture.py", "checkpoints/conversion.py", "checkpoints/ties.py", "demo/model.py"),
        *("deltas/adapters/tuners.py", "deltas/adapters/writing.py"),
    ),
    "peft": (
        *("training/methods.py", "training/tuners.py", "deltas/adapters/tuners.py"),
        *("monitoring/callback.py", "monitoring/projection_callback.py"),
    ),
    "accelerate": ("training/processes.py",),
    "datasets": (),
    "lm_eval": ("evaluation/harness/",),
    "inspect_ai": ("evaluation/inspection/", "evaluation/paper/", "evaluation/reading.py"),
    "matplotlib": (
        *("files/pictures.py", "deltas/spectrum_pictures.py", "monitoring/", "training/curves.py"),
        "activations/picture.py",
        "evaluation/presentation/",
    ),
    "scipy": ("statistics.py",),
    "huggingface_hub": ("files/hub.py",),
    "gguf": ("activations/control_vectors.py",),
    "torch": (
        *(
            "activations/",
            "checkpoints/architecture.py",
            "checkpoints/conversion.py",
            "deltas/",
            "demo/model.py",
            "evaluation/tasks/likelihood.py",
            "evaluation/harness/harness.py",
            "evaluation/harness/model.py",
            "files/tensors.py",
            "models/",
            "monitoring/",
            "steering/",
        ),
        *("statistics.py", "workers.py", "evaluation/calibration.py"),
        *(
            f"training/{name}.py"
            for name in ("cpu", "finetune", "memory", "methods", "processes", "rates", "reporting", "restoring")
        ),
        *("training/steps.py", "training/trainer.py", "training/tuners.py"),
    ),
}
MOST_LINES, MOST_FOLDERS, MOST_FILES = 400, 12, 6


def files(package: Path) -> dict[str, Path]:
    """The package's Python files by their path in it: `deltas/diff.py`."""
    return {path.relative_to(package).as_posix(): path for path in sorted(package.rglob("*.py"))}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module or module.name) of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno} is a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def own_imports(package: Path) -> dict[str, list[tuple[int, str]]]:
    """For each file of the package the files of the package that it imports, with the line."""
    known = files(package)
    found: dict[str, list[tuple[int, str]]] = {}
    for name, path in known.items():
        found[name] = []
        for line, module in imports(path):
            parts = module.split(".")
            if parts[0] != "wsteer":
                continue
            stems = ("/".join(parts[1:]), "/".join(parts[1:-1]))
            candidates = [f"{stem}{end}".lstrip("/") for stem in stems for end in (".py", "/__init__.py")]
            target = next((each for each in candidates if each in known), None)
            if target is not None and target != name:
                found[name].append((line, target))
    return found


def floor(name: str) -> int:
    """How far down a file's room is; 0 for the front door."""
    room = name.split("/")[0] if "/" in name else ""
    if room:
        return next(number for number, rooms in enumerate(FLOORS, 1) if room in rooms)
    return 0 if name.removesuffix(".py") in FRONT else len(FLOORS) + 1


def upward(package: Path) -> list[str]:
    """Imports of a room above, or beside on the same floor, each with its file and line."""
    found = []
    for name, targets in own_imports(package).items():
        for line, target in targets:
            same_room = "/" in name and name.split("/")[0] == target.split("/")[0]
            below = floor(target) > floor(name) or (floor(name) == len(FLOORS) + 1 and floor(target) == floor(name))
            version = target == "__init__.py"  # everything may ask for __version__, which needs nothing else
            if not (same_room or below or version):
                found.append(f"{name}:{line} imports {target}")
    return found


def circles(package: Path) -> list[str]:
    """Files that import themselves by way of others."""
    graph = {name: {target for _, target in targets} for name, targets in own_imports(package).items()}
    graph["__init__.py"] = set()  # what it names it imports on first use alone

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            each = waiting.pop()
            if each not in seen:
                seen.add(each)
                waiting += graph[each]
        return seen

    return [name for name in graph if name in reached(name)]


def misplaced(package: Path) -> list[str]:
    """Imports of libraries where they may not be."""
    found = []
    for name, path in files(package).items():
        for line, module in imports(path):
            allowed = LIBRARIES.get(module.split(".")[0])
            if allowed is not None and not name.startswith(allowed):
                found.append(f"{name}:{line} imports {module}")
    return found


def drawn_tree(readme: Path) -> set[str]:
    """The paths in the tree that the README prints: two spaces a level, `name/` for folders, then the purpose."""
    (tree,) = re.findall(r"^```\nwsteer/ [^\n]*\n(.*?)^```", readme.read_text(encoding="utf-8"), flags=re.M | re.S)
    above: list[str] = []
    found = set()
    for line in tree.splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()
        del above[len(indent) // 2 - 1 :]
        path = "".join([*above, name])
        above += [name] if name.endswith("/") else []
        found.add(path)
    return found


def test_rooms_import_downward_only() -> None:
    assert upward(PACKAGE) == []


def test_no_file_imports_itself_by_way_of_others() -> None:
    assert circles(PACKAGE) == []


def test_libraries_are_imported_where_they_belong() -> None:
    assert misplaced(PACKAGE) == []


def test_every_room_and_file_has_its_place() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {room for rooms in FLOORS for room in rooms}
    top = {path.stem for path in PACKAGE.glob("*.py")}
    assert top == {*CELLAR, *FRONT}
    assert len(folders) <= MOST_FOLDERS and len(top) <= MOST_FILES


def test_every_command_has_a_file_of_its_name_in_cli_and_in_its_room() -> None:
    from wsteer.cli.main import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert names == PROGRAMS.keys()
    known = own_imports(PACKAGE)
    for name, program in PROGRAMS.items():
        path = program.replace(".", "/") + ".py"
        assert path in {target for _, target in known[f"cli/{name}.py"]}, f"cli/{name}.py does not call {path}"


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in files(PACKAGE).items()}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_the_packages_readme_draws_the_tree_as_it_is() -> None:
    on_disk = set()
    for path in PACKAGE.rglob("*"):
        name = path.relative_to(PACKAGE).as_posix()
        if "__pycache__" not in name and not name.endswith((".pyc", "/__init__.py")):
            on_disk.add(name + "/" if path.is_dir() else name)
    assert drawn_tree(PACKAGE / "README.md") == on_disk


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, to plant faults in."""
    return shutil.copytree(PACKAGE, tmp_path / "wsteer", ignore=shutil.ignore_patterns("__pycache__"))


def plant(path: Path, line: str) -> int:
    """Add a line to a file; the number that it has there."""
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}{line}\n", encoding="utf-8")
    return len(text.splitlines()) + 1


def test_a_planted_upward_import_is_found(copy: Path) -> None:
    line = plant(copy / "files" / "text.py", "from wsteer.deltas.delta import Delta")
    assert upward(copy) == [f"files/text.py:{line} imports deltas/delta.py"]


def test_a_planted_import_of_a_room_on_the_same_floor_is_found(copy: Path) -> None:
    line = plant(copy / "monitoring" / "gates.py", "def late():\n    import wsteer.evaluation.results") + 1
    assert upward(copy) == [f"monitoring/gates.py:{line} imports evaluation/results.py"]


def test_a_planted_circle_is_found(copy: Path) -> None:
    plant(copy / "deltas" / "terms.py", "from wsteer.deltas import delta")
    assert {"deltas/terms.py", "deltas/delta.py"} <= set(circles(copy))


def test_a_planted_library_is_found(copy: Path) -> None:
    line = plant(copy / "deltas" / "diff.py", "from transformers import AutoModel")
    assert misplaced(copy) == [f"deltas/diff.py:{line} imports transformers.AutoModel"]
