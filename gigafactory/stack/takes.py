"""What a job takes on some chips, as records: the words that quotes are written from. s, B, W."""

from dataclasses import dataclass

from gigafactory.stack.chips import Chip


class UnknownPrecision(LookupError):
    """The chip has no known rate in this dtype."""

    def __init__(self, precision: str, chip: Chip):
        self.precision, self.known = precision, sorted(chip.flop_per_s)
        super().__init__(
            f"{chip.name} has no rate in {precision!r}; known: {', '.join(self.known)}"
        )


@dataclass(frozen=True)
class TrainingStep:
    """One optimizer step of the whole group; its seconds are `step_s`."""

    compute_s: float
    communication_s: float
    """What no computation hides."""
    optimizer_s: float
    microbatch_tokens: int
    """Tokens a chip takes at once: its share of the batch, or less where memory is short."""
    memory_bytes_per_chip: float
    mfu: float
    """FLOPs done over those at the published bfloat16 peak (at the measured rate on a CPU)."""
    power_w_per_chip: float

    @property
    def step_s(self) -> float:
        """The sum of the terms."""
        return self.compute_s + self.communication_s + self.optimizer_s


@dataclass(frozen=True)
class Scoring:
    """The likelihood of given tokens: forward passes."""

    compute_s: float
    overhead_s: float
    memory_bytes_per_chip: float
    power_w_per_chip: float

    @property
    def total_s(self) -> float:
        """The sum of the terms."""
        return self.compute_s + self.overhead_s


@dataclass(frozen=True)
class Generation:
    """A batch of prompts answered together."""

    prefill_s: float
    """Until the first token of each."""
    decode_s: float
    """For the tokens after the first."""
    step_s: float
    """One decode step in the middle of the answer: seconds a token for each prompt."""
    memory_bytes_per_chip: float
    power_w_per_chip: float

    @property
    def total_s(self) -> float:
        """The sum of the terms."""
        return self.prefill_s + self.decode_s
