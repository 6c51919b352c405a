// The page: what is sent, what the keys and buttons do, and what is shown while an answer is sampled.

import { announcer, element } from "./elements.js";
import { Refusal, newId, send, stream } from "./server.js";
import { Turns, noteOf } from "./turns.js";

const POLL = 400; // milliseconds, while an answer of this conversation ends that was begun before a reload
const $ = (id) => document.getElementById(id);
const say = announcer($("live"));
const turns = new Turns($("turns"));
const tab = sessionStorage.getItem("tab") || newId();
sessionStorage.setItem("tab", tab); // one conversation for each browser tab, also after a reload
const page = { state: null, busy: false };

// --- the server -----------------------------------------------------------------------------------------------------

function showProblem(text) {
  $("banner").textContent = text || "";
  $("banner").hidden = !text;
}

const failed = (problem) => showProblem(problem && `${problem} Trying again …`);

// shows the state that the server answers with; a refusal is shown where `refused` says
async function change(path, body = {}, refused = showProblem) {
  try {
    show(await send(path, { tab, ...body }, failed));
    return true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    refused(error.message);
    return false;
  }
}

// sends a request that is answered with events, shows them, and then the state of the conversation
async function answer(path, body, accepted = () => {}) {
  if (page.busy) return;
  setBusy(true);
  showProblem("");
  $("remark").textContent = "";
  let problem = "";
  try {
    await stream(path, { tab, ...body }, (event) => {
      if (event.event === "accepted") accepted();
      problem = happened(event) || problem;
    });
  } catch (error) {
    problem = error instanceof TypeError ? "The server does not answer." : error.message;
  }
  try {
    await change("state");
  } finally {
    setBusy(Boolean(page.state?.busy));
  }
  if (problem) showProblem(problem);
  return problem;
}

// shows an event; returns the message of an error
function happened(event) {
  const wasAtEnd = isAtEnd();
  if (event.event === "accepted" && event.waits) showProblem("Another answer is sampled; this one comes after it.");
  else if (event.event === "begin") {
    showProblem("");
    turns.begin(event);
  } else if (event.event === "piece") turns.piece(event.text);
  else if (event.event === "end") say(turns.end());
  else if (event.event === "said") $("remark").textContent = event.text;
  if (wasAtEnd) toEnd();
  return event.event === "error" ? event.message : "";
}

// --- what is shown --------------------------------------------------------------------------------------------------

const isAtEnd = () => innerHeight + scrollY > document.documentElement.scrollHeight - 40;
const toEnd = () => scrollTo(0, document.documentElement.scrollHeight);

function show(state) {
  const wasAtEnd = isAtEnd();
  page.state = state;
  if ($("model").options.length !== state.models.length) {
    $("model").replaceChildren(...state.models.map((name, index) => Object.assign(element("option", "", name), { value: index })));
  }
  $("model").value = state.model;
  $("summary").textContent = `${state.temperature ? `temperature ${state.temperature} · seed ${state.seed}` : "greedy"}${state.history ? "" : " · single turns"}`;
  for (const name of ["temperature", "seed", "system"]) if (document.activeElement !== $(name)) $(name).value = state[name];
  $("history").checked = state.history;
  $("compare").hidden = $("ask-all").hidden = state.models.length < 2;
  turns.show(state.turns);
  const last = state.turns.at(-1);
  $("empty").hidden = Boolean(last);
  $("after").hidden = !last;
  setBusy(page.busy);
  if (wasAtEnd) toEnd();
}

function setBusy(busy) {
  page.busy = busy;
  document.body.classList.toggle("busy", busy);
  $("turns").setAttribute("aria-busy", String(busy));
  const hadFocus = document.activeElement === $("stop");
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  if (hadFocus && !busy) $("text").focus();
  for (const id of ["retry", "compare", "ask-all", "new", "model", "temperature", "seed", "history", "system"]) $(id).disabled = busy;
}

function fit() {
  $("text").style.height = "auto";
  $("text").style.height = `${$("text").scrollHeight + 2}px`;
}

// --- what a person does ---------------------------------------------------------------------------------------------

async function ask(all) {
  await ready; // otherwise the first state would come later, and remove the message
  const message = $("text").value.trim();
  if (!message || page.busy) return;
  const problem = await answer("ask", { message, all }, () => {
    turns.ask(message);
    $("empty").hidden = true;
    $("after").hidden = true;
    $("text").value = "";
    fit();
    toEnd();
  });
  // a message that was not answered can be changed and sent again
  if (problem && !$("text").value && page.state?.turns.at(-1)?.message !== message) {
    $("text").value = message;
    fit();
  }
}

function again(all) {
  if (page.state?.turns.length) answer("again", { all });
}

async function stop() {
  if (page.busy) await send("stop", { tab }, failed);
}

async function begin() {
  if (page.busy) return;
  await change("new");
  say("A new conversation.");
  $("text").focus();
}

async function rate(button) {
  const { turn, answer: number, mark } = button.dataset;
  const value = button.getAttribute("aria-pressed") === "true" ? 0 : Number(mark);
  const rater = localStorage.getItem("name") || "chat";
  if (!(await change("rate", { turn: Number(turn), answer: Number(number), mark: value, rater }))) return;
  say(`${value > 0 ? "Thumbs up." : value < 0 ? "Thumbs down." : "No mark."} ${noteOf(page.state.turns[turn])}`);
}

// the thumb of the answer with the focus, or of the last one
function rateByKey(name) {
  const card = document.activeElement?.closest(".answer");
  const button = card ? card.querySelector(`.${name}`) : [...document.querySelectorAll(`.${name}`)].at(-1);
  if (button) rate(button);
}

$("turns").addEventListener("click", (event) => {
  const button = event.target.closest(".thumb");
  if (button) rate(button);
});
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask(false);
});
const actions = {
  "ask-all": () => ask(true), retry: () => again(false), compare: () => again(true), stop, new: begin,
  "open-settings": () => $("settings").showModal(),
  "open-help": () => $("help").showModal(),
};
for (const [id, action] of Object.entries(actions)) $(id).addEventListener("click", action);

// --- settings -------------------------------------------------------------------------------------------------------

const refused = (text) => ($("settings-error").textContent = text);

function setting(name, value) {
  refused("");
  change("settings", { [name]: value }, refused);
}

$("model").addEventListener("change", async () => {
  await change("settings", { model: Number($("model").value) });
  say(`${page.state.models[page.state.model]} answers.`);
});
for (const name of ["temperature", "seed"]) {
  $(name).addEventListener("change", () => ($(name).value === "" ? refused(`${name} is a number`) : setting(name, Number($(name).value))));
}
$("history").addEventListener("change", () => setting("history", $("history").checked));
$("system").addEventListener("change", () => setting("system", $("system").value));
$("name").value = localStorage.getItem("name") || "";
$("name").addEventListener("change", () => localStorage.setItem("name", $("name").value.trim().replace(/\s+/g, " ")));
$("settings").addEventListener("close", () => {
  refused("");
  show(page.state); // a value that was refused is not shown again
});

// --- keys -----------------------------------------------------------------------------------------------------------

$("text").addEventListener("input", fit);
$("text").addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    ask((event.ctrlKey || event.metaKey) && page.state?.models.length > 1);
  } else if (event.key === "ArrowUp" && !$("text").value && page.state?.turns.length) {
    event.preventDefault();
    $("text").value = page.state.turns.at(-1).message;
    fit();
  }
});

const keys = { r: () => again(false), c: () => again(true), "+": () => rateByKey("up"), "-": () => rateByKey("down"), "/": () => $("text").focus(), "?": actions["open-help"] };

addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.isComposing) return;
  if (event.key === "Escape") {
    if (page.busy) stop();
    else $("text").blur();
    return;
  }
  if (event.target.closest("textarea, input, select") || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const action = keys[event.key.toLowerCase()];
  if (!action) return;
  event.preventDefault();
  action();
});

// --- the start ------------------------------------------------------------------------------------------------------

const ready = change("state");

async function start() {
  await ready;
  for (setBusy(page.state.busy); page.state.busy; setBusy(page.state.busy)) {
    await new Promise((resolve) => setTimeout(resolve, POLL));
    await change("state");
  }
}

start().then(() => {
  toEnd();
  if (matchMedia("(hover: hover)").matches) $("text").focus();
});
