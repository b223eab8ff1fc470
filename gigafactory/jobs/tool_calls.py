"""How often a model writes the exact tool call: greedy answers to held-out instructions.

A tuned model gets the instruction and nothing else. A base model never saw the tools, so it
gets what a competent user would give it: the tools, the rules and a solved example of each
tool (from the training split). Exact means the JSON object and nothing around it, see
`warehouse.exact`.

Interval: Wilson 1927, doi:10.1080/01621459.1927.10502953, 95 %.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from gigafactory.jobs import warehouse

BATCH = 24
NEW_TOKENS_MAX = 48
"""The longest right answer takes 36, its end included."""

Message = dict[str, str]


def introduction(seed: int) -> list[Message]:
    """What a base model is told before each instruction: rules, tools, an example of each."""
    tools = "\n".join(
        json.dumps({"tool": tool, "arguments": {name: t.__name__ for name, t in types.items()}})
        for tool, types in warehouse.TOOLS.items()
    )
    rules = (
        "You control a warehouse. Answer each instruction with one JSON object that calls one"
        f" of these tools, and with nothing else. Numbers are digits.\n{tools}"
    )
    messages = [{"role": "system", "content": rules}]
    for shot in warehouse.examples("train", f"shots/{seed}", len(warehouse.TOOLS)):
        messages.append({"role": "user", "content": shot.instruction})
        messages.append({"role": "assistant", "content": shot.answer})
    return messages


@torch.inference_mode()
def answers(
    model_folder: Path,
    introduced_by: list[Message],
    instructions: list[str],
    threads: int,
    report: Callable[..., None],
) -> tuple[list[str], int]:
    """The model's greedy answers, and how many tokens went through it."""
    torch.set_num_threads(threads)
    tokenizer: Any = AutoTokenizer.from_pretrained(model_folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16).eval()

    def tokens_of(messages: list[Message], ask: bool) -> list[int]:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=ask, return_dict=False)

    shared = tokens_of(introduced_by, ask=False) if introduced_by else []
    prompts = [
        tokens_of([*introduced_by, {"role": "user", "content": text}], ask=True)[len(shared) :]
        for text in instructions
    ]
    texts, tokens = [], len(shared)
    for start in range(0, len(prompts), BATCH):
        rows = prompts[start : start + BATCH]
        padded = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        ids, mask = padded["input_ids"], padded["attention_mask"]
        past = None
        if shared:
            # What all prompts begin with goes through the model once, not once a prompt.
            past = DynamicCache(config=model.config)
            model.model(torch.tensor([shared]), past_key_values=past)
            past.batch_repeat_interleave(len(rows))
            head = torch.tensor(shared).expand(len(rows), -1)
            ids = torch.cat([head, ids], dim=1)
            mask = torch.cat([torch.ones_like(head), mask], dim=1)
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=past,
            max_new_tokens=NEW_TOKENS_MAX,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )[:, ids.shape[1] :]
        texts += tokenizer.batch_decode(output, skip_special_tokens=True)
        ended = (output == tokenizer.eos_token_id).any(dim=1).sum()
        written = (output != tokenizer.pad_token_id).sum() + ended
        tokens += sum(map(len, rows)) + int(written)
        report(step=len(texts), steps=len(prompts), tokens=tokens)
    return texts, tokens


def evaluate(
    model_folder: Path,
    examples: int,
    seed: int,
    threads: int,
    report: Callable[..., None],
    introduced: bool = False,
) -> dict[str, Any]:
    """Exactness on `examples` held-out examples, with its interval, samples and cost."""
    cpu_s = time.process_time()
    asked = warehouse.examples("heldout", seed, examples)
    texts, tokens = answers(
        model_folder,
        introduction(seed) if introduced else [],
        [example.instruction for example in asked],
        threads,
        report,
    )
    judged: list[dict[str, Any]] = [
        {
            "prompt": example.instruction,
            "answer": text,
            "expected": example.answer,
            "exact": warehouse.exact(text, example.call),
        }
        for example, text in zip(asked, texts, strict=True)
    ]
    hits = sum(sample["exact"] for sample in judged)
    low, high = wilson(hits, examples)
    return {
        "exact": hits / examples,
        "exact_low": low,
        "exact_high": high,
        "examples": examples,
        "answers": judged,
        "tokens": tokens,
        "cpu_s": time.process_time() - cpu_s,
    }


def wilson(hits: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of a proportion; z is the normal quantile, by default of 95 %, two-sided."""
    share, spread = hits / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
