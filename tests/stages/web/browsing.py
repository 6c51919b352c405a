"""A browser, what a person does on the page, and what a test waits for."""

import shutil

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def chromium():
    """The path of Chromium; None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def press(tab, *keys):
    for key in keys:
        tab.keyboard.press(key)


def number_of(tab, text):
    """The key of the card with this text."""
    card = tab.locator(".card", has_text=text)
    return card.locator(".number").inner_text()


def prompt(tab):
    return tab.inner_text("#prompt")


def shows(tab, selector, text):
    """Waits until an element contains a text."""
    from playwright.sync_api import expect

    expect(tab.locator(selector)).to_contain_text(text, timeout=15_000)


def spoken(tab):
    """The page as a screen reader gets it."""
    return tab.locator("body").aria_snapshot()


def decided(tab, count):
    """Waits until the page tells that it has saved this number of rankings."""
    shows(tab, "#counts", f"{count} ranked")


def ranks_by_text(row):
    return dict(zip(row["completions"], row["ranks"], strict=True))


def drag(tab, text, target, at):
    """Drags the card with this text by the mouse to a share of the height of another element."""
    drag_card(tab, tab.locator(".card", has_text=text), target, at)


def drag_card(tab, card, target, at):
    """Drags a card by the mouse to a share of the height of another element."""
    start, end = card.bounding_box(), tab.locator(target).bounding_box()
    tab.mouse.move(start["x"] + 200, start["y"] + start["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(end["x"] + 200, end["y"] + end["height"] * at, steps=4)
    tab.mouse.up()
