"""A report to disk: the page and its figures, both or neither."""

from __future__ import annotations

import json
import os
from pathlib import Path

from robot_wm.report.figures import report_figures
from robot_wm.report.page import render_html
from robot_wm.report.values import Report


def write_report(report: Report, directory: Path) -> Path:
    """Writes `report.html` and `report.json`; replaces a former report only when all went well.

    Args:
        report: what to write.
        directory: made if missing.

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
    directory.mkdir(parents=True, exist_ok=True)
    temporaries = {directory / f"{name}.tmp": directory / name for name in contents}
    try:
        for temporary, text in zip(temporaries, contents.values(), strict=True):
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for temporary, path in temporaries.items():
            os.replace(temporary, path)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
    return directory / "report.html"
