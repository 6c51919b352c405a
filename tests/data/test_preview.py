"""Rows as text, and their statistics."""

from data.preview import Statistics, as_lines


def test_a_ranking_is_shown_best_first_with_the_borders_of_each_completion():
    row = {"prompt": "Q:\nA:", "completions": [" b", "a\nc", " d"], "ranks": [1, 0, 1]}
    assert as_lines(row) == [
        "prompt     | Q:", "           | A:", "rank 0     | [[a", "           | c]]", "rank 1     | [[ b]]", "rank 1     | [[ d]]",
    ]  # fmt: skip


def test_a_chat_is_shown_with_its_roles():
    row = {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello"}]}
    assert as_lines(row) == ["prompt     | user: Hi", "completion | [[assistant: Hello]]"]


def test_long_texts_are_cut_in_the_middle():
    (first, *_, last) = lines = as_lines({"text": "\n".join(map(str, range(100)))})
    assert len(lines) < 20 and first.endswith(" 0") and last.endswith(" 99")
    shown = [line for line in lines if line.split()[-1].isdigit()]
    assert sum(f"... {100 - len(shown)} lines ..." in line for line in lines) == 1
    assert len(as_lines({"text": "x" * 10_000})[0]) < 200


def test_statistics_are_those_of_all_rows():
    statistics = Statistics()
    rows = [
        {"prompt": "p" * i, "completions": ["a"] * k, "ranks": [0] * k}
        for i, k in zip(range(1, 102), [2, 5] * 51, strict=False)
    ]
    assert list(statistics.count(rows)) == rows
    text = str(statistics)
    assert text == "K 2 to 5; characters (median, 95 %, longest): prompt 51, 96, 101; completion 1, 1, 1"


def test_a_chat_is_shown_with_calls_thoughts_and_replies_that_are_not_learned():
    call = {"type": "function", "function": {"name": "w", "arguments": {"city": "Rom"}}}
    prompt = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo", "weight": 0}]
    reply = {"role": "assistant", "content": "", "reasoning_content": "why", "tool_calls": [call]}
    assert as_lines({"prompt": prompt, "completion": [reply]}) == [
        "prompt     | user: Hi",
        "           | assistant (not learned): Yo",
        "completion | [[assistant: ",
        "           |   thoughts: why",
        '           |   call: {"type": "function", "function": {"name": "w", "arguments": {"city": "Rom"}}}]]',
    ]
