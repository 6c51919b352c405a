// Elements of the pages. Text from models and people is only ever set as textContent.

export function showParts(element, parts) {
  element.replaceChildren(
    ...parts.map(({ role, text }) => {
      const part = document.createElement("div");
      part.className = "part";
      if (role) {
        const name = document.createElement("span");
        name.className = "role";
        name.textContent = role;
        part.append(name);
      }
      const body = document.createElement("div");
      body.className = "text";
      body.dir = "auto";
      body.textContent = text.trim();
      if (!text.trim()) body.classList.add("empty");
      part.append(body);
      return part;
    })
  );
}

export function element(tag, className, text = "") {
  const result = document.createElement(tag);
  result.className = className;
  result.textContent = text;
  return result;
}

// announces a text in a live region; the same text twice is announced twice
export const announcer = (region) => (text) => {
  region.textContent = "";
  setTimeout(() => (region.textContent = text), 30);
};
