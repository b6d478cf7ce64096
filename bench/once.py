"""`python -m bench.once`: milliseconds of what is paid once and not for each token, the least of several.

For a prefix of 1,000 tokens that is taken over, with the demo model; for the first request with a constraint, which
makes a table of the vocabulary; and for the first one with other sequence breakers for DRY.
"""

import array
import time
from collections.abc import Callable, Iterator
from functools import partial

from bench.constraints import DEMO, Vocabulary
from shimmy.core.ipc import EngineOptions
from shimmy.core.request import Sampling
from shimmy.worker.constraints.vocabulary import tokenizer
from shimmy.worker.engine import Engine
from shimmy.worker.llama.context import BATCH_TOKENS
from shimmy.worker.llama.dry import Dries
from shimmy.worker.loading import load_engine

PREFIX_TOKENS = 1000
NUM_RUNS = 10
LARGE_VOCABULARY = 150_000
BREAKERS = {"a character": "\n", "a sentence": "and so it went on and on, for ever."}


def milliseconds(act: Callable[[], object], undo: Callable[[], object] = lambda: None) -> float:
    best = float("inf")
    for _ in range(NUM_RUNS):
        began_at = time.perf_counter()
        act()
        best = min(best, time.perf_counter() - began_at)
        undo()
    return best * 1e3


def prefix(engine: Engine) -> Iterator[tuple[str, float]]:
    """Sequence 0 has it, sequence 1 gets it."""
    context = engine._context
    context.grow(context.context_length, 0)
    for start in range(0, PREFIX_TOKENS, BATCH_TOKENS):
        tokens = array.array("i", range(100 + start, 100 + min(PREFIX_TOKENS, start + BATCH_TOKENS)))
        context.batch.clear()
        context.batch.add(0, tokens, start, logits=False)
        context.decode()
    yield "shared with a sequence in the cache", milliseconds(lambda: context.copy(0, 1, -1), lambda: context.forget(1))
    yield "saved to RAM", milliseconds(lambda: context.save_state(0))
    state = context.save_state(0)
    yield "read back from RAM", milliseconds(lambda: context.load_state(1, state), lambda: context.forget(1))


def vocabulary(engine: Engine) -> Iterator[tuple[str, float]]:
    model, large = engine._model, Vocabulary(LARGE_VOCABULARY)
    yield f"table of {model.vocabulary_size:,} tokens", milliseconds(lambda: tokenizer(model))
    yield f"table of {LARGE_VOCABULARY:,} tokens", milliseconds(lambda: tokenizer(large))


def breakers(engine: Engine) -> Iterator[tuple[str, float]]:
    for name, breaker in BREAKERS.items():
        yield f"{name} as a breaker", milliseconds(partial(search, engine, breaker))


def search(engine: Engine, breaker: str) -> None:
    sampling = Sampling(dry_multiplier=1.0, dry_sequence_breakers=(breaker,))
    Dries(engine._model.vocab, engine._context.context_length).of(sampling)


def main() -> None:
    engine = load_engine([str(DEMO)], EngineOptions(context_length=2048, num_sequences=2), lambda fraction: None)
    for part in (prefix, vocabulary, breakers):
        print(part.__name__)
        for name, figure in part(engine):
            print(f"  {name:40}{figure:10.2f} ms", flush=True)


if __name__ == "__main__":
    main()
