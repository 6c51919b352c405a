"""The forms of supervised tasks (GPT-1, figure 1), and the columns of their rows. A row also has a `label`."""

from typing import Literal

Form = Literal["classification", "entailment", "similarity", "choice"]
# the columns of each form that hold text, in the order of the input; `choices` is a list
COLUMNS: dict[Form, tuple[str, ...]] = {
    "classification": ("text",),
    "entailment": ("premise", "hypothesis"),
    "similarity": ("text1", "text2"),
    "choice": ("context", "choices"),
}
