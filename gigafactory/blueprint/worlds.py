"""Worlds, and the jobs that draw pictures of them, act in them and learn from both.

A world is one of our scenes, drawn anew from every seed, or a file of the user's own. Lengths of
pictures in pixels; frames are pictures, whatever camera took them.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gigafactory.blueprint.parts import Name, Names, Part, Workload, one_or_many

Layouts = Literal["train", "heldout"]
Pixels = Annotated[int, Field(ge=16, le=4096)]
Format = Literal["coco", "kitti", "lerobot", "smartspaces", "webdataset"]
Formats = Annotated[
    tuple[Format, ...],
    BeforeValidator(one_or_many, json_schema_input_type=Format | tuple[Format, ...]),
]


class World(Part):
    """A scene with what its parameters are drawn from, or a file."""

    scene: Literal["warehouse", "factory", "road"] | None = None
    ranges: dict[Name, tuple[float, float]] = Field(
        default_factory=dict,
        description="of its parameters that are narrowed: lowest, highest; with a file, those of"
        " the robot and the people that are put there",
    )
    file: str | None = Field(
        None, description="OpenUSD, MJCF or URDF of one's own, a path from the blueprint"
    )


class Synthesize(Workload):
    """Draw labelled pictures of a world: a dataset with a certificate of its truth."""

    kind: Literal["synthesize"]
    world: Name
    frames: Annotated[int, Field(gt=0)] = Field(description="pictures in all")
    formats: Formats = ("coco",)
    width: Pixels = 256
    height: Pixels = 256
    cameras: Annotated[int, Field(ge=1, le=16)] = 1
    clip: Annotated[int, Field(gt=0)] = Field(1, description="moments of a scene in a row")
    fps: Annotated[float, Field(gt=0, le=1000)] = Field(10.0, description="of such moments, 1/s")
    randomise: bool = Field(True, description="light, colours and camera; layouts always vary")
    layouts: Layouts = Field("train", description="`heldout` ones are in no training data")


class Rollout(Workload):
    """Let a policy act in a world and record it: episodes, and videos to look at."""

    kind: Literal["rollout"]
    world: Name
    policy: Literal["expert", "random"] | None = Field(None, description="or a learned one: `of`")
    of: Name | None = None
    episodes: Annotated[int, Field(gt=0)]
    layouts: Layouts = "train"
    video: Annotated[int, Field(ge=0, le=1000)] = Field(4, description="episodes to be filmed")

    @property
    def needs(self) -> tuple[str, ...]:
        """The job whose policy acts."""
        return (self.of,) if self.of else ()


class LearnDetector(Workload):
    """Learn to find the things of a world in pictures: from nothing, or from `start` on."""

    kind: Literal["pretrain", "finetune"]
    learns: Literal["detector"]
    start: Name | None = Field(None, description="to finetune: the job whose detector learns on")
    of: Names = Field(min_length=1, description="synthesize jobs whose frames it learns from")
    steps: Annotated[int, Field(gt=0)]
    batch: Annotated[int, Field(gt=0)] = 32

    @property
    def needs(self) -> tuple[str, ...]:
        """The datasets, and the detector that it starts from."""
        return (*self.of, self.start) if self.start else self.of


class LearnPolicy(Workload):
    """Learn to act: pretrained by imitating episodes, finetuned by practice in a world (PPO)."""

    kind: Literal["pretrain", "finetune"]
    learns: Literal["policy"]
    of: Names = Field((), description="to pretrain: rollout jobs whose episodes it imitates")
    start: Name | None = Field(None, description="to finetune: the job whose policy practises")
    world: Name | None = Field(None, description="to finetune: where it practises")
    steps: Annotated[int, Field(gt=0)] = Field(
        description="of the optimiser to pretrain, of the world to finetune"
    )

    @property
    def needs(self) -> tuple[str, ...]:
        """The episodes, or the policy that it starts from."""
        return (*self.of, self.start) if self.start else self.of
