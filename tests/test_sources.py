"""Files and hub data sets as their publishers wrote them, as rows of this project."""

import gzip
import json
from datetime import datetime

import pytest
from datasets import Dataset

from data.adapters import adapt
from data.sources import read_source
from rlhf.data import Tally, checked, read_rows
from rlhf.errors import InputError
from stages.cli import write_rows
from stages.data import Options, _prompts_of, split

USER, BOT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}


def rows_of(path, sample_by="paragraph"):
    return list(read_source(str(path), None, sample_by))


def adapted(raw, kind):
    tally = Tally()
    return adapt(raw, kind, tally), dict(tally.dropped)


# --- training and test ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same", [True, False], ids=["all kinds share their prompts", "half of them"])
def test_a_prompt_of_the_test_is_in_no_kinds_training(same):
    def of(kind, count, start=0):
        return [{"prompt": f"{i}", kind: "x"} for i in range(start, start + count) for _ in range(2)]

    rows = {
        "demonstrations": of("completion", 40),
        "comparisons": of("ranks", 40, 0 if same else 20),
        "prompts": of("answer", 30, 0 if same else 10),
        "text": [{"text": f"document {i}"} for i in range(30)],
    }
    found = split(rows, Options(test_share=0.2))
    trained, tested = (
        {row["prompt"] for kind in rows if kind != "text" for row in found[kind + ending]} for ending in ("", "_test")
    )
    assert not trained & tested
    for kind, given in rows.items():
        together = [*found[kind], *found[f"{kind}_test"]]
        assert sorted(map(str, together)) == sorted(map(str, given))
        share = len(found[f"{kind}_test"]) / len(given)
        assert share == pytest.approx(0.2, abs=0.04) if same or kind == "text" else 0.2 <= share < 0.5


def test_a_few_rows_leave_one_for_the_test_and_no_more_are_kept_than_wished():
    rows = {"prompts": [{"prompt": f"{i}"} for i in range(5)], "text": [{"text": f"{i}"} for i in range(4)]}
    found = split(rows, Options())
    assert {kind: len(some) for kind, some in found.items()} == {
        "prompts": 4, "prompts_test": 1, "text": 4, "text_test": 0
    }  # fmt: skip
    alone = {
        "demonstrations": [{"prompt": "0", "completion": "x"}] * 9,
        "prompts": [{"prompt": f"{i}"} for i in range(5)],
    }
    with pytest.raises(InputError, match="all demonstrations have a prompt that is kept for the test"):
        for seed in range(40):
            split(alone, Options(seed=seed))
    many = {"prompts": [{"prompt": f"{i}"} for i in range(100)]}
    assert len(split(many, Options(test_rows=5))["prompts_test"]) == 5
    assert len(split(many, Options(test_share=0.0))["prompts_test"]) == 0


def test_prompts_that_are_not_named_are_those_of_the_rest_with_what_is_known_of_them():
    rows = {
        "demonstrations": [{"prompt": "2 + 3", "completion": "5", "answers": ["5", "five"]}],
        "comparisons": [
            {"prompt": "2 + 3", "completions": ["5", "6"], "ranks": [0, 1], "quality": [1, 0]},
            {"prompt": "1 + 1", "completions": ["2", "3"], "ranks": [0, 1], "answer": 2},
        ],
    }
    assert _prompts_of(rows, "") == [{"prompt": "2 + 3", "answers": ["5", "five"]}, {"prompt": "1 + 1", "answer": 2}]


# --- files ------------------------------------------------------------------------------------------------------------


def test_rows_come_from_every_format_alike(tmp_path):
    rows = [{"prompt": "a", "completion": "é"}, {"prompt": "b", "completion": "d"}]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "lines.json").write_text(lines, encoding="utf-8")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "d.csv").write_text("prompt,completion\na,é\nb,d\n", encoding="utf-8")
    (tmp_path / "e.tsv").write_text("prompt\tcompletion\na\té\nb\td\n", encoding="utf-8")
    Dataset.from_list(rows).to_parquet(tmp_path / "f.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert [row for _, row in rows_of(path)] == rows, path.name


def test_text_is_cut_into_lines_paragraphs_or_left_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("One\ntwo.\n\n\nThree.\n", encoding="utf-8")
    assert [row["text"] for _, row in rows_of(path, "line")] == ["One", "two.", "Three."]
    assert [row["text"] for _, row in rows_of(path, "paragraph")] == ["One\ntwo.", "Three."]
    assert [row["text"] for _, row in rows_of(path, "document")] == ["One\ntwo.\n\n\nThree."]


def test_a_long_text_without_blank_lines_is_not_one_paragraph(tmp_path):
    path = tmp_path / "speeches.txt"
    speeches = ["word " * 1000 + str(i) for i in range(5)]
    path.write_text("Short\nlines.\n\n" + "\n".join(speeches))
    assert [row["text"] for _, row in rows_of(path)] == ["Short\nlines.", *speeches]
    assert len(rows_of(path, "document")) == 1


def test_a_pattern_names_all_files_it_matches_in_order(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert [row["text"] for _, row in read_source("*.txt", str(tmp_path), "line")] == ["a", "b"]


def test_a_row_knows_where_it_stands(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    assert [where for where, _ in rows_of(path)] == [f"{path}:1", f"{path}:3"]


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("a.json", b'[{"a": 1},', "not JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a"\n', r"a\.jsonl:2"),
        ("a.txt", b"good\n\xff\xfe bad\n", r"a\.txt:2: .*UTF-8"),
        ("a.parquet", b"no parquet", "can't load"),
    ],
)
def test_a_file_that_can_not_be_read_is_refused_by_name_and_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        rows_of(tmp_path / name)


def test_a_file_that_is_not_there_and_a_hub_id_that_can_not_be_reached_are_refused(tmp_path):
    with pytest.raises(InputError, match="no file at"):
        list(read_source("missing.jsonl", str(tmp_path), "line"))
    with pytest.raises(InputError, match="datasets can't load it"):
        list(read_source("nobody/nothing:test", None, "line"))


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_bare_strings_are_prompts_or_text():
    assert adapted("Why?", "prompts") == ([{"prompt": [{"role": "user", "content": "Why?"}]}], {})
    assert adapted("Once.", "text") == ([{"text": "Once."}], {})


def test_alpaca_and_self_instruct_rows_are_demonstrations():
    raw = {"instruction": "Add.", "input": "1 and 2", "output": "3", "history": [["Hi", "Hello!"]]}
    asked = {"role": "user", "content": "Add.\n\n1 and 2"}
    assert adapted(raw, "demonstrations")[0] == [{"prompt": [USER, BOT, asked], "completion": "3"}]
    raw = {"instruction": "Name one.", "instances": [{"input": "", "output": "A"}, {"input": "tree", "output": "Oak"}]}
    first, second = adapted(raw, "demonstrations")[0]
    assert first == {"prompt": [{"role": "user", "content": "Name one."}], "completion": "A"}
    assert second["prompt"][0]["content"] == "Name one.\n\ntree"


def test_dolly_rows_are_demonstrations():
    raw = {"instruction": "Name one.", "context": "tree, fox", "response": "A tree.", "category": "qa"}
    (row,), _ = adapted(raw, "demonstrations")
    asked = [{"role": "user", "content": "Name one.\n\ntree, fox"}]
    assert row == {"prompt": asked, "completion": "A tree.", "category": "qa"}


def test_a_list_of_outputs_is_a_ranking_best_first():
    (row,), _ = adapted({"instruction": "Hi", "input": "", "output": ["good", "bad"]}, "comparisons")
    assert row == {"prompt": [USER], "completions": ["good", "bad"], "ranks": [0, 1]}


def test_a_chat_becomes_its_last_reply_and_what_came_before():
    wanted = [{"prompt": [USER], "completion": [BOT]}]
    assert adapted({"messages": [USER, BOT]}, "demonstrations")[0] == wanted
    sharegpt = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}
    assert adapted(sharegpt, "demonstrations")[0] == wanted
    rows, dropped = adapted({"messages": [USER]}, "demonstrations")
    assert rows == [] and sum(dropped.values()) == 1
    assert adapted({"messages": [USER]}, "prompts")[0] == [{"prompt": [USER]}]
    assert adapted({"messages": [{"role": "system", "content": "Be kind."}]}, "prompts")[0] == []


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "completions": ["c", "b"], "ranks": [1, 0]},
        {"instruction": "a", "output": "b"},
        {"messages": [USER, BOT]},
    ],
)
def test_further_columns_are_kept_whatever_the_shape(raw):
    (row,), _ = adapted({**raw, "answer": 7}, "demonstrations")
    assert row.keys() == {"prompt", "completion", "answer"} and row["answer"] == 7


@pytest.mark.parametrize("raw", [{"instruction": "a", "output": "b"}, {"messages": [USER, BOT]}])
def test_what_else_claims_to_be_the_answer_is_not_kept(raw):
    (row,), _ = adapted({**raw, "chosen": "x", "rejected": "y", "completions": ["x"], "ranks": [0]}, "demonstrations")
    assert row.keys() == {"prompt", "completion"} and "x" not in row["completion"]


def test_an_instruction_without_output_lacks_a_completion():
    (row,), _ = adapted({"instruction": "a", "reply": "b"}, "demonstrations")
    with pytest.raises(InputError, match='no "completion"; the row has reply, prompt'):
        list(checked([("f:1", row)], "demonstrations", Tally()))


def test_whatever_a_further_column_holds_can_be_written_and_read_again(tmp_path):
    row = {"prompt": "a", "cut": "x\ud83d", "when": datetime(2026, 11, 26), "no number": float("nan"), "你": "好"}
    write_rows(tmp_path / "a.jsonl", [row])
    (again,) = read_rows(tmp_path / "a.jsonl", "prompts")
    assert again["cut"] == row["cut"] and again["when"] == "2026-11-26 00:00:00" and again["你"] == "好"
    assert "你" in (tmp_path / "a.jsonl").read_text(encoding="utf-8")


def test_the_prompt_of_two_transcripts_is_what_they_share():
    start = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Who?\n\nAssistant:"
    (row,), _ = adapted({"chosen": f"{start} I am.", "rejected": f"{start} Nobody."}, "comparisons")
    assert row["prompt"] == [USER, BOT, {"role": "user", "content": "Who?"}]
    assert (row["completions"], row["ranks"]) == (["I am.", "Nobody."], [0, 1])


def test_a_ranking_among_the_demonstrations_demonstrates_its_best_completion():
    ranking = {"prompt": "a", "completions": ["bad", "good"], "ranks": [1, 0]}
    wanted = [{"prompt": "a", "completion": "good"}]
    assert adapted(ranking, "demonstrations")[0] == wanted
    assert adapted({"prompt": "a", "chosen": "good", "rejected": "bad"}, "demonstrations")[0] == wanted
    (row,), _ = adapted(
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes.", "rejected": "\n\nHuman: Hi\n\nAssistant: No."}, "demonstrations"
    )
    assert row == {"prompt": [USER], "completion": "Yes."}


def test_transcripts_of_different_conversations_are_dropped_and_counted():
    rows, dropped = adapted(
        {"chosen": "\n\nHuman: A\n\nAssistant: B", "rejected": "\n\nHuman: C\n\nAssistant: D"}, "comparisons"
    )
    assert rows == [] and dropped == {"transcripts of different conversations": 1}


def test_texts_that_begin_alike_are_parted_at_a_space():
    (row,), _ = adapted({"chosen": "Q: Who? A: Anna", "rejected": "Q: Who? A: Andy"}, "comparisons")
    assert row["prompt"] == "Q: Who? A:"
    assert row["completions"] == [" Anna", " Andy"]


@pytest.mark.parametrize(
    "raw",
    [
        {"messages": "hello"},
        {"messages": ["hello"]},
        {"conversations": [1]},
        {"instruction": 1, "input": 2, "output": "a"},
        {"instruction": "a", "instances": [3]},
        {"instruction": "a", "output": "b", "history": [1]},
        {"chosen": [USER, "x"], "rejected": [USER, BOT]},
        {"prompt": "a", "completions": 3, "ranks": 4},
    ],
)
def test_a_row_of_the_wrong_type_is_refused_with_its_place(raw):
    with pytest.raises(InputError, match="f.jsonl:7"):
        rows = adapt(raw, "demonstrations", Tally(), "f.jsonl:7")
        list(checked([("f.jsonl:7", row) for row in rows], "demonstrations", Tally()))


def test_rows_of_trl_pass_unchanged():
    for kind, row in {
        "prompts": {"prompt": "a"},
        "demonstrations": {"prompt": "a", "completion": "b"},
        "comparisons": {"prompt": "a", "chosen": "b", "rejected": "c"},
        "text": {"text": "a"},
    }.items():
        assert adapted(row, kind) == ([row], {})


# --- real files -------------------------------------------------------------------------------------------------------

REAL = {
    "text": ["text/tinyshakespeare.txt", "text/sotu_1790_2021.txt"],
    "demonstrations": ["demonstrations/*.jsonl", "demonstrations/*.json"],
    "comparisons": [
        "comparisons/hh_harmless.jsonl.gz",
        "comparisons/oasst_en_rankings.jsonl",
        "comparisons/oasst_rm_zh.json",
    ],
    "prompts": ["prompts/oasst_250.jsonl"],
}


@pytest.mark.parametrize("kind", list(REAL))
def test_every_row_of_real_files_is_used_or_counted_with_its_reason(shared, kind):
    for source in REAL[kind]:
        tally, made = Tally(), 0
        raw = list(read_source(source, str(shared), "paragraph"))
        pairs = []
        for where, value in raw:
            before = sum(tally.dropped.values())
            rows = adapt(value, kind, tally)
            assert rows or sum(tally.dropped.values()) == before + 1, where
            pairs += [(where, row) for row in rows]
            made += len(rows)
        used = list(checked(pairs, kind, tally))
        assert len(used) == tally.used
        assert tally.used + sum(tally.dropped.values()) >= len(raw)
        assert tally.used > 0.9 * len(raw), tally


def test_a_hub_data_set_is_named_with_its_configuration_and_split(monkeypatch):
    """No hub here: what would be asked of it."""
    import data.sources

    asked = []
    monkeypatch.setattr(
        data.sources.datasets, "load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or [{"text": "a"}]
    )
    for name in ("owner/name", "owner/name:test[:5]", "owner/name/main:train"):
        assert [row for _, row in read_source(name, "some/folder", "line")] == [{"text": "a"}]
    assert asked == [
        (("owner/name",), {"split": "train"}),
        (("owner/name",), {"split": "test[:5]"}),
        (("owner/name", "main"), {"split": "train"}),
    ]


def test_what_a_row_says_is_never_run(tmp_path):
    """Words that mean something to Python, YAML, Jinja, a shell, a spreadsheet or pickle come out of every reader as words."""
    ran = tmp_path / "ran"
    nasty = [
        f"__import__('os').mkdir('{ran}')", f"!!python/object/apply:os.mkdir ['{ran}']", f"$(mkdir {ran}); `mkdir {ran}`",
        f"{{{{ cycler.__init__.__globals__.os.mkdir('{ran}') }}}}", f"=cmd|' mkdir {ran}'!A1", f"cos\nmkdir\n(V{ran}\ntR.",
        "../../../etc/passwd", "<|endoftext|>", "%s%n{0.__class__}",
    ]  # fmt: skip
    rows = [{"prompt": words, "completion": words} for words in nasty]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    Dataset.from_list(rows).to_csv(tmp_path / "d.csv", index=False)
    Dataset.from_list(rows).to_parquet(tmp_path / "e.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert [row for _, row in rows_of(path)] == rows, path.name
        for row in rows:
            (made,) = checked([("row", r) for r in adapt(row, "demonstrations", Tally())], "demonstrations", Tally())
            assert made == row
    (tmp_path / "f.txt").write_text("\n\n".join(words for words in nasty if "\n" not in words))
    assert [row["text"] for _, row in rows_of(tmp_path / "f.txt")] == [words for words in nasty if "\n" not in words]
    assert not ran.exists()
