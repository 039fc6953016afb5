"""Linear attention and state spaces one token at a time, so that a graph takes any number of them.

Sources compute a prompt in chunks, in a loop over these, and a single token in another function.
Here both are the recurrence itself, which is how the papers define it: a step from one state to the
next.  A tracer sees it as ``scan``, which is ONNX's ``Scan``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rows = tuple[Tensor, ...]
Step = Callable[[Tensor, Rows], tuple[Tensor, Tensor]]


def over_time(step: Step, state: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """What ``step`` gives for each of ``rows [B, S, ...]``, ``[B, S, ...]``, and the last state."""
    in_time = tuple(x.movedim(1, 0) for x in rows)
    if torch.compiler.is_exporting():
        from torch._higher_order_ops.scan import scan

        state, made = scan(step, state, in_time)
        return made.movedim(0, 1), state
    outputs = []
    for row in zip(*in_time, strict=True):
        state, output = step(state, row)
        outputs.append(output)
    return torch.stack(outputs, dim=1), state


def delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    initial_state: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """The gated delta rule (Yang et al., Gated Delta Networks, equation 10), ``[B, S, heads, d]``.

    ``g``, the logarithm of what remains of the state, is of a head, or of each row of its state as
    in Kimi Linear.
    """
    heads = value.shape[2]
    query, key = (x.repeat_interleave(heads // x.shape[2], dim=2) for x in (query, key))
    if use_qk_l2norm_in_kernel:
        query, key = (x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for x in (query, key))
    query = query * query.shape[-1] ** -0.5
    remains = g.exp() if g.dim() == key.dim() else g.exp()[..., None]
    if initial_state is None:
        initial_state = value.new_zeros(*value.shape[::2], key.shape[-1], value.shape[-1])
    return over_time(_delta_step, initial_state, (query, key, value, remains, beta))


def _delta_step(state: Tensor, row: Rows) -> tuple[Tensor, Tensor]:
    query, key, value, remains, beta = row
    state = state * remains[..., None]
    known = (state * key[..., None]).sum(-2)
    state = state + key[..., None] * ((value - known) * beta[..., None])[..., None, :]
    return state, (state * query[..., None]).sum(-2)


def state_space(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803 - the names of the sources, and of the paper
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    *,
    D: Tensor,  # noqa: N803
    dt_bias: Tensor,
    initial_states: Tensor | None = None,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Mamba 2 (Dao and Gu, Transformers are SSMs, equation 1) on ``[B, S, heads, d]``.

    ``B`` and ``C [B, S, groups, N]`` are shared by the heads of a group.
    """
    heads = hidden_states.shape[2]
    before, after = (x.repeat_interleave(heads // x.shape[2], dim=2) for x in (B, C))
    dt = F.softplus(dt + dt_bias).clamp(*dt_limit)
    if initial_states is None:
        initial_states = hidden_states.new_zeros(
            *hidden_states.shape[::2], hidden_states.shape[-1], before.shape[-1]
        )
    rows = (hidden_states * dt[..., None], before, after, (A * dt).exp())
    made, state = over_time(_space_step, initial_states, rows)
    return made + hidden_states * D[:, None], state


def _space_step(state: Tensor, row: Rows) -> tuple[Tensor, Tensor]:
    hidden, before, after, remains = row
    state = state * remains[..., None, None] + hidden[..., None] * before[..., None, :]
    return state, (state * after[..., None, :]).sum(-1)


def selective_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    *,
    D: Tensor,  # noqa: N803
    z: Tensor,
    delta_bias: Tensor,
    initial_state: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Mamba 1 (Gu and Dao, Mamba, algorithm 2) on ``[B, channels, S]``.

    ``B`` and ``C`` are ``[B, N, S]``.
    """
    dt = F.softplus(dt + delta_bias[:, None])
    if initial_state is None:
        initial_state = hidden_states.new_zeros(*hidden_states.shape[:2], B.shape[1])
    remains = (A[:, None] * dt[..., None]).exp()
    rows = tuple(x.transpose(1, 2) for x in (hidden_states * dt, B, C, remains))
    made, state = over_time(_selective_step, initial_state, rows)
    return (made.transpose(1, 2) + hidden_states * D[:, None]) * F.silu(z), state


def _selective_step(state: Tensor, row: Rows) -> tuple[Tensor, Tensor]:
    hidden, before, after, remains = row
    state = state * remains + hidden[..., None] * before[:, None, :]
    return state, (state * after[:, None, :]).sum(-1)


def decayed(
    query: Tensor, key: Tensor, value: Tensor, remains: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Lightning attention (Qin et al., Lightning Attention-2, equation 4) on ``[B, S, heads, d]``.

    ``remains [heads, 1, 1]`` is what a token leaves of the state before it.
    """
    if state is None:
        state = value.new_zeros(*value.shape[::2], key.shape[-1], value.shape[-1])
    # A rate for each token, as a step sees nothing that it is not handed.
    rates = remains.squeeze(-1).expand(*key.shape[:3], 1)
    return over_time(_decaying_step, state, (query, key, value, rates))


def _decaying_step(state: Tensor, row: Rows) -> tuple[Tensor, Tensor]:
    query, key, value, remains = row
    state = state * remains[..., None] + key[..., None] * value[..., None, :]
    return state, (state * query[..., None]).sum(-2)


_BY_NAME: Mapping[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "torch_chunk_gated_delta_rule": delta_rule,
    "torch_recurrent_gated_delta_rule": delta_rule,
    "chunk_kimi_delta_attention": delta_rule,
    "recurrent_kimi_delta_attention": delta_rule,
    "mamba2_chunk_scan": state_space,
    "mamba_selective_scan": selective_scan,
}
"""Functions of Transformers' modules, and what they compute."""

# Their sources begin each prompt anew and hand them no state.
_WITHOUT_STATE = frozenset({"mamba_selective_scan"})


# The cache of the run that is at work, as several may be at once.
_CACHE: ContextVar[Any] = ContextVar("cache")


@dataclass
class _Held:
    """A source's own function, which stands aside for so many runs."""

    function: Any
    runs: int = 0


_HELD: dict[tuple[str, str], _Held] = {}
"""By module and name."""


@contextmanager
def in_steps(model: nn.Module, cache: Any) -> Iterator[None]:
    """Let the functions here compute the recurrences of ``model``, on the states of ``cache``."""
    scopes = {type(module).__module__: None for module in model.modules()}
    found = [
        (scope, name) for scope in scopes for name in _BY_NAME if name in vars(sys.modules[scope])
    ]
    token = _CACHE.set(cache)
    for scope, name in found:
        own = vars(sys.modules[scope])
        held = _HELD.setdefault((scope, name), _Held(own[name]))
        held.runs += 1
        own[name] = _ours(name)
    try:
        yield
    finally:
        for scope, name in found:
            held = _HELD[scope, name]
            held.runs -= 1
            if not held.runs:
                vars(sys.modules[scope])[name] = _HELD.pop((scope, name)).function
        _CACHE.reset(token)


def _ours(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    function = _BY_NAME[name]
    if name not in _WITHOUT_STATE:
        return function
    return lambda *args, **more: function(*args, **more, initial_state=_CACHE.get().read_last)
