"""Says what would be computed for a request: the prompt, what ends and what holds the answer, how tokens are chosen."""

from typing import TYPE_CHECKING

import msgspec

from shimmy.core import ipc
from shimmy.core.request import Chat, Constraint, Generation, Sampling

if TYPE_CHECKING:
    from shimmy.worker.questions import Prompter


def explained(generation: Generation, prompter: "Prompter") -> str:
    """An `ipc.Explanation` in JSON. Raises what the request itself would fail with."""
    request = prompter.prepare(generation)
    prompt, plan = generation.prompt, request.plan
    sampling: Sampling = request.recipe.sampling
    room = prompter.context_length - len(request.prompt)
    explanation = ipc.Explanation(
        prompt=prompter.rendered(prompt) if isinstance(prompt, Chat) else "",
        prompt_tokens=len(request.prompt),
        context_length=prompter.context_length,
        max_tokens=room if generation.max_tokens is None else min(room, generation.max_tokens),
        template_source=prompter.template_source,
        stop=[*request.stops, *(plan.stops if plan is not None else ())],
        stop_token_ids=generation.stop_tokens,
        constraint=_constraint(generation.constraint),
        calls=plan.calls.field if plan is not None and plan.calls is not None else None,
        reasoning_budget=plan.budget if plan is not None else None,
        sampling={name: getattr(sampling, name) for name in Sampling.__struct_fields__ if name != "explicit"},
    )
    return msgspec.json.encode(explanation).decode()


def _constraint(constraint: Constraint | None) -> dict[str, str] | None:
    return None if constraint is None else msgspec.structs.asdict(constraint)
