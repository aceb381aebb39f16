// Parallel coordinates and training curves of the rows that the filters leave.
const svg = (name, attributes = {}, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, own] of Object.entries(attributes)) element.setAttribute(key, own);
  element.append(...children);
  return element;
};

const niceTicks = (low, high, most) => {
  if (!(high > low)) return [low];
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((each) => each >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) ticks.push(Number(tick.toPrecision(10)));
  return ticks;
};

const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

const written = (number) => (number !== 0 && Math.abs(number) < 1e-3 ? number.toExponential() : String(number));

// Positions of values from 0 to 1: numbers by size, or by their logarithms where they span a decade; words evenly.
const scaleOf = (values, numeric) => {
  const known = values.filter((value) => value !== null);
  if (!numeric) {
    const words = [...new Set(known)].sort(new Intl.Collator("en", { numeric: true }).compare);
    const places = new Map(words.map((word, number) => [word, words.length > 1 ? number / (words.length - 1) : 0.5]));
    const every = Math.ceil(words.length / 12);
    return { at: (value) => places.get(value), ticks: words.filter((_, number) => number % every === 0).map((word) => [places.get(word), word]), back: null };
  }
  const low = known.reduce((least, value) => Math.min(least, value), Infinity);
  const high = known.reduce((most, value) => Math.max(most, value), -Infinity);
  const log = low > 0 && high >= 20 * low;
  const [from, to] = log ? [Math.log10(low), Math.log10(high)] : [low, high];
  const at = (value) => (to > from ? ((log ? Math.log10(value) : value) - from) / (to - from) : 0.5);
  const different = [...new Set(known)];
  let ticks = different.length <= 6 ? different : niceTicks(low, high, 5);
  if (log && different.length > 6) {
    ticks = [];
    const digits = to - from > 2 ? [1] : [1, 2, 5];
    for (let power = Math.floor(from); power <= to; power += 1) for (const digit of digits) ticks.push(Number((digit * 10 ** power).toPrecision(6)));
    ticks = ticks.filter((tick) => tick >= low && tick <= high);
  }
  return { at, ticks: ticks.map((tick) => [at(tick), written(tick)]), back: (place) => (log ? 10 ** (from + place * (to - from)) : from + place * (to - from)) };
};

const drawCharts = ({ columns, rows, setRange }) => {
  const charts = document.getElementById("charts");
  const picked = document.getElementById("picked");
  const hint = picked.textContent;
  const ofCoordinates = document.getElementById("coordinates");
  const ofCurves = document.getElementById("curves-chart");
  const saved = JSON.parse(document.getElementById("curve-data").textContent);
  const [SHADES, MANY] = [5, 300];
  charts.hidden = false;
  for (const option of [...document.getElementById("curve").options]) {
    if (!Object.values(saved).some((own) => own[option.value])) option.remove();
  }
  const varied = columns.filter(({ place, kind, name }) => place && (kind !== "other" || name === "hours")
    && new Set(rows.map((entry) => entry.values[place]).filter((value) => value !== null)).size > 1);
  const means = varied.filter(({ kind }) => kind === "mean");
  const objective = means.find(({ name }) => name === "val") ?? means[0] ?? varied.find(({ kind }) => kind === "score");
  const scales = new Map(varied.map((column) => [column, scaleOf(rows.map((entry) => entry.values[column.place]), column.numeric)]));

  // Rows by fifths of the objective: rows of one shade are one path, so that thousands are drawn at once.
  const sizes = objective ? rows.map((entry) => entry.values[objective.place]).filter((value) => value !== null).sort((a, b) => a - b) : [];
  const steps = Array.from({ length: SHADES - 1 }, (_, number) => sizes[Math.floor(((number + 1) * sizes.length) / SHADES)]);
  for (const entry of rows) {
    const value = objective ? entry.values[objective.place] : null;
    entry.shade = value === null || value === undefined ? "none" : steps.filter((step) => value >= step).length;
  }
  const key = document.querySelector("#charts .key");
  key.textContent = objective ? `Color: ${objective.text}, from ` : "";
  for (let shade = 0; objective && shade < SHADES; shade += 1) {
    const swatch = document.createElement("span");
    swatch.className = `swatch shade-${shade}`;
    key.append(swatch);
  }
  if (objective) key.append(` low to high (fifths of the rows).`);

  let matching = rows;
  let absent = [];
  let curveName = "";
  let chosen = null;
  let lines = { coordinates: () => null, curves: () => null };

  const path = (points) => {
    let text = "";
    let apart = true;
    for (const point of points) {
      if (point === null) apart = true;
      else {
        text += `${apart ? "M" : "L"}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
        apart = false;
      }
    }
    return text;
  };
  const paths = (entries, pointsOf) => {
    const texts = {};
    for (const entry of entries) {
      const points = pointsOf(entry);
      if (points) texts[entry.shade] = (texts[entry.shade] ?? "") + path(points);
    }
    return ["none", ...Array(SHADES).keys()].filter((shade) => texts[shade])
      .map((shade) => svg("path", { d: texts[shade], class: `line shade-${shade}` }));
  };
  const label = (x, y, text, anchor = "middle", kind = "tick") => svg("text", { x, y, "text-anchor": anchor, class: kind }, text);

  const coordinates = () => {
    const axes = varied.filter(({ place, kind }) => !absent[place] && (kind !== "score" || means.length === 0));
    ofCoordinates.hidden = axes.length < 2;
    if (axes.length < 2) return;
    const width = Math.max(ofCoordinates.clientWidth, 108 * axes.length);
    const [height, top, bottom, side] = [300, 34, 14, 54];
    const x = (number) => side + (number * (width - 2 * side)) / (axes.length - 1);
    const y = (place) => height - bottom - place * (height - top - bottom);
    const pointsOf = ({ values }) => axes.map((axis, number) => {
      const value = values[axis.place];
      return value === null ? null : [x(number), y(scales.get(axis).at(value))];
    });
    const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${matching.length} of ${rows.length} rows over ${axes.map(({ text }) => text).join(", ")}` });
    drawing.classList.toggle("many", matching.length > MANY);
    drawing.append(...paths(matching, pointsOf), svg("path", { class: "line picked" }));
    axes.forEach((axis, number) => {
      const { ticks, back } = scales.get(axis);
      drawing.append(svg("line", { x1: x(number), x2: x(number), y1: y(0), y2: y(1), class: "axis" }), label(x(number), 14, shorten(axis.text, 16), "middle", "name"));
      for (const [place, text] of ticks) drawing.append(label(x(number) - 5, y(place) + 4, shorten(text, 14), "end"));
      if (back) drawing.append(brush(axis, x(number), y, back));
    });
    ofCoordinates.replaceChildren(drawing);
    lines.coordinates = pointsOf;
  };

  const brush = (axis, x, y, back) => {
    const area = svg("rect", { x: x - 14, y: y(1) - 8, width: 28, height: y(0) - y(1) + 16, class: "brush" });
    const mark = svg("rect", { x: x - 7, width: 14, height: 0, class: "brushed" });
    let start = null;
    const at = (event) => Math.min(Math.max(event.clientY - area.ownerSVGElement.getBoundingClientRect().top, y(1)), y(0));
    area.addEventListener("pointerdown", (event) => { start = at(event); area.setPointerCapture(event.pointerId); });
    area.addEventListener("pointermove", (event) => {
      if (start === null) return;
      mark.setAttribute("y", Math.min(start, at(event)));
      mark.setAttribute("height", Math.abs(at(event) - start));
    });
    area.addEventListener("pointerup", (event) => {
      const place = (pixel) => (y(0) - pixel) / (y(0) - y(1));
      const [low, high] = [Math.max(start, at(event)), Math.min(start, at(event))].map((pixel) => back(place(pixel)));
      const isClick = Math.abs(start - at(event)) < 4;
      start = null;
      setRange(axis.name, isClick ? null : low, isClick ? null : high);
    });
    return svg("g", {}, mark, area);
  };

  const curves = () => {
    const drawn = matching.filter((entry) => saved[entry.cells[0]]?.[curveName]);
    document.getElementById("curve-charts").hidden = !curveName;
    if (!curveName) return;
    document.getElementById("curve-count").textContent = `${drawn.length.toLocaleString("en")} of ${matching.length.toLocaleString("en")} rows have this curve.`;
    const width = Math.max(ofCurves.clientWidth, 320);
    const [height, top, bottom, left, right] = [300, 12, 42, 56, 16];
    let [last, low, high] = [1, Infinity, -Infinity];
    for (const entry of drawn) {
      const [at, values] = saved[entry.cells[0]][curveName];
      last = Math.max(last, at.at(-1));
      for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
    }
    if (!(high > low)) [low, high] = high === low ? [low - 1, high + 1] : [0, 1];
    const x = (step) => left + (step / last) * (width - left - right);
    const y = (value) => height - bottom - ((value - low) / (high - low)) * (height - top - bottom);
    const pointsOf = (entry) => {
      const own = saved[entry.cells[0]]?.[curveName];
      if (!own) return null;
      const points = own[0].map((step, number) => [x(step), y(own[1][number])]);
      // A line through a single report would be invisible.
      return points.length > 1 ? points : [[points[0][0] - 3, points[0][1]], [points[0][0] + 3, points[0][1]]];
    };
    const name = document.getElementById("curve").selectedOptions[0].textContent;
    const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name} of ${drawn.length} rows over ${last} steps, from ${low} to ${high}` });
    drawing.classList.toggle("many", drawn.length > MANY);
    for (const tick of niceTicks(low, high, 6)) drawing.append(svg("line", { x1: left, x2: width - right, y1: y(tick), y2: y(tick), class: "grid" }), label(left - 6, y(tick) + 4, written(tick), "end"));
    for (const tick of niceTicks(0, last, Math.min(8, width / 90))) drawing.append(label(x(tick), height - bottom + 16, tick.toLocaleString("en")));
    drawing.append(label(x(last / 2), height - 6, "training step", "middle", "name"), ...paths(drawn, pointsOf), svg("path", { class: "line picked" }));
    ofCurves.replaceChildren(drawing);
    lines.curves = pointsOf;
  };

  const pick = (entry) => {
    if (!entry || (entry === chosen && picked.childElementCount)) return;
    chosen = entry;
    for (const [box, pointsOf] of [[ofCoordinates, lines.coordinates], [ofCurves, lines.curves]]) {
      box.querySelector(".picked")?.setAttribute("d", path(pointsOf(entry) ?? []));
    }
    const link = document.createElement("a");
    link.href = `trials/${entry.cells[0]}.html`;
    link.textContent = entry.cells[0];
    const said = columns.filter(({ place }) => place && !absent[place] && entry.values[place] !== null).map(({ text, place }) => `${text} ${shorten(entry.cells[place], 40)}`);
    picked.replaceChildren(link, ` ${said.join(", ")}`);
  };

  // The row whose line passes nearest to the pointer.
  const nearest = (box, pointsOf, event) => {
    const frame = box.querySelector("svg")?.getBoundingClientRect();
    if (!frame) return null;
    const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    let [best, distance] = [null, 14];
    for (const entry of matching) {
      const points = pointsOf(entry) ?? [];
      for (let number = 1; number < points.length; number += 1) {
        const [from, to] = [points[number - 1], points[number]];
        if (from && to && from[0] <= x && x <= to[0]) {
          const away = Math.abs(from[1] + ((to[1] - from[1]) * (x - from[0])) / (to[0] - from[0] || 1) - y);
          if (away < distance) [best, distance] = [entry, away];
        }
      }
    }
    return best;
  };
  for (const [box, name] of [[ofCoordinates, "coordinates"], [ofCurves, "curves"]]) {
    box.addEventListener("pointermove", (event) => pick(nearest(box, lines[name], event)));
    box.addEventListener("keydown", (event) => {
      const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (by && matching.length) {
        event.preventDefault();
        const place = matching.indexOf(chosen);
        pick(matching[place < 0 ? 0 : (place + by + matching.length) % matching.length]);
      } else if (event.key === "Enter" && chosen) picked.querySelector("a")?.click();
    });
  }
  let asked = 0;
  const redraw = () => { coordinates(); curves(); };
  new ResizeObserver(() => { cancelAnimationFrame(asked); asked = requestAnimationFrame(redraw); }).observe(charts);

  return {
    pick,
    draw(entries, isAbsent, curve) {
      [matching, absent, curveName] = [entries, isAbsent, curve];
      if (!matching.includes(chosen)) {
        chosen = null;
        picked.textContent = hint;
      }
      redraw();
    },
  };
};
