"""What drawing worlds, acting in them and learning from both takes. Modelled, s and B.

Our renderer, physics and small networks run on cores: those of this machine where a chip is one,
else those of an accelerator's host, of which the catalog knows little. The accelerator rests.
Rates of one core: `data/performance.csv`. A frame costs in proportion to its pixels.
"""

from dataclasses import dataclass

from gigafactory.stack import facts
from gigafactory.stack.chips import Chip

REFERENCE_PIXELS = 256 * 256
"""At which rates of frames are stated."""
FILM_PIXELS = 480 * 360
FILMED = 4
"""Episodes, of those in which a policy is judged."""
ARMS_BESIDE = 2
"""The expert and the random policy, beside which a policy is judged in closed loop."""


@dataclass(frozen=True)
class Takes:
    """Seconds and memory of one job, why, and whether on cores whose rates are known."""

    work_s: float
    memory_bytes_per_chip: float
    reason: str
    own: bool


def synthesize(
    scene: str, chip: Chip, chips: int, frames: int, pixels: int, formats: int = 1
) -> Takes:
    """Labelled frames of `pixels`, checked, and written in so many formats."""
    frame_s = _frame_s(scene, pixels)
    written_s = formats * pixels / REFERENCE_PIXELS / _row("synthesize", "written_per_core")
    reason = f"{frames:,} frames at {1 / (frame_s + written_s):.3g}/s of a core"
    return _on_cores(chip, chips, frames * (frame_s + written_s), "synthesize", reason)


def rollout(scene: str, chip: Chip, chips: int, episodes: int, filmed: int) -> Takes:
    """Episodes of a policy in a scene, some of them filmed."""
    core_s = episodes * _episode_s(scene) + _filmed_s(scene, min(filmed, episodes))
    steps = _row(scene, "episode_steps")
    reason = f"{episodes:,} episodes of {steps:.0f} steps, {min(filmed, episodes)} filmed"
    return _on_cores(chip, chips, core_s, "policy", reason)


def learn_detector(chip: Chip, chips: int, images: int, pixels: int) -> Takes:
    """Steps over so many images in all."""
    core_s = images * pixels / REFERENCE_PIXELS / _row("detector", "trained_per_core")
    return _on_cores(chip, chips, core_s, "detector", f"{images:,} images")


def imitate(chip: Chip, chips: int, steps: int) -> Takes:
    """Steps of the optimiser over recorded episodes, on one core: the network is small."""
    alone_s = steps / _row("policy", "imitation_steps_per_core")
    return _on_cores(chip, chips, 0.0, "policy", f"{steps:,} steps of imitation", alone_s)


def practise(scene: str, chip: Chip, chips: int, steps: int) -> Takes:
    """Whole rounds of steps, learned from on one core as it goes, and the episodes that judge."""
    a_round = _row("policy", "practice_round")
    taken = a_round * (1 + max(1, steps // a_round))
    episodes = taken / _row(scene, "episode_steps") + _row("policy", "practice_judged")
    alone_s = taken / _row("policy", "practised_per_core")
    reason = f"{steps:,} steps of practice"
    return _on_cores(chip, chips, episodes * _episode_s(scene), "policy", reason, alone_s)


def judge_detector(scene: str, chip: Chip, chips: int, frames: int, arms: int) -> Takes:
    """Held-out frames, drawn on one core and looked at by one detector or two."""
    core_s, alone_s = arms * frames / _row("detector", "seen_per_core"), frames * _frame_s(scene)
    reason = f"{frames:,} held-out frames"
    return _on_cores(chip, chips, core_s, "detector", reason, alone_s)


def judge_policy(scene: str, chip: Chip, chips: int, episodes: int, arms: int) -> Takes:
    """Episodes of one policy or two, of the expert and of a random one, in the same layouts."""
    arms += ARMS_BESIDE
    core_s = arms * episodes * _episode_s(scene) + _filmed_s(scene, min(FILMED, episodes))
    return _on_cores(chip, chips, core_s, "policy", f"{episodes:,} episodes of {arms} policies")


def falsify(scene: str, chip: Chip, chips: int, scenarios: int, arms: int) -> Takes:
    """Scenarios of traffic that one policy or two, and the expert, must survive."""
    steps, rate = _row(scene, "scenario_steps"), _row(scene, "task_steps_per_core")
    core_s = (arms + 1) * scenarios * steps / rate
    return _on_cores(chip, chips, core_s, "policy", f"{scenarios:,} scenarios of {steps:.0f} steps")


def answer(chip: Chip, chips: int) -> Takes:
    """A service that acts or looks, until it answers."""
    return _on_cores(chip, chips, 0.0, "policy", "until it answers")


def _on_cores(
    chip: Chip, chips: int, core_s: float, memory: str, reason: str, alone_s: float = 0.0
) -> Takes:
    """Work of `core_s`, shared by the cores of so many chips, and of `alone_s` that one does."""
    memory_bytes = _row(memory, "memory")
    if chip.kind == "cpu":
        return Takes(core_s / chips + alone_s, memory_bytes, reason, own=True)
    cores = _row("host", "cores_per_accelerator") * chips
    reason += f"; on {cores:.0f} cores beside the accelerators, which rest"
    return Takes(core_s / cores + alone_s, 0.0, reason, own=False)


def _episode_s(scene: str) -> float:
    """A layout, and what happens in it."""
    return _row(scene, "layout") + _row(scene, "episode_steps") / _row(scene, "task_steps_per_core")


def _filmed_s(scene: str, episodes: int) -> float:
    return episodes * _row(scene, "episode_steps") * _frame_s(scene, FILM_PIXELS)


def _frame_s(scene: str, pixels: int = REFERENCE_PIXELS) -> float:
    return pixels / REFERENCE_PIXELS / _row(scene, "frames_per_core")


def _row(subject: str, quantity: str) -> float:
    value = facts.by_subject("performance")[subject][quantity].value
    assert value, f"{subject} has no {quantity}"
    return value
