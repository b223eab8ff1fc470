"""Tokens a CPU second of training: the lean forward against transformers, same weights.

    python benchmarks/pretrain.py [--sequence 256] [--sequences 4] [--compiled]

Each round has a new batch, as training has; each contestant does its forward and backward on
one thread, in turn. The thread's CPU time counts and the median round stands. Printed: tokens a
CPU second, ratio to transformers eager at that precision, loss of the last round. The lean one
also computes the balancing loss, transformers not.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from gigafactory.jobs.moe import lean

CONFIG = Path(__file__).parents[1] / "gigafactory/stack/data/configs/qwen3-moe-10m.json"
WARM_UP = 2  # rounds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compiled", action="store_true", help="also torch.compile; a minute")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen3MoeConfig(**json.loads(options.config.read_text("utf-8")))
    steps = contestants(Qwen3MoeForCausalLM(config), options.compiled)
    taken_s, losses = {name: [] for name in steps}, {}
    for _ in range(WARM_UP + options.rounds):
        rows = torch.randint(config.vocab_size, (options.sequences, options.sequence + 1))
        tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
        for name, step in steps.items():
            start_s = time.thread_time()
            losses[name] = step(tokens, targets)
            taken_s[name].append(time.thread_time() - start_s)
    median_s = {name: statistics.median(rounds[WARM_UP:]) for name, rounds in taken_s.items()}
    for name, step_s in median_s.items():
        reference_s = median_s[f"transformers eager {name.split()[-1]}"]
        print(
            f"{name:34} {tokens.numel() / step_s:7.0f} tokens/CPU-s"
            f" {reference_s / step_s:5.2f} x  loss {losses[name]:.5f}"
        )


def contestants(model: Qwen3MoeForCausalLM, compiled: bool) -> dict[str, Callable[..., float]]:
    """By name, a function that does one forward and backward and returns the loss."""
    print(f"transformers by default: experts {model.config._experts_implementation}")
    model.config._experts_implementation = "eager"
    grouped = copy.deepcopy(model)
    grouped.config._experts_implementation = "grouped_mm"

    def transformers_step(module, autocast):
        def step(tokens, targets):
            module.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = module(
                    input_ids=tokens, labels=targets, shift_labels=targets, use_cache=False
                ).loss
            loss.backward()
            return loss.item()

        return step

    def lean_step(module):
        def step(tokens, targets):
            module.zero_grad()
            loss, _, balance = module(tokens, targets)
            (loss + model.config.router_aux_loss_coef * balance).backward()
            return loss.item()

        return step

    steps = {}
    for precision in ("float32", "bfloat16"):
        half = precision == "bfloat16"
        steps[f"transformers eager {precision}"] = transformers_step(model, half)
        steps[f"transformers grouped_mm {precision}"] = transformers_step(grouped, half)
        own = lean(copy.deepcopy(model).to(getattr(torch, precision)))
        steps[f"lean {precision}"] = lean_step(own)
        if compiled and half:  # Of grouped_mm, torch.compile knows the bfloat16 one only.
            quick = lean(copy.deepcopy(model).to(getattr(torch, precision)))
            quick.forward = torch.compile(quick.forward)
            steps[f"lean compiled {precision}"] = lean_step(quick)
    return steps


if __name__ == "__main__":
    main()
