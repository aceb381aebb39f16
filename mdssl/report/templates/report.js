"use strict";
// Sorts and filters the table of trials. What is chosen stands in the address, so that a link shows the same rows.
(() => {
  const table = document.getElementById("board");
  if (!table) return;
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const names = headings.map((heading) => heading.dataset.column);
  const controls = document.getElementById("controls");
  const text = document.getElementById("text");
  const dataset = document.getElementById("dataset");
  const selects = [...controls.querySelectorAll("select[data-column]")];
  const boxes = [...document.querySelectorAll("#columns input")];
  const count = document.getElementById("count");
  const sheet = document.styleSheets[0];
  const ownRules = sheet.cssRules.length;
  const rows = [...body.rows].map((row) => {
    const cells = [...row.cells].map((cell) => cell.textContent);
    return { row, cells, words: cells.join("\n").toLowerCase(), shown: true };
  });
  const inOrder = [...rows];
  let sorted = { name: "", direction: "" };

  const value = (text, numeric) => {
    if (text === "–") return null;
    return numeric ? Number(text) : text;
  };

  const sort = () => {
    const place = names.indexOf(sorted.name);
    headings.forEach((heading, number) => {
      if (number === place) heading.setAttribute("aria-sort", sorted.direction);
      else heading.removeAttribute("aria-sort");
    });
    let ordered = inOrder;
    if (place >= 0) {
      const numeric = headings[place].classList.contains("n");
      const sign = sorted.direction === "ascending" ? 1 : -1;
      const keyed = inOrder.map((entry) => ({ entry, key: value(entry.cells[place], numeric) }));
      const words = new Intl.Collator("en", { numeric: true });
      // Rows without a value are last in either direction.
      keyed.sort((a, b) => {
        if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
        return sign * (numeric ? a.key - b.key : words.compare(a.key, b.key));
      });
      ordered = keyed.map(({ entry }) => entry);
    }
    const all = document.createDocumentFragment();
    for (const entry of ordered) all.append(entry.row);
    body.append(all);
  };

  const filter = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = selects.filter((select) => select.value).map((select) => [names.indexOf(select.dataset.column), select.value]);
    const scored = dataset && dataset.value ? names.indexOf(dataset.value) : -1;
    let shown = 0;
    for (const entry of rows) {
      const match = words.every((word) => entry.words.includes(word))
        && wanted.every(([place, choice]) => entry.cells[place] === choice)
        && (scored < 0 || entry.cells[scored] !== "–");
      if (match !== entry.shown) entry.row.hidden = !match;
      entry.shown = match;
      shown += match;
    }
    const all = `${rows.length.toLocaleString("en")} row${rows.length === 1 ? "" : "s"}`;
    count.textContent = shown === rows.length ? all : `${shown.toLocaleString("en")} of ${all}`;
  };

  const chooseColumns = () => {
    while (sheet.cssRules.length > ownRules) sheet.deleteRule(ownRules);
    const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
    headings.forEach((heading, place) => {
      const other = dataset && dataset.value && heading.dataset.kind === "score" && names[place] !== dataset.value;
      if (place && (other || hidden.has(names[place]))) {
        sheet.insertRule(`#board tr > :nth-child(${place + 1}) { display: none; }`, sheet.cssRules.length);
      }
    });
  };

  const remember = () => {
    const state = new URLSearchParams();
    if (text.value) state.set("q", text.value);
    for (const select of selects) if (select.value) state.set(select.dataset.column, select.value);
    if (dataset && dataset.value) state.set("on", dataset.value);
    if (sorted.name) state.set("sort", (sorted.direction === "descending" ? "-" : "") + sorted.name);
    // Each by itself, for names of columns have spaces.
    for (const box of boxes) if (!box.checked) state.append("hide", box.value);
    const address = String(state);
    history.replaceState(null, "", address ? `#${address}` : location.pathname + location.search);
  };

  const recall = () => {
    const hash = location.hash.slice(1);
    if (hash && !hash.includes("=")) return;
    const state = new URLSearchParams(hash);
    text.value = state.get("q") || "";
    for (const select of selects) select.value = state.get(select.dataset.column) || "";
    if (dataset) dataset.value = state.get("on") || "";
    const hidden = new Set(state.getAll("hide"));
    for (const box of boxes) box.checked = !hidden.has(box.value);
    const by = state.get("sort") || "";
    const name = by.replace(/^-/, "");
    sorted = names.includes(name) ? { name, direction: by.startsWith("-") ? "descending" : "ascending" } : { name: "", direction: "" };
    sort();
    filter();
    chooseColumns();
  };

  headings.forEach((heading, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      // Scores are wanted from the best downwards, all else from the begin of the alphabet or from the smallest.
      const first = ["score", "mean"].includes(heading.dataset.kind) ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const again = sorted.name === names[place] && sorted.direction === first;
      sorted = { name: names[place], direction: again ? other : first };
      sort();
      remember();
    });
  });
  controls.addEventListener("input", () => { filter(); chooseColumns(); remember(); });
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("reset", () => {
    setTimeout(() => { sorted = { name: "", direction: "" }; sort(); filter(); chooseColumns(); remember(); });
  });
  window.addEventListener("hashchange", recall);
  controls.hidden = false;
  recall();
})();

(() => {
  const seconds = Number(document.body.dataset.renew);
  if (!seconds) return;
  document.getElementById("renewal").hidden = false;
  const renew = document.getElementById("renew");
  setInterval(() => {
    // Never under somebody's hands.
    const typing = document.activeElement && document.activeElement.matches("input[type=search], select");
    if (renew.checked && !typing && !document.hidden) location.reload();
  }, 1000 * seconds);
})();
