"""A sampler chain in C for one sequence.

Order: logit bias, penalties, top_k, min_p, top_p, temperature, draw. top_k comes first of the filters so that nothing
after it sorts the whole vocabulary; min_p precedes top_p because it needs no sort where top_k is off.
"""

import ctypes as c
import os
from collections.abc import Sequence

from shimmy.core.request import Sampling
from shimmy.worker.llama import abi
from shimmy.worker.llama.library import llama

REPETITION_WINDOW = 64
_SEED_MASK = 0xFFFFFFFF


class Sampler:
    """Draws the tokens of one sequence; owns the native chain until `free`."""

    def __init__(self, sampling: Sampling, vocabulary_size: int, context_length: int, choice: int) -> None:
        """`choice` shifts a given seed, so that the choices of one request differ."""
        self._library = llama()
        self._vocabulary_size = vocabulary_size
        self._chain = self._library.llama_sampler_chain_init(self._library.llama_sampler_chain_default_params())
        self._repetition: int | None = None
        self._add_bias(sampling.logit_bias)
        self._add_penalties(sampling, context_length)
        if sampling.temperature == 0:
            self._add("llama_sampler_init_greedy")
        else:
            self._add_draw(sampling, choice)
        self._sample = self._library.llama_sampler_sample

    def sample(self, context: int, row: int) -> int:
        """The next token, from the logits of batch row `row`; the chain remembers it for its penalties."""
        return int(self._sample(self._chain, context, row))

    def observe_prompt(self, tokens: Sequence[int]) -> None:
        """The repetition penalty counts the end of the prompt too."""
        if self._repetition is not None:
            for token in tokens[-REPETITION_WINDOW:]:
                self._library.llama_sampler_accept(self._repetition, token)

    def free(self) -> None:
        if self._chain:
            self._library.llama_sampler_free(self._chain)
            self._chain = None

    def _add(self, constructor: str, *arguments: object) -> int:
        link = getattr(self._library, constructor)(*arguments)
        self._library.llama_sampler_chain_add(self._chain, link)
        return int(link)

    def _add_bias(self, bias: dict[int, float]) -> None:
        entries = [abi.llama_logit_bias(token, value) for token, value in bias.items()]
        if entries:
            table = (abi.llama_logit_bias * len(entries))(*entries)
            self._add("llama_sampler_init_logit_bias", self._vocabulary_size, len(entries), c.addressof(table))

    def _add_penalties(self, sampling: Sampling, context_length: int) -> None:
        size = self._vocabulary_size
        constructor = "llama_sampler_init_penalties"
        if sampling.repetition_penalty != 1:
            penalty = sampling.repetition_penalty
            self._repetition = self._add(constructor, size, REPETITION_WINDOW, penalty, 0.0, 0.0)
        if sampling.frequency_penalty or sampling.presence_penalty:
            penalties = (sampling.frequency_penalty, sampling.presence_penalty)
            self._add(constructor, size, context_length, 1.0, *penalties)

    def _add_draw(self, sampling: Sampling, choice: int) -> None:
        if sampling.top_k > 0:
            self._add("llama_sampler_init_top_k", sampling.top_k)
        if sampling.min_p > 0:
            self._add("llama_sampler_init_min_p", sampling.min_p, 1)
        if sampling.top_p < 1:
            self._add("llama_sampler_init_top_p", sampling.top_p, 1)
        self._add("llama_sampler_init_temp", sampling.temperature)
        seed = int.from_bytes(os.urandom(4), "little") if sampling.seed is None else sampling.seed + choice
        self._add("llama_sampler_init_dist", seed & _SEED_MASK)
