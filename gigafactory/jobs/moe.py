"""A lean training forward for the Qwen3-MoE module of transformers: same parameters, same loss.

`lean(model)` replaces the forward of each block of a `Qwen3MoeForCausalLM` and touches no
parameter, so FSDP2 shards it, DCP saves it and transformers loads it as if nothing happened.
What it leaves out: masks as tensors, caches, router logits kept for later, a loop over
experts, the logits of a whole batch at once.

T tokens, B sequences, S tokens of a sequence, D width, H heads, K key-value heads, C head
size, E experts, k experts of a token, R rows (slots of tokens sorted by expert), F width of an
expert, V vocabulary.

Sources: Qwen3 technical report, arXiv 2505.09388 (architecture); Qiu et al., "Demons in the
Detail", arXiv 2501.11873 (load balancing over the global batch).
"""

from types import MethodType

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IGNORED = -100
"""The target of a position that has none, as in PyTorch."""
PADDING = 64  # rows
"""Rows of each expert are filled up to a multiple of it, but for float32. oneDNN compiles and
keeps a kernel for each new shape: unpadded, a step takes a quarter longer and the process grows
beyond 2 GB."""
TINY = 1e-37
"""Under the smallest chance a float32 softmax tells from 0."""


def lean(model: nn.Module) -> nn.Module:
    """`model` with lean forwards: it now maps (tokens, targets) to (loss, load, balance).

    `loss` is the mean cross entropy in nats, without the balancing term; `load` the share of
    the batch's token slots that each expert of each layer got, (layers, E), each row sums to
    one; `balance` the load-balancing loss, to be multiplied by `router_aux_loss_coef`.
    """
    for layer in model.model.layers:
        layer.self_attn.forward = MethodType(_attention, layer.self_attn)
        layer.mlp.forward = MethodType(_mixture, layer.mlp)
        layer.forward = MethodType(_layer, layer)
    model.forward = MethodType(_language_model, model)
    return model


def global_load(counts: Tensor) -> Tensor:
    """Each expert's share of the token slots of the global batch, from this rank's counts."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(counts)
    return counts / counts.sum(-1, keepdim=True)


def balancing_loss(load: Tensor, probability: Tensor) -> Tensor:
    """E times the sum of load times mean router probability, both (layers, E); mean of layers.

    1 where each expert gets the same. `load` is the global batch's: a rank whose sequences
    are all of one domain may send them to that domain's experts (arXiv 2501.11873, eq. 3).
    Transformers' own is per rank, and multiplies averages over layers.
    """
    experts = load.shape[-1]
    return experts * (load * probability).sum(-1).mean()


def _language_model(self, tokens: Tensor, targets: Tensor):
    """Loss of predicting `targets` (B, S) from `tokens` (B, S)."""
    # The residual stream is float32 whatever the precision of the weights.
    x_BSD = F.embedding(tokens, self.model.embed_tokens.weight).float()
    positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
    rotation = self.model.rotary_emb(x_BSD, positions)
    counts, probabilities = [], []
    for layer in self.model.layers:
        x_BSD, count_E, probability_E = layer(x_BSD, rotation)
        counts.append(count_E)
        probabilities.append(probability_E)
    x_TD = _norm(self.model.norm, x_BSD).flatten(0, 1)
    loss = CrossEntropy.apply(x_TD, self.lm_head.weight, targets.flatten())
    load = global_load(torch.stack(counts))
    return loss, load, balancing_loss(load, torch.stack(probabilities))


def _layer(self, x_BSD: Tensor, rotation):
    """One block: attention, then experts, each added to the stream."""
    x_BSD = x_BSD + self.self_attn(_norm(self.input_layernorm, x_BSD), rotation)
    y_BSD, count_E, probability_E = self.mlp(_norm(self.post_attention_layernorm, x_BSD))
    return x_BSD + y_BSD, count_E, probability_E


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    """RMSNorm in the stream's precision, given out in the weights'."""
    dtype = norm.weight.dtype
    return F.rms_norm(x.to(dtype), norm.weight.shape, norm.weight, norm.variance_epsilon)


def _attention(self, x_BSD: Tensor, rotation) -> Tensor:
    """Causal grouped-query attention, one matrix product for queries, keys and values."""
    B, S, _ = x_BSD.shape
    C = self.head_dim
    weights = (self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)
    q, k, v = F.linear(x_BSD, torch.cat(weights)).split([w.shape[0] for w in weights], -1)
    q_BHSC = _rotate(_norm(self.q_norm, q.view(B, S, -1, C)), rotation).transpose(1, 2)
    k_BKSC = _rotate(_norm(self.k_norm, k.view(B, S, -1, C)), rotation).transpose(1, 2)
    v_BKSC = v.view(B, S, -1, C).transpose(1, 2)
    y_BHSC = _attend(q_BHSC, k_BKSC, v_BKSC, self.scaling)
    return self.o_proj(y_BHSC.transpose(1, 2).reshape(B, S, -1))


def _rotate(x_BSHC: Tensor, rotation) -> Tensor:
    """Rotary positions: the halves of a head are the two coordinates that turn."""
    cos_SC, sin_SC = (r[0, :, None, : r.shape[-1] // 2].to(x_BSHC.dtype) for r in rotation)
    a, b = x_BSHC.chunk(2, -1)
    return torch.cat((a * cos_SC - b * sin_SC, b * cos_SC + a * sin_SC), -1)


def _attend(q_BHSC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, scaling: float) -> Tensor:
    """Softmax attention to the past."""
    B, H, S, C = q_BHSC.shape
    K = k_BKSC.shape[1]
    if q_BHSC.is_cuda or q_BHSC.dtype == torch.float32:
        return F.scaled_dot_product_attention(
            q_BHSC, k_BKSC, v_BKSC, is_causal=True, scale=scaling, enable_gqa=K != H
        )
    # In bfloat16, PyTorch's flash kernel for CPUs takes 2 to 4 times as long (S 128 to 256).
    future = torch.full((S, S), float("-inf"), dtype=q_BHSC.dtype).triu(1)
    q = (q_BHSC * scaling).reshape(B, K, H // K * S, C)
    scores = (q @ k_BKSC.mT).view(B, K, H // K, S, S) + future
    y = scores.softmax(-1).view(B, K, H // K * S, S) @ v_BKSC
    return y.view(B, H, S, C)


def _mixture(self, x_BSD: Tensor):
    """The experts' answer, with the count of slots and mean probability of each expert."""
    x_TD = x_BSD.flatten(0, 1)
    # Routing is float32 whatever the precision: near ties decide where a token goes.
    probability_TE = F.linear(x_TD, self.gate.weight).float().softmax(-1)
    weight_Tk, expert_Tk = probability_TE.topk(self.gate.top_k, dim=-1)
    if self.gate.norm_topk_prob:
        weight_Tk = weight_Tk / weight_Tk.sum(-1, keepdim=True)
    experts = self.experts
    y_TD, count_E = Experts.apply(
        x_TD, weight_Tk.to(x_TD.dtype), expert_Tk, experts.gate_up_proj, experts.down_proj
    )
    return y_TD.view_as(x_BSD), count_E.float(), probability_TE.mean(0)


class Experts(torch.autograd.Function):
    """SwiGLU experts over tokens sorted by expert; the backward gathers and never scatters."""

    @staticmethod
    def forward(ctx, x_TD, weight_Tk, expert_Tk, gate_up_EFD, down_EDF):
        """The weighted sum of the experts of each token, and each expert's count of slots."""
        E = gate_up_EFD.shape[0]
        padding = 1 if x_TD.dtype == torch.float32 else PADDING
        row_of_slot, token_of_row, ends, count_E = _rows_by_expert(expert_Tk, E, padding)
        weight_R1 = weight_Tk.new_zeros(len(token_of_row), 1)
        weight_R1[row_of_slot] = weight_Tk[..., None]
        x_RD = x_TD[token_of_row]
        gate_up_RF = F.grouped_mm(x_RD, gate_up_EFD.mT, offs=ends)
        gate_RF, up_RF = gate_up_RF.chunk(2, -1)
        hidden_RF = F.silu(gate_RF).mul_(up_RF)
        y_RD = F.grouped_mm(hidden_RF, down_EDF.mT, offs=ends)
        y_TD = (y_RD[row_of_slot] * weight_Tk[..., None]).sum(1)
        ctx.save_for_backward(
            x_RD, gate_up_RF, hidden_RF, y_RD, weight_R1, token_of_row, row_of_slot, ends,
            gate_up_EFD, down_EDF,
        )  # fmt: skip
        ctx.mark_non_differentiable(count_E)
        return y_TD, count_E

    @staticmethod
    @once_differentiable
    def backward(ctx, dy_TD, _):
        """Gradients, from dy_TD; padded rows have weight zero."""
        (
            x_RD, gate_up_RF, hidden_RF, y_RD, weight_R1, token_of_row, row_of_slot, ends,
            gate_up_EFD, down_EDF,
        ) = ctx.saved_tensors  # fmt: skip
        gate_RF, up_RF = gate_up_RF.chunk(2, -1)
        dy_RD = dy_TD[token_of_row]
        dweight_R = (dy_RD * y_RD).sum(-1)
        dy_RD *= weight_R1
        ddown_EDF = F.grouped_mm(dy_RD.mT, hidden_RF, offs=ends)
        dhidden_RF = F.grouped_mm(dy_RD, down_EDF, offs=ends)
        dgate_RF = torch.ops.aten.silu_backward(dhidden_RF * up_RF, gate_RF)
        dgate_up_RF = torch.cat((dgate_RF, dhidden_RF.mul_(F.silu(gate_RF))), -1)
        dgate_up_EFD = F.grouped_mm(dgate_up_RF.mT, x_RD, offs=ends)
        dx_TD = F.grouped_mm(dgate_up_RF, gate_up_EFD, offs=ends)[row_of_slot].sum(1)
        return dx_TD, dweight_R[row_of_slot], None, dgate_up_EFD, ddown_EDF


def _rows_by_expert(expert_Tk: Tensor, experts: int, padding: int):
    """Where each token's slots go when sorted by expert, each expert's rows padded.

    Returns the row of each slot (T, k), the token of each row (R), the row after each expert's
    last (E), each expert's count of slots (E). Rows of padding read token 0.
    """
    expert_of_slot = expert_Tk.flatten()
    count_E = F.one_hot(expert_of_slot, experts).sum(0)
    padded_E = (count_E + padding - 1) // padding * padding
    ends = padded_E.cumsum(0)
    slots = expert_of_slot.argsort(stable=True)
    shift_E = (ends - padded_E) - (count_E.cumsum(0) - count_E)
    ranks = torch.arange(len(slots), device=slots.device)
    row_of_slot = torch.empty_like(slots)
    row_of_slot[slots] = ranks + shift_E[expert_of_slot[slots]]
    # As many rows as there can be, so that the shape never depends on the routing.
    rows = (len(slots) + experts * (padding - 1)) // padding * padding
    token_of_row = slots.new_zeros(rows)
    token_of_row[row_of_slot] = ranks // expert_Tk.shape[1]
    return row_of_slot.view_as(expert_Tk), token_of_row, ends.int(), count_E


class CrossEntropy(torch.autograd.Function):
    """Mean cross entropy of `x_TD @ head_VD.T`; logits live for one chunk of tokens only.

    The gradients are made in the forward, chunk by chunk, while the logits are in the cache.
    Targets that are `IGNORED` do not count.
    """

    CHUNK = 256  # tokens

    @staticmethod
    def forward(ctx, x_TD, head_VD, target_T):
        """Nats a token."""
        dx_TD = torch.empty_like(x_TD)
        dhead_VD = torch.zeros_like(head_VD, dtype=torch.float32)
        counts_T1 = (target_T != IGNORED)[:, None]
        target_T1 = target_T[:, None].clamp_min(0)
        chunks = (t.split(CrossEntropy.CHUNK) for t in (x_TD, dx_TD, target_T1, counts_T1))
        nats = torch.zeros((), device=x_TD.device)
        for x, dx, target, counts in zip(*chunks, strict=True):
            logits = (x @ head_VD.T).float()
            probability = torch.softmax(logits, -1, out=logits)
            chance = probability.gather(1, target)
            nats -= (chance.clamp_min(TINY).log() * counts).sum()
            error = probability.scatter_(1, target, chance - 1).mul_(counts).to(x.dtype)
            torch.mm(error, head_VD, out=dx)
            dhead_VD += error.T @ x
        total = counts_T1.sum().clamp_min(1)
        ctx.save_for_backward(dx_TD, dhead_VD, total)
        ctx.head_dtype = head_VD.dtype
        return nats / total

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        """The gradients that the forward kept."""
        dx_TD, dhead_VD, total = ctx.saved_tensors
        scale = dloss / total
        return dx_TD * scale.to(dx_TD.dtype), (dhead_VD * scale).to(ctx.head_dtype), None
