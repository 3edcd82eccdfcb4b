"use strict";
// Figures of a page: fitted to its width and theme, drawn by Vega, as write.py fits and draws them for print.
// The page brings byId, element, unpack, save, idle, root, isDark and printing.
const NARROW_PX = 560;
// The area inside the margins of both Letter and A4, in pixels, less a title and some space.
const PAPER = { width: 680, height: 860 };
let vegaReady;
let darkColours;
const vegaEmbed = () =>
  (vegaReady ??= unpack("vega").then((source) => {
    document.head.append(element("script", { textContent: source }));
    return window.vegaEmbed;
  }));
// A legend has the names that `rows` have, in as many columns as they leave space for; names that do not fit are cut.
const fitLegends = (part, rows, width) => {
  if (!part || typeof part !== "object") return;
  if (part.legend && part.type === "nominal" && part.scale?.domain) {
    const drawn = new Set(rows.map((row) => row[part.field]));
    const names = part.scale.domain.filter((name) => drawn.has(name));
    const across = Math.max(1, Math.floor(width / (6.6 * Math.max(...names.map((n) => n.length)) + 34)));
    Object.assign(part.legend, { values: names, columns: Math.min(across, names.length), labelLimit: width - 40 });
  }
  Object.values(part).forEach((value) => fitLegends(value, rows, width));
};
// A title in lines of at most `width` pixels; a number stays beside its word.
const pen = document.createElement("canvas").getContext("2d");
const inLines = (title, width) => {
  pen.font = `bold 12px ${getComputedStyle(document.body).fontFamily}`;
  const lines = [];
  for (const word of title.split(/(?<!\d) (?!\d)/)) {
    const longer = `${lines.at(-1)} ${word}`;
    if (lines.length && pen.measureText(longer).width <= width) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines.join("\n");
};

class PageFigure {
  constructor(place) {
    this.place = place;
    this.drawn = false;
    this.hidden = new Set();
    // A click on a name in the legend hides its marks, or shows them again.
    place.addEventListener("click", (event) => {
      const label = event.target.closest?.(".role-legend-label text")?.textContent;
      if (!label) return;
      if (!this.hidden.delete(label)) this.hidden.add(label);
      this.draw();
    });
    // In the appendix all panels, small and side by side; elsewhere the few that print shows.
    this.isAppendix = "all" in place.dataset;
  }

  async draw() {
    const [embed, text, colours] = await Promise.all([
      vegaEmbed(),
      (this.text ??= unpack(this.place.dataset.plot)),
      (darkColours ??= unpack("colours").then(JSON.parse)),
    ]);
    const shown = isDark() ? text.replace(/"(#[0-9a-f]{6})"/gi, (all, c) => `"${colours[c.toLowerCase()] ?? c}"`) : text;
    const spec = JSON.parse(shown);
    const { inner, columns } = this.fit(spec);
    // The policy of the page forbids code made from text: expressions are interpreted. Only errors are logged.
    const options = { ast: true, renderer: "svg", actions: false, logLevel: 1, tooltip: { theme: isDark() ? "dark" : "light" } };
    this.made?.finalize();
    this.made = await embed(this.place, spec, options);
    // Labels need space that only drawing tells: what is too wide or too narrow is given to the panels.
    const drawn = this.place.querySelector("svg");
    if (spec.facet) {
      const width = inner.width + (this.width - drawn.width.baseVal.value - 1) / columns;
      await this.made.view.signal("child_width", Math.max(width, 60)).resize().runAsync();
    }
    // One image with a name, not a thousand graphics without one.
    for (const part of drawn.querySelectorAll("[role], [aria-roledescription]")) {
      part.removeAttribute("role");
      part.removeAttribute("aria-roledescription");
    }
    drawn.setAttribute("role", "img");
    drawn.setAttribute("aria-label", spec.description);
    this.place.style.minHeight = "";
    this.drawn = true;
  }

  // Panels side by side where they fit, otherwise below each other; no hidden marks.
  fit(spec) {
    // A figure in a closed part of the page has no width of its own yet: it is drawn as wide as it will be.
    this.width = printing ? PAPER.width : this.place.clientWidth || byId("figures").clientWidth - 40;
    const inner = spec.facet ? spec.spec : spec;
    if (spec.facet && !this.isAppendix) spec.facet.sort = spec.usermeta.shown;
    const shown = spec.facet && new Set(spec.facet.sort);
    const names = (label, name) => (label.endsWith("…") ? name?.startsWith(label.slice(0, -1)) : name === label);
    const isHidden = (row) => [...this.hidden].some((label) => names(label, row.line) || names(label, row.series));
    for (const [name, rows] of Object.entries(spec.datasets)) {
      const own = rows.filter((r) => shown?.has(r.panel) ?? true);
      fitLegends(inner, own, this.width);
      spec.datasets[name] = own.filter((r) => !isHidden(r));
    }
    const panels = spec.facet?.sort?.length ?? 1;
    const wide = this.isAppendix ? Math.floor(this.width / 300) : spec.columns ?? 1;
    let columns = Math.max(1, Math.min(this.width < NARROW_PX ? 1 : wide, panels));
    inner.height ??= panels === 1 ? 300 : this.isAppendix ? 130 : 190;
    if (printing && panels > 2 && !this.isAppendix) {
      // A figure and its caption fit on one page.
      columns = Math.min(panels, 3);
      inner.height = Math.min(inner.height, 460 / Math.ceil(panels / columns) - 60);
    }
    if (spec.facet) {
      spec.columns = columns;
      const width = (this.width - 80) / columns - 24;
      const lines = (title) => inLines(title, width);
      spec.facet.sort = spec.facet.sort.map(lines);
      Object.values(spec.datasets).flat().forEach((row) => (row.panel = lines(row.panel)));
      spec.facet.header = { ...spec.facet.header, labelLimit: width, labelExpr: "split(datum.label, '\\n')" };
    }
    inner.width = (this.width - 80) / columns - 24;
    if (spec.title && this.width < NARROW_PX) spec.title = spec.title.split(/(?<=:) /);
    return { inner, columns };
  }
}

const figures = [...document.querySelectorAll("[data-plot]")].map((place) => new PageFigure(place));
const drawOne = (figure) =>
  figure.draw().catch((error) => {
    figure.place.textContent = `This figure could not be drawn here (${error}). Its points are in the CSV.`;
  });
const MOST_PANELS = 60; // of a figure in the appendix that is drawn before the page has loaded
const drawAll = async () => {
  // In the order of the page, one after the other, so that the reader can scroll meanwhile.
  for (const figure of figures) {
    if (Number(figure.place.dataset.all ?? 0) > MOST_PANELS) continue; // drawn when it is opened
    await drawOne(figure);
    await new Promise((done) => idle(done, { timeout: 100 }));
  }
  root.dataset.drawn = "all";
  performance.mark("figures drawn");
};
document.querySelectorAll("[data-csv]").forEach((button) =>
  button.addEventListener("click", async () => save(await unpack(button.dataset.csv), button.dataset.file)),
);
let resizing;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(
    () => figures.forEach((f) => f.drawn && f.place.clientWidth && f.place.clientWidth !== f.width && !printing && f.draw()),
    150,
  );
});

