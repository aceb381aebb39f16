"use strict";
// Sorts and filters the table of trials, and draws the rows that are left (charts.js). What is chosen stands in the
// address, so that a link shows the same rows.
const explore = () => {
  const table = document.getElementById("board");
  if (!table) return { recall() {} };
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const names = headings.map((heading) => heading.dataset.column);
  const controls = document.getElementById("controls");
  const text = document.getElementById("text");
  const dataset = document.getElementById("dataset");
  const curve = document.getElementById("curve");
  const more = document.getElementById("more");
  const selects = [...controls.querySelectorAll("select[data-column]")];
  const limits = [...controls.querySelectorAll("input[type=number]")];
  const boxes = [...document.querySelectorAll("#columns input")];
  const count = document.getElementById("count");
  const sheet = document.styleSheets[0];
  const ownRules = explore.ownRules ??= sheet.cssRules.length;
  const numeric = headings.map((heading) => heading.classList.contains("n"));
  // Thousands of rows in the page would take seconds to lay out at each click.
  const MOST_ROWS = 200;

  const value = (text, isNumber) => {
    if (text === "–") return null;
    return isNumber ? Number(text) : text;
  };
  const rows = [...body.rows].map((row) => {
    const cells = [...row.cells].map((cell) => cell.textContent);
    const values = cells.map((cell, place) => value(cell, numeric[place]));
    return { row, cells, values, words: cells.join("\n").toLowerCase() };
  });
  let ordered = rows;
  let matching = rows;
  let shown = MOST_ROWS;
  let sorted = { name: "", direction: "" };
  const charts = drawCharts({
    columns: headings.map(({ dataset: { column, kind } }, place) => ({ name: column, kind, place, numeric: numeric[place], text: headings[place].textContent })),
    rows,
    setRange(name, low, high) {
      for (const [end, limit] of [["low", low], ["high", high]]) {
        const input = limits.find((each) => each.dataset[end] === name);
        if (input) input.value = limit === null ? "" : String(Number(limit.toPrecision(4)));
      }
      document.getElementById("ranges").open = true;
      changed();
    },
  });

  const sort = () => {
    const place = names.indexOf(sorted.name);
    headings.forEach((heading, number) => {
      if (number === place) heading.setAttribute("aria-sort", sorted.direction);
      else heading.removeAttribute("aria-sort");
    });
    ordered = rows;
    if (place < 0) return;
    const sign = sorted.direction === "ascending" ? 1 : -1;
    const words = new Intl.Collator("en", { numeric: true });
    // Rows without a value are last in either direction.
    ordered = [...rows].sort(({ values: { [place]: a } }, { values: { [place]: b } }) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (numeric[place] ? a - b : words.compare(a, b));
    });
  };

  const filter = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = selects.filter((select) => select.value).map((select) => [names.indexOf(select.dataset.column), select.value]);
    const within = limits.filter((input) => input.value !== "").map((input) => {
      const { low, high } = input.dataset;
      return [names.indexOf(low ?? high), Number(input.value), low === undefined ? -1 : 1];
    });
    const tags = names.indexOf("tags");
    const scored = dataset && dataset.value ? names.indexOf(dataset.value) : -1;
    matching = ordered.filter((entry) => words.every((word) => entry.words.includes(word))
      && wanted.every(([place, choice]) => entry.cells[place] === choice || (place === tags && entry.cells[place].split(/[\s,]+/).includes(choice)))
      && within.every(([place, limit, sign]) => entry.values[place] !== null && sign * entry.values[place] >= sign * limit)
      && (scored < 0 || entry.values[scored] !== null));
    const all = `${rows.length.toLocaleString("en")} row${rows.length === 1 ? "" : "s"}`;
    count.textContent = matching.length === rows.length ? all : `${matching.length.toLocaleString("en")} of ${all}`;
  };

  const show = () => {
    body.replaceChildren(...matching.slice(0, shown).map((entry) => entry.row));
    const left = matching.length - shown;
    more.hidden = left <= 0;
    more.textContent = `Show ${left.toLocaleString("en")} more rows`;
  };

  const chooseColumns = () => {
    while (sheet.cssRules.length > ownRules) sheet.deleteRule(ownRules);
    const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
    const absent = headings.map((heading, place) => {
      const other = dataset && dataset.value && heading.dataset.kind === "score" && names[place] !== dataset.value;
      return place > 0 && Boolean(other || hidden.has(names[place]));
    });
    absent.forEach((isAbsent, place) => {
      if (isAbsent) sheet.insertRule(`#board tr > :nth-child(${place + 1}) { display: none; }`, sheet.cssRules.length);
    });
    return absent;
  };

  const update = () => {
    filter();
    show();
    charts.draw(matching, chooseColumns(), curve.value);
  };

  const remember = () => {
    const state = new URLSearchParams();
    if (text.value) state.set("q", text.value);
    for (const select of selects) if (select.value) state.set(select.dataset.column, select.value);
    for (const input of limits) {
      const { low, high } = input.dataset;
      if (input.value !== "") state.set(`${low ?? high}.${low === undefined ? "to" : "from"}`, input.value);
    }
    if (dataset && dataset.value) state.set("on", dataset.value);
    if (sorted.name) state.set("sort", (sorted.direction === "descending" ? "-" : "") + sorted.name);
    if (curve.selectedIndex > 0) state.set("curve", curve.value);
    // Each by itself, for names of columns have spaces.
    for (const box of boxes) if (!box.checked) state.append("hide", box.value);
    const address = String(state);
    history.replaceState(null, "", address ? `#${address}` : location.pathname + location.search);
  };

  const changed = () => { update(); remember(); };

  const recall = () => {
    const hash = location.hash.slice(1);
    if (hash && !hash.includes("=")) {
      const place = matching.findIndex((entry) => entry.row.id === hash);
      if (place >= shown) {
        shown = place + 1;
        show();
      }
      if (place >= 0) matching[place].row.scrollIntoView({ block: "center" });
      return;
    }
    const state = new URLSearchParams(hash);
    text.value = state.get("q") || "";
    for (const select of selects) select.value = state.get(select.dataset.column) || "";
    for (const input of limits) {
      const { low, high } = input.dataset;
      input.value = state.get(`${low ?? high}.${low === undefined ? "to" : "from"}`) || "";
    }
    document.getElementById("ranges").open ||= limits.some((input) => input.value !== "");
    if (dataset) dataset.value = state.get("on") || "";
    if (state.get("curve")) curve.value = state.get("curve");
    const hidden = new Set(state.getAll("hide"));
    for (const box of boxes) box.checked = !hidden.has(box.value);
    const by = state.get("sort") || "";
    const name = by.replace(/^-/, "");
    sorted = names.includes(name) ? { name, direction: by.startsWith("-") ? "descending" : "ascending" } : { name: "", direction: "" };
    sort();
    update();
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
      changed();
    });
  });
  controls.addEventListener("input", changed);
  curve.addEventListener("input", changed);
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("reset", () => {
    setTimeout(() => { sorted = { name: "", direction: "" }; sort(); changed(); });
  });
  more.addEventListener("click", () => { shown = matching.length; show(); });
  for (const happens of ["pointerover", "focusin"]) {
    body.addEventListener(happens, (event) => {
      const row = event.target.closest("tr");
      charts.pick(rows.find((entry) => entry.row === row));
    });
  }
  controls.hidden = false;
  const isAnchor = location.hash && !location.hash.includes("=");
  if (isAnchor) update();
  recall();
  return { recall };
};
