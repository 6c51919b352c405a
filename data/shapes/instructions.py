"""Instructions, questions and prompts, with or without an answer."""

from typing import Any

from data.shapes.values import Unfit, asked, kind_of, messages, reply, text, transcript_prompt, user
from rlhf.rows import Row


def own(prompt: Any, completion: Any) -> Row:
    """A row in this project's columns: strings stay plain text, as in TRL."""
    return {**own_prompt(prompt), "completion": own_completion(prompt, completion)}


def own_prompt(prompt: Any) -> Row:
    """{prompt}: a transcript becomes messages, any other text stays plain text."""
    if isinstance(prompt, str):
        return {"prompt": transcript_prompt(prompt) or prompt}
    return {"prompt": messages(prompt, "prompt")}


def own_completion(prompt: Any, completion: Any) -> Any:
    """A completion. If the prompt is a transcript, the space after "Assistant:" is removed."""
    found = reply(completion, "completion")
    return found.strip() if isinstance(found, str) and transcript_prompt(prompt) else found


def prompt(value: Any) -> Row:
    """A prompt without an answer."""
    return own_prompt(value)


def question(value: Any, input: Any = None, context: Any = None) -> Row:
    """An instruction without an answer."""
    return {"prompt": [user(joined(value, input, context))]}


def plain(value: Any) -> Row:
    """A document."""
    return {"text": text(value, "text")}


def answer(value: Any, completion: Any) -> Row:
    """A question, which the user asks, and the answer."""
    prompt = asked(value, "the question")
    if prompt and prompt[-1]["role"] == "assistant":
        raise Unfit("the chat before the answer ends with a reply")
    completion = text(completion, "the answer")
    return {"prompt": prompt, "completion": completion.strip() if transcript_prompt(value) else completion}


def instruction(value: Any, output: Any, input: Any = None, context: Any = None) -> Row:
    """An instruction, which the user gives together with its input, and the output."""
    return {"prompt": [user(joined(value, input, context))], "completion": text(output, "the output")}


def defined(definition: Any, inputs: Any, targets: Any) -> Row:
    """A user message with the definition of a task and its inputs, and the answer."""
    return instruction(definition, targets, inputs)


def outputs(value: Any, output: Any, input: Any = None, context: Any = None) -> Row:
    """A ranking of the outputs of an instruction, given as a list with the best first."""
    if not isinstance(output, list) or not all(isinstance(o, str) for o in output):
        raise Unfit(f"output is {kind_of(output)}, not a list of texts")
    prompt = [user(joined(value, input, context))]
    return {"prompt": prompt, "completions": output, "ranks": list(range(len(output)))}


def instances(value: Any, listed: Any) -> list[Row]:
    """A demonstration for each instance of a task."""
    if not isinstance(listed, list) or not all(isinstance(instance, dict) for instance in listed):
        raise Unfit(f"instances is {kind_of(listed)}, not a list of objects with input and output")
    return [instruction(value, i.get("output"), i.get("input")) for i in listed]


def joined(*parts: Any) -> str:
    """The instruction and its input, as paragraphs."""
    return "\n\n".join(filter(None, (text(part, "the instruction or its input") for part in parts if part is not None)))
