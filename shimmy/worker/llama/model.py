"""A loaded model: its vocabulary and facts. It knows nothing of contexts or sequences.

Every argument that would make llama.cpp abort() is checked here first: token ids, UTF-8, text length.
"""

import ctypes as c
import os
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from shimmy.core.errors import ModelInvalid, RequestError, TooLarge
from shimmy.worker.llama import abi, backend
from shimmy.worker.llama.libllama import llama

if TYPE_CHECKING:
    from shimmy.core.engine_settings import EngineSettings
    from shimmy.core.request import Pooling
    from shimmy.worker.prefix_states import Reuse

MAX_TEXT_BYTES = 4 << 20
_PROGRESS_INTERVAL_SECONDS = 0.05
_PIECE_BYTES = 512
_METADATA_BYTES = 512
_SLICE = 1 << 13
_LONGEST_LETTER = 4  # UTF-8
MAX_SPELLING_BYTES = 64 << 10


class Offload(msgspec.Struct, frozen=True):
    """The layers that do not stay on the CPU: how many (-1 is all), and ggml's handles of the devices that they go to;
    without any, to those that llama.cpp prefers. `gpus` are the ones that it comes down to."""

    num_layers: int = 0
    devices: tuple[int, ...] = ()
    gpus: tuple[int, ...] = ()


ON_THE_CPU = Offload()


def gpu_bytes(*models: "Model") -> dict[str, int]:
    """What this process has on each GPU that layers of the models went to."""
    names = {name: None for model in models for name in model.layers if name != "CPU"}
    return backend.taken_of(names) if names else {}


class InfillTokens(NamedTuple):
    """What marks the parts of a text that has a gap; `repository` and `file` begin other texts that belong to it."""

    prefix: int | None
    suffix: int | None
    middle: int | None
    repository: int | None = None
    file: int | None = None


class Model:
    """One model in memory. `tokenize`, `control_token`, `check_tokens`, `metadata`, `pieces`, `spellings`,
    `infill_tokens`, `suppressed_tokens`, `end_tokens`, `joints` and `rank_template` are safe from any thread; the rest
    is the step thread's.

    `layers` is how many layers each device has, the output layer included, e.g. {"CPU": 31}, `buffers` how many bytes
    of the weights each kind of memory.
    """

    def __init__(
        self,
        paths: list[str],
        on_progress: Callable[[float], None],
        offload: Offload = ON_THE_CPU,
        settings: "EngineSettings | None" = None,
    ) -> None:
        """Loads the file, or all shards in order. Raises `ModelInvalid` with llama.cpp's reason, `ModelFailed` where
        the settings ask for what there is not."""
        self._library = llama()
        self._handle = _load(paths, on_progress, offload, settings)
        self.layers, self.buffers = backend.placed()
        self._vocab = self._library.llama_model_get_vocab(self._handle)
        self.vocabulary_size = int(self._library.llama_vocab_n_tokens(self._vocab))
        self._pieces: dict[int, bytes | None] = {}
        self._spellings: dict[int, bytes] = {}
        self._buffer = c.create_string_buffer(_PIECE_BYTES)
        if self._library.llama_model_has_encoder(self._handle) and not self._library.llama_model_has_decoder(
            self._handle
        ):
            raise ModelInvalid("encoders of the T5 kind are not supported")

    @property
    def handle(self) -> int:
        return self._handle

    @property
    def vocab(self) -> int:
        """llama.cpp's own, which samplers want."""
        return int(self._vocab)

    def metadata(self, key: str) -> str | None:
        """A value of the file's header as text, cut at 511 bytes."""
        buffer = c.create_string_buffer(_METADATA_BYTES)
        size = self._library.llama_model_meta_val_str(self._handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if size >= 0 else None

    @property
    def is_encoder(self) -> bool:
        """Whether it has no memory of a text that it could go on with: it makes vectors only."""
        # Not before the file is read, which is what a worker does first; so below.
        from shimmy.core.capabilities import is_encoder

        return is_encoder(self.metadata)

    @property
    def stated_pooling(self) -> "Pooling | None":
        """How vectors are made of those of tokens, if the file says so."""
        from shimmy.core.capabilities import stated_pooling

        return stated_pooling(self.metadata)

    @property
    def vector_width(self) -> int:
        """Numbers in a vector."""
        return int(self._library.llama_model_n_embd_out(self._handle))

    @property
    def num_scores(self) -> int:
        """Numbers in what a model that ranks says of a text; the first one is the score."""
        return int(self._library.llama_model_n_cls_out(self._handle))

    @property
    def training_context_length(self) -> int:
        return int(self._library.llama_model_n_ctx_train(self._handle))

    @property
    def num_parameters(self) -> int:
        return int(self._library.llama_model_n_params(self._handle))

    @property
    def size_bytes(self) -> int:
        return int(self._library.llama_model_size(self._handle))

    @property
    def reuse(self) -> "Reuse":
        """What of a sequence's memory can be used again for another one."""
        from shimmy.worker.prefix_states import Reuse

        recurrent = self._library.llama_model_is_recurrent(self._handle)
        whole = bool(recurrent or self._library.llama_model_is_hybrid(self._handle))
        return Reuse(whole, max(0, self._library.llama_model_n_swa(self._handle)))

    @property
    def max_idle_cells(self) -> int:
        """How many cells that no running sequence uses slow a step down by 5 %: attention passes all that are not free.

        Measured with 4,000 such cells on CPUs: 20 % for 135 M parameters in 30 layers of 9 heads, 3 % for 270 M in 18
        of 4, so that a cell costs 25 times as much as a parameter for each head.
        """
        num_heads = self._library.llama_model_n_layer(self._handle) * self._library.llama_model_n_head(self._handle)
        return int(0.05 / 25 * self.num_parameters / max(1, num_heads))

    @cached_property
    def rank_template(self) -> str | None:
        """How a model that ranks wants "{query}" and "{document}" (tokenizer.chat_template.rerank)."""
        text = self._library.llama_model_chat_template(self._handle, b"rerank")
        return text.decode("utf-8", "replace") if text else None

    @cached_property
    def joints(self) -> "tuple[list[int], list[int], list[int]]":
        """Tokens before, between and after two texts that are judged together, as the vocabulary's own flags say."""
        library, vocab = self._library, self._vocab
        sep = self._checked(library.llama_vocab_sep(vocab))
        eos = sep if self.eos_token is None else self.eos_token
        has_bos, has_eos = self.adds_bos, bool(library.llama_vocab_get_add_eos(vocab))
        ends = [eos] if has_eos else []
        separators = [sep] if library.llama_vocab_get_add_sep(vocab) else []
        # A BERT has no end token of its own: its separator stands at the end as well.
        parts = ([self.bos_token] if has_bos else [], [*ends, *separators], ends or separators)
        before, between, after = ([token for token in part if token is not None] for part in parts)
        return before, between, after

    @property
    def chat_template(self) -> str | None:
        """The template the file carries (tokenizer.chat_template)."""
        text = self._library.llama_model_chat_template(self._handle, None)
        return text.decode("utf-8", "replace") if text else None

    @property
    def adds_bos(self) -> bool:
        return bool(self._library.llama_vocab_get_add_bos(self._vocab))

    @property
    def bos_token(self) -> int | None:
        return self._checked(self._library.llama_vocab_bos(self._vocab))

    @property
    def eos_token(self) -> int | None:
        return self._checked(self._library.llama_vocab_eos(self._vocab))

    @cached_property
    def suppressed_tokens(self) -> frozenset[int]:
        """Those that the file says must never be sampled (tokenizer.ggml.suppress_tokens)."""
        count = c.c_int32()
        address = self._library.llama_vocab_get_suppress_tokens(self._vocab, c.addressof(count))
        return frozenset((c.c_int32 * count.value).from_address(address)) if count.value else frozenset()

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """All that end a generation. The whole vocabulary has to be asked, at 1 us a token."""
        is_end = self._library.llama_vocab_is_eog
        return frozenset(token for token in range(self.vocabulary_size) if is_end(self._vocab, token))

    def _checked(self, token: int) -> int | None:
        """A file may name any id as its eos; only one inside the vocabulary may reach llama.cpp again."""
        return int(token) if 0 <= token < self.vocabulary_size else None

    def text_of(self, token: int | None) -> str:
        """A special token as templates spell it, e.g. "<s>"; empty for None."""
        return self._convert(token, special=True).decode("utf-8", "replace") if token is not None else ""

    def piece(self, token: int) -> bytes | None:
        """The bytes that a token adds to the text (empty for control tokens); None ends the generation."""
        try:
            return self._pieces[token]
        except KeyError:
            self._require_token(token)
            ends = self._library.llama_vocab_is_eog(self._vocab, token)
            piece = self._pieces[token] = None if ends else self._convert(token, special=False)
            return piece

    def spelling(self, token: int) -> bytes:
        """A token as it is written where it is only named: control tokens too."""
        if token not in self._spellings:
            self._require_token(token)
            self._spellings[token] = self._convert(token, special=True)
        return self._spellings[token]

    def pieces(self) -> list[bytes]:
        """What each token adds to a text, end tokens too; nothing for control tokens. 1.5 us a token."""
        convert, vocab, size = self._library.llama_token_to_piece, self._vocab, _PIECE_BYTES
        buffer = c.create_string_buffer(size)
        view = memoryview(buffer)
        return [
            bytes(view[:length]) if (length := convert(vocab, token, buffer, size, 0, False)) >= 0 else b""
            for token in range(self.vocabulary_size)
        ]

    def spellings(self, tokens: Iterable[int]) -> list[bytes]:
        """Tokens as `spelling` has them."""
        convert, vocab, size = self._library.llama_token_to_piece, self._vocab, MAX_SPELLING_BYTES
        buffer = c.create_string_buffer(size)
        view = memoryview(buffer)
        known: dict[int, bytes] = {}
        for token in tokens:
            if token not in known:
                self._require_token(token)
                known[token] = bytes(view[: max(0, convert(vocab, token, buffer, size, 0, True))])
        return [known[token] for token in tokens]

    @cached_property
    def infill_tokens(self) -> InfillTokens:
        """Those that the file names, or llama.cpp knows by their spelling."""
        library, vocab = self._library, self._vocab
        functions = (getattr(library, f"llama_vocab_fim_{part}") for part in ("pre", "suf", "mid", "rep", "sep"))
        return InfillTokens(*(self._checked(function(vocab)) for function in functions))

    def control_token(self, text: str) -> int | None:
        """The token that is written like this where it is named, but adds nothing to a text, and does not end it."""
        tokens = self.tokenize(text, add_special=False)
        if len(tokens) != 1 or self._library.llama_vocab_is_eog(self._vocab, tokens[0]):
            return None
        buffer = c.create_string_buffer(1)
        adds = self._library.llama_token_to_piece(self._vocab, tokens[0], buffer, len(buffer), 0, False)
        return None if adds else tokens[0]

    def check_tokens(self, tokens: list[int]) -> None:
        """Raises `RequestError` for an id outside the vocabulary."""
        for token in tokens:
            self._require_token(token)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Token ids of `text`; with `parse_special`, special tokens spelled in it become single tokens. Slow for
        megabytes of one letter."""
        data = _utf8(text)
        if len(data) > MAX_TEXT_BYTES:
            raise TooLarge(f"the prompt has {len(data)} bytes; at most {MAX_TEXT_BYTES} are tokenized", param="prompt")
        if data and self._letters is not None:
            self._check_letters(text, self._letters)
        capacity = len(data) + 16
        while True:
            tokens = (c.c_int32 * capacity)()
            count = self._library.llama_tokenize(
                self._vocab, data, len(data), tokens, capacity, add_special, parse_special
            )
            if count >= 0:
                return _as_list(tokens, count)
            if count == -(2**31):
                raise TooLarge("the prompt has too many tokens to count", param="prompt")
            capacity = -count

    @cached_property
    def _letters(self) -> frozenset[bytes] | None:
        """What can be tokenized alone, where that is not all: a SentencePiece vocabulary without a token for each
        byte makes llama.cpp abort() over others. None for all usual ones, after some hundred tokens."""
        if self.metadata("tokenizer.ggml.model") != "llama":
            return None
        found: set[bytes] = set()
        num_bytes = 0
        for token in range(self.vocabulary_size):
            piece = self._convert(token, special=False)
            if len(piece) <= _LONGEST_LETTER and piece not in found:
                found.add(piece)
                num_bytes += len(piece) == 1
                if num_bytes == 256:
                    return None
        return frozenset(found)

    def _check_letters(self, text: str, letters: frozenset[bytes]) -> None:
        # A space is put before every text.
        for letter in {" ", *text}:
            data = letter.encode()
            if data not in letters and any(bytes([byte]) not in letters for byte in data):
                raise RequestError(
                    f"the model's vocabulary has no tokens for {letter!r}, nor for the bytes of it", param="prompt"
                )

    def _require_token(self, token: int) -> None:
        if not 0 <= token < self.vocabulary_size:
            raise RequestError(f"token id {token} is outside the vocabulary of {self.vocabulary_size}", param="prompt")

    def _convert(self, token: int, *, special: bool) -> bytes:
        size = self._library.llama_token_to_piece(self._vocab, token, self._buffer, len(self._buffer), 0, special)
        if size < 0:
            self._buffer = c.create_string_buffer(-size)
            return self._convert(token, special=special)
        return self._buffer.raw[:size]


def _as_list(tokens: "c.Array[c.c_int32]", count: int) -> list[int]:
    """In slices: other threads have to wait while one is made."""
    listed: list[int] = []
    for at in range(0, count, _SLICE):
        listed += tokens[at : min(count, at + _SLICE)]
    return listed


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"the prompt is not valid Unicode: {error.reason}", param="prompt") from error


def _load(
    paths: list[str], on_progress: Callable[[float], None], offload: Offload, settings: "EngineSettings | None"
) -> int:
    library = llama()
    parameters = library.llama_model_default_params()
    parameters.n_gpu_layers = offload.num_layers
    devices = (c.c_void_p * (len(offload.devices) + 1))(*offload.devices)
    if offload.devices:
        parameters.devices = c.addressof(devices)
    kept = None
    if settings is not None:
        from shimmy.worker.llama.tuning import tune_model

        kept = tune_model(parameters, settings, offload.gpus)
    callback = _throttled(on_progress)
    parameters.progress_callback = c.cast(callback, c.c_void_p)
    if len(paths) == 1:
        handle = library.llama_model_load_from_file(os.fsencode(paths[0]), parameters)
    else:
        names = (c.c_char_p * len(paths))(*(os.fsencode(path) for path in paths))
        handle = library.llama_model_load_from_splits(names, len(paths), parameters)
    if not handle:
        raise ModelInvalid(backend.last_error("llama.cpp could not load the file"))
    del kept
    return int(handle)


def _throttled(on_progress: Callable[[float], None]) -> Any:
    """llama.cpp calls back for every tensor; a frame for each would cost more than the tensors."""
    last_at = time.monotonic()

    def report(fraction: float, _data: object) -> bool:
        nonlocal last_at
        now = time.monotonic()
        if now - last_at >= _PROGRESS_INTERVAL_SECONDS:
            last_at = now
            on_progress(fraction)
        return True

    return abi.llama_progress_callback(report)
