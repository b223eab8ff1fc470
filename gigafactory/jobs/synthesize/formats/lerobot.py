"""LeRobot v3.0: episodes of robots, and clips of cameras kept as episodes.

    meta/info.json, stats.json, tasks.parquet, episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet            a row a frame, a row group an episode
    videos/KEY/chunk-000/file-000.mp4          a file an episode

An episode of a robot has `observation.state`, `action`, `next.reward`, `next.done` (its last row)
and `next.success`, and where it was filmed `observation.images.camera_0`. A clip has the films of
its cameras and, as `observation.state`, their poses (world from camera, three rows of four, m);
`truth/episode-000000/` beside it keeps what LeRobot has no place for: labels, depth, things.
Statistics are those of LeRobot: of each episode and of all, quantiles of all as the mean of the
episodes' own, pictures on a grid of their pixels, as shares of 255.

Source: https://huggingface.co/docs/lerobot/lerobot-dataset-v3; LeRobotDatasetMetadata of 0.4.4
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gigafactory.jobs.synthesize.formats import depth_16, link, link_tree, moments, png, save, truth
from gigafactory.jobs.synthesize.frame import Clip
from gigafactory.jobs.video import Writer

VERSION = "v3.0"
CHUNK_FILES = 1000
DATA_BYTES = 100 * 1024**2
"""A data file is closed before the episode that would make it longer."""
EPISODES_BATCH = 100
QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)
SAMPLED_PICTURES, SAMPLED_PIXELS = 16, 4
"""Statistics of a film: at most so many pictures, every so many-th pixel each way."""
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA = f"data/{FILE}.parquet"
VIDEO = f"videos/{{video_key}}/{FILE}.mp4"
EPISODES = f"meta/episodes/{FILE}.parquet"
CAMERA = "observation.images.camera_{}"
OWN = ("seed", "success", "collision", "step_s")
"""Columns of ours in the table of episodes."""

Statistics = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Episode:
    """One life of one policy in one layout; `rgb` is what was seen, where it was filmed."""

    index: int
    seed: int
    observation: np.ndarray
    """(T, O) float32, before each action."""
    action: np.ndarray
    """(T, A) float32."""
    reward: np.ndarray
    """(T,) float32, after each action."""
    success: bool
    collision: bool
    step_s: float
    task: str
    rgb: np.ndarray | None = None
    """(T, H, W, 3) uint8."""


def write(
    folder: Path,
    episodes: Iterable[Episode],
    observation_names: Sequence[str],
    action_names: Sequence[str],
) -> None:
    """Write episodes 0, 1, 2, ... as they come. All are filmed, or none."""
    dataset = None
    for episode in episodes:
        steps = len(episode.reward)
        if dataset is None:
            features = {
                "observation.state": vector(observation_names),
                "action": vector(action_names),
                "next.reward": scalar("float32"),
                "next.done": scalar("bool"),
                "next.success": scalar("bool"),
            }
            if episode.rgb is not None:
                height, width = episode.rgb.shape[1:3]
                features[CAMERA.format(0)] = film(height, width, rate(episode.step_s))
            dataset = Dataset(folder, rate(episode.step_s), features)
        assert episode.index == dataset.episodes, "episodes come in order, from 0"
        assert (episode.rgb is not None) == bool(dataset.films), "all are filmed, or none"
        last = np.arange(steps) == steps - 1
        videos, statistics = {}, {}
        if episode.rgb is not None:
            key = CAMERA.format(0)
            videos[key] = dataset.video(key)
            videos[key].parent.mkdir(parents=True, exist_ok=True)
            height, width = episode.rgb.shape[1:3]
            with Writer(videos[key], width, height, rate(episode.step_s)) as out:
                for rgb in episode.rgb:
                    out.add(rgb)
            statistics[key] = of_pictures(episode.rgb)
        columns = {
            "observation.state": np.asarray(episode.observation, np.float32),
            "action": np.asarray(episode.action, np.float32),
            "next.reward": np.asarray(episode.reward, np.float32),
            "next.done": last,
            "next.success": last & episode.success,
        }
        own = {name: getattr(episode, name) for name in OWN}
        dataset.add(columns, episode.task, statistics, own)
    assert dataset is not None, "no episodes"
    dataset.close()


def read(folder: Path) -> Iterator[Episode]:
    """The episodes that `write` wrote, without their pictures; a file of data in memory."""
    name, start, table = "", 0, pa.table({})
    for path in sorted((folder / "meta/episodes").glob("*/*.parquet")):
        for row in pq.read_table(path).to_pylist():
            first, end = row["dataset_from_index"], row["dataset_to_index"]
            place = {index: row[f"data/{index}"] for index in ("chunk_index", "file_index")}
            if name != DATA.format(**place):
                name = DATA.format(**place)
                start, table = first, pq.read_table(folder / name)
            rows = table.slice(first - start, end - first)
            yield Episode(
                index=row["episode_index"],
                observation=array(rows, "observation.state"),
                action=array(rows, "action"),
                reward=array(rows, "next.reward")[:, 0],
                task=row["tasks"][0],
                **{column: row[column] for column in OWN},
            )


def shard(folder: Path, clip: Clip) -> None:
    """One clip as an episode."""
    by_moment = list(moments(clip))
    poses = [np.concatenate([f.camera.pose[:3].ravel() for f in frames]) for frames in by_moment]
    features, statistics = {}, {}
    for camera, frames in enumerate(zip(*by_moment, strict=True)):
        first = frames[0].camera
        features[CAMERA.format(camera)] = film(first.height, first.width, clip.fps)
        path = folder / "videos" / f"camera_{camera}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with Writer(path, first.width, first.height, clip.fps) as out:
            for number, frame in enumerate(frames):
                out.add(frame.rgb)
                pictures = folder / "truth" / f"camera_{camera}"
                save(pictures / f"depth-{number:06d}.png", png(depth_16(frame)))
                save(pictures / f"instance-{number:06d}.png", png(frame.instance))
        statistics[CAMERA.format(camera)] = of_pictures(np.stack([frame.rgb for frame in frames]))
    labels = "".join(json.dumps(truth(clip, frame)) + "\n" for frame in clip.frames)
    (folder / "truth" / "labels.jsonl").write_text(labels)
    np.save(folder / "poses.npy", np.array(poses, np.float32))
    names = [f"camera_{c}.{r}{k}" for c in range(len(features)) for r in "xyz" for k in range(4)]
    about = {
        "features": {"observation.state": vector(names)} | features,
        "task": f"watch the {clip.world}",
        "seed": clip.seed,
        "drawn": json.dumps(clip.drawn),
        "statistics": statistics,
    }
    (folder / "episode.json").write_text(json.dumps(about))


def join(folder: Path, shards: list[Path], classes: tuple[str, ...], fps: float) -> None:
    """The whole dataset; clip i is episode i."""
    dataset = None
    for number, part in enumerate(shards):
        about = json.loads((part / "episode.json").read_text())
        if dataset is None:
            dataset = Dataset(folder, fps, about["features"])
        for camera, key in enumerate(dataset.films):
            link(part / "videos" / f"camera_{camera}.mp4", dataset.video(key))
        link_tree(part / "truth", folder / "truth" / f"episode-{number:06d}")
        columns = {"observation.state": np.load(part / "poses.npy")}
        own = {name: about[name] for name in ("seed", "drawn")}
        dataset.add(columns, about["task"], about["statistics"], own)
    assert dataset is not None, "no clips"
    dataset.close()
    (folder / "truth" / "classes.json").write_text(json.dumps(list(classes)) + "\n")


class Dataset:
    """The tables of a dataset while it is written, an episode at a time."""

    def __init__(self, folder: Path, fps: float, features: dict[str, dict[str, Any]]):
        self.folder, self.fps = folder, fps
        self.features = features | {
            "timestamp": scalar("float32"),
            "frame_index": scalar("int64"),
            "episode_index": scalar("int64"),
            "index": scalar("int64"),
            "task_index": scalar("int64"),
        }
        self.films = [key for key, feature in features.items() if feature["dtype"] == "video"]
        self.episodes = self.frames = 0
        self._tasks: dict[str, int] = {}
        self._statistics: Statistics = {}
        self._file, self._file_bytes = -1, DATA_BYTES
        self._rows: list[dict[str, Any]] = []
        self._data: pq.ParquetWriter | None = None
        self._meta: pq.ParquetWriter | None = None

    def video(self, key: str) -> Path:
        """Where the film of the next episode belongs."""
        return self.folder / VIDEO.format(video_key=key, **place(self.episodes))

    def add(
        self,
        columns: dict[str, np.ndarray],
        task: str,
        statistics: Statistics,
        own: dict[str, Any],
    ) -> None:
        """The next episode; its films lie where `video` said."""
        steps = len(next(iter(columns.values())))
        steps_from_0 = np.arange(steps)
        columns = columns | {
            # Divided in double: LeRobot looks for the film's frame within 0.1 ms of it.
            "timestamp": (steps_from_0 / self.fps).astype(np.float32),
            "frame_index": steps_from_0,
            "episode_index": np.full(steps, self.episodes),
            "index": self.frames + steps_from_0,
            "task_index": np.full(steps, self._tasks.setdefault(task, len(self._tasks))),
        }
        names = [key for key in self.features if key not in self.films]
        table = pa.table({key: arrow(columns[key], self.features[key]) for key in names})
        self._put(table)
        statistics = {key: of_numbers(columns[key]) for key in names} | statistics
        self._statistics = pooled(self._statistics, statistics) if self.episodes else statistics
        row = {"episode_index": self.episodes, "tasks": [task], "length": steps}
        row |= {f"data/{name}": number for name, number in place(self._file).items()}
        row |= {
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + steps,
        }
        for key in self.films:
            row |= {f"videos/{key}/{name}": at for name, at in place(self.episodes).items()}
            row |= {
                f"videos/{key}/from_timestamp": 0.0,
                f"videos/{key}/to_timestamp": steps / self.fps,
            }
        for key, values in statistics.items():
            row |= {f"stats/{key}/{name}": value for name, value in values.items()}
        row |= {f"meta/episodes/{name}": number for name, number in place(0).items()}
        self._rows.append(row | own)
        self.episodes += 1
        self.frames += steps
        if len(self._rows) == EPISODES_BATCH:
            self._flush()

    def close(self) -> None:
        """Write what is known at the end only."""
        self._flush()
        assert self._data is not None
        assert self._meta is not None
        self._data.close()
        self._meta.close()
        save_json(self.folder / "meta/stats.json", self._statistics)
        save_json(
            self.folder / "meta/info.json",
            {
                "codebase_version": VERSION,
                "robot_type": None,
                "total_episodes": self.episodes,
                "total_frames": self.frames,
                "total_tasks": len(self._tasks),
                "chunks_size": CHUNK_FILES,
                "data_files_size_in_mb": DATA_BYTES // 1024**2,
                "video_files_size_in_mb": 200,
                "fps": int(self.fps) if float(self.fps).is_integer() else self.fps,
                "splits": {"train": f"0:{self.episodes}"},
                "data_path": DATA,
                "video_path": VIDEO if self.films else None,
                "features": self.features,
            },
        )
        # LeRobot looks tasks up by the index of a pandas table: the metadata says which column.
        index = "__index_level_0__"
        tasks = pa.table({"task_index": list(self._tasks.values()), index: list(self._tasks)})
        of_pandas = {
            "index_columns": [index],
            "column_indexes": [],
            "columns": [
                pandas_column("task_index", "task_index", "int64", "int64"),
                pandas_column(None, index, "unicode", "object"),
            ],
            "pandas_version": "2.2.0",
        }
        tasks = tasks.replace_schema_metadata({"pandas": json.dumps(of_pandas)})
        pq.write_table(tasks, self.folder / "meta/tasks.parquet")

    def _put(self, table: pa.Table) -> None:
        """Rows into the file of data, or the next one where it is full."""
        if self._file_bytes + table.nbytes > DATA_BYTES:
            if self._data is not None:
                self._data.close()
            self._file, self._file_bytes = self._file + 1, 0
            path = self.folder / DATA.format(**place(self._file))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data = pq.ParquetWriter(path, table.schema)
        assert self._data is not None
        self._data.write_table(table)
        self._file_bytes += table.nbytes

    def _flush(self) -> None:
        """Rows of the table of episodes; the first ones settle its columns."""
        if not self._rows:
            return
        if self._meta is None:
            path = self.folder / EPISODES.format(**place(0))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._meta = pq.ParquetWriter(path, pa.Table.from_pylist(self._rows).schema)
        self._meta.write_table(pa.Table.from_pylist(self._rows, self._meta.schema))
        self._rows.clear()


def vector(names: Sequence[str]) -> dict[str, Any]:
    """A feature of named numbers."""
    return {"dtype": "float32", "shape": [len(names)], "names": list(names)}


def scalar(dtype: str) -> dict[str, Any]:
    """A feature of one number."""
    return {"dtype": dtype, "shape": [1], "names": None}


def film(height: int, width: int, fps: float) -> dict[str, Any]:
    """A feature that is filmed; sizes as `video.Writer` makes them, even."""
    height, width = height + height % 2, width + width % 2
    return {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": int(fps) if float(fps).is_integer() else fps,
            "video.channels": 3,
            "has_audio": False,
        },
    }


def rate(step_s: float) -> float:
    """Frames a second, whole where it is whole but for the last digits."""
    fps = 1 / step_s
    return float(round(fps)) if abs(fps - round(fps)) < 1e-6 else fps


def place(number: int) -> dict[str, int]:
    """Chunk and file of the file with that number."""
    return {"chunk_index": number // CHUNK_FILES, "file_index": number % CHUNK_FILES}


def arrow(values: np.ndarray, feature: dict[str, Any]) -> pa.Array:
    """A column. One number a row is no list, as LeRobot reads it."""
    flat = pa.array(np.ascontiguousarray(values).ravel(), feature["dtype"])
    (width,) = feature["shape"]
    return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)


def array(table: pa.Table, name: str) -> np.ndarray:
    """A column as (rows, width)."""
    column = table[name].combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    return column.to_numpy().reshape(len(table), -1).copy()


def of_numbers(values: np.ndarray) -> dict[str, Any]:
    """Statistics of an episode's column, (T,) or (T, width)."""
    return summary(values.reshape(len(values), -1).astype(float), len(values))


def of_pictures(rgb: np.ndarray) -> dict[str, Any]:
    """Statistics of a film, (T, H, W, 3) uint8, by colour, in LeRobot's shape (3, 1, 1)."""
    count = min(len(rgb), SAMPLED_PICTURES)
    chosen = np.linspace(0, len(rgb) - 1, count).round().astype(int)
    sample = rgb[chosen, ::SAMPLED_PIXELS, ::SAMPLED_PIXELS].reshape(-1, 3) / 255
    found = summary(sample, count)
    return {
        name: value if name == "count" else [[[v]] for v in value] for name, value in found.items()
    }


def summary(values: np.ndarray, count: int) -> dict[str, Any]:
    """Of the columns of (n, width)."""
    quantiles = np.quantile(values, QUANTILES, axis=0)
    return {
        "min": values.min(0).tolist(),
        "max": values.max(0).tolist(),
        "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist(),
        "count": [count],
    } | {f"q{100 * q:02.0f}": found.tolist() for q, found in zip(QUANTILES, quantiles, strict=True)}


def pooled(one: Statistics, two: Statistics) -> Statistics:
    """Statistics of both together."""
    together: Statistics = {}
    for key in one:
        a = {name: np.asarray(value) for name, value in one[key].items()}
        b = {name: np.asarray(value) for name, value in two[key].items()}
        count = a["count"] + b["count"]
        share = b["count"] / count
        pool = {name: a[name] + (b[name] - a[name]) * share for name in a}
        apart = (b["mean"] - a["mean"]) ** 2 * share * (1 - share)
        pool["std"] = np.sqrt(a["std"] ** 2 * (1 - share) + b["std"] ** 2 * share + apart)
        pool["min"], pool["max"] = np.minimum(a["min"], b["min"]), np.maximum(a["max"], b["max"])
        pool["count"] = count
        together[key] = {name: value.tolist() for name, value in pool.items()}
    return together


def pandas_column(name: str | None, field: str, kind: str, numpy: str) -> dict[str, Any]:
    """What pandas wants to know of a column."""
    return {
        "name": name,
        "field_name": field,
        "pandas_type": kind,
        "numpy_type": numpy,
        "metadata": None,
    }


def save_json(path: Path, content: Any) -> None:
    """Write JSON as LeRobot does."""
    save(path, (json.dumps(content, indent=4) + "\n").encode())
