// The turns of the conversation: what was said, the answers side by side, and their thumbs.

import { element } from "./elements.js";

const THUMB = "M2 10h4v11H2zM8 21V10l4-8c2 0 3 1 2.5 3L13.5 9H20c1.5 0 2.3 1 2 2.5l-1.5 7.5c-.3 1.3-1.2 2-2.5 2z";
const SVG = "http://www.w3.org/2000/svg";
const KEPT = { true: "Kept as a comparison.", false: "Kept once there is another answer to compare: Retry." };
const ENDS = { cut: "… cut off", stopped: "(stopped)", finished: "" };

function thumb(name, turn, number, mark) {
  const button = element("button", `thumb ${name}`);
  button.type = "button";
  button.id = `${name}-${turn}-${number}`;
  Object.assign(button.dataset, { turn, answer: number, mark: name === "up" ? 1 : -1 });
  button.setAttribute("aria-label", `Thumbs ${name}`);
  button.setAttribute("aria-pressed", String(mark === Number(button.dataset.mark)));
  const icon = document.createElementNS(SVG, "svg");
  icon.setAttribute("viewBox", "0 0 24 24");
  icon.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", THUMB);
  icon.append(path);
  button.append(icon);
  return button;
}

// a card, and the place of its text
function card({ model, seed, temperature }, text = "") {
  const item = element("li", "answer");
  const head = element("div", "head");
  head.append(element("span", "name", model), element("span", "sampled", temperature ? `seed ${seed} · temperature ${temperature}` : "greedy"));
  const body = element("div", "text", text.trim());
  body.dir = "auto";
  item.append(head, body);
  return { item, body };
}

function answerCard(answer, turn, number, several) {
  const { item, body } = card(answer, answer.text);
  item.classList.toggle("kept", several && answer.kept);
  if (several && answer.kept) item.querySelector(".head").append(element("span", "hidden", "the conversation goes on with this one"));
  body.classList.toggle("empty", !answer.text.trim() && answer.end === "finished");
  if (ENDS[answer.end]) body.append(element("span", "cut", ENDS[answer.end]));
  if (answer.can_mark) {
    const thumbs = element("div", "thumbs");
    thumbs.setAttribute("role", "group");
    thumbs.setAttribute("aria-label", `Mark the answer of ${answer.model}, seed ${answer.seed}`);
    thumbs.append(thumb("up", turn, number, answer.mark), thumb("down", turn, number, answer.mark));
    item.append(thumbs);
  }
  return item;
}

function turnOf(message) {
  const item = element("li", "turn");
  const said = element("div", "said text", message);
  said.dir = "auto";
  const answers = element("ul", "answers");
  answers.setAttribute("aria-label", "Answers");
  item.append(element("span", "hidden", "You: "), said, answers);
  return item;
}

// what becomes of the marks of a turn
export const noteOf = (turn) => (turn.marked ? KEPT[turn.saved] : "");

export class Turns {
  constructor(list) {
    this.list = list;
    this.shown = []; // what each turn was made from
  }

  // shows the turns of the server; one that is as before stays as it is, with its focus
  show(turns) {
    const focused = document.activeElement?.id;
    turns.forEach((turn, index) => {
      const made = JSON.stringify(turn);
      if (this.shown[index] === made) return;
      const item = turnOf(turn.message);
      item.querySelector(".answers").append(...turn.answers.map((answer, number) => answerCard(answer, index, number, turn.answers.length > 1)));
      if (turn.marked) item.append(element("p", "note", noteOf(turn)));
      this.put(index, item);
      this.shown[index] = made;
    });
    while (this.list.children.length > turns.length) this.list.lastChild.remove();
    this.shown.length = turns.length;
    if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }

  put(index, item) {
    if (this.list.children[index]) this.list.children[index].replaceWith(item);
    else this.list.append(item);
  }

  ask(message) {
    this.shown[this.list.children.length] = null;
    this.list.append(turnOf(message));
  }

  // begins an answer to the last turn, which `piece` continues
  begin(settings) {
    const index = this.list.children.length - 1;
    this.shown[index] = null;
    const { item, body } = card(settings);
    item.classList.add("sampled-now");
    this.list.lastChild.querySelector(".answers").append(item);
    this.current = { item, body, name: settings.model };
  }

  piece(text) {
    const { body } = this.current;
    body.append(body.firstChild ? text : text.trimStart());
    if (body.lastChild?.data === "") body.lastChild.remove();
  }

  // ends it; its text for a screen reader
  end() {
    const { item, body, name } = this.current;
    item.classList.remove("sampled-now");
    return `${name}: ${body.textContent || "empty answer"}`;
  }
}
