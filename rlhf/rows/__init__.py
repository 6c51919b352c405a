"""The four kinds of rows: reading, checking and writing them. No torch.

    text            {"text"}                                           pretraining, and the pretraining mix of PPO
    demonstrations  {"prompt", "completion"}                           SFT
    comparisons     {"prompt", "completions", "ranks"}                 reward model; rank 0 is best, equal ranks tie
                    {"prompt", "chosen", "rejected"}                   the same with K = 2
                    {..., "ended"}, optional                           False for a truncated completion: it gets no eos
    prompts         {"prompt"}                                         PPO, samples, evaluation

The columns are TRL's where TRL has the format. A text is a string or a list of chat messages, `{"role", "content"}`,
which the tokenizer's chat template renders; see `messages` for other forms of a message. In a demonstration, a reply
of the prompt with `"weight": 1` is learned too. Further columns are kept.

A special token of the tokenizer in a text is text. In a row with `"rendered": true` it is the special token.

A malformed file or row raises InputError with file and line. A row with unusable content, such as an empty prompt, is
dropped, and a `Tally` counts it by reason.
"""

from rlhf.rows.checks import valid_rows
from rlhf.rows.files import RowFile, Subset, read_jsonl, read_lines, read_rows, to_line, write_rows
from rlhf.rows.messages import MESSAGE_COLUMNS, ROLES, Text, is_message, normalised, plain_text, without_weights
from rlhf.rows.tally import AS_TEXT, Row, Tally

__all__ = [
    "AS_TEXT",
    "MESSAGE_COLUMNS",
    "ROLES",
    "Row",
    "RowFile",
    "Subset",
    "Tally",
    "Text",
    "is_message",
    "normalised",
    "plain_text",
    "read_jsonl",
    "read_lines",
    "read_rows",
    "to_line",
    "valid_rows",
    "without_weights",
    "write_rows",
]
