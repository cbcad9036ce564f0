"""Writes, reads, checks and samples LeRobot v3 datasets, and caches their encoded frames."""

from robot_wm.data.alignment import (
    ActionMode,
    AlignedData,
    DataSpec,
    Finding,
    StateView,
    align,
)
from robot_wm.data.clips import Clips
from robot_wm.data.dataset import Dataset, Episode, Feature
from robot_wm.data.folder import FolderFrames, load_video_folder
from robot_wm.data.hindsight import EncodedEpisodes, HindsightBatch, HindsightSampler, ImaginedGoals
from robot_wm.data.keys import find_cameras, find_state
from robot_wm.data.opening import open_dataset
from robot_wm.data.tokens import TokenStore, encode_dataset, load_frames, scale_frames
from robot_wm.data.windows import Batch, DataStats, WindowSampler, fit_stats, split_episodes
from robot_wm.data.writer import DatasetWriter

__all__ = [
    "ActionMode",
    "AlignedData",
    "Batch",
    "Clips",
    "DataSpec",
    "DataStats",
    "Dataset",
    "DatasetWriter",
    "EncodedEpisodes",
    "Episode",
    "Feature",
    "Finding",
    "FolderFrames",
    "HindsightBatch",
    "HindsightSampler",
    "ImaginedGoals",
    "StateView",
    "TokenStore",
    "WindowSampler",
    "align",
    "encode_dataset",
    "find_cameras",
    "find_state",
    "fit_stats",
    "load_frames",
    "load_video_folder",
    "open_dataset",
    "scale_frames",
    "split_episodes",
]
