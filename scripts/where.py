"""Brings the line ranges in docs/where.md in line with the code.

A row ends in a place `path: Class.method`, whose lines the script looks up. It prints the rows that
were off, and rewrites the file with --write; a test runs it.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "where.md"
_ROW = re.compile(
    r"^\| (?P<question>.+?) \| (?P<answer>.+?) "
    r"\| \[(?P<path>[\w/.]+):(?P<lines>[\d-]*)\]\([^)]*\) `(?P<name>[\w.]+)` \|$"
)


def find_lines(path: Path, name: str) -> tuple[int, int]:
    """Finds the first and the last line of a class, a function or a constant.

    Args:
        path: The module.
        name: The name, such as `Supervisor.tick`.

    Returns:
        The first and the last line.

    Raises:
        ValueError: the module defines nothing of that name.
    """
    body = ast.parse(path.read_text(encoding="utf-8")).body
    match: ast.stmt | None = None
    for part in name.split("."):
        match = next((node for node in body if part in _names(node)), None)
        if match is None:
            raise ValueError(f"{path}: no {name}")
        body = getattr(match, "body", [])
    assert match is not None and match.end_lineno is not None
    return match.lineno, match.end_lineno


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [target.id for target in targets if isinstance(target, ast.Name)]


def corrected(page: str) -> str:
    """Returns the page with the current lines of every place.

    Raises:
        ValueError: a row of the table has no place, or the place does not exist.
    """
    lines = []
    for line in page.splitlines():
        row = _ROW.match(line)
        if row is None:
            if line.startswith("| ") and not line.startswith("| question"):
                raise ValueError(f"no place in {line!r}")
            lines.append(line)
            continue
        first, last = find_lines(ROOT / row["path"], row["name"])
        place = f"[{row['path']}:{first}-{last}](../{row['path']}#L{first}-L{last})"
        lines.append(f"| {row['question']} | {row['answer']} | {place} `{row['name']}` |")
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> int:
    """Compares the page, or writes it; returns 1 if it is out of date."""
    page = PAGE.read_text(encoding="utf-8")
    fixed = corrected(page)
    if "--write" in words:
        PAGE.write_text(fixed, encoding="utf-8")
        return 0
    for old, new in zip(page.splitlines(), fixed.splitlines(), strict=True):
        if old != new:
            print(f"{old}\n{new}\n")
    return int(page != fixed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
