"""FLOPs that a model itself needs to train: what MFU counts. Exact, matrix products only."""

from gigafactory.stack.models import Layers, Mixer, Model
from gigafactory.stack.training.job import Job


def model_flops(job: Job) -> float:
    """FLOPs of one step that the model itself needs."""
    return job.batch * job.sequence * flops_per_token(job)


def flops_per_token(job: Job, causal: float = 0.5) -> float:
    """FLOPs to train on one token, of the square of scores the share `causal` counted."""
    model = job.model
    linear = float(model.hidden * model.vocabulary)
    attention = 0.0
    for layers in model.blocks:
        linear += layers.count * (_mixer_products(layers.mixer) + _active_products(model, layers))
        attention += layers.count * scores(layers.mixer, job.attended) * causal / 0.5
    factor = 4 if job.task == "lora" else 6
    return factor * linear + 3 * attention


def scores(mixer: Mixer, sequence: int) -> float:
    """FLOPs per token of the forward pass of attention itself, the causal half."""
    if mixer.kind in ("attention", "mla"):
        seen = sequence / 2
        if mixer.window and mixer.window < sequence:
            seen = mixer.window * (1 - mixer.window / (2 * sequence))
        return 2 * mixer.heads * (mixer.qk_dim + mixer.v_dim) * seen
    # A chunked linear scan: each token meets its chunk of 64, and the state.
    return (
        2 * mixer.heads * (64 * (mixer.qk_dim + mixer.v_dim) / 2 + 2 * mixer.qk_dim * mixer.v_dim)
    )


def _mixer_products(mixer: Mixer) -> int:
    return sum(inputs * outputs for inputs, outputs in mixer.projections)


def _active_products(model: Model, layers: Layers) -> float:
    forward = layers.feed_forward
    matrices = 3 if forward.gated else 2
    width = forward.latent or model.hidden
    if not forward.experts:
        return matrices * model.hidden * forward.width
    return (
        matrices * width * forward.width * forward.experts_per_token
        + matrices * model.hidden * forward.shared_width
        + model.hidden * forward.experts
    )
