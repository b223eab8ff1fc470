"""Finetune a pretrained model on the warehouse task with LoRA, and leave it ready to serve.

Only the answers count in the loss, and only their positions pay for the vocabulary. What a
step sees depends on the seed and the step, the state is saved whole, so an interrupted run
ends with the bytes of an undisturbed one (same machine, same number of threads).

The output is a plain Hugging Face folder: the adapters are merged, the chat template asks for
no system message, and a bare user message answers with one JSON call.

Sources: LoRA, Hu et al. 2021, arXiv:2106.09685; AdamW, Loshchilov & Hutter 2017,
arXiv:1711.05101. Times: s of CPU. Sizes: tokens, parameters.
"""

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from gigafactory.jobs import warehouse, weights
from gigafactory.jobs.context import Context
from gigafactory.jobs.learning import Learning, rate
from gigafactory.jobs.whole import writing

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML without SmolLM2's default system message: the task is in the weights now."""

WARMUP_STEPS = 2
IGNORED = -100
"""The target of a position that does not count."""


def run(context: Context) -> dict[str, Any]:
    """Train, merge, save; the results are facts about the run and its output."""
    work = context.work
    assert context.model, "a finetuning starts from a model"
    cpu_s = time.process_time()
    torch.set_num_threads(context.chips)
    torch.manual_seed(work["seed"])

    context.phase("prepare")
    base = weights.folder(context.model["weights"], context.cache)
    context.phase("load")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = CHAT_TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    parameters = model.num_parameters()
    # Twice the rank is the common choice of alpha; B starts at 0, so step 0 is the base model.
    adapters = LoraConfig(r=work["rank"], lora_alpha=2 * work["rank"], target_modules="all-linear")
    peft_model = get_peft_model(model, adapters)
    trained = {name: p for name, p in peft_model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), weight_decay=0.0, foreach=True)
    learning = Learning(context, trained, optimizer, tokens=0, losses=[])
    steps, progress = work["steps"], learning.progress

    context.phase("work")
    for step in learning.steps(
        steps,
        work["checkpoint_steps"],
        lambda step: work["learning_rate"] * rate(step, steps, WARMUP_STEPS),
    ):
        tokens, targets = batch(tokenizer, step, work)
        loss = answer_loss(model, tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        progress["tokens"] += int((tokens != tokenizer.pad_token_id).sum())
        progress["losses"].append(loss.item())
        context.report(step=step + 1, steps=steps, tokens=progress["tokens"], loss=loss.item())

    context.phase("save")
    output = context.output / "model"
    save_model(peft_model.merge_and_unload(), tokenizer, output)
    return {
        "tokens": progress["tokens"],
        "steps": steps,
        "loss_first": progress["losses"][0],
        "loss_last": progress["losses"][-1],
        "weights_sha256": weights.sha256(output / "model.safetensors"),
        "parameters": parameters,
        "trainable_parameters": sum(p.numel() for p in trained.values()),
        "cpu_s": time.process_time() - cpu_s,
    }


def batch(tokenizer: Any, step: int, work: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and targets (examples, positions) of `step`, from the seed and the step alone."""
    rows, targets = [], []
    for example in warehouse.examples("train", f"{work['seed']}/{step}", work["batch"]):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": example.instruction}],
            add_generation_prompt=True,
            return_dict=False,
        )
        answer = tokenizer(example.answer, add_special_tokens=False).input_ids
        answer.append(tokenizer.eos_token_id)
        rows.append(torch.tensor(prompt + answer))
        targets.append(torch.tensor([IGNORED] * len(prompt) + answer))
    return (
        pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
        pad_sequence(targets, batch_first=True, padding_value=IGNORED),
    )


def answer_loss(model: Any, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, in nats a token, over the positions that have a target.

    The padding is on the right and attention looks left only, so it needs no mask.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
        counted = targets[:, 1:] != IGNORED
        logits = model.lm_head(hidden[counted])
    return F.cross_entropy(logits.float(), targets[:, 1:][counted])


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Leave a folder that any server of Hugging Face models takes, and that decodes greedily."""
    model.generation_config.update(do_sample=False, temperature=None, top_p=None)
    with writing(folder) as half_done:
        model.save_pretrained(half_done)
        tokenizer.save_pretrained(half_done)
