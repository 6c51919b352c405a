// The cards: their order, ties, focus, and how they are dragged.

import { element, showParts } from "./elements.js";

const DRAG_STARTS = 6; // pixels that the pointer moves before a press becomes a drag
const GAP = 8; // pixels between two cards
const EDGE = 60; // pixels from the edge of the window where dragging scrolls

export class Cards {
  // `changed` is called after each change, `say` with what a screen reader announces
  constructor(list, changed, say) {
    // `history` has what undo brings back: an order, or a function that does it
    Object.assign(this, { list, changed, say, elements: [], history: [] });
    this.next = element("li", "next");
    this.next.setAttribute("role", "presentation");
    list.addEventListener("pointerdown", (event) => this.press(event));
    list.addEventListener("click", (event) => this.click(event));
    // otherwise the browser takes a fast drag for a fling, and ignores the next tap
    list.addEventListener("touchmove", (event) => event.target.closest(".handle") && event.preventDefault(), { passive: false });
    list.addEventListener("focusin", (event) => {
      const index = this.elements.indexOf(event.target);
      if (index >= 0) this.focusOn(index, false);
    });
  }

  // `ranks` of an earlier decision, or null
  load(cards, ranks) {
    this.order = cards.map((_, index) => index);
    this.placed = 0;
    this.tied = new Set(); // cards with the same rank as the one above
    this.focused = 0;
    this.history = [];
    if (ranks) {
      this.order.sort((a, b) => ranks[a] - ranks[b] || a - b);
      this.placed = cards.length;
      this.order.forEach((card, i) => i && ranks[card] === ranks[this.order[i - 1]] && this.tied.add(card));
    }
    this.elements = cards.map((card, index) => this.build(card, index));
    this.list.replaceChildren();
    this.render();
  }

  build(card, index) {
    const item = element("li", "card");
    item.setAttribute("role", "option");
    item.id = `card-${index + 1}`;
    const body = element("div", "body");
    showParts(body, card.parts);
    if (!card.ended) body.lastChild.lastChild.append(element("span", "cut", "… cut off"));
    const tie = element("button", "tie", "=");
    Object.assign(tie, { type: "button", tabIndex: -1, title: "Tie with the card above (=)" });
    tie.setAttribute("aria-hidden", "true");
    const handle = element("span", "handle");
    handle.setAttribute("aria-hidden", "true");
    const rank = element("span", "rank");
    rank.setAttribute("aria-hidden", "true");
    item.append(tie, rank, element("span", "hidden state"), element("kbd", "number", `${index + 1}`), body, handle);
    item.querySelector(".number").setAttribute("aria-hidden", "true");
    return item;
  }

  // --- the order ---

  get complete() {
    return this.placed === this.order.length;
  }

  get missing() {
    return this.order.length - this.placed;
  }

  // the rank of each card; cards without one share the last
  ranks() {
    const result = [];
    let rank = -1;
    this.order.forEach((card, i) => {
      if (i <= this.placed && !(i < this.placed && this.tied.has(card))) rank += 1;
      result[card] = rank;
    });
    return result;
  }

  change(action) {
    const before = { order: [...this.order], placed: this.placed, tied: new Set(this.tied), focused: this.focused };
    action();
    if (this.missing === 1) this.placed += 1; // the last one ranks itself
    this.order.forEach((card, i) => (i === 0 || i >= this.placed) && this.tied.delete(card));
    const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);
    if (same(before.order, this.order) && before.placed === this.placed && same([...before.tied], [...this.tied])) {
      this.render();
      return false;
    }
    this.history.push(before);
    this.render();
    this.changed();
    return true;
  }

  undo() {
    const before = this.history.pop();
    if (!before) return false;
    if (typeof before === "function") before(); // of the page: a mark
    else Object.assign(this, before);
    this.render();
    this.changed();
    this.say("Undone.");
    return true;
  }

  clear() {
    this.change(() => Object.assign(this, { placed: 0, tied: new Set() }));
    this.say("No card is ranked.");
  }

  // ranks a card next; a ranked one goes back, unless all are ranked: then the order begins anew with it
  place(card) {
    if (card >= this.order.length) return;
    this.change(() => {
      const ranked = this.order.indexOf(card) < this.placed;
      if (ranked && this.complete) Object.assign(this, { placed: 0, tied: new Set() });
      else if (ranked) {
        this.order.splice(this.order.indexOf(card), 1);
        this.placed -= 1;
        this.order.splice(this.placed, 0, card);
        this.focused = card;
        return;
      }
      this.order.splice(this.order.indexOf(card), 1);
      this.order.splice(this.placed, 0, card);
      this.placed += 1;
      this.focused = card;
    });
    this.focusOn(card);
    this.announce(card);
  }

  move(card, step) {
    const from = this.order.indexOf(card);
    this.change(() => {
      this.tied.delete(card);
      if (from >= this.placed) {
        if (step > 0) return;
        this.order.splice(from, 1);
        this.order.splice(this.placed, 0, card);
        this.placed += 1;
      } else if (from === this.placed - 1 && step > 0) {
        if (!this.complete) this.placed -= 1;
      } else if (from + step >= 0) {
        this.order.splice(from, 1);
        this.order.splice(from + step, 0, card);
      }
    });
    this.focusOn(card);
    this.announce(card);
  }

  // puts a card at a position of the order; `ranked` tells on which side of the box for the next card
  put(card, position, ranked) {
    this.change(() => {
      const from = this.order.indexOf(card);
      this.tied.delete(card);
      this.order.splice(from, 1);
      if (from < this.placed) this.placed -= 1;
      this.order.splice(position, 0, card);
      if (ranked) this.placed += 1;
    });
    this.focusOn(card);
    this.announce(card);
  }

  tie(card = this.focused) {
    let i = this.order.indexOf(card);
    if (i === 0) i = 1;
    const lower = this.order[i];
    if (i >= this.placed) {
      this.say("Rank the card first.");
      return;
    }
    this.change(() => {
      if (!this.tied.delete(lower)) this.tied.add(lower);
    });
    this.announce(lower);
  }

  announce(card) {
    const i = this.order.indexOf(card);
    const state = i < this.placed ? `rank ${this.ranks()[card] + 1}${this.tied.has(card) ? ", tied" : ""}` : "not ranked";
    const left = this.missing ? `${this.missing} left` : "all ranked, Enter confirms";
    this.say(`Card ${card + 1}: ${state}; ${left}.`);
  }

  // --- what is shown ---

  render() {
    const before = new Map(this.elements.map((item) => [item, item.isConnected ? item.getBoundingClientRect().top : null]));
    this.list.classList.remove("sorting");
    for (const item of [...this.elements, this.next]) {
      item.style.transform = "";
      item.classList.remove("dragging", "drop-here");
    }
    const ranks = this.ranks();
    const items = this.order.map((card) => this.elements[card]);
    if (this.missing) items.splice(this.placed, 0, this.next);
    else this.next.remove();
    const active = document.activeElement;
    items.forEach((item, i) => this.list.children[i] !== item && this.list.insertBefore(item, this.list.children[i] ?? null));
    if (active !== document.activeElement && this.elements.includes(active)) active.focus({ preventScroll: true });
    this.next.textContent = this.placed
      ? `Rank ${ranks[this.order[this.placed]] + 1}: tap a card, or press its number`
      : "Best answer: tap a card, press its number, or drag it here";
    this.order.forEach((card, i) => {
      const item = this.elements[card];
      const ranked = i < this.placed;
      item.classList.toggle("ranked", ranked);
      item.classList.toggle("tied", this.tied.has(card));
      item.classList.toggle("first", i === 0);
      item.querySelector(".rank").textContent = ranked ? ranks[card] + 1 : "";
      item.querySelector(".state").textContent =
        `Card ${card + 1}, ${ranked ? `rank ${ranks[card] + 1}` : "not ranked"}${this.tied.has(card) ? ", tied" : ""}: `;
      item.tabIndex = card === this.focused ? 0 : -1;
      item.setAttribute("aria-selected", String(card === this.focused));
      this.slide(item, before.get(item));
    });
  }

  slide(item, before) {
    const distance = before === null ? 0 : before - item.getBoundingClientRect().top;
    if (!distance || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    item.animate([{ transform: `translateY(${distance}px)` }, { transform: "none" }], { duration: 140, easing: "ease-out" });
  }

  focusOn(card, move = true) {
    this.focused = card;
    this.elements.forEach((item, i) => {
      item.tabIndex = i === card ? 0 : -1;
      item.setAttribute("aria-selected", String(i === card));
    });
    if (move) this.elements[card].focus({ preventScroll: false });
  }

  // moves the focus by a number of places, from outside the list to its first card
  step(count) {
    const inside = this.list.contains(document.activeElement);
    const i = inside ? this.order.indexOf(this.focused) + count : count > 0 ? 0 : this.order.length - 1;
    this.focusOn(this.order[Math.max(0, Math.min(this.order.length - 1, i))]);
  }

  // --- mouse, pen and finger ---

  click(event) {
    const item = event.target.closest(".card");
    if (!item || this.dragged) return;
    const card = this.elements.indexOf(item);
    if (event.target.closest(".tie")) this.tie(card);
    else if (this.order.indexOf(card) >= this.placed) this.place(card);
    else this.focusOn(card);
  }

  press(event) {
    const item = event.target.closest(".card");
    this.dragged = false;
    // a finger scrolls the page, unless it is on the handle
    if (!item || event.button || event.target.closest(".tie")) return;
    if (event.pointerType === "touch" && !event.target.closest(".handle")) return;
    const start = event.clientY + scrollY;
    let y = event.clientY;
    let scrolling = 0;
    const follow = () => {
      item.style.transform = `translateY(${y + scrollY - start}px)`;
      this.makeRoom(y + scrollY, item);
    };
    const scroll = () => {
      const speed = y < EDGE ? y - EDGE : y > innerHeight - EDGE - 60 ? y - innerHeight + EDGE + 60 : 0;
      if (speed) scrollBy(0, speed / 5);
      follow();
      scrolling = requestAnimationFrame(scroll);
    };
    const move = (moved) => {
      y = moved.clientY;
      if (this.dragged || Math.abs(y + scrollY - start) <= DRAG_STARTS) return;
      this.dragged = true;
      item.setPointerCapture(event.pointerId);
      item.classList.add("dragging");
      this.layout = [...this.list.children].map((child) => {
        const { top, bottom } = child.getBoundingClientRect();
        return { item: child, top: top + scrollY, bottom: bottom + scrollY };
      });
      this.list.classList.add("sorting");
      scroll();
    };
    const end = (ended) => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", end);
      removeEventListener("pointercancel", end);
      if (!this.dragged) return;
      cancelAnimationFrame(scrolling);
      const place = this.placeAt(ended.clientY + scrollY, item);
      if (ended.type === "pointerup") this.put(this.elements.indexOf(item), place.position, place.ranked);
      else this.render();
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", end);
    addEventListener("pointercancel", end);
  }

  // where a card would go that is dropped at a height of the page, by the layout before the drag
  placeAt(y, dragged) {
    const others = this.layout.filter(({ item }) => item !== dragged);
    let index = others.findIndex(({ item, top, bottom }) => y < (item === this.next ? bottom : (top + bottom) / 2));
    if (index < 0) index = others.length;
    const box = others.findIndex(({ item }) => item === this.next);
    const ranked = box < 0 || index <= box;
    return { index, ranked, position: ranked ? index : index - 1 };
  }

  // moves the other cards aside, so that there is a gap where the card would go
  makeRoom(y, dragged) {
    const { index, ranked } = this.placeAt(y, dragged);
    const from = this.layout.findIndex(({ item }) => item === dragged);
    const height = this.layout[from].bottom - this.layout[from].top + GAP;
    this.layout.filter(({ item }) => item !== dragged).forEach(({ item }, i) => {
      const shift = (i >= index) - (i >= from);
      item.style.transform = shift ? `translateY(${shift * height}px)` : "";
    });
    this.next.classList.toggle("drop-here", ranked);
  }
}
