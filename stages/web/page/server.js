// Requests to the server. A decision is sent until the server has it on disk: its id makes a repeated one harmless.

const LONGEST_PAUSE = 5000; // milliseconds between two tries

export class Refusal extends Error {}

const request = (path, body) =>
  fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

// the object in an answer; an Error if trying again may help, a Refusal if not
async function valueOf(answer) {
  if (answer.status === 429) throw new Error("The server is busy.");
  let value = {};
  try {
    value = await answer.json();
  } catch {
    // a refusal before the page's routes is plain text
  }
  if (answer.status >= 500) throw new Error(value.error || "The server has a problem.");
  if (!answer.ok) throw new Refusal(value.error || `The server refuses this (${answer.status}).`);
  return value;
}

// Sends until there is an answer. `failed` gets the error of each try, and null when one succeeds.
export async function send(path, body, failed) {
  for (let pause = 300; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
    try {
      const value = await valueOf(await request(path, body));
      failed(null);
      return value;
    } catch (error) {
      if (error instanceof Refusal) throw error;
      failed(error instanceof TypeError ? "The server does not answer." : error.message);
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
}

// Sends once, and calls `happened` with each event of the answer, a JSON line, as it arrives.
export async function stream(path, body, happened) {
  const answer = await request(path, body);
  if (!answer.ok) return valueOf(answer);
  const decoder = new TextDecoder();
  const reader = answer.body.getReader();
  let text = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (text + decoder.decode(part.value, { stream: true })).split("\n");
    text = lines.pop();
    lines.forEach((line) => happened(JSON.parse(line)));
  }
}

// The decision that the server has not confirmed, which a reload of the page sends again.
const place = (name) => `pending ${location.pathname} ${name}`;

export function pending(name) {
  try {
    return JSON.parse(localStorage.getItem(place(name)));
  } catch {
    return null;
  }
}

export async function decide(decision, failed) {
  localStorage.setItem(place(decision.rater), JSON.stringify(decision));
  try {
    return await send("decide", decision, failed);
  } finally {
    localStorage.removeItem(place(decision.rater));
  }
}

export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
