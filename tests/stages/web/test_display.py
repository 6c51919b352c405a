"""What the page looks like, what a screen reader is told, and that nothing in an answer runs."""

import json
import time

import pytest

from tests.stages.web.browsing import decided, press, shows, spoken
from tests.stages.web.pages import Page, write_comparisons

HOSTILE = [
    "<script>document.title = 'run'</script>",
    "<img src=x onerror=\"document.title = 'run'\">",
    "</div><iframe src=javascript:parent.document.title='run'></iframe>{{ 7 * 7 }}${7 * 7}",
    "<svg onload=document.title='run'><a href='http://evil.example/'>here</a>\u202etxt.\x00",
]
CONTRASTS = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } };
  const shown = [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility({opacityProperty: true}) && !e.disabled
    && !e.closest(':disabled') && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && !e.classList.contains('hidden'));
  return shown.map((e) => { const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)]; });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(visit, scheme):
    tab = visit(color_scheme=scheme)
    press(tab, "1", "2", "=", "f", "n")
    contrasts = tab.evaluate(CONTRASTS)
    assert len(contrasts) > 15
    assert [entry for entry in contrasts if entry[0] < 4.5] == []
    page, text = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (sum(eval(page[3:])) < sum(eval(text[3:]))) == (scheme == "dark")


def test_a_screen_reader_is_told_what_the_cards_are_and_what_changes(visit):
    tab = visit()
    for line in (
        'listbox "Answers, best first"',
        'option "Card 1, not ranked: ',
        'toolbar "Actions"',
        'progressbar "Items decided"',
    ):
        assert line in spoken(tab)
    press(tab, "2")
    shows(tab, "#live", "Card 2: rank 1; 3 left.")
    assert tab.evaluate("document.activeElement.id") == "card-2"
    assert tab.evaluate(
        "[...document.querySelectorAll('button')].every((b) => b.getAttribute('aria-hidden') || b.textContent.trim())"
    )


def test_a_script_in_an_answer_is_shown_and_not_run(browser, tmp_path):
    page = Page(tmp_path, comparisons=write_comparisons(tmp_path, answers=HOSTILE))
    tab = browser.new_page()
    requests = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(f"{page.address}?name=%3Cimg%20src=x%20onerror=document.title='run'%3E")
    tab.wait_for_selector(".card, dialog[open]")
    if tab.locator("dialog[open]").count():
        tab.fill("#name", "<b>Eve</b>")
        press(tab, "Enter")
        tab.wait_for_selector(".card")
    press(tab, "1", "2", "3", "n")
    tab.keyboard.type("<img src=x onerror=document.title='run'>")
    press(tab, "Control+Enter")
    decided(tab, 1)
    time.sleep(0.2)
    assert tab.title() == "Rank answers"
    assert tab.locator("iframe, #cards img, #cards svg, #cards script, #cards a").count() == 0
    assert "<img src=x onerror" in tab.inner_text("#cards") and "{{ 7 * 7 }}" in tab.inner_text("#cards")
    assert all(url.startswith(page.address) for url in requests)
    tab.close()
    assert page.end() == 0
    assert json.loads(page.path.read_text().splitlines()[0])["completions"] == HOSTILE
