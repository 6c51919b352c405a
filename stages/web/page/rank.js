// The page: which item is shown, what the keys and buttons do, and what is sent.

import { Cards } from "./cards.js";
import { announcer, showParts } from "./elements.js";
import { Refusal, decide, newId, pending, send } from "./server.js";

const NO_ITEM = "there is no such item";
const POLL = 700; // milliseconds, while answers are sampled
const $ = (id) => document.getElementById(id);
const state = { name: "", item: null, allBad: false, flag: false, busy: false, since: 0, spent: 0, poll: 0 };

const say = announcer($("live"));
const cards = new Cards($("cards"), touched, say);

function failed(problem) {
  const waiting = problem && pending(state.name) ? " Your ranking is not saved yet." : "";
  $("banner").textContent = problem ? `${problem}${waiting} Trying again …` : "";
  $("banner").hidden = !problem;
}

// --- the name -------------------------------------------------------------------------------------------------------

function askName() {
  clearTimeout(state.poll);
  $("name").value = state.name || localStorage.getItem("name") || "";
  $("ask-name").showModal();
  $("name").select();
}

async function start(name) {
  const answer = await send("next", { rater: name }, failed);
  state.name = name;
  localStorage.setItem("name", name);
  const address = new URL(location.href);
  address.searchParams.set("name", name);
  history.replaceState(null, "", address);
  $("person").textContent = name;
  $("person").hidden = false;
  $("ask-name").close();
  const unsent = pending(name);
  show(unsent ? await decide(unsent, failed).catch(() => answer) : answer);
}

$("name-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await start($("name").value.trim().replace(/\s+/g, " "));
  } catch (error) {
    $("name-error").textContent = error.message;
  }
});
$("ask-name").addEventListener("cancel", (event) => state.name || event.preventDefault());
$("ask-name").addEventListener("close", () => state.name && !state.item && poll());
$("person").addEventListener("click", askName);

// --- what is shown --------------------------------------------------------------------------------------------------

function show(turn) {
  clearTimeout(state.poll);
  showProgress(turn.progress);
  const isItem = turn.state === "item";
  state.item = isItem ? turn.item : null;
  $("item").hidden = $("actions").hidden = !isItem;
  $("message").hidden = isItem;
  if (isItem) showItem(turn);
  else showMessage(turn);
  if (turn.state === "done") $("session").open = true;
  if (turn.progress.people > 1 || $("session").open) showNumbers();
}

function showItem({ item, earlier }) {
  showParts($("prompt"), item.prompt);
  const decision = item.decision;
  state.allBad = decision?.all_bad ?? false;
  state.flag = decision?.flag ?? false;
  $("note").value = decision?.note ?? "";
  showNote(Boolean(decision?.note));
  $("changing").hidden = !decision;
  $("back").disabled = !earlier;
  state.earlier = earlier;
  state.since = performance.now();
  state.spent = 0;
  cards.load(item.cards, decision?.ranks);
  touched();
  scrollTo(0, 0);
  $("prompt").focus({ preventScroll: true });
  say(decision ? "An item that you decided before." : `New item, ${item.cards.length} answers.`);
}

function showMessage({ state: kind, message, progress }) {
  const texts = {
    waiting: ["Sampling answers …", "The model is being loaded, or is answering. The page goes on by itself."],
    done: ["All done. Thank you!", "Everything is saved. Ctrl-C in the terminal ends the server, writes the files for training and prints a summary."],
    error: ["No answers can be sampled", `${message} The rankings so far are saved.`],
  };
  const [heading, text] = texts[kind];
  const parts = [document.createElement("h2"), document.createElement("p")];
  parts[0].textContent = heading;
  parts[1].textContent = text;
  if (kind === "done" && progress.done + progress.skipped) {
    const back = document.createElement("button");
    Object.assign(back, { type: "button", textContent: "Back to the last item" });
    back.addEventListener("click", goBack);
    parts.push(back);
  }
  if ($("message").dataset.kind !== kind || kind !== "waiting") {
    $("message").dataset.kind = kind;
    $("message").replaceChildren(...parts);
    $("message").focus();
    say(heading);
  }
  if (kind === "waiting") state.poll = setTimeout(poll, POLL);
}

async function poll() {
  if (!state.item && !$("ask-name").open) show(await send("next", { rater: state.name }, failed));
}

function showProgress({ done, skipped, left, seconds, people }) {
  const decided = done + skipped;
  $("bar").value = decided + left ? decided / (decided + left) : 0;
  const each = seconds === null ? "" : ` · ${Math.round(seconds)} s each`;
  $("counts").textContent = `${done} ranked${skipped ? ` · ${skipped} skipped` : ""} · ${left} left${each}`;
  $("seconds").textContent = seconds === null ? "none yet" : `${seconds.toFixed(1)} s (median of yours)`;
  $("people").textContent = people || 1;
}

async function showNumbers() {
  const numbers = await send("numbers", {}, () => {});
  for (const [id, value, text] of [
    ["agreement", numbers.agreement, "of the pairs that several people ranked"],
    ["win-rate", numbers.win_rate, "of the last model over the first, a tie counts half"],
  ]) {
    $(id).hidden = $(`${id}-name`).hidden = value === null;
    $(id).textContent = `${value}, 95 % interval, ${text}`;
  }
}

// --- what a person does ---------------------------------------------------------------------------------------------

function touched() {
  $("all-bad").setAttribute("aria-pressed", String(state.allBad));
  $("flag").setAttribute("aria-pressed", String(state.flag));
  $("undo").disabled = !cards.history.length && !state.earlier;
  $("confirm").setAttribute("aria-disabled", String(!isReady()));
}

const isReady = () => cards.complete || state.allBad || state.flag;

function confirm() {
  if (!isReady()) {
    say(`${cards.missing} cards have no rank yet: press their numbers.`);
    cards.next.animate?.([{ opacity: 1 }, { opacity: 0.3 }, { opacity: 1 }], 350);
    return;
  }
  const unranked = state.flag && !state.allBad && !cards.complete;
  submit(unranked ? null : cards.ranks());
}

async function submit(ranks) {
  if (!state.item || state.busy) return;
  state.busy = true;
  document.body.classList.add("busy");
  const decision = {
    rater: state.name, submission: newId(), id: state.item.id, ranks, all_bad: state.allBad, flag: state.flag,
    note: $("note").value, seconds: (state.spent + performance.now() - state.since) / 1000,
  };
  try {
    show(await decide(decision, failed));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    // after a restart with other options the server may have other items
    if (error.message === NO_ITEM) show(await send("next", { rater: state.name }, failed));
    $("banner").textContent = `Not saved: ${error.message}`;
    $("banner").hidden = false;
  } finally {
    state.busy = false;
    document.body.classList.remove("busy");
  }
}

async function go(step) {
  if (state.busy) return;
  show(await send("neighbour", { rater: state.name, id: state.item?.id ?? null, step }, failed));
}

function goBack() {
  if (!state.item || state.earlier) go(-1);
}

function goOn() {
  if (state.item.decision) go(1);
}

function undo() {
  if (!cards.undo()) goBack();
}

function showNote(open) {
  $("note").hidden = !open;
  $("open-note").setAttribute("aria-expanded", String(open));
}

function writeNote() {
  showNote($("note").hidden);
  if (!$("note").hidden) $("note").focus();
}

function toggle(name, text) {
  const invert = () => {
    state[name] = !state[name];
    touched();
  };
  invert();
  cards.history.push(invert);
  $("undo").disabled = false;
  say(`${text}: ${state[name] ? "on" : "off"}`);
}

const actions = {
  confirm, undo, back: goBack,
  skip: () => submit(null),
  "all-bad": () => toggle("allBad", "All bad"),
  flag: () => toggle("flag", "Flag"),
  "open-note": writeNote,
  forward: goOn,
  up: () => cards.move(cards.focused, -1),
  down: () => cards.move(cards.focused, 1),
  tie: () => cards.tie(),
  "open-help": () => $("help").showModal(),
};
for (const [id, action] of Object.entries(actions)) $(id).addEventListener("click", () => state.busy || action());

const keys = {
  Enter: confirm, " ": () => cards.place(cards.focused), "=": actions.tie, u: undo, Backspace: goBack, 0: () => cards.clear(),
  s: actions.skip, b: actions["all-bad"], f: actions.flag, n: writeNote,
  ArrowLeft: goBack, ArrowRight: goOn, ArrowDown: () => cards.step(1), ArrowUp: () => cards.step(-1), Home: () => cards.step(-99), End: () => cards.step(99),
};

addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.target === $("note")) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) confirm();
    if (event.key === "Escape") {
      showNote(false);
      cards.focusOn(cards.focused);
    }
    return;
  }
  if (event.key === "?") return actions["open-help"]();
  if (!state.item || state.busy || event.altKey || event.isComposing) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  let action = keys[key];
  if (event.ctrlKey || event.metaKey) action = key === "z" ? undo : null;
  else if (event.shiftKey && key.startsWith("Arrow")) {
    action = { ArrowUp: actions.up, ArrowDown: actions.down }[key];
  } else if (/^[1-9]$/.test(key)) action = () => cards.place(Number(key) - 1);
  const onControl = event.target.closest("button, summary, a") && (key === "Enter" || key === " ");
  if (!action || onControl || (event.repeat && !key.startsWith("Arrow"))) return;
  event.preventDefault();
  action();
});

$("session").addEventListener("toggle", () => $("session").open && state.name && showNumbers());

// time in which the page is not seen does not count
document.addEventListener("visibilitychange", () => {
  if (document.hidden) state.spent += performance.now() - state.since;
  else state.since = performance.now();
});

const named = new URL(location.href).searchParams.get("name");
if (named) start(named).catch(askName);
else askName();
