"""How a task's input becomes a chat, the same in training and evaluation."""

from collections.abc import Sequence
from typing import Literal

Message = dict[str, str]
Where = Literal["user", "system"]


def chat(
    text: str,
    *,
    instruction: str | None = None,
    where: Where = "user",
    shots: Sequence[tuple[str, str]] = (),
) -> list[Message]:
    """
    Put an input, and perhaps an instruction, into chat messages.

    Args:
        text: The task's input.
        instruction: A description or definition of the task; None leaves it to the adapter.
        where: In front of the input, or as the system prompt.
        shots: Inputs and outputs of other examples, as earlier turns.
    """
    if shots:
        turns = [
            {"role": role, "content": content}
            for given, answer in shots
            for role, content in (("user", given), ("assistant", answer))
        ]
        return [*turns, *chat(text, instruction=instruction, where=where)]
    if instruction is None:
        return [{"role": "user", "content": text}]
    if where == "system":
        return [{"role": "system", "content": instruction}, {"role": "user", "content": text}]
    return [{"role": "user", "content": f"{instruction}\n\n{text}"}]
