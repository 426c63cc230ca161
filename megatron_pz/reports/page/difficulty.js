// How hard masks are over the training, by kind of hidden words and by topic of the passage.

const MEASURES = {
  accuracy: { label: "accuracy of the masks", of: (row, bin) => row.right[bin] / row.n[bin], colour: accuracyColour, text: percent },
  share: { label: "share of the valid masks", of: (row, bin, total) => row.n[bin] / total[bin], colour: (value) => `color-mix(in srgb, var(--accent) ${Math.round(70 * value)}%, var(--card))`, text: percent },
  reward: { label: "generator's reward", of: (row, bin) => row.reward[bin] / row.n[bin], colour: (value) => `color-mix(in srgb, var(--generator) ${Math.round(60 * Math.max(0, value))}%, var(--card))`, text: (value) => value.toFixed(2) },
};

class Difficulty {
  constructor(report) {
    this.report = report;
    this.measure = "accuracy";
  }

  view() {
    const runs = this.report.runs.filter((run) => run.difficulty.edges.length);
    if (!runs.length) return h("p", { className: "empty" }, "No samples are kept in this run’s folder, so there is nothing to sort.");
    this.root = h("div", {});
    const bar = h("div", { className: "bar" }, select("Cells show", Object.entries(MEASURES).map(([key, { label }]) => [key, label]), this.measure, (key) => { this.measure = key; this.fill(runs); }));
    this.fill(runs);
    return h("div", {}, h("p", { className: "quiet" }, "From all kept samples, including those that do not fit on this page. A small figure is the number of masks; a cell with few masks says little."), bar, this.root);
  }

  fill(runs) {
    const tables = [["kinds", "By kind of hidden words", "The first that applies: part of a word, number or date, function word, proper name (capitals that do not only begin a sentence), several words, single word. Scripts without capitals have no proper names."],
      ["topics", "By topic of the passage", this.report.wording.glossary.topic]];
    this.root.replaceChildren(...tables.map(([name, title, words]) => h("section", {}, h("h2", {}, title, " ", hint(words)),
      h("div", { className: "heats" }, runs.map((run) => h("figure", {}, runs.length > 1 && h("figcaption", {}, foreign(run.name)), this.table(run.difficulty, name)))))));
  }

  table({ edges, ...tables }, name) {
    const rows = tables[name];
    if (!rows.length) return h("p", { className: "quiet" }, name === "topics" ? "Too few different passages are kept to find topics." : "No valid mask is kept.");
    const { of, colour, text, label } = MEASURES[this.measure];
    const bins = edges.length - 1;
    const total = Array.from({ length: bins }, (_, bin) => rows.reduce((sum, row) => sum + row.n[bin], 0));
    const head = h("tr", {}, h("th", {}, "steps"), Array.from({ length: bins }, (_, bin) => h("th", { scope: "col" },
      edges[bin + 1] - edges[bin] > 1 ? `${short(edges[bin])}–${short(edges[bin + 1] - 1)}` : String(edges[bin]))));
    const cell = (row, bin) => {
      if (!row.n[bin]) return h("td", { className: "none" }, "·");
      const value = of(row, bin, total), variance = Math.max(0, row.squares[bin] / row.n[bin] - (row.right[bin] / row.n[bin]) ** 2);
      const half = this.measure === "accuracy" && row.n[bin] > 1 ? ` ± ${Math.round(196 * Math.sqrt(variance / (row.n[bin] - 1)))}` : "";
      return h("td", { style: { background: colour(value) }, title: `${row.label}: ${label} ${text(value)}${half && `${half} points (95 %)`}, ${plural(row.n[bin], "mask")}` },
        text(value), h("small", {}, short(row.n[bin])));
    };
    return h("div", { className: "scroll" }, h("table", { className: "heat" }, h("thead", {}, head), h("tbody", {}, rows.map((row) =>
      h("tr", {}, h("th", { scope: "row" }, foreign(row.label)), row.n.map((_, bin) => cell(row, bin)))))));
  }
}
