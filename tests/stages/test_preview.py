"""The first row as the model sees it, and the hint about rows that are too long."""

import json
import re

import pytest

from rlhf.rows import Tally
from stages.common.preview import MAX_LINES, WIDTH, say_if_too_long, say_ranking, say_tokens
from tests.pipeline import stage


def lines_of(capsys):
    """The printed lines without the margin."""
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


def test_marked_runs_are_set_apart_and_special_tokens_are_visible(tokenizer, capsys):
    parts = [("the fox?\n", False), ("yes !<|endoftext|>", True), ("\n\na dog", False), (" no", True)]
    ids, marked = [], []
    for text, is_marked in parts:
        ids += (new := tokenizer(text).input_ids)
        marked += [is_marked] * len(new)
    say_tokens(tokenizer, ids, marked)
    assert lines_of(capsys) == ["| the fox?", "| [[yes !<|endoftext|>]]", "|", "| a dog[[ no]]"]


def test_the_space_before_a_llamas_word_is_kept_where_it_follows_other_text(shared, capsys):
    from rlhf.tokens import load_tokenizer

    tokenizer = load_tokenizer(shared / "models" / "stories260K")
    ids = tokenizer("Once upon a time").input_ids
    say_tokens(tokenizer, ids, [False] * (len(ids) - 1) + [True], after="[[response]]")
    assert re.fullmatch(r"\| <s>\s?Once upon a.*\[\[ ?\w+\]\]\[\[response\]\]", lines_of(capsys)[0])


@pytest.mark.parametrize("text", ["the quick fox ", "the fox\n", "x" * 30])
def test_a_long_text_is_cut_and_the_tokens_left_out_are_counted(tokenizer, capsys, text):
    ids = tokenizer(text * 500).input_ids
    say_tokens(tokenizer, ids)
    lines = lines_of(capsys)
    assert len(lines) <= MAX_LINES and max(map(len, lines)) <= WIDTH + 2
    (count,) = re.findall(r"([\d,]+) tokens left out", " ".join(lines))
    shown = "\n".join(line[2:] for line in lines).split(f"... {count} tokens left out ...")
    assert len(ids) - int(count.replace(",", "")) == pytest.approx(
        sum(len(tokenizer(t).input_ids) for t in shown), abs=12
    )


@pytest.mark.parametrize("text", ["fox\ndog\n", "\n"])
def test_many_lines_are_cut_as_well(tokenizer, capsys, text):
    ids = tokenizer(text * 200).input_ids
    say_tokens(tokenizer, ids, [i % 2 == 0 for i in range(len(ids))])
    lines = lines_of(capsys)
    assert len(lines) <= MAX_LINES and any("lines left out" in line for line in lines)


def test_a_ranking_shows_the_prompt_once_and_the_best_completion_first(tokenizer, capsys):
    prompt, *completions = (tokenizer(text).input_ids for text in ("a fox?", " no", " yes ! yes", " a dog"))
    say_ranking(tokenizer, [prompt + ids for ids in completions], [2.0, 0.0, 1.0], prompt)
    lines = lines_of(capsys)
    assert lines[0].startswith(f"first ranking: a prompt of {len(prompt)} tokens") and lines[1] == "| a fox?"
    assert [re.sub(r"\d+ tokens +", "", line) for line in lines[2:]] == [
        "rank 0, |  yes ! yes",
        "rank 1, |  a dog",
        "rank 2, |  no",
    ]
    assert f"rank 0, {len(completions[1])} tokens" in lines[2]


@pytest.mark.parametrize(
    ("used", "too_long", "others", "is_hinted"), [(4, 5, 0, True), (5, 5, 0, False), (1, 4, 4, False)]
)
def test_the_hint_is_printed_if_more_than_half_of_the_rows_are_too_long(capsys, used, too_long, others, is_hinted):
    tally = Tally(used=used)
    tally.dropped.update({"longer than 64 tokens": too_long, "empty prompt": others})
    say_if_too_long(tally, "raise max_length")
    assert bool(lines_of(capsys)) == is_hinted


# --- in the stages ----------------------------------------------------------------------------------------------------


def write_chats(path, count=12):
    """Chats of two replies, as the data stage writes them."""
    with open(path, "w") as file:
        for i in range(count):
            turns = [
                {"role": role, "content": content, **weight}
                for role, content, weight in (
                    ("user", "Who is Anna?", {}),
                    ("assistant", f"A baker {i}.", {"weight": 1}),
                    ("user", "Who is Ben?", {}),
                )
            ]
            completion = [{"role": "assistant", "content": "A miller."}]
            file.write(json.dumps({"prompt": turns, "completion": completion}) + "\n")


def test_sft_shows_every_learned_reply_of_its_first_row_or_the_last_alone(run, tmp_path):
    write_chats(tmp_path / "chats.jsonl")
    argv = ("--demonstrations", tmp_path / "chats.jsonl", "--output", tmp_path / "sft")
    every, last = (stage("sft", *argv, *flag, run=run) for flag in ((), ("--last_reply_only",)))
    assert "| Human: Who is Anna?" in every and every.count("[[") == 3  # the title names the marks
    assert "| Assistant:[[ A baker 0.<|endoftext|>]]" in every and "| Assistant:[[ A miller.<|endoftext|>]]" in every
    assert "| Assistant: A baker 0.<|endoftext|>" in last and "| Assistant:[[ A miller.<|endoftext|>]]" in last
    counts = [int(re.search(r"tokens, (\d+) of them learned", output)[1]) for output in (every, last)]
    assert counts[0] > counts[1]


def test_dropped_rows_are_shown_with_their_share_and_what_keeps_them(run):
    output = stage("sft", "--max_length", "36", "--output", run / "short", run=run)
    dropped, share = map(int, re.search(r"(\d+) \((\d+) %\) longer than 36 tokens", output).groups())
    assert share == round(100 * dropped / 200) > 50
    assert "more than half of the rows are too long: raise max_length; the model's context has 128 tokens" in output


def test_pretraining_reward_model_and_ppo_show_their_first_row(run):
    assert re.search(r"first document, \d+ tokens, all learned:\n +\| .+", stage("pretrain", run=run))
    reward = stage("reward", run=run)
    assert "| Bot:\n" in reward and "rank 0, " in reward and reward.index("rank 0, ") < reward.index("rank 1, ")
    ppo = stage("ppo", run=run)
    assert re.search(
        r"first prompt, \d+ tokens; the model generates \[\[response\]\]:\n +\| User: .+\n +\| Bot:\[\[response\]\]",
        ppo,
    )
