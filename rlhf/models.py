"""Tokenizers, policies, and the `Scorer` that serves as reward model and as value model.

Everything here is plain Hugging Face: any `AutoModelForCausalLM` is a policy, any `AutoModelForSequenceClassification`
with one label a scorer, and what is saved loads without this package. Shapes: B sequences, L tokens.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizerFast,
    GenerationConfig,
    GPT2Config,
    GPT2TokenizerFast,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D

from rlhf.errors import InputError
from rlhf.forward import hidden_states, try_all
from rlhf.kernels import speed_up

EOS, PAD = "<|endoftext|>", "<|pad|>"
HEAD = "score.weight"  # what transformers' sequence classifiers have beside a language model's trunk

# for tokenizers without a chat template: plain text, the form of Anthropic's HH-RLHF transcripts
PLAIN_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '\n\nAssistant: ' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'user' %}{{ '\n\nHuman: ' + message['content'] }}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)


# --- tokenizers -------------------------------------------------------------------------------------------------------


def new_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer like GPT-2's, trained on `texts`, with an eos and a pad token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOS, PAD], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return prepare_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD))


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub id, ready for this pipeline.

    Raises InputError where there is none.
    """
    missing = f"no tokenizer at {source}: save the model's own there, with tokenizer.save_pretrained"
    try:
        tokenizer = _tokenizer_class(Path(source)).from_pretrained(str(source), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{missing} ({_first_line(error)})") from error
    # where a folder has only a config.json, transformers makes up a tokenizer that knows no words
    if len(tokenizer) <= len(tokenizer.all_special_ids) + 1:
        raise InputError(missing)
    return prepare_tokenizer(tokenizer)


def _tokenizer_class(folder: Path) -> type:
    """AutoTokenizer, but for folders with nothing but the vocabulary files of the first models."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "config.json")):
        for name, tokenizer_class in (("vocab.json", GPT2TokenizerFast), ("vocab.txt", BertTokenizerFast)):
            if (folder / name).is_file():
                return tokenizer_class
    return AutoTokenizer


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Gives the tokenizer what it may lack: an eos token, a pad token that is not eos, a chat template.

    Where pad is eos, the real eos is masked away with the padding, and the model never learns to stop. Prompts are
    padded on the left, so that responses begin in one column.
    """
    if tokenizer.eos_token is None:
        # BERT vocabularies, which Chinese GPT-2 models use, end a text with [SEP]
        tokenizer.eos_token = tokenizer.sep_token or EOS
        tokenizer.add_special_tokens({"eos_token": tokenizer.eos_token})
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer


# --- policies ---------------------------------------------------------------------------------------------------------


def new_policy(
    tokenizer: PreTrainedTokenizerBase, layers: int, width: int, heads: int, context: int, initializer_range: float
) -> PreTrainedModel:
    """A GPT-2 of the given size with random weights, for `tokenizer`, without dropout.

    Raises InputError if the heads can't share the width.
    """
    if width % heads:
        raise InputError(f"width {width} can't be shared by {heads} heads: make it a multiple of them")
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",  # the same function as GPT-2's gelu_new, in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=initializer_range,
        bos_token_id=tokenizer.bos_token_id,  # not GPT-2's own, which is beyond a small vocabulary
    )
    policy = AutoModelForCausalLM.from_config(config)
    speed_up(policy)
    return _agree(policy, tokenizer)


def load_policy(source: str | Path, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The causal language model of a folder or hub id, in fp32, its embedding grown if the tokenizer has gained tokens.

    Raises InputError where there is none.
    """
    return _agree(_grown(_load(AutoModelForCausalLM, source), tokenizer), tokenizer)


def _grown(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model with an embedding for each token that the tokenizer has gained.

    It is the mean of the old ones, so that the token starts as likely as an average one, and is the same at each loading.
    """
    known = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            for old in (getattr(layer, "weight", None), getattr(layer, "bias", None)):
                if old is not None:
                    old.data[known:] = old.data[:known].mean(dim=0)
    return model


def same_words(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers mean the same by every id but those of special tokens."""
    special = {*one.all_special_tokens, *other.all_special_tokens}
    words = [{(word, at) for word, at in t.get_vocab().items() if word not in special} for t in (one, other)]
    return words[0] == words[1]


def stop_token_ids(model: PreTrainedModel | str | Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a response: the tokenizer's eos, and what the model's own `generation_config` adds to it.

    The model may be given as its folder or hub id.
    """
    if isinstance(model, PreTrainedModel):
        config = model.generation_config
    else:
        try:
            config = GenerationConfig.from_pretrained(str(model))
        except OSError:
            config = None
    own = getattr(config, "eos_token_id", None)
    return sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [own] if own is not None else [])})


def _agree(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Writes the tokenizer's special tokens into the model, so that it stops and pads alike wherever it is loaded."""
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = stop_token_ids(model, tokenizer)
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    config = model.config.get_text_config()
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    return model.eval()


def _load(auto_class, source: str | Path, new_head: bool = False, **kwargs) -> PreTrainedModel:
    """The model of a folder or hub id. Raises InputError if weights are missing, but for a head that is to be new."""
    try:
        # code that comes with a model is not run, and not asked about; torch reads old pickles with weights_only
        model, loaded = auto_class.from_pretrained(
            str(source), dtype=torch.float32, trust_remote_code=False, output_loading_info=True, **kwargs
        )
    except UnpicklingError as error:
        raise InputError(
            f"the weights at {source} hold more than numbers: they would run code, and are not loaded"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if "mismatched" in str(error):
            raise InputError(
                f"{source}: weights of other sizes than its config.json says; a reward model has one label"
            ) from error
        raise InputError(f"no model that {auto_class.__name__} can load at {source} ({_first_line(error)})") from error
    if HEAD in loaded["unexpected_keys"] and auto_class is AutoModelForCausalLM:
        raise InputError(
            f"{source} is a reward or value model: name a language model, such as the result of `make sft`"
        )
    missing = sorted(set(loaded["missing_keys"]) - ({HEAD} if new_head else set()))
    if missing == [HEAD]:
        raise InputError(f"{source} is no reward model: it has no head for a score, as the result of `make reward` has")
    if missing:
        raise InputError(f"{source} is no whole model: it lacks {missing[0]}")
    speed_up(model)
    return model


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def device() -> torch.device:
    """Where models that answer go: the accelerator; the CPU also on Apple's, which has no float64."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None or found.type == "mps" else found


def context_length(model: PreTrainedModel) -> int:
    """How many tokens the model can take in; a very large number where its configuration does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize


def room_for_prompt(model: PreTrainedModel, response_length: int) -> int:
    """How many tokens a prompt may have for a response to fit behind it. Raises InputError if there is no room."""
    room = context_length(model) - response_length
    if room < 1:
        raise InputError(
            f"response_length {response_length} leaves no room for a prompt in a context of {context_length(model)}"
        )
    return room


# --- scorers -----------------------------------------------------------------------------------------------------------


class Scorer(nn.Module):
    """A sequence classifier with one label, read at every token instead of at the last alone.

    Read at the last token of a response it is a reward model; read before every token, a value model. Its scores are
    normalised, `(score - config.score_mean) / config.score_std`, by what `save_pretrained` keeps in config.json.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        if not isinstance(getattr(model, "score", None), nn.Linear) or model.config.num_labels != 1:
            raise InputError(f"{type(model).__name__} is no reward model: it needs one label and a linear head `score`")
        self.model = model

    @property
    def config(self):
        return self.model.config

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, at: Tensor | None = None, first: Tensor | None = None
    ) -> Tensor:
        """The normalised score (R,), in fp32, of the prefixes that end at the tokens numbered `at` (R,).

        Tokens are numbered row after row without padding, see `rlhf.logprobs.numbered`; without `at` it is all (N,).
        `first` is that of `rlhf.forward.hidden_states`.
        """
        if at is None:
            at = torch.arange(int(attention_mask.sum()), device=attention_mask.device)
        raw = self.model.score(hidden_states(self.model, input_ids, attention_mask, at, first)).squeeze(-1).float()
        return (raw - getattr(self.config, "score_mean", 0.0)) / getattr(self.config, "score_std", 1.0)

    def save_pretrained(self, folder: str | Path) -> None:
        self.model.save_pretrained(folder)


class ValueHead(nn.Module):
    """A value model that is only a head, on the hidden states of the policy; it starts from 0 everywhere."""

    def __init__(self, width: int):
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """The value of every state, (...,), from its hidden state (..., width)."""
        return self.score(hidden).squeeze(-1).float()

    def save_pretrained(self, folder: str | Path, policy: PreTrainedModel) -> None:
        """Saves head and trunk together, as a model that `load_scorer` loads."""
        policy.save_pretrained(folder)
        scorer = _load(AutoModelForSequenceClassification, folder, new_head=True, num_labels=1)
        scorer.score.load_state_dict(self.score.state_dict())
        scorer.save_pretrained(folder)


def new_scorer(source: str | Path, tokenizer: PreTrainedTokenizerBase) -> Scorer:
    """A scorer on the trunk of a causal language model, its head drawn from N(0, 1/(d + 1)) for a width of d.

    Source of the initialisation: summarize_from_feedback_details (arXiv 2403.17031), from Stiennon et al.
    """
    model = _load(AutoModelForSequenceClassification, source, new_head=True, num_labels=1)
    nn.init.normal_(model.score.weight, std=(model.score.in_features + 1) ** -0.5)
    return Scorer(_agree(_grown(model, tokenizer), tokenizer))


def zero_scorer(source: str | Path, tokenizer: PreTrainedTokenizerBase) -> Scorer:
    """A scorer on the trunk of a causal language model that says 0 of everything: a value model that has learned nothing."""
    scorer = new_scorer(source, tokenizer)
    nn.init.zeros_(scorer.model.score.weight)
    return scorer


def load_scorer(source: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Scorer:
    """The reward or value model of a folder or hub id, its embedding grown if the tokenizer has gained tokens.

    Raises InputError where there is none.
    """
    model = _load(AutoModelForSequenceClassification, source, num_labels=1).eval()
    return Scorer(_grown(model, tokenizer) if tokenizer else model)


# --- models that only answer ------------------------------------------------------------------------------------------


def frozen(model: PreTrainedModel | Scorer, accelerator: Accelerator) -> PreTrainedModel | Scorer:
    """The same model on the accelerator's device, as one that learns nothing more.

    Where products are in bf16, which round the matrices of the layers for each product, these are kept rounded: the same
    answers, from half the memory. Heads and embeddings, which are also read in fp32, stay as they are.
    """
    model.requires_grad_(False).to(accelerator.device)
    if accelerator.mixed_precision == "bf16":
        _round_matrices(model.model if isinstance(model, Scorer) else model)
    return model


def _round_matrices(model: PreTrainedModel) -> None:
    try_all(model)
    for module in model.base_model.modules():
        if type(module) in (nn.Linear, Conv1D):
            module.to(torch.bfloat16)
    for parameter in model.parameters():
        # what stays lets go of the file that it was read from, which is in memory for as long as a part of it is used
        parameter.data = parameter.data.clone()
