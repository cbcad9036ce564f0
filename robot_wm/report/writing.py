"""Writes a report to disk: the page and its figures."""

from __future__ import annotations

import json
from pathlib import Path

from robot_wm.files import replacing_all
from robot_wm.report.figures import report_figures
from robot_wm.report.page import render_html
from robot_wm.report.values import Report


def write_report(report: Report, directory: Path) -> Path:
    """Writes `report.html` and `report.json`; replaces an older report only if all went well.

    Args:
        report: The report.
        directory: Directory to write to; it is created if missing.

    Returns:
        Path of the HTML file.

    Raises:
        ValueError: a number is not finite, or a figure is missing; nothing is written.
    """
    directory = Path(directory)
    lines = [
        f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}"
        for key, value in report_figures(report).items()
    ]
    contents = {
        "report.json": "{\n" + ",\n".join(lines) + "\n}\n",
        "report.html": render_html(report),
    }
    with replacing_all([directory / name for name in contents]) as scratches:
        for scratch, text in zip(scratches, contents.values(), strict=True):
            scratch.write_text(text, encoding="utf-8")
    return directory / "report.html"
