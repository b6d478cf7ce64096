"""Builds a sampler chain in C for one sequence: bias, then the samplers in the order asked for, then the draw.

No sampler sorts more than `MAX_SORTED` tokens, because llama.cpp's would take 40 to 65 ms for a vocabulary of 262,000.
docs/sampling.md says what that changes.
"""

import ctypes as c
import math
import os
from collections.abc import Callable

from shimmy.worker.llama import abi
from shimmy.worker.llama.dry import window_of
from shimmy.worker.llama.libllama import llama
from shimmy.worker.llama.likeliest import Copying
from shimmy.worker.llama.recipe import Recipe

MAX_SORTED = 8192
# Logits over a temperature below this overflow a float; what is colder is greedy.
MIN_TEMPERATURE = 1e-4
# Far below what a draw can hit, but not 0: typical_p takes the logarithm.
_IMPOSSIBLE = 1e-30
_MIROSTAT_M = 100  # llama.cpp, common/sampling.cpp
# Those among which another token is looked for when the one that was drawn may not come. llama.cpp finds the likeliest
# of a vocabulary without further memory up to this number.
NUM_KEPT = 128
# What only changes the logits of tokens, each by itself.
_RULES_NOTHING_OUT = {"llama_sampler_init_logit_bias", "llama_sampler_init_penalties", "llama_sampler_init_temp"}
# llama.cpp takes this seed for none.
_NO_SEED = 0xFFFFFFFF


class Chain:
    """The native chain, and those of its links that count the prompt's tokens too, each with how many. `kept`, for an
    answer that is constrained, has the likeliest tokens before any are ruled out; a chain within the chain goes on. It
    must be there until `native` is freed."""

    def __init__(self, recipe: Recipe, choice: int) -> None:
        """`choice` shifts a given seed, so that the choices of one request differ."""
        self._library = llama()
        self._recipe = recipe
        self._sampling = recipe.sampling
        self._is_cut = False
        self._rules_out = False
        self._seed = _seed(recipe.sampling.seed, choice)
        self.native = self._end = self._new_chain()
        self.remembering: list[tuple[int, int]] = []
        self.kept: Copying | None = None
        self._add_bias()
        if recipe.sampling.temperature < MIN_TEMPERATURE:
            self._add_greedy()
        elif recipe.sampling.mirostat:
            self._add_mirostat()
        else:
            self._add_all()

    def _new_chain(self) -> int:
        return int(self._library.llama_sampler_chain_init(self._library.llama_sampler_chain_default_params()))

    def _add(self, constructor: str, *arguments: object) -> int:
        self._rules_out |= constructor not in _RULES_NOTHING_OUT
        return self._link(getattr(self._library, constructor)(*arguments))

    def _link(self, link: int) -> int:
        self._library.llama_sampler_chain_add(self._end, link)
        return link

    def _keep(self) -> None:
        """To be called before what leaves no more than `NUM_KEPT` of the likeliest."""
        if self._recipe.constraint is not None and not self._rules_out:
            self._add("llama_sampler_init_top_k", NUM_KEPT)
            self.kept = Copying(NUM_KEPT)
            self._link(self.kept.link)
            self._end = self._link(self._new_chain())

    def _add_greedy(self) -> None:
        self._add_repetition()
        self._keep()
        self._add("llama_sampler_init_greedy")

    def _add_mirostat(self) -> None:
        """It takes the place of all samplers that filter, as in llama.cpp."""
        sampling = self._sampling
        self._add_repetition()
        self._add_temperature()
        self._cut()
        surprise = (sampling.mirostat_tau, sampling.mirostat_eta)
        if sampling.mirostat == 1:
            size = self._recipe.vocabulary_size
            self._add("llama_sampler_init_mirostat", size, self._seed, *surprise, _MIROSTAT_M)
        else:
            self._add("llama_sampler_init_mirostat_v2", self._seed, *surprise)

    def _add_all(self) -> None:
        adders: dict[str, Callable[[], None]] = {
            "penalties": self._add_penalties,
            "dry": self._add_dry,
            "top_n_sigma": self._add_top_n_sigma,
            "top_k": self._add_top_k,
            "typ_p": self._add_typical_p,
            "top_p": self._add_top_p,
            "min_p": self._add_min_p,
            "xtc": self._add_xtc,
            "temperature": self._add_temperature,
        }
        for name in dict.fromkeys(self._sampling.samplers):
            adders[name]()
        self._add("llama_sampler_init_dist", self._seed)

    def _add_repetition(self) -> None:
        """What keeps its meaning without the other samplers."""
        if "penalties" in self._sampling.samplers:
            self._add_penalties()
        if "dry" in self._sampling.samplers:
            self._add_dry()

    def _add_bias(self) -> None:
        bias = dict(self._sampling.logit_bias) | dict.fromkeys(self._recipe.banned.always, -math.inf)
        if bias:
            entries = [abi.llama_logit_bias(token, value) for token, value in bias.items()]
            table = (abi.llama_logit_bias * len(entries))(*entries)
            size = self._recipe.vocabulary_size
            self._add("llama_sampler_init_logit_bias", size, len(entries), c.addressof(table))

    def _add_penalties(self) -> None:
        sampling, size = self._sampling, self._recipe.vocabulary_size
        constructor = "llama_sampler_init_penalties"
        window = window_of(sampling.repeat_last_n, self._recipe.context_length)
        if sampling.repetition_penalty != 1 and window:
            link = self._add(constructor, size, window, sampling.repetition_penalty, 0.0, 0.0)
            self.remembering.append((link, window))
        if sampling.frequency_penalty or sampling.presence_penalty:
            penalties = (sampling.frequency_penalty, sampling.presence_penalty)
            self._add(constructor, size, self._recipe.context_length, 1.0, *penalties)

    def _add_dry(self) -> None:
        if dry := self._recipe.dry:
            self.remembering.append((self._link(dry.clone()), dry.window))

    def _add_top_n_sigma(self) -> None:
        if self._sampling.top_n_sigma > 0:
            self._add("llama_sampler_init_top_n_sigma", self._sampling.top_n_sigma)
            # It leaves what it rules out where it is, with a logit of -inf.
            self._add("llama_sampler_init_min_p", _IMPOSSIBLE, 1)

    def _add_top_k(self) -> None:
        if self._sampling.top_k > 0:
            if self._sampling.top_k <= NUM_KEPT:
                self._keep()
            self._add("llama_sampler_init_top_k", min(self._sampling.top_k, MAX_SORTED))
            self._is_cut = True

    def _add_typical_p(self) -> None:
        if self._sampling.typical_p < 1:
            self._cut()
            self._add("llama_sampler_init_min_p", _IMPOSSIBLE, 1)
            self._add("llama_sampler_init_typical", self._sampling.typical_p, 1)

    def _add_top_p(self) -> None:
        if self._sampling.top_p < 1:
            self._cut()
            self._add("llama_sampler_init_top_p", self._sampling.top_p, 1)

    def _add_min_p(self) -> None:
        if self._sampling.min_p > 0:
            self._add("llama_sampler_init_min_p", self._sampling.min_p, 1)

    def _add_xtc(self) -> None:
        probability, threshold = self._sampling.xtc_probability, self._sampling.xtc_threshold
        if probability > 0 and threshold <= 0.5:
            self._cut()
            # Another seed than the draw's, or the two would go together.
            seed = (self._seed ^ 0x5BD1E995) % _NO_SEED
            self._add("llama_sampler_init_xtc", probability, threshold, 1, seed)

    def _add_temperature(self) -> None:
        temperature, spread = self._sampling.temperature, self._sampling.dynatemp_range
        if spread > 0:
            self._cut()
            low, high = max(MIN_TEMPERATURE, temperature - spread), temperature + spread
            middle, half = (low + high) / 2, (high - low) / 2
            self._add("llama_sampler_init_temp_ext", middle, half, self._sampling.dynatemp_exponent)
        else:
            self._add("llama_sampler_init_temp", temperature)

    def _cut(self) -> None:
        """To be called before what sorts all that is left."""
        if not self._is_cut:
            self._add("llama_sampler_init_top_k", MAX_SORTED)
            self._is_cut = True


def _seed(seed: int | None, choice: int) -> int:
    if seed is None or seed in (-1, _NO_SEED):
        return int.from_bytes(os.urandom(4), "little") % _NO_SEED
    return (seed + choice) % _NO_SEED
