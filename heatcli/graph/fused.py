"""Fused operators without a derivative, decomposed into operators that have rules.

nn.MultiheadAttention, nn.TransformerEncoderLayer and nn.LSTM call them when gradients are off, and traces keep the
first two. nn.TransformerEncoder takes masked tokens out before them, as a nested tensor: here the tokens stay, each
row knows how many of them count, and attention is blind to the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_ATEN = torch.ops.aten
_COUNTING = "_counting_tokens"  # attribute of a tensor [N, T, …] in place of a nested one: bool [N, T]


def multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dim: int, num_head: int, qkv_weight: Tensor, qkv_bias: Tensor,
    proj_weight: Tensor, proj_bias: Tensor, mask: Tensor | None = None, need_weights: bool = True,
    average_attn_weights: bool = True, mask_type: int | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Self-attention of tokens [N, T, embed_dim]. `mask` is true at masked keys (mask_type 0: [T, T], 1: [N, T])."""
    n, tokens, _ = query.shape
    counting = getattr(key, _COUNTING, None)
    if counting is not None:
        mask, mask_type = _ATEN.logical_not(counting), 1
    width = embed_dim // num_head
    inputs = (query, key, value)
    weights, biases = (_ATEN.split.Tensor(x, embed_dim) for x in (qkv_weight, qkv_bias))
    q, k, v = (
        _ATEN.permute(_ATEN.view(_dense(x, w, b), [n, x.shape[1], num_head, width]), [0, 2, 1, 3])
        for x, w, b in zip(inputs, weights, biases, strict=True)
    )
    scores = _product(_ATEN.mul.Tensor(q, 1 / math.sqrt(width)), _ATEN.transpose(k, 2, 3))
    if mask is not None:
        blind = mask if mask.dtype == torch.bool else mask != 0
        blind = blind[:, None, None, :] if mask_type == 1 else blind
        scores = _ATEN.masked_fill.Scalar(scores, _ATEN.expand(blind, scores.shape), -math.inf)
    attention = _ATEN._softmax(scores, 3, False)
    mixed = _ATEN.permute(_product(attention, v), [0, 2, 1, 3])
    output = _of_counting(_dense(_ATEN.reshape(mixed, [n, tokens, embed_dim]), proj_weight, proj_bias), counting)
    if not need_weights:
        return output, None
    return output, _ATEN.mean.dim(attention, [1]) if average_attn_weights else attention


def encoder_layer(
    src: Tensor, embed_dim: int, num_heads: int, qkv_weight: Tensor, qkv_bias: Tensor, proj_weight: Tensor,
    proj_bias: Tensor, use_gelu: bool, norm_first: bool, eps: float, norm_weight_1: Tensor, norm_bias_1: Tensor,
    norm_weight_2: Tensor, norm_bias_2: Tensor, ffn_weight_1: Tensor, ffn_bias_1: Tensor, ffn_weight_2: Tensor,
    ffn_bias_2: Tensor, mask: Tensor | None = None, mask_type: int | None = None,
) -> Tensor:  # fmt: skip
    """nn.TransformerEncoderLayer on tokens [N, T, embed_dim]."""
    counting = getattr(src, _COUNTING, None)

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        normed: Tensor = _ATEN.native_layer_norm(x, [embed_dim], weight, bias, eps)[0]
        return normed

    def attend(x: Tensor) -> Tensor:
        """Self-attention of the tokens."""
        _of_counting(x, counting)
        return multi_head_attention(
            x, x, x, embed_dim, num_heads, qkv_weight, qkv_bias, proj_weight, proj_bias, mask, False, True, mask_type
        )[0]

    def feed(x: Tensor) -> Tensor:
        """The two dense layers after attention."""
        hidden = _dense(x, ffn_weight_1, ffn_bias_1)
        return _dense(_ATEN.gelu(hidden) if use_gelu else _ATEN.relu(hidden), ffn_weight_2, ffn_bias_2)

    x = src
    for part, weight, bias in ((attend, norm_weight_1, norm_bias_1), (feed, norm_weight_2, norm_bias_2)):
        x = _ATEN.add.Tensor(x, part(norm(x, weight, bias))) if norm_first else norm(x + part(x), weight, bias)
    return _of_counting(x, counting)


def nested_from_mask(tokens: Tensor, mask: Tensor, mask_check: bool = True) -> Tensor:
    """Tokens [N, T, features] of which each row keeps the first ones, as many as `mask` bool [N, T] is true for."""
    return _of_counting(_ATEN.alias(tokens), _first_of(mask))


def is_left_aligned(_: Tensor, mask: Tensor) -> bool:
    """Whether the tokens that count, bool [N, T], are the first of each row."""
    return bool(_ATEN.equal(_first_of(mask), mask))


def _first_of(mask: Tensor) -> Tensor:
    """As many of the first tokens of each row as `mask` is true for, bool [N, T]."""
    places = torch.arange(mask.shape[1], device=mask.device)
    first: Tensor = _ATEN.lt.Tensor(places, _ATEN.sum.dim_IntList(mask, [1], True))
    return first


def padded(tokens: Tensor, padding: float, output_size: list[int] | None = None) -> Tensor:
    """A nested tensor as a dense one, with `padding` at tokens that do not count."""
    counting = getattr(tokens, _COUNTING, None)
    if counting is None or (output_size is not None and list(output_size) != list(tokens.shape)):
        raise RuntimeError("a nested tensor that heatcli does not know; give the encoder enable_nested_tensor=False")
    lost = _ATEN.expand(_ATEN.unsqueeze(_ATEN.logical_not(counting), 2), list(tokens.shape))
    filled: Tensor = _ATEN.masked_fill.Scalar(tokens, lost, padding)
    return filled


def _of_counting(tokens: Tensor, counting: Tensor | None) -> Tensor:
    """The same tensor, marked with the tokens that count, if not all do."""
    if counting is not None:
        setattr(tokens, _COUNTING, counting)
    return tokens


def lstm_layer(
    x: Tensor, input_weight: Tensor, hidden_weight: Tensor, input_bias: Tensor, hidden_bias: Tensor, hidden: Tensor,
    cell: Tensor, reverse: bool, batch_sizes: list[int], mode: int, hidden_size: int, num_layers: int,
    has_biases: bool, bidirectional: bool, batch_first: bool, train: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """One direction of one LSTM layer on x [T, N, features], step by step; the gates are i, f, g, o."""
    driven = _dense(x, input_weight, input_bias) if has_biases else _ATEN.matmul(x, _ATEN.t(input_weight))
    steps = _ATEN.unbind.int(driven)
    recurrent = _ATEN.t(hidden_weight)
    h, c, outputs = hidden, cell, []
    for step in reversed(steps) if reverse else steps:
        fed_back = _ATEN.addmm(hidden_bias, h, recurrent) if has_biases else _ATEN.mm(h, recurrent)
        i, f, g, o = _ATEN.split.Tensor(_ATEN.add.Tensor(step, fed_back), hidden_size, 1)
        kept = _ATEN.mul.Tensor(_ATEN.sigmoid(f), c)
        c = _ATEN.add.Tensor(kept, _ATEN.mul.Tensor(_ATEN.sigmoid(i), _ATEN.tanh(g)))
        h = _ATEN.mul.Tensor(_ATEN.sigmoid(o), _ATEN.tanh(c))
        outputs.append(h)
    return _ATEN.stack(outputs[::-1] if reverse else outputs), h, c, x


def _dense(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A dense layer on [N, T, features], as `addmm` on its rows."""
    n, tokens, features = x.shape
    rows = _ATEN.addmm(bias, _ATEN.reshape(x, [n * tokens, features]), _ATEN.t(weight))
    laid_out: Tensor = _ATEN.view(rows, [n, tokens, weight.shape[0]])
    return laid_out


def _product(a: Tensor, b: Tensor) -> Tensor:
    """A matrix product for each image and head, [N, heads, …, …]."""
    n, heads, rows, inner = a.shape
    flat = _ATEN.bmm(_ATEN.reshape(a, [n * heads, rows, inner]), _ATEN.reshape(b, [n * heads, inner, b.shape[3]]))
    laid_out: Tensor = _ATEN.view(flat, [n, heads, rows, b.shape[3]])
    return laid_out


def cond(predicate: Tensor, on_true: Callable[..., Any], on_false: Callable[..., Any], operands: Any = ()) -> Any:
    """The taken branch of `torch.cond`. The recorder records `predicate`, a bool [] tensor."""
    return (on_true if bool(predicate) else on_false)(*operands)


FUSED: dict[str, Callable[..., Any]] = {
    "native_multi_head_attention": multi_head_attention,
    "transformer_encoder_layer_fwd": encoder_layer,
    "nested_tensor_from_mask": nested_from_mask,
    "nested_tensor_from_mask_left_aligned": is_left_aligned,
    "to_padded_tensor": padded,
    "nested_to_padded_tensor": padded,
    "mkldnn_rnn_layer": lstm_layer,
    "cond": cond,
}
