"""FLOPs that a model itself needs to train: what MFU counts. Matrix products only."""

from gigafactory.stack import models
from gigafactory.stack.models import Mixer
from gigafactory.stack.training.job import Job


def model_flops(job: Job) -> float:
    """FLOPs of one step that the model itself needs, attention as the causal half."""
    return job.batch * job.sequence * flops_per_token(job)


def flops_per_token(job: Job, causal: float = 0.5) -> float:
    """FLOPs to train on one token, of the square of scores the share `causal` counted.

    The backward pass has two products for each of the forward pass; where weights are frozen, one.
    """
    model = job.model
    whole = models.forward_flops_per_token(model, job.attended)
    scores = sum(
        layers.count * attention_per_token(layers.mixer, job.attended) for layers in model.blocks
    )
    return (2 if job.frozen else 3) * (whole - scores) + 3 * scores * causal / 0.5


def attention_per_token(mixer: Mixer, tokens: int) -> float:
    """FLOPs of attention itself, or of the recurrence, for one of so many tokens, forward."""
    return models.attention_flops(mixer, tokens) / tokens
