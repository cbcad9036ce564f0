"""The report: everything in one file, every figure in the other, both or neither."""

import base64
import dataclasses
import io
import itertools
import json
import math
import re
from html.parser import HTMLParser

import av
import numpy as np
import pytest
from PIL import Image

from robot_wm.report import (
    EpisodeVideo,
    Imagined,
    Landscape,
    MeasureLabel,
    Report,
    encode_video,
    render_html,
    write_report,
)

SUCCESS_M = 0.04
MEASURE = MeasureLabel(enough=SUCCESS_M)
TASKS = {
    "so100_reach": {
        "n": 100,
        "success_final": 0.82,
        "success_final_ci95": [0.733, 0.883],
        "success_any": 0.91,
        "final_distance_m_median": 0.0213,
        "floors": {
            "random": {"success_final": 0.04, "success_final_ci95": [0.016, 0.098]},
            "zero": {"success_final": 0.0, "success_final_ci95": [0.0, 0.037]},
        },
        "ceilings": {"state_oracle": {"success_final": 0.97, "success_final_ci95": [0.915, 0.99]}},
        "plan_s": {"median": 0.183, "p95": 0.262},
    }
}
RED, GREEN = (200, 30, 30), (30, 180, 60)


def make_video(num_frames: int = 4, **changes) -> EpisodeVideo:
    values = {
        "title": "episode 1",
        "frames": np.full((num_frames, 32, 40, 3), RED, np.uint8),
        "goal": np.full((32, 40, 3), GREEN, np.uint8),
        "measured": np.linspace(0.12, 0.01, num_frames),
        "fps": 5.0,
    }
    return EpisodeVideo(**{**values, **changes})


def make_imagined(**changes) -> Imagined:
    picture = np.zeros((2, 32, 40, 3), np.uint8)
    values = {"title": "episode 1", "steps": [0, 4], "horizon": 8}
    values |= {"seen": picture + 200, "imagined": picture + 120, "happened": picture + 40}
    return Imagined(**{**values, **changes})


def make_landscape(**changes) -> Landscape:
    x = np.linspace(-0.05, 0.05, 5)
    values = {
        "title": "episode 1",
        "dx_m": x,
        "dy_m": x,
        "energy": np.hypot(*np.meshgrid(x - 0.08, x)),
        "toward_goal_m": (0.08, 0.0),
        "planned_m": (0.045, 0.002),
    }
    return Landscape(**{**values, **changes})


@pytest.fixture(scope="module")
def report() -> Report:
    rng = np.random.default_rng(0)
    return Report(
        title="reach & <script>alert(1)</script>",
        tasks=TASKS,
        measure=MEASURE,
        settings={"git sha": "3f2c9a4", "planner <b>": "CEM & friends"},
        curves={
            "model": rng.uniform(0, 0.2, (6, 5)).astype(np.float32),
            "random $x_$": rng.uniform(0.1, 0.3, (6, 5)),
        },
        energies=[[0.5, 0.3, 0.1], [0.6, 0.2]],
        training=[{"step": s, "loss": 1 / s, "lr": 1e-3} for s in range(1, 60)]
        + [{"step": 60, "held_out": 0.3}],
        held_out={"true": [0.2, 0.3], "copy_last": [0.4, 0.6]},
        landscapes=[make_landscape(), make_landscape(energy=np.ones((5, 5)))],
        videos=[make_video()],
        imagined=[make_imagined()],
    )


@pytest.fixture(scope="module")
def html(report) -> str:
    return render_html(report)


def decode(content: bytes) -> tuple[list[np.ndarray], av.VideoStream]:
    with av.open(io.BytesIO(content), "r") as container:
        stream = container.streams.video[0]
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], stream


def embedded_videos(html: str) -> list[bytes]:
    found = re.findall(r'src="data:video/mp4;base64,([^"]+)"', html)
    return [base64.b64decode(content, validate=True) for content in found]


def test_page_asks_nothing_of_the_network(html):
    assert not re.search(r"https?://", html)
    assert not re.search(r'<(script|link|iframe|object)\b|<img (?!src="data:)|@import', html)
    targets = re.findall(r'(?:src|href)="([^"]*)"', html) + re.findall(r"url\(([^)]*)\)", html)
    assert targets and all(target.startswith(("data:", "#")) for target in targets)
    assert len(html) < 3_000_000


def test_ids_that_plots_point_at_are_their_own(html):
    plots = re.findall(r'<svg class="plot".*?</svg>', html, re.DOTALL)
    assert len(plots) == 6
    defined = [set(re.findall(r'id="([^"]+)"', plot)) for plot in plots]
    for index, plot in enumerate(plots):
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', plot))
        assert used <= defined[index]
        assert all(not used & other for i, other in enumerate(defined) if i != index)


def test_what_users_wrote_is_escaped(html):
    assert "<title>reach &amp; &lt;script&gt;alert(1)&lt;/script&gt;</title>" in html
    assert "planner &lt;b&gt;" in html and "CEM &amp; friends" in html
    assert "random $x $" in html


class Elements(HTMLParser):
    """What a browser makes of a page: its elements, their attributes, and the text shown."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= dict(attrs).keys()

    def handle_data(self, data):
        self.text += data


def test_no_name_that_a_stranger_gave_becomes_markup():
    names = []

    def hostile(name: str) -> str:
        names.append(f"{name}<b>&lt;\" onload='1'{{{{ 1 }}}}</style></svg>")
        return names[-1]

    measure, unit = hostile("measure"), hostile("unit")
    figures = {
        **{key: value for key, value in TASKS["so100_reach"].items() if "median" not in key},
        f"final_{measure}_{unit}_median": 1.0,
        "floors": {hostile("floor"): {"success_final": 0.5, "success_final_ci95": [0.4, 0.6]}},
        "outcomes": {hostile("outcome"): {"n": 3, "success": 2}},
    }
    report = Report(
        title=hostile("title"),
        tasks={hostile("task"): figures, "other": figures},
        measure=MeasureLabel(measure, unit, 0.1),
        settings={hostile("key"): hostile("value")},
        curves={hostile("curve"): np.ones((2, 3))},
        training=[{"step": 1, hostile("held_out"): 0.3, hostile("metric"): 0.1}],
        held_out={hostile("given"): [0.2]},
        landscapes=[make_landscape(title=hostile("landscape"))],
        videos=[make_video(title=hostile("video"))],
    )
    page = Elements(render_html(report))
    assert not page.tags & {"b", "script"} and "onload" not in page.attributes
    for name in names:
        assert name.replace("_", " ") in page.text.replace("_", " ")


def test_page_shows_the_success_figures(html):
    text = " ".join(html.split()).replace("> <", "><")
    rows = re.findall(r"<tr[^>]*><td><span class=\"chip\".*?</tr>", text)
    by_method = {re.findall(r"</span>(\w[\w ]*)", row)[0].strip(): row for row in rows}
    assert ["model", "random", "zero", "state oracle"] == list(by_method)[:4]
    for shown in (">100<", ">82 %<", "73–88 %", ">91 %<", ">2.1 cm<"):
        assert shown in by_method["model"]
    assert ">4 %<" in by_method["random"] and "2–10 %" in by_method["random"]
    assert ">97 %<" in by_method["state oracle"]
    assert "took 183 ms" in text and "at most 262 ms" in text
    assert "<strong>82 %</strong> of 100 episodes" in text


def test_files_hold_the_page_and_every_figure(report, html, tmp_path):
    path = write_report(report, tmp_path / "new" / "out")
    written = path.read_text("utf-8")
    # Same report, same bytes, but for the videos: x264 once made one a byte longer (docs/log.md).
    pages = [re.sub(r"(video/mp4;base64,)[^\"]+", r"\1", page) for page in (written, html)]
    assert pages[0] == pages[1] and "video/mp4" in html
    for one, other in zip(*map(embedded_videos, (written, html)), strict=True):
        shown = np.array(decode(one)[0], float) - decode(other)[0]
        assert np.abs(shown).mean() < 0.5
    assert path == tmp_path / "new" / "out" / "report.html"
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "report.json"]
    figures = json.loads((path.parent / "report.json").read_text("utf-8"))
    assert figures["tasks"] == TASKS
    assert figures["success_m"] == SUCCESS_M
    assert figures["title"] == report.title and figures["settings"] == report.settings
    assert figures["training"] == report.training and figures["held_out"] == report.held_out
    for label, curves in report.curves.items():
        assert np.array_equal(figures["distance_curves"][label], curves)
    for given, landscape in zip(report.landscapes, figures["landscapes"], strict=True):
        assert np.array_equal(landscape["energy"], given.energy)
        assert np.array_equal(landscape["dx_m"], given.dx_m)
        assert landscape["toward_goal_m"] == list(given.toward_goal_m)
        assert landscape["planned_m"] == list(given.planned_m)
    assert figures["videos"][0]["distances_m"] == report.videos[0].measured.tolist()
    fields = {field.name for field in dataclasses.fields(Report)}
    assert set(figures) == fields - {"curves"} | {"distance_curves", "success_m"}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"held_out": {"true": [0.1, math.nan]}}, r"held_out\.true\[1\]"),
        ({"curves": {"model": np.array([[0.1, np.inf]])}}, r"curves\.model\[0\]\[1\]"),
        ({"training": [{"step": 1, "loss": math.nan}]}, r"training\[0\]\.loss"),
        (
            {"landscapes": [make_landscape(energy=np.full((5, 5), np.nan))]},
            r"landscapes\[0\]\.energy\[0\]\[0\]",
        ),
        (
            {"videos": [make_video(measured=np.array([0.1, 0.1, np.nan, 0.1]))]},
            r"videos\[0\]\.distances_m\[2\]",
        ),
        (
            {"tasks": {"t": {**TASKS["so100_reach"], "success_final": math.nan}}},
            r"tasks\.t\.success_final",
        ),
        ({"tasks": {"t": {**TASKS["so100_reach"], "success_final": 82}}}, "share from 0 to 1"),
        ({"tasks": {"t": {"n": 100}}}, r"tasks\.t\.success_final"),
    ],
)
def test_bad_figures_are_refused_and_the_old_report_stays(report, tmp_path, changes, key):
    bad = dataclasses.replace(report, **{"videos": [], "landscapes": [], **changes})
    with pytest.raises(ValueError, match=key):
        render_html(bad)
    with pytest.raises(ValueError, match=key):
        write_report(bad, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(ValueError, match=key):
        write_report(bad, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_disk_trouble_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("robot_wm.files.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_report(Report(title="t", tasks=TASKS, measure=MEASURE), tmp_path)
    assert not list(tmp_path.iterdir())


def test_video_has_camera_left_and_goal_right(html):
    (content,) = embedded_videos(html)
    frames, stream = decode(content)
    assert len(frames) == 4 + 5  # held for a second
    assert (
        stream.codec_context.name == "h264"
        and stream.codec_context.profile == "Constrained Baseline"
    )
    assert stream.codec_context.pix_fmt == "yuv420p" and stream.average_rate == 5
    height, width = frames[0].shape[:2]
    for frame in frames:
        left, right = frame[height // 2, width // 4], frame[height // 2, 3 * width // 4]
        assert np.abs(left.astype(int) - RED).max() < 12
        assert np.abs(right.astype(int) - GREEN).max() < 12
    assert (frames[0][:50] > 180).any()  # step and distance are written above the pictures


@pytest.mark.parametrize("shape", [(96, 128), (480, 640), (33, 47), (64, 8)])
def test_video_takes_any_picture_size_and_rate(shape):
    video = make_video(
        frames=np.zeros((2, *shape, 3), np.uint8),
        goal=np.zeros((50, 50, 3), np.uint8),
        measured=np.zeros(2),
        fps=12.5,
    )
    frames, stream = decode(encode_video(video, MEASURE))
    assert len(frames) == 2 + 12 and stream.average_rate == 12.5


def test_a_video_shows_the_goal_that_is_pursued():
    goals = np.stack(
        [np.full((32, 40, 3), colour, np.uint8) for colour in (GREEN, GREEN, RED, RED)]
    )
    frames, _ = decode(encode_video(make_video(goal=goals), MEASURE))
    shown = [frame[frame.shape[0] // 2, 3 * frame.shape[1] // 4] for frame in frames[:4]]
    for colour, wanted in zip(shown, (GREEN, GREEN, RED, RED), strict=True):
        assert np.abs(colour.astype(int) - wanted).max() < 40
    with pytest.raises(ValueError, match="one per frame"):
        make_video(goal=goals[:3])


def test_what_was_imagined_is_between_what_was_seen_and_what_happened(html):
    (sheet,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet))))
    columns = picture[:, -64].astype(int)  # through the last moment's pictures
    order = [value for value in columns[:, 0] if value in (200, 120, 40)]
    assert [value for value, _ in itertools.groupby(order)] == [200, 120, 40]
    with pytest.raises(ValueError, match="want 2 pictures"):
        make_imagined(happened=np.zeros((3, 32, 40, 3), np.uint8))


def test_sections_without_data_are_left_out(html):
    everything = {
        "success",
        "videos",
        "imagined",
        "measure",
        "energies",
        "landscapes",
        "held-out",
        "training",
        "settings",
    }
    assert set(re.findall(r'<section id="([\w-]+)"', html)) == everything
    bare = render_html(Report(title="t", tasks={}, measure=MEASURE))
    assert "<section" not in bare and "<h2" not in bare and "<svg" not in bare
    other = Report(title="t", tasks=TASKS, measure=MEASURE, training=[{"step": 1, "lr": 0.1}])
    assert re.findall(r'<section id="([\w-]+)"', render_html(other)) == ["success"]


def test_colors_follow_the_method(html):
    chips = re.findall(r'background:(#\w+)"></span>(model|random \$x \$)', html)
    assert len(chips) == 3  # model in table and legend, the other in the legend
    assert len({color for color, label in chips if label == "model"}) == 1
    assert len(set(chips)) == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: make_landscape(energy=np.zeros((5, 4))), "energy"),
        (lambda: make_landscape(dx_m=np.zeros(5)), "increasing"),
        (lambda: make_landscape(planned_m=(0.0,)), "planned_m"),
        (lambda: make_video(frames=np.zeros((4, 32, 40, 3))), "uint8"),
        (lambda: make_video(measured=np.zeros(3)), "one value per frame"),
        (lambda: make_video(fps=0), "fps"),
        (lambda: Report(title="t", tasks={}, training=[{"loss": 1}]), "step"),
        (
            lambda: Report(title="t", tasks={}, curves={"m": np.ones(3)}),
            "curves.m",
        ),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_further_evaluations_follow_on_the_same_page(report, tmp_path):
    task = dict(TASKS["so100_reach"])
    other = dataclasses.replace(
        report, title="then: push", tasks={"so100_push": task}, measure=MeasureLabel(enough=0.03)
    )
    path = write_report(dataclasses.replace(report, chapters=[other]), tmp_path)
    html = path.read_text()
    ids = re.findall(r'<section id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    plots = re.findall(r'<svg class="plot".*?</svg>', html, re.DOTALL)
    used = [set(re.findall(r'(?:href="#|url\(#)([^")]+)', plot)) for plot in plots]
    assert len(plots) == 12
    assert not any(a & b for a, b in itertools.combinations(used, 2))
    assert html.count('class="headline"') == 2 and "below 3 cm" in html and "below 4 cm" in html
    assert len(embedded_videos(html)) == 2
    (chapter,) = json.loads((tmp_path / "report.json").read_text())["chapters"]
    assert chapter["tasks"]["so100_push"]["n"] == 100 and chapter["success_m"] == 0.03
    bad = dataclasses.replace(other, energies=[[math.nan]])
    with pytest.raises(ValueError, match="energies"):
        write_report(dataclasses.replace(report, chapters=[bad]), tmp_path)
