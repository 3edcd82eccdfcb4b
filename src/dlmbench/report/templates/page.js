// Data are in the page as base64 of gzip; text from a run reaches the page through textContent only.
const byId = (id) => document.getElementById(id);
const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const bytesOf = (id) => Uint8Array.from(atob(byId(id).textContent), (c) => c.charCodeAt(0));
const unpack = (id) =>
  new Response(new Blob([bytesOf(id)]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
const save = (text, file) => {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  element("a", { href: url, download: file }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
};
const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 30));
const root = document.documentElement;

// ---------------------------------------------------------------- theme

const system = matchMedia("(prefers-color-scheme: dark)");
let chosen; // by the button, as whether it is dark
let printing = false;
const isDark = () => !printing && (chosen ?? system.matches);
const showTheme = () => {
  root.dataset.theme = isDark() ? "dark" : "light";
  byId("theme").textContent = isDark() ? "Light" : "Dark";
};
const applyTheme = () => {
  showTheme();
  figures.forEach((figure) => figure.drawn && figure.draw());
};

// ---------------------------------------------------------------- cells

class Cells {
  // A column has texts, as the document prints them, and unless it is one of words the value of each row, with the
  // ends of its interval where some are known.
  constructor({ ids, columns, constant }) {
    this.ids = ids;
    this.constant = new Set(constant);
    this.columns = columns.map((column) => ({ ...column, isText: !column.value, at: (r) => (column.value ?? column.texts)[r] }));
    this.rows = ids.length;
    this.made = [];
    this.sorted = null;
    this.scroller = byId("scroller");
    this.body = document.querySelector("#table tbody");
    this.head();
    const form = byId("filters");
    form.addEventListener("input", () => this.update());
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => this.update()));
    byId("cells-csv").addEventListener("click", () => save(this.csv(), "cells.csv"));
    this.update();
  }

  head() {
    const table = byId("table");
    const row = element("tr");
    this.columns.forEach((column, i) => {
      const button = element("button", { type: "button", title: column.help }, element("span", { textContent: column.title }));
      if (column.unit) button.append(element("small", { textContent: column.unit }));
      button.addEventListener("click", () => this.sortBy(i));
      const cell = element("th", { scope: "col", className: column.isText ? "text" : "" }, button);
      cell.setAttribute("aria-sort", "none");
      row.append(cell);
    });
    table.querySelector("thead").append(row);
  }

  // Whether a row fits a term of the search. steps=16 or K=16 is the value of a column, by its key or title; any other
  // term begins a word of the row's texts: 7 finds block 7 and not block 17.
  test(term) {
    const [name, value] = term.split("=", 2);
    const column = value && this.columns.find((c) => [c.key, c.title.toLowerCase()].includes(name));
    if (column?.isText) return (r) => column.at(r).toLowerCase().includes(value);
    if (column) return (r) => column.at(r) === Number(value) || column.texts[r].split(" ")[0].replaceAll(",", "") === value;
    if (this.constant.has(term)) return () => true;
    const literal = term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const begins = new RegExp(/^[\p{L}\p{N}]/u.test(term) ? `(?<![\\p{L}\\p{N}])${literal}` : literal, "u");
    const texts = this.columns.filter((c) => c.isText);
    return (r) => begins.test(texts.map((c) => c.at(r)).join(" ").toLowerCase());
  }

  update() {
    const tests = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean).map((term) => this.test(term));
    this.order = Array.from({ length: this.rows }, (_, r) => r).filter((r) => tests.every((fits) => fits(r)));
    byId("count").textContent = `${this.order.length.toLocaleString("en")} of ${this.rows.toLocaleString("en")} cells`;
    this.scroller.scrollTop = 0;
    this.show();
  }

  sortBy(i) {
    const wasAscending = this.sorted?.column === i && this.sorted.ascending;
    this.sorted = { column: i, ascending: !wasAscending };
    document.querySelectorAll("#table thead th").forEach((th, j) => {
      th.setAttribute("aria-sort", j !== i ? "none" : wasAscending ? "descending" : "ascending");
    });
    this.show();
  }

  // Unknown values go last in both directions; equal rows keep the order of the plan.
  sort() {
    if (!this.sorted) return;
    const column = this.columns[this.sorted.column];
    const sign = this.sorted.ascending ? 1 : -1;
    const compare = column.isText ? (a, b) => a.localeCompare(b, "en", { numeric: true }) : (a, b) => a - b;
    this.order.sort((r, s) => {
      const [a, b] = [column.at(r), column.at(s)];
      const [noA, noB] = [a, b].map((v) => v === null || v === "");
      if (noA || noB) return noA - noB || r - s;
      return sign * compare(a, b) || r - s;
    });
  }

  show() {
    this.sort();
    const none = element("tr", {}, element("td", { colSpan: this.columns.length, textContent: "no cell fits", className: "text" }));
    this.body.replaceChildren(...(this.order.length ? this.order.map((r) => (this.made[r] ??= this.row(r))) : [none]));
  }

  row(r) {
    const row = element("tr");
    this.columns.forEach((column, i) => {
      const text = column.texts[r];
      const cell = element(i ? "td" : "th", { textContent: text || "–" });
      cell.dataset.value = `${this.ids[r]}.${column.key}`;
      if (!i) cell.scope = "row";
      if (column.isText) cell.title = text;
      if (column.isText && i) cell.className = column.key === "status" && text !== "ok" ? "text bad" : "text";
      row.append(cell);
    });
    return row;
  }

  csv() {
    const field = (v) => {
      if (v === null || v === undefined) return "";
      if (typeof v === "number") return String(v);
      const safe = /^[=+\-@\t\r\n＝＋－＠]/.test(v) ? `'${v}` : v; // a spreadsheet would run it as a formula
      return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    const ends = (c) => ["low", "high"].filter((end) => c[end]);
    const heads = (c) => [c.key, ...ends(c).map((end) => `${c.key}_${end}`)].map((key) => field(c.unit ? `${key} [${c.unit}]` : key));
    const values = (c, r) => [c.at(r), ...ends(c).map((end) => c[end][r])].map(field);
    const lines = [this.columns.flatMap(heads).join(",")];
    for (const r of this.order) lines.push(this.columns.flatMap((c) => values(c, r)).join(","));
    return lines.join("\n") + "\n";
  }
}

// ---------------------------------------------------------------- print, and the start

let cells;
const open = (id) => {
  const part = id ? byId(id) : null;
  if (part instanceof HTMLDetailsElement) part.open = true;
  figures.forEach((f) => part?.contains(f.place) && (f.drawn || f.isAppendix) && f.place.clientWidth !== f.width && f.draw());
};
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='#']");
  if (!link) return;
  open(link.hash.slice(1));
  if (link.dataset.find === undefined) return;
  byId("filters").reset();
  byId("find").value = link.dataset.find;
  cells?.update();
});
document.querySelectorAll("main > details").forEach((part) => part.addEventListener("toggle", () => part.open && open(part.id)));
open(location.hash.slice(1));
const closed = [];
const print = async (starts) => {
  printing = starts;
  if (starts) closed.push(...document.querySelectorAll("details:not([open])"));
  closed.forEach((d) => (d.open = starts));
  if (!starts) closed.length = 0;
  showTheme();
  await Promise.all(figures.map((f) => f.draw()));
};
addEventListener("beforeprint", () => print(true));
addEventListener("afterprint", () => print(false));
byId("print").addEventListener("click", async () => {
  await print(true);
  window.print();
});
byId("theme").addEventListener("click", () => {
  chosen = !isDark();
  applyTheme();
});
system.addEventListener("change", applyTheme);

// The load event waits for an open document in a frame: whoever prints at once gets every figure.
const waiting = element("iframe", { hidden: true });
document.body.append(waiting);
waiting.contentDocument.open();
const loaded = () => {
  waiting.contentDocument.close();
  waiting.remove();
};

applyTheme();
unpack("cells-data").then((text) => {
  cells = new Cells(JSON.parse(text));
  root.dataset.cells = "ready";
  performance.mark("cells ready");
  drawAll().finally(loaded);
});
