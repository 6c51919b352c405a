"""A model with its chat format in a folder of its own, as other programs load it.

The result of a stage has the tokenizer's chat template, also if the model was trained on prompts of another form, and
checkpoints and logs beside the model.
"""

import json
from pathlib import Path

from transformers import GenerationConfig

from rlhf import InputError
from rlhf.models import stop_token_ids
from stages.common.answers import Answerer
from stages.common.card import write_card
from stages.common.console import say
from stages.common.conversation import CHAT, Conversation
from stages.common.run import Run, record_of


def export(model: Answerer, conversation: Conversation, folder: Path, run: Run) -> None:
    """Writes the model, its tokenizer and, if a stage made it, its card. Raises InputError if the folder has files.

    transformers samples from it as the stages do: from the whole distribution.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty: name a new folder")
    if conversation.template != CHAT:
        model.tokenizer.chat_template = chat_template(conversation)
    model.policy.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=stop_token_ids(model.policy, model.tokenizer),
        pad_token_id=model.tokenizer.pad_token_id,
        bos_token_id=model.tokenizer.bos_token_id,
    )
    if length := getattr(model.policy.config, "n_positions", None):
        model.policy.config.n_ctx = length  # GPT-2's older name of it, which llama.cpp's converter reads
    model.policy.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    if record := record_of(Path(model.source)):
        write_card(folder, record, run)
    say(f"{model.name} with its chat template, in {folder}")


def chat_template(conversation: Conversation) -> str:
    """A chat template in Jinja that renders prompts as the conversation does."""
    before, _, after = conversation.template.partition("{}")
    after = after.replace("{}", "")
    asked = "(messages | selectattr('role', 'equalto', 'user') | list)[-1:]"
    turns = "messages" if conversation.history else asked
    return (
        "{% for message in messages if message['role'] == 'system' %}{{ message['content'] + '\\n' }}{% endfor %}"
        f"{{% for message in {turns} %}}"
        "{% if message['role'] == 'user' %}{{ "
        + f"{json.dumps(before)} + message['content'] + {json.dumps(after)}"
        + " }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + '\\n' }}{% endif %}"
        "{% endfor %}"
    )
