"""The page of a report in a browser: it loads nothing, cuts nothing off, and sorts and filters."""

import re

import pytest

from tests.stages.web.test_display import CONTRASTS

# what is wider than its place and can't be scrolled to, or is drawn outside the window
CUT_OFF = """() => [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility()).filter((e) => {
  if (e.closest('.scroll, nav ul, select')) return false;
  const box = e.getBoundingClientRect();
  return box.right > innerWidth + 1 || box.left < -1 || (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline');
}).map((e) => e.outerHTML.slice(0, 120))"""
SIZES = {"phone": {"width": 400, "height": 800}, "desk": {"width": 1280, "height": 900}}


def shown(tab):
    """The numbers of the prompts that are visible, from top to bottom."""
    prompts = tab.locator(".prompt:visible .turn").all_inner_texts()
    return [int(re.search(r"\d+", text)[0]) for text in prompts]


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_cut_off(open_report, size):
    tab = open_report(viewport=SIZES[size])
    tab.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true })")
    assert tab.evaluate("document.documentElement.scrollWidth") == SIZES[size]["width"]
    assert tab.evaluate(CUT_OFF) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa_and_pictures_follow_the_scheme(open_report, scheme):
    tab = open_report(color_scheme=scheme)
    contrasts = tab.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert [entry for entry in contrasts if entry[0] < 4.5] == []
    light = tab.evaluate("[...document.images].map((i) => i.currentSrc === i.src)")
    dark = tab.evaluate("[...document.images].map((i) => i.currentSrc === i.previousElementSibling.srcset)")
    assert len(light) > 8
    assert (set(light), set(dark)) == ({scheme == "light"}, {scheme == "dark"})


def test_every_picture_loads_and_has_a_text(open_report):
    tab = open_report()
    tab.wait_for_function("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert tab.evaluate("[...document.images].every((i) => i.alt.length > 20)")


def test_worst_median_and_best_prompts_come_first(open_report):
    # prompt i gains i - 10: the worst are 0, 1, 2, the best 29, 28, 27
    assert shown(open_report()) == [0, 1, 2, 13, 14, 15, 29, 28, 27]


def test_all_prompts_are_behind_show_more(open_report):
    tab = open_report()
    tab.click("#rest > summary")
    assert sorted(shown(tab)) == list(range(30))


def test_sorting_by_gold_both_ways(open_report):
    tab = open_report()
    tab.select_option("#sort", "gold")
    assert shown(tab) == list(range(29, 9, -1))
    tab.click("#more")
    assert shown(tab) == list(range(29, -1, -1))
    tab.select_option("#order", "1")
    assert shown(tab) == list(range(20))
    tab.select_option("#sort", "")
    assert shown(tab) == [0, 1, 2, 13, 14, 15, 29, 28, 27]


def test_filters_by_task_and_by_text(open_report):
    tab = open_report()
    tab.select_option("#task", "fact")
    assert sorted(shown(tab)) == list(range(1, 30, 2))
    tab.fill("#text", "NUMBER 1")
    assert sorted(shown(tab)) == [1, 11, 13, 15, 17, 19]
    assert tab.inner_text("#count") == "6 of 30 prompts"
    tab.fill("#text", "no such text")
    assert shown(tab) == []
    tab.fill("#text", "")
    tab.select_option("#task", "")
    assert shown(tab) == [0, 1, 2, 13, 14, 15, 29, 28, 27]


def test_the_temperature_chooses_the_answers(open_report):
    tab = open_report()
    first = tab.locator(".prompt").first
    assert first.locator("h4:visible").all_inner_texts() == ["sft", "ppo", "best_of_n"]
    tab.select_option("#temperature", "0.0")
    assert first.locator("h4:visible").all_inner_texts() == ["sft", "ppo"]


def test_words_that_differ_from_the_sft_answer_are_marked_also_without_colour(open_report):
    tab = open_report()
    answer = tab.locator(".prompt:visible .answer.main:visible").nth(
        4
    )  # prompt 14: "The dog sat on the mat and slept ..."
    assert answer.locator("ins").all_inner_texts()[0] == "dog"
    assert answer.locator("ins").first.evaluate("(e) => getComputedStyle(e).textDecorationLine") == "underline"
    assert tab.locator(".answer:visible h4:text-is('sft') ~ .text ins").count() == 0


def test_a_hostile_answer_is_shown_and_does_nothing(open_report):
    tab = open_report()
    tab.wait_for_timeout(200)
    assert tab.title() == "toy: report"
    assert tab.locator("script").count() == 1
    text = tab.locator(".prompt .answer.main").first.inner_text()
    for part in (
        "<script>document.title",
        "</textarea></style>",
        "{{ 7 * 7 }}",
        "مرحبا",
        "漢字",
        "\\u202etxt",
        "\\x1b[2J",
    ):
        assert part in text


def test_printed_pages_have_the_light_colours_and_no_controls(open_report):
    tab = open_report(color_scheme="dark")
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.is_visible("#controls")
    assert not tab.is_visible("nav")
    assert tab.is_visible(".prompt >> nth=0")
    assert len(tab.pdf()) > 10_000


def test_without_a_script_every_prompt_can_be_reached(open_report):
    tab = open_report(java_script_enabled=False)
    assert not tab.is_visible("#controls")
    tab.click("#rest > summary")
    assert tab.locator(".prompt:visible").count() == 30
