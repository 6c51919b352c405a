"use strict";
// Sorts and filters the prompts. Without this script all prompts are still there, in a fold.
{
  const PAGE = 20; // prompts that are shown at once
  const element = (id) => document.getElementById(id);
  const value = (id) => element(id)?.value ?? "";
  const answersOf = (prompt, temperature) =>
    [...prompt.querySelectorAll(".answers")].find((answers) => answers.dataset.temperature === temperature);
  let shown = PAGE;

  function begin() {
    const first = element("first"), sorted = element("sorted"), more = element("more"), count = element("count");
    const prompts = [...first.querySelectorAll(".prompt")];
    const homes = prompts.map((prompt) => [prompt.parentNode, prompt.nextSibling]);
    const texts = prompts.map((prompt) => prompt.textContent.toLowerCase());

    // puts every prompt back where the page had it; from the last, because each place is before the next sibling
    function restore() {
      for (let i = prompts.length - 1; i >= 0; i--) homes[i][0].insertBefore(prompts[i], homes[i][1]);
    }

    function update() {
      const [sort, task, text] = [value("sort"), value("task"), value("text").trim().toLowerCase()];
      const temperature = value("temperature") || prompts[0].querySelector(".answers").dataset.temperature;
      for (const prompt of prompts)
        for (const answers of prompt.querySelectorAll(".answers")) answers.hidden = answers.dataset.temperature !== temperature;
      const plain = !sort && !task && !text;
      element("order").disabled = !sort;
      first.hidden = !plain;
      sorted.hidden = plain;
      restore();
      if (plain) {
        more.hidden = true;
        count.textContent = "";
        return;
      }
      const number = (prompt) => parseFloat(answersOf(prompt, temperature)?.dataset[sort] ?? "NaN");
      const direction = Number(value("order"));
      let found = prompts.filter((prompt, i) => (!task || prompt.dataset.task === task) && texts[i].includes(text));
      if (sort) {
        const known = found.filter((prompt) => !Number.isNaN(number(prompt)));
        known.sort((a, b) => direction * (number(a) - number(b)));
        found = [...known, ...found.filter((prompt) => Number.isNaN(number(prompt)))];
      }
      sorted.append(...found.slice(0, shown));
      more.hidden = found.length <= shown;
      more.textContent = `Show ${Math.min(PAGE, found.length - shown)} more`;
      count.textContent = `${found.length} of ${prompts.length} prompts`;
    }

    function changed() {
      shown = PAGE;
      update();
    }
    element("controls").hidden = false;
    element("controls").addEventListener("submit", (event) => event.preventDefault());
    for (const id of ["sort", "order", "task", "temperature"]) element(id)?.addEventListener("change", changed);
    element("text").addEventListener("input", changed);
    more.addEventListener("click", () => {
      shown += PAGE;
      update();
    });
    update();
  }

  // marks the section that is read in the navigation
  function follow() {
    const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    }, { rootMargin: "-20% 0px -75% 0px" });
    for (const id of links.keys()) observer.observe(element(id));
  }

  if (element("controls")) begin();
  follow();
}
