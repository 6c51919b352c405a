"""Random chats: the learned tokens are the text that a plain reading of the template gives, reply by reply."""

import random
import re

import pytest

from rlhf import InputError
from rlhf.rows import Tally
from rlhf.tokens import demonstration_dataset
from tests.tokens.test_labels import (
    CHATML,
    LLAMA_3,
    OPEN,
    TURN,
    learned_texts,
    message,
    with_template,
    without_keyword,
)

WORDS = [
    "the",
    " fox",
    " dog?",
    "\n",
    "  ",
    "🦊",
    "é",
    "Human:",
    "Assistant:",
    "assistant",
    " 1 2",
    "user\n",
    "中文",
    "[INST]",
]
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
# template, what it renders of a reply, and whether it knows system messages
TEMPLATES = {
    "none": (None, " {}EOS", True),
    "ChatML": (CHATML, "{}<|im_end|>", True),
    "ChatML without generation": (without_keyword(CHATML), "{}<|im_end|>", True),
    "Llama 3": (LLAMA_3, "{}<|eot|>", True),
    "Mistral": (MISTRAL, " {}EOS", False),
    "thoughts": (
        TURN + "{{ m.content + eos_token }}{% endfor %}{{ '<bot><think>\n' if add_generation_prompt }}", "{}EOS", False
    ),
    "plain": (TURN + "{{ m.content }}{{ eos_token if m.role != 'user' }}{% endfor %}" + OPEN, "{}EOS", False),
}  # fmt: skip


def random_chat(rng, with_system):
    """Messages in turn, the replies with random weights, and where the completion begins."""

    def content():
        return "".join(rng.choices(WORDS, k=rng.randint(1, 6))) + rng.choice(["fox", "🦊", "."])

    chat = [message("system", content())] if with_system and rng.random() < 0.3 else []
    for _ in range(rng.randint(1, 4)):
        weight = rng.choice([{}, {"weight": 0}, {"weight": 1}])
        chat += [message("user", content()), message("assistant", content(), **weight)]
    replies = [i for i, m in enumerate(chat) if m["role"] == "assistant"]
    return chat, rng.choice([replies[-1], rng.choice(replies)])


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_learned_tokens_of_random_chats_are_the_weighted_replies_and_their_stop_tokens(any_tokenizer, name):  # noqa: F811
    template, rendered, with_system = TEMPLATES[name]
    tokenizer, stops = (any_tokenizer, ()) if template is None else with_template(any_tokenizer, template)
    rng = random.Random(name)
    for number in range(40):
        chat, start = random_chat(rng, with_system)
        last_reply_only = number % 5 == 0
        wanted = [
            # the reply after the generation prompt ends the thought that it begins
            ("</think>" if name == "thoughts" and i == start else "") + m["content"]
            for i, m in enumerate(chat)
            if m["role"] == "assistant"
            and (m.get("weight") != 0 if i >= start else m.get("weight") == 1 and not last_reply_only)
        ]
        row, tally = {"prompt": chat[:start], "completion": chat[start:]}, Tally(used=1)
        try:
            (example,) = demonstration_dataset([row], tokenizer, 4096, tally, stops, last_reply_only=last_reply_only)
        except InputError:
            assert not wanted and tally.dropped == {"without a reply to learn": 1}
            continue
        pairs = zip(example["input_ids"], example["labels"], strict=True)
        assert all(label in (-100, token) for token, label in pairs) and example["not_located"] == 0
        expected = [rendered.format(content).replace("EOS", tokenizer.eos_token) for content in wanted]
        # a Llama's tokenizer adds spaces when it decodes, and some templates remove those at the ends of a reply
        texts = [[re.sub(r"\s", "", text) for text in texts] for texts in (learned_texts(tokenizer, example), expected)]
        assert texts[0] == texts[1]
