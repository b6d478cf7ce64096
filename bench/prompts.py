"""Prompts that no prefix cache has seen: the same ones for every server, none twice for one server."""

import random

WORDS = (
    "time people way water day man world life hand part child eye place work week case point company number group "
    "problem fact house night story book word side kind head home room mother area money month right study job state "
    "power hour game line end member law car city name team minute idea body back parent face level office door health"
).split()


def long_prompt(num_words: int, seed: str) -> str:
    """Common words in random order: about one token each."""
    source = random.Random(seed)
    return " ".join(source.choice(WORDS) for _ in range(num_words))


def story_prompt(seed: str) -> str:
    """The beginning of a story that a model goes on with for a long time; about 16 tokens."""
    source = random.Random(seed)
    who, where, what = source.sample(WORDS, 3)
    return f"{who.capitalize()} and {where}: a long story in many chapters about the {what}.\n\nChapter 1\n\n"
