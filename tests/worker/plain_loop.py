"""The plain, one-sequence loop: prefill, then one token at a time. What the batching loop must equal, byte for byte.

It begins with an empty context, so that no session may be under way.
"""

import array

from shimmy.core.request import Generation, Sampling, Tokens
from shimmy.worker.llama.context import BATCH_TOKENS, Context
from shimmy.worker.llama.model import Model
from shimmy.worker.llama.recipe import Recipes
from shimmy.worker.llama.sampler import Sampler


def generate(model: Model, context: Context, prompt: list[int], max_tokens: int, sampling: Sampling) -> bytes:
    context.clear()
    generation = Generation(id="", model="", prompt=Tokens(prompt), sampling=sampling)
    sampler = Sampler(Recipes(model, context.context_length).of(generation), 0, prompt)
    batch, text = context.batch, b""
    row = compute(context, prompt)
    for position in range(len(prompt), len(prompt) + max_tokens):
        token = sampler.sample(context.handle, row)
        piece = model.piece(token)
        if piece is None:
            break
        text += piece
        batch.clear()
        row = batch.add(0, array.array("i", [token]), position, logits=True)
        context.decode()
    context.forget(0)
    sampler.free()
    return text


def compute(context: Context, tokens: list[int]) -> int:
    """Computes the tokens of one sequence; returns the row of the last."""
    row = 0
    for begin in range(0, len(tokens), BATCH_TOKENS):
        chunk = array.array("i", tokens[begin : begin + BATCH_TOKENS])
        context.batch.clear()
        row = context.batch.add(0, chunk, begin, logits=begin + len(chunk) == len(tokens))
        context.decode()
    return row
