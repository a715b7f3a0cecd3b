"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const wide = matchMedia("(min-width: 75rem)");
const element = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};
const whole = (value) => value.toLocaleString("en");
const MINUS = "\u2212";
const STEP = 60; // so many rows are laid out at once, and as many more whenever somebody comes near the last

/* The leaderboards: their rows as the script knows them, in the order of the page. */
const boards = [...document.querySelectorAll("table.board")].map((table, place) => {
  const board = { ...data.boards[place], table, place, sorted: null, limit: STEP, set: table.closest(".set") };
  board.heads = [...table.tHead.rows[1].cells];
  board.groups = [...table.tHead.rows[0].cells].filter((cell) => cell.tagName === "TH");
  board.spans = board.groups.map((cell) => cell.colSpan);
  board.bodies = [...table.tBodies];
  board.lines = board.bodies.map((body, row) => {
    const [name, method, architecture, branches, trust, tags] = board.rows[row];
    return { body, row, board, name, method, architecture, branches: branches > 1 ? "several" : "one", trust, tags };
  });
  return board;
});
const lines = boards.flatMap((board) => board.lines);
const tools = document.querySelector(".tools");
const field = (name) => tools.elements[name];
const [count, voice] = tools ? tools.querySelectorAll("[role=status]") : [];
const say = (text) => { voice.textContent = text; };
const title = (head) => (head.querySelector("button") ?? head).textContent;

/* Sorting. */
const sort = (board, key, order) => {
  const column = board.heads.findIndex((head) => head.dataset.k === key && head.dataset.first);
  for (const head of board.heads) {
    if (head.dataset.first) head.setAttribute("aria-sort", head === board.heads[column] ? order : "none");
  }
  board.sorted = column < 0 ? null : [key, order];
  if (column < 0) {
    board.table.append(...board.bodies);
    return lay(board);
  }
  const values = new Map(board.bodies.map((body) => [body, body.rows[0].cells[column].dataset.v ?? ""]));
  const sign = order === "ascending" ? 1 : -1;
  const text = board.heads[column].dataset.kind === "text";
  // Missing values stay last in both directions.
  board.table.append(...[...board.bodies].sort((a, b) => {
    const [x, y] = [values.get(a), values.get(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    return sign * (text ? x.localeCompare(y) : Number(x) - Number(y));
  }));
  lay(board);
};

/* Search and filters. */
const FILTERS = ["architecture", "method", "branches", "trust", "tags"];
const WORDS = {
  ok: "checked", flagged: "doubtful", unchecked: "unchecked", one: "one", several: "several",
};
const searched = (line) => {
  line.text ??= [line.name, line.method, line.architecture, ...line.tags, data.papers[line.method] ?? ""].join(" ").toLowerCase();
  return line.text;
};
const filter = () => {
  const words = field("q").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = FILTERS.filter((name) => field(name).value);
  for (const line of lines) {
    line.body.hidden = !(words.every((word) => searched(line).includes(word))
      && chosen.every((name) => [line[name]].flat().includes(field(name).value)));
  }
  for (const board of boards) {
    board.set.hidden = field("set").value !== "" && field("set").value !== String(board.place);
    board.table.classList.toggle("deployed", field("deployed").checked);
    lay(board);
  }
  let [shown, all] = [0, 0];
  for (const { body, board } of lines) {
    const hidden = body.hidden || board.set.hidden;
    const others = field("deployed").checked ? body.querySelectorAll(".other").length : 0;
    all += body.rows.length;
    shown += hidden ? 0 : body.rows.length - others;
  }
  count.textContent = `${whole(shown)} of ${whole(all)} rows shown`;
};
const offer = (name, values) => {
  const label = field(name).closest("label");
  if (values.length > (name === "tags" ? 0 : 1) && (name !== "method" || values.length < lines.length)) {
    label.hidden = false;
    for (const [value, text] of values) field(name).append(element("option", { value, textContent: text }));
  }
};

/* Columns: which are hidden, of those that the page has; remembered where the browser allows it. */
const MEMORY = "robusteval-hidden-columns";
const keys = new Map();
for (const head of boards.flatMap((board) => board.heads)) {
  const { k: key, minor } = head.dataset;
  if (key && key !== "name" && !keys.has(key)) keys.set(key, { text: title(head), minor: minor !== undefined });
}
const usual = () => new Set(wide.matches ? [] : [...keys].filter(([, { minor }]) => minor).map(([key]) => key));
const remembered = () => {
  try {
    return JSON.parse(localStorage.getItem(MEMORY));
  } catch {
    return null; // a page from a file may have no storage
  }
};
const remember = (value) => {
  try {
    if (value) localStorage.setItem(MEMORY, JSON.stringify(value));
    else localStorage.removeItem(MEMORY);
  } catch { /* then it is forgotten */ }
};
let chosen = null; // the hidden columns that somebody chose; null: the usual ones
const rules = element("style");
const columns = () => {
  const hidden = chosen ?? usual();
  const css = [];
  for (const board of boards) {
    const places = board.heads.map((head) => hidden.has(head.dataset.k));
    places.forEach((away, place) => {
      if (away) css.push(`#${board.table.id} tr:not(.groups)>:nth-child(${place + 1})`);
    });
    let from = 3;
    board.groups.forEach((cell, group) => {
      const left = places.slice(from, from + board.spans[group]).filter((away) => !away).length;
      cell.hidden = left === 0;
      cell.colSpan = left || 1;
      from += board.spans[group];
    });
  }
  rules.textContent = css.length ? `${css.join()}{display:none}` : "";
  for (const box of tools.querySelectorAll(".menu input")) box.checked = !hidden.has(box.value);
};

/* Comparison of two rows. */
const panel = document.querySelector(".versus");
let picked = [];
const tested = (board, column, i, j) => {
  const found = board.pairs[column];
  if ("minus" in found) {
    const test = tested(board, found.minus, i, j);
    const less = (value) => (value === null ? null : -value);
    return test && { ...test, difference: -test.difference, low: less(test.high), high: less(test.low) };
  }
  for (const { rows, n, tests } of found) {
    const [a, b] = [rows.indexOf(i), rows.indexOf(j)];
    if (a < 0 || b < 0) continue;
    const [x, y] = [Math.min(a, b), Math.max(a, b)];
    const at = 4 * (x * (rows.length - 1) - (x * (x - 1)) / 2 + (y - x - 1));
    const [difference, low, high, code] = tests.slice(at, at + 4);
    const p = (code % 100) / 10 ** (Math.floor(code / 100) + 1);
    if (a < b) return { difference, low, high, p, n };
    return { difference: -difference, low: high === null ? null : -high, high: low === null ? null : -low, p, n };
  }
  return null;
};
const points = (units) => {
  const text = (Math.abs(units) / 100).toFixed(2);
  return (units > 0 ? "+" : units < 0 ? MINUS : "") + text;
};
const chance = (p) => (p === 0 ? "0" : p >= 0.001 ? String(p) : p.toExponential(1));
const entry = (text, small = "", className = "") => element("td", { className, textContent: text },
  ...(small ? [" ", element("small", { textContent: small })] : []));
const copied = (cell) => entry((cell.querySelector("b") ?? cell.firstChild).textContent.trim(), cell.querySelector("small")?.textContent);
const why = (board, column, i, j, cells) => {
  const absent = [i, j].filter((_, side) => cells[side].dataset.v === "");
  if (absent.length) return `not measured of ${absent.map((row) => board.rows[row][0]).join(" and ")}`;
  const [x, y] = [board.images[column][i], board.images[column][j]];
  if (x === null || y === null) return "no outcomes of single images";
  return x === y ? "a doubtful number" : "other images";
};
const scores = (board, i, j) => {
  const [a, b] = [i, j].map((row) => board.rows[row][0]);
  const cautions = new Set();
  const [x, y] = [board.seeds[i], board.seeds[j]];
  const seeds = x > 1 || y > 1 ? `, ${x} and ${y} seeds` : "";
  const rows = board.heads.slice(3, 3 + board.pairs.length).map((head, column) => {
    const cells = [i, j].map((row) => board.bodies[row].rows[0].cells[3 + column]);
    const test = tested(board, column, i, j);
    const made = cells.map(copied);
    if (test) {
      const better = head.dataset.first === "descending" ? 1 : -1;
      const winner = better * test.difference > 0 ? a : b;
      const sure = test.p <= 0.05;
      made.push(
        entry(points(test.difference), test.low === null ? "" : `${points(test.low)} to ${points(test.high)}`),
        entry(chance(test.p)),
        entry(sure ? `${winner} is better` : `not distinguishable at ${whole(test.n)} images${seeds}`, "", sure ? "t sure" : "t"),
      );
    } else {
      const reason = why(board, column, i, j, cells);
      made.push(entry(""), entry(""), entry(`not compared: ${reason}`, "", "t"));
      if (reason === "other images") cautions.add(`${title(head)} was measured on other images.`);
      if (reason.startsWith("not measured") && cells.some((cell) => cell.dataset.v !== "")) {
        cautions.add(`${title(head)} was ${reason}: other attacks, corruptions or generator versions do not compare.`);
      }
    }
    return element("tr", {}, element("th", { scope: "row", textContent: title(head) }), ...made);
  });
  return { rows, cautions };
};
const ratio = (a, b) => (a === null || b === null || !b ? null : `${(a / b).toPrecision(3)}\u00d7`);
const listing = (label, heads, rows) => element("div", { className: "scroll", tabIndex: 0, role: "group", ariaLabel: label },
  element("table", { className: "plain" },
    element("thead", {}, element("tr", {}, ...heads.map(([text, className = ""]) => element("th", { scope: "col", className, textContent: text })))),
    element("tbody", {}, ...rows)));
const versus = (board, i, j) => {
  const [a, b] = [i, j].map((row) => board.rows[row][0]);
  const { rows, cautions } = scores(board, i, j);
  const { names, texts, rows: places } = board.facts;
  const text = (row, fact) => (places[row][fact] === null ? "\u2013" : texts[fact][places[row][fact]]);
  const differing = names.map(([topic, name], fact) => ({ topic, name, a: text(i, fact), b: text(j, fact) }))
    .filter((fact) => fact.a !== fact.b);
  const other = (topic, name) => differing.some((fact) => fact.topic === topic && (!name || fact.name === name));
  if (other("Data", "trained on")) cautions.add("They were trained on other images.");
  if (other("Run", "architecture")) cautions.add("They are of different architectures.");
  if (other("Machine")) cautions.add("They ran on different machines: seconds do not compare.");
  const [[flopsA, secondsA], [flopsB, secondsB]] = [board.cost[i], board.cost[j]];
  const costs = [["FLOPs of training", ratio(flopsA, flopsB)]];
  if (!other("Machine")) costs.push(["time of training", ratio(secondsA, secondsB)]);
  const close = element("button", { type: "button", textContent: "Close", onclick: () => pick([]) });
  panel.replaceChildren(
    element("div", { className: "title" }, element("h2", { textContent: `${a} against ${b}` }), close),
    ...[...cautions].map((caution) => element("p", { className: "caution", textContent: caution })),
    element("div", { className: "both" },
      element("div", {},
        listing("Scores of both rows", [["Score"], [`${a}, %`], [`${b}, %`], ["Difference, points"], ["p"], ["Verdict", "t"]], rows),
        element("p", { className: "key", textContent: `Difference: ${a} less ${b}, image by image, with its 95 % interval; `
          + "p is of this one comparison. " }),
        element("p", { className: "key", textContent: `Cost, ${a} over ${b}: `
          + `${costs.map(([name, value]) => `${name} ${value ?? "unknown"}`).join(", ")}.` })),
      differing.length
        ? listing("What differs", [["What differs"], [a, "t"], [b, "t"]], differing.map((fact) => element("tr", {},
          element("th", { scope: "row", textContent: `${fact.topic}: ${fact.name}` }), entry(fact.a, "", "t"), entry(fact.b, "", "t"))))
        : element("p", { className: "key", textContent: "Nothing else differs." })),
  );
};
const pick = (rows) => {
  const before = picked;
  picked = rows;
  for (const line of lines) if (line.box) line.box.checked = picked.includes(line);
  panel.hidden = picked.length < 2;
  document.body.classList.toggle("comparing", picked.length > 1);
  if (picked.length > 1) {
    versus(picked[0].board, picked[0].row, picked[1].row);
    panel.scrollTop = 0;
    say(`Comparing ${picked[0].name} with ${picked[1].name}. Enter goes to the comparison, Escape closes it.`);
  } else if (picked.length) {
    say(`${picked[0].name} is ticked. Tick a second row to compare.`);
  } else if (before.length) {
    say("The comparison is closed.");
    if (panel.contains(document.activeElement)) before.at(-1).box.focus();
  }
  write();
};
const ticked = new Map(); // box -> line
const boxes = () => {
  for (const line of lines.filter((one) => one.row < one.board.cost.length && one.board.rows.length > 1)) {
    line.box = element("input", { type: "checkbox", ariaLabel: `Compare ${line.name}`, title: "Compare with another row" });
    ticked.set(line.box, line);
    line.body.rows[0].cells[0].append(line.box);
  }
};
addEventListener("change", ({ target }) => {
  const line = ticked.get(target);
  if (!line) return;
  const others = picked.filter((one) => one !== line && one.board === line.board);
  pick(target.checked ? [...others.slice(-1), line] : others);
});

/* Rows far down are not laid out before somebody comes near them. */
const lay = (board) => {
  let shown = 0;
  for (const body of board.table.tBodies) {
    shown += body.hidden ? 0 : 1;
    body.classList.toggle("far", shown > board.limit);
  }
  if (shown > board.limit) {
    extend.unobserve(board.end);
    extend.observe(board.end); // there may be room for more
  }
};
const more = (board) => {
  board.limit += STEP;
  lay(board);
};
addEventListener("focusin", ({ target }) => {
  const body = target.closest(".board tbody");
  let next = body?.nextElementSibling;
  while (next?.hidden) next = next.nextElementSibling;
  if (next?.className === "far") more(boards.find((board) => board.table.contains(body)));
});
const extend = new IntersectionObserver((seen) => {
  for (const { target } of seen.filter((one) => one.isIntersecting)) {
    const board = boards.find((one) => one.end === target);
    if (board.bodies.some((body) => body.className === "far" && !body.hidden)) more(board);
  }
}, { rootMargin: "800px 0px", scrollMargin: "800px 0px" });

/* The view in the address, so that it can be shared. */
let timer = 0;
const write = () => {
  clearTimeout(timer);
  timer = setTimeout(() => {
    const view = new URLSearchParams();
    for (const name of ["q", "set", ...FILTERS]) if (field(name).value) view.set(name, field(name).value);
    if (field("deployed").checked) view.set("deployed", "1");
    for (const { place, sorted } of boards) if (sorted) view.append("sort", [place, sorted[1], sorted[0]].join("~"));
    for (const key of chosen?.size === 0 ? [""] : chosen ?? []) view.append("hide", key);
    if (picked.length > 1) for (const line of picked) view.append("compare", `${line.board.place}~${line.name}`);
    const hash = String(view);
    try {
      if (hash) history.replaceState(null, "", `#${hash}`);
      else if (location.hash.includes("=")) history.replaceState(null, "", location.href.split("#")[0]);
    } catch { /* the view is then not in the address */ }
  }, 150);
};
const read = () => {
  const view = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  for (const name of ["q", "set", ...FILTERS]) {
    field(name).value = view.get(name) ?? "";
    if (field(name).selectedIndex < 0) field(name).value = "";
  }
  field("deployed").checked = view.has("deployed");
  if (view.has("hide")) chosen = new Set(view.getAll("hide").filter((key) => keys.has(key)));
  for (const board of boards) if (board.sorted) sort(board, "", "none");
  for (const one of view.getAll("sort")) {
    const [place, order, ...key] = one.split("~");
    if (boards[place] && ["ascending", "descending"].includes(order)) sort(boards[place], key.join("~"), order);
  }
  const named = view.getAll("compare");
  const found = lines.filter((line) => line.box && named.includes(`${line.board.place}~${line.name}`));
  columns();
  filter();
  pick(found.length === 2 && found[0].board === found[1].board ? found : []);
};

if (tools) {
  offer("set", boards.map((board) => [board.place, board.name]));
  for (const name of FILTERS) {
    const values = [...new Set(lines.flatMap((line) => line[name]))].sort();
    offer(name, values.map((value) => [value, name === "trust" ? WORDS[value] ?? value : value]));
  }
  field("deployed").closest("label").hidden = !document.querySelector(".board .other");
  const list = tools.querySelector(".menu div");
  for (const [key, { text }] of keys) {
    list.append(element("label", {}, element("input", { type: "checkbox", value: key }), ` ${text}`));
  }
  document.head.append(rules);
  boxes();
  for (const board of boards) {
    board.end = element("div");
    board.table.after(board.end);
    for (const head of board.heads.filter((one) => one.dataset.first)) {
      head.querySelector("button").addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        sort(board, head.dataset.k, now === "none" ? head.dataset.first : now === "ascending" ? "descending" : "ascending");
        say(`Sorted by ${title(head)}, ${head.getAttribute("aria-sort")}.`);
        write();
      });
    }
  }
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("input", (event) => {
    if (event.target.closest(".menu")) {
      chosen = new Set([...list.querySelectorAll("input")].filter((box) => !box.checked).map((box) => box.value));
      remember([...chosen]);
      columns();
    } else filter();
    write();
  });
  field("usual").addEventListener("click", () => {
    chosen = null;
    remember(null);
    columns();
    write();
  });
  tools.addEventListener("reset", () => setTimeout(() => {
    chosen = null;
    remember(null);
    columns();
    for (const board of boards) sort(board, "", "none");
    filter();
    pick([]);
    say("All filters, columns and sorting are as they were.");
  }));
  wide.addEventListener("change", columns);
  const known = remembered();
  if (Array.isArray(known)) chosen = new Set(known.filter((key) => keys.has(key)));
  tools.hidden = false;
  read();
  const menu = tools.querySelector(".menu");
  addEventListener("click", (event) => { if (!menu.contains(event.target)) menu.open = false; });
  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input:not([type=checkbox]), select, textarea");
    if (event.key === "Enter" && ticked.has(event.target)) {
      event.preventDefault();
      if (!panel.hidden) panel.querySelector("button").focus();
    } else if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      field("q").focus();
    } else if (event.key === "Escape") {
      if (menu.open) {
        menu.open = false;
        menu.querySelector("summary").focus();
      } else if (field("q").value && (event.target === field("q") || panel.hidden)) {
        field("q").value = "";
        filter();
        write();
      } else if (picked.length) pick([]);
    }
  });
}

/* Tables wider than the window say so; those that fit keep their headings in sight. */
const mark = (box) => {
  const [hint, table] = [box.previousElementSibling, box.firstElementChild];
  const wider = table.getBoundingClientRect().right + box.scrollLeft > box.getBoundingClientRect().right + 1;
  if (hint?.classList.contains("hint")) hint.hidden = !wider;
  box.classList.toggle("fits", !wider);
  box.classList.toggle("more", wider && box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
};
const sizes = new ResizeObserver((seen) => new Set(seen.map(({ target }) => target.closest(".scroll"))).forEach(mark));
const watch = (part) => {
  for (const box of part.querySelectorAll(".scroll")) {
    box.addEventListener("scroll", () => mark(box), { passive: true });
    sizes.observe(box);
    if (box.firstElementChild.className === "board") sizes.observe(box.firstElementChild);
  }
};
watch(document.querySelector("main"));

document.querySelector(".blocked").remove();

/* What waits as text becomes elements when somebody looks at it: tens of thousands of them would slow the page down.
   Without scripts a browser reads the same text as the elements that it is. */
const coloured = (text) => {
  const lines = text.trim().split("\n").map((line) => line.trim().split(/ +/));
  const numbers = lines.slice(1).flatMap((line) => line.slice(1).map(Number).filter((value) => !Number.isNaN(value)));
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const step = (word) => (high > low ? Math.round((20 * (word - low)) / (high - low)) : 0);
  const cell = (word) => element("td", { className: Number.isNaN(Number(word)) ? "absent" : `h${step(word)}`, textContent: word });
  const heads = lines.map(([name]) => element("th", { scope: "col", textContent: name.replaceAll("_", " ") }));
  const rows = lines[0].slice(1).map((severity, place) => element("tr", {},
    element("th", { scope: "row", textContent: severity }), ...lines.slice(1).map((line) => cell(line[place + 1]))));
  return element("table", { className: "heat" }, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
};
const unfold = (part) => {
  const text = part.querySelector(":scope > noscript");
  if (!text) return;
  text.outerHTML = text.textContent;
  for (const map of part.querySelectorAll("pre")) map.replaceWith(coloured(map.textContent));
  watch(part);
};
const runs = document.querySelector(".runs");
const late = [...document.querySelectorAll(".later")].map((text) => text.parentElement);
const near = new IntersectionObserver((seen) => {
  for (const { target } of seen.filter((one) => one.isIntersecting)) unfold(target);
}, { rootMargin: "1000px 0px" });
for (const part of late) near.observe(part);
new MutationObserver((changes) => {
  for (const { target } of changes) if (target.open) unfold(target);
}).observe(runs, { subtree: true, attributeFilter: ["open"] });
for (const run of runs.querySelectorAll(".run[open]")) unfold(run);
addEventListener("beforeprint", () => late.forEach(unfold));
addEventListener("keydown", (event) => {
  // The browser searches what is in the page, also behind what is folded.
  if (event.key !== "F3" && !((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "f")) return;
  for (const board of boards) {
    board.limit = Infinity;
    lay(board);
  }
  for (const part of [...late, ...runs.querySelectorAll(".run")]) unfold(part);
});

const button = document.querySelector(".theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const show = () => {
  const theme = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  button.textContent = theme === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `Switch to the ${theme === "dark" ? "light" : "dark"} theme`);
};
button.addEventListener("click", () => {
  document.documentElement.dataset.theme = button.textContent === "Dark" ? "dark" : "light";
  show();
});
dark.addEventListener("change", show);
button.hidden = false;
show();
const reveal = () => {
  if (location.hash.includes("=")) return;
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
};
// A link to where the address is already changes nothing there.
addEventListener("click", ({ target }) => {
  if (target.closest?.("a")?.getAttribute("href") === location.hash) reveal();
});
addEventListener("hashchange", () => {
  if (tools && location.hash.includes("=")) read();
  reveal();
});
reveal();
