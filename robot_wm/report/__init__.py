"""The report of an evaluation: one self-contained HTML page, and a JSON with every figure."""

from robot_wm.report.page import render_html
from robot_wm.report.plots import plot_planners, plot_pretraining
from robot_wm.report.values import EpisodeVideo, Imagined, Landscape, MeasureLabel, Report
from robot_wm.report.video import encode_video
from robot_wm.report.writing import write_report

__all__ = [
    "EpisodeVideo",
    "Imagined",
    "Landscape",
    "MeasureLabel",
    "Report",
    "encode_video",
    "plot_planners",
    "plot_pretraining",
    "render_html",
    "write_report",
]
