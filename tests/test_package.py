"""What a user installs: the wheel, the lock, and imports that stay light."""

import importlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.encoders import load_mini, shipped_weights

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str, cwd: Path = ROOT, **env: str) -> str:
    """Runs a command and returns what it printed, which is the message if it fails."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    assert done.returncode == 0, f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}"
    return done.stdout


def files(folder: str, pattern: str) -> set[str]:
    """Files of the checkout below `folder`, as paths relative to it."""
    found = (ROOT / folder).rglob(pattern)
    return {path.relative_to(ROOT / folder).as_posix() for path in found if path.is_file()}


# One test for the wheel, not one per fact: workers that run tests in parallel would each build it.
def test_wheel(tmp_path: Path) -> None:
    # The build backend that is installed, not a downloaded one: tests do not use the network.
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")

    expected = {f"robot_wm/configs/{name}" for name in files("configs", "*.yaml")}
    expected |= {f"robot_wm/weights/{name}" for name in files("robot_wm/weights", "*.safetensors")}
    expected |= {f"sim_envs/{name}" for name in files("sim_envs", "*.json")}
    for package in ("robot_wm", "sim_envs", "hardware"):
        expected |= {f"{package}/{name}" for name in files(package, "*.py")}
    assert expected - names == set()

    top_level = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top_level == {"robot_wm", "sim_envs", "hardware"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)

    # Outside the checkout the command finds its configs inside the package.
    outside = {"cwd": tmp_path, "PYTHONPATH": str(tmp_path / "site")}
    where = run(sys.executable, "-c", "import robot_wm; print(robot_wm.__file__)", **outside)
    assert Path(where.strip()).is_relative_to(tmp_path / "site")
    command = "import robot_wm.cli, sys; sys.exit(robot_wm.cli.main())"
    assert "plan" in run(sys.executable, "-c", command, "--help", **outside)

    # And a plan runs on what is inside the wheel: configs, weights, scene.
    goal = ROOT / "docs" / "images" / "goal.png"
    words = ["plan", "checkpoint=so100_tabletop", f"goal={goal}", "out=run", "env.num_steps=2"]
    assert "energy" in run(sys.executable, "-c", command, *words, **outside)
    assert (tmp_path / "run" / "plan.mp4").is_file()


def test_what_ships_is_small_and_fits_together() -> None:
    weights = ROOT / "robot_wm" / "weights"
    checkpoint = weights / "so100_tabletop"
    sizes = {path.name: path.stat().st_size for path in checkpoint.iterdir()}
    learned = ("encoder.safetensors", "weights.safetensors", "prior.safetensors")
    assert sum(sizes[name] for name in learned) < 10e6 and sum(sizes.values()) < 13e6
    assert (weights / "mini.safetensors").stat().st_size < 12e6
    encoder = load_mini(shipped_weights())
    assert encoder.grid[0] * encoder.grid[1] <= 64
    model, config = load_checkpoint(find_checkpoint("so100_tabletop"))
    assert model.encoder.fingerprint.difference(encoder.fingerprint) is None
    for card in (weights / "mini.md", checkpoint / "card.md"):
        text = card.read_text()
        assert "seed" in text and "machine" in text and "| code |" in text
        assert "/tmp" not in text and "/home" not in text
    assert not Path(config["training"]["data"]["source"]).is_absolute()


@pytest.mark.parametrize("module", ["robot_wm", "robot_wm.types", "robot_wm.contracts", "hardware"])
def test_import_is_light(module: str) -> None:
    heavy = {"torch", "lerobot", "mujoco", "transformers", "timm", "hydra"}
    script = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    assert run(sys.executable, "-c", script).split() == []


def test_everything_imports_without_lerobot_and_rerun() -> None:
    script = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(("lerobot", "rerun")))
num_modules = 0
for package in ("robot_wm", "sim_envs", "hardware"):
    for module in pkgutil.walk_packages([package], f"{package}."):
        if module.name not in ("hardware.__main__", "robot_wm.deployment.viewer"):
            importlib.import_module(module.name)
            num_modules += 1
print(num_modules)
"""
    assert int(run(sys.executable, "-c", script)) > 80


def test_lock_holds_names_and_versions_only() -> None:
    name, version = r"[a-z0-9]+(-[a-z0-9]+)*", r"[0-9][0-9a-z.]*"  # no local versions: 2.10+cpu
    marker = r"[A-Za-z0-9_.*'()<>=! ]+"
    line = re.compile(rf"{name}=={version}( ; {marker})?")
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert lines
    assert [text for text in lines if not line.fullmatch(text)] == []


def test_lock_satisfies_pyproject() -> None:
    """Whoever changes a dependency runs `make lock`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["dev"], *extras["lerobot"], *extras["rerun"]]
    lock = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]
    for python in ("3.10.13", "3.11.7", "3.12.1", "3.13.0"):
        here = {"python_version": python.rsplit(".", 1)[0], "python_full_version": python}
        pinned = {
            pin.name: str(pin.specifier).removeprefix("==")
            for pin in lock
            if pin.marker is None or pin.marker.evaluate(here)
        }
        for text in declared:
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate(here):
                continue
            assert wanted.name in pinned, f"{text} is not in requirements.lock: run make lock"
            assert pinned[wanted.name] in wanted.specifier, f"{text}: run make lock"
        assert pinned["lerobot"].startswith("0.4." if python < "3.12" else "0.6.")
        # dm-control declares it, and Python 3.13 has no wheel of it.
        assert ("labmaze" in pinned) == (python < "3.13")


def test_every_place_that_the_glossary_names_is_there():
    text = (ROOT / "docs" / "glossary.md").read_text()
    names = re.findall(r"\| `([\w.]+)` \|$", text, re.MULTILINE)
    assert len(names) >= 40
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name


def test_the_tree_in_the_readme_is_the_tree():
    """Every place that it names is there, and no module of ours is left out."""
    lines = (ROOT / "README.md").read_text().splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("    robot_wm/ "))
    folder, named = Path(), set()
    for line in lines[begin:]:
        if not line.strip():
            break
        name = line.split()[0]
        if line.startswith("      "):
            named.add(folder / name.rstrip("/"))
        else:
            folder = Path(name)
            named.add(folder)
    assert [str(path) for path in named if not (ROOT / path).exists()] == []
    ours = set()
    for package in ("robot_wm", "sim_envs", "hardware"):
        for path in (ROOT / package).iterdir():
            if path.suffix == ".py" or (path / "__init__.py").is_file():
                ours.add(path.relative_to(ROOT))
    missing = {str(path) for path in ours - named if not path.name.startswith("__")}
    assert missing == set()


def test_the_places_that_answer_a_newcomer_are_there():
    """docs/where.md: at least twenty questions, each with the lines that answer it."""
    page = (ROOT / "docs" / "where.md").read_text()
    assert page.count("\n| ") - 1 >= 20
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "where.py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_plugins_use_the_library_and_not_its_commands():
    for path in (ROOT / "plugins").rglob("*.py"):
        text = path.read_text()
        assert "robot_wm.cli" not in text and "omegaconf" not in text, path
