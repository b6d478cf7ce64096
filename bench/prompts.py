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


CODE = """class TextStream:
    \"\"\"Holds back text that may yet become a stop string.\"\"\"

    def __init__(self, stops):
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def push(self, text):
        \"\"\"Returns the text that is safe to send, and the stop string that was reached, if any.\"\"\"
        text = self._held + text
        self._held = ""
        found = [(text.find(stop), stop) for stop in self._stops if stop in text]
        if found:
            at, stop = min(found)
            return text[:at], stop
        safe = len(text) - self._overlap(text)
        self._held = text[safe:]
        return text[:safe], None

    def flush(self):
        \"\"\"What was held back for a stop string that never came.\"\"\"
        held, self._held = self._held, ""
        return held

    def _overlap(self, text):
        \"\"\"Length of the longest end of the text that begins a stop string.\"\"\"
        longest = min(len(text), max(len(stop) for stop in self._stops) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
"""


def edit_prompt(seed: str) -> str:
    """The same code twice, but for a name, and its beginning with a third name: even a very small model goes on."""
    names = random.Random(seed).sample(WORDS, 3)
    first, second, third = (CODE.replace("TextStream", f"{name.title()}Stream") for name in names)
    return f"{first}\n\n{second}\n\n{third[: third.index('self._held')]}"
