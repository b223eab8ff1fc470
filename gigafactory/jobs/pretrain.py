"""Train a Qwen3-MoE from scratch on real text, on one process or a gang, on CPUs or GPUs.

FSDP2 shards the module, `moe.lean` gives it a quick forward, DCP keeps the checkpoints. Which
tokens a step sees depends on the step alone, so a job that was killed, or resumed by a gang of
another size, trains on the same tokens as one left in peace; with a gang of the same size its
weights are the same to the bit. A rank takes its share of a step's batch in one pass: memory
bounds `batch_tokens`, and the experts' load is balanced over exactly the batch of a step.

Checkpoints are ours alone: DCP keeps its index of them (`.metadata`) as a pickle.

`context.work`: `tokens` (of the whole training), `sequence` (tokens), `batch_tokens` (tokens
of one optimizer step over the whole gang), `learning_rate` (at its peak), `seed`,
`checkpoint_steps`, `precision` (`float32` or `bfloat16`; master weights are always float32).
"""

import hashlib
import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import distribute_tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3MoeConfig
from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen3

from gigafactory.jobs.context import Context, StopJob, step_folder
from gigafactory.jobs.corpus import END, TRAINING, Corpus, batch, corpus
from gigafactory.jobs.moe import lean
from gigafactory.jobs.muon import Muon
from gigafactory.jobs.whole import writing

WARMUP_SHARE = 0.03
"""Share of the steps in which the learning rate rises."""
WEIGHT_DECAY = 0.1
BETAS = (0.9, 0.95)
GRADIENT_NORM_MAX = 1.0
REPORT_S = 0.25
CHECKPOINTS_KEPT = 2

CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
"""The model never saw a dialogue: what is said is continued."""


def run(context: Context) -> dict[str, Any]:
    """Train, or go on training, and leave a Hugging Face folder in `output/model`."""
    context.phase("prepare")
    cpu_start_s = time.process_time()
    alone = not dist.is_initialized()
    if alone:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        training = Training(context)
        training.resume()
        context.phase("work")
        training.steps()
        context.phase("save")
        return training.save() | training.figures(time.process_time() - cpu_start_s)
    finally:
        if alone:
            dist.destroy_process_group()


class Training:
    """One rank's part of the training: sharded model, optimizers, position."""

    def __init__(self, context: Context):
        self.context = context
        self.work = context.work
        self.sequences = self.work["batch_tokens"] // self.work["sequence"]
        if self.sequences == 0 or self.sequences % context.world:
            raise ValueError(
                f"batch_tokens {self.work['batch_tokens']} is {self.sequences} sequences of"
                f" {self.work['sequence']} tokens, which {context.world} ranks cannot share;"
                f" take a multiple of {self.work['sequence'] * context.world}"
            )
        self.batch_tokens = self.sequences * self.work["sequence"]
        self.last_step = math.ceil(self.work["tokens"] / self.batch_tokens)
        self.device = device(context)
        self.config = Qwen3MoeConfig(**context.model["config"])
        self.corpus: Corpus = corpus(context.cache, self.config.vocab_size)
        context.phase("load")
        self.model = sharded(self.config, self.device, self.work["precision"])
        initialize(self.model, self.config, self.work["seed"])
        self.optimizers = optimizers(self.model, self.work["learning_rate"])
        self.step = 0
        self.loss_first = self.loss_last = self.load_max = math.nan

    def steps(self) -> None:
        """Step to the end, telling progress, leaving checkpoints, stopping where asked."""
        context = self.context
        start, start_s, told_s = self.step, time.monotonic(), -math.inf
        while self.step < self.last_step:
            if self._agreed(context.should_stop()):
                self.checkpoint()
                raise StopJob
            loss, rate = self._train(self.step)
            self.step += 1
            now_s = time.monotonic()
            if now_s - told_s >= REPORT_S or self.step == self.last_step:
                told_s = now_s
                trained_tokens = (self.step - start) * self.batch_tokens
                context.report(
                    step=self.step,
                    steps=self.last_step,
                    tokens=self.step * self.batch_tokens,
                    loss=loss,
                    learning_rate=rate,
                    tokens_per_s=trained_tokens / (now_s - start_s),
                )
            if self.step % self.work["checkpoint_steps"] == 0 and self.step < self.last_step:
                self.checkpoint()

    def _train(self, step: int) -> tuple[float, float]:
        """One optimizer step; the global batch's loss in nats a token, and the rate used."""
        rate = self.work["learning_rate"] * schedule(step, self.last_step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        rows = batch(
            self.corpus.tokens,
            step,
            sequences=self.sequences,
            sequence=self.work["sequence"],
            seed=self.work["seed"],
        )
        mine = torch.from_numpy(rows[self.context.rank :: self.context.world]).to(self.device)
        loss, load, balance = self.model(mine[:, :-1], mine[:, 1:])
        (loss + self.config.router_aux_loss_coef * balance).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM_MAX)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        loss = loss.detach()
        dist.all_reduce(loss)
        self.loss_last = loss.item() / self.context.world
        self.load_max = load.max().item() * self.config.num_experts
        if step == 0:
            self.loss_first = self.loss_last
        return self.loss_last, rate

    def _agreed(self, wish: bool) -> bool:
        """Rank 0's wish, on all ranks: a gang stops between the same two steps."""
        wishes = torch.tensor(float(wish), device=self.device)
        dist.broadcast(wishes, 0)
        return bool(wishes.item())

    def checkpoint(self) -> None:
        """Write a durable checkpoint of this step; it appears whole or not at all."""
        half_done = self.context.checkpoints / f"{step_folder(self.step)}.tmp"
        dcp.save(self._state(), checkpoint_id=half_done)
        if self.context.rank == 0:
            self.context.hand_in(self.step, half_done, CHECKPOINTS_KEPT)
        dist.barrier()

    def resume(self) -> None:
        """Take up the last whole checkpoint, whatever the size of the gang that left it."""
        if self.context.rank == 0:
            for half_done in self.context.checkpoints.glob("step-*.tmp"):
                shutil.rmtree(half_done)
        dist.barrier()
        if whole := self.context.last_checkpoint():
            state = self._state()
            dcp.load(state, checkpoint_id=whole)
            set_state_dict(
                self.model,
                self.optimizers,
                model_state_dict=state["model"],
                optim_state_dict=state["optimizer"],
            )
            self.step, self.loss_first = state["step"], state["loss_first"]

    def _state(self) -> dict[str, Any]:
        """All that the next step depends on, sharded."""
        model, optimizer = get_state_dict(self.model, self.optimizers)
        return {
            "model": model,
            "optimizer": optimizer,
            "step": self.step,
            "loss_first": self.loss_first,
        }

    def save(self) -> dict[str, Any]:
        """Write the output; rank 0 learns how many parameters it has, and their hash."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(self.model, options=options)
        if self.context.rank > 0:
            return {}
        whole = self.context.output / "model"
        with torch.device("meta"):
            model = qwen3.Qwen3MoeForCausalLM(self.config)
        model.load_state_dict(state, assign=True)
        model.tie_weights()
        model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0)
        read = {
            "tokens": self.step * self.batch_tokens,
            "sequence": self.work["sequence"],
            "seed": self.work["seed"],
        }
        with writing(whole) as half_done:
            model.save_pretrained(half_done)
            tokenizer(self.corpus, self.config).save_pretrained(half_done)
            (half_done / TRAINING).write_text(json.dumps(read), "utf-8")
        return {
            "parameters": model.num_parameters(),
            "weights_sha256": weights_sha256(whole),
        }

    def figures(self, cpu_s: float) -> dict[str, Any]:
        """What the training came to; CPU seconds are the gang's."""
        total_cpu_s = torch.tensor(cpu_s, device=self.device)
        dist.all_reduce(total_cpu_s)
        if self.context.rank > 0:
            return {}
        return {
            "tokens": self.step * self.batch_tokens,
            "steps": self.step,
            "loss_first": self.loss_first,
            "loss_last": self.loss_last,
            "expert_load_max": self.load_max,
            "cpu_s": total_cpu_s.item(),
        }


def device(context: Context) -> torch.device:
    """This rank's GPU, or the CPU with this rank's share of the cores; both deterministic."""
    torch.use_deterministic_algorithms(True)
    # On its own this also writes NaN over all new memory, a tenth of the step.
    torch.utils.deterministic.fill_uninitialized_memory = False
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        own = torch.device("cuda", context.rank % torch.cuda.device_count())
        torch.cuda.set_device(own)
        return own
    torch.set_num_threads(max(1, context.chips // context.world))
    return torch.device("cpu")


def sharded(config: Qwen3MoeConfig, device: torch.device, precision: str) -> nn.Module:
    """The lean model, each layer a group of FSDP2, its storage not yet filled."""
    with torch.device("meta"):
        model = qwen3.Qwen3MoeForCausalLM(config)
    model.tie_weights()
    # Small machines keep gathered weights for the backward: gathering twice costs more there
    # than memory does.
    policy = {"reshard_after_forward": device.type == "cuda"}
    if precision == "bfloat16":
        policy["mp_policy"] = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    lean(model)
    for layer in model.model.layers:
        fully_shard(layer, **policy)
    fully_shard(model, **policy)
    model.to_empty(device=device)
    model.model.rotary_emb = qwen3.Qwen3MoeRotaryEmbedding(config).to(device)
    return model.train()


@torch.no_grad()
def initialize(model: nn.Module, config: Qwen3MoeConfig, seed: int) -> None:
    """Fill each parameter from (seed, its place), so that a gang of any size starts equal.

    What a block adds to the stream starts at zero (as in Fixup, Zhang et al. 2019, arXiv
    1901.09321): a random start would have to be unlearned first.
    """
    for place, (name, parameter) in enumerate(model.named_parameters()):
        whole = torch.zeros(parameter.shape)
        if "norm" in name:
            whole.fill_(1)
        elif not name.endswith(("o_proj.weight", "down_proj")):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + place)
            whole.normal_(0, config.initializer_range, generator=generator)
        parameter.copy_(
            distribute_tensor(
                whole.to(parameter.device),
                parameter.device_mesh,
                parameter.placements,
                src_data_rank=None,
            )
        )


def optimizers(model: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside; AdamW for embedding, head, routers and norms, undecayed."""
    stacked, matrices, others = [], [], []
    for name, parameter in model.named_parameters():
        if name.endswith("experts.gate_up_proj"):
            stacked.append(parameter)
        elif "proj" in name:
            matrices.append(parameter)
        else:
            others.append(parameter)
    groups = [{"params": stacked, "split": 2}, {"params": matrices}]
    muon = Muon(groups, learning_rate, weight_decay=WEIGHT_DECAY)
    adamw = torch.optim.AdamW(others, lr=learning_rate, betas=BETAS, weight_decay=0.0, fused=True)
    return [muon, adamw]


def schedule(step: int, steps: int) -> float:
    """Learning rate of a step as a share of its peak: a short rise, then straight to zero.

    Bergsma et al. 2025, arXiv 2502.15938; half a cosine to 5 % ended 0.6 % worse here.
    """
    rise = max(1, round(WARMUP_SHARE * steps))
    return min(1.0, (step + 1) / rise) * (1 - step / steps)


def tokenizer(source: Corpus, config: Qwen3MoeConfig) -> PreTrainedTokenizerFast:
    """The corpus's tokenizer as transformers and servers know it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(source.tokenizer)),
        eos_token=END,
        pad_token=END,
        model_max_length=config.max_position_embeddings,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def weights_sha256(model: Path) -> str:
    """Hash of the weights of a Hugging Face folder: name, then bytes, by name."""
    digest = hashlib.sha256()
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                digest.update(name.encode())
                digest.update(tensors.get_tensor(name).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
