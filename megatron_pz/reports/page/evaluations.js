// Evaluations: tables with intervals, and items to read, wrong ones first.

class Evaluations {
  constructor(report) {
    this.report = report;
    this.filter = { set: "", verdict: "", words: "" };
    this.room = 40;
  }

  view() {
    const { tables, items } = this.report.evaluations;
    if (!tables.length) return h("p", { className: "empty" }, "This page was made without evaluations. Name their files after --evaluations.");
    const parts = tables.map((table) => this.table(table));
    if (items) {
      this.list = h("div", { className: "items" });
      this.controls = h("div", { className: "bar" });
      parts.push(h("section", {}, h("h2", {}, "Items to read ", hint("The items that most models got wrong come first. Frames mark the expected words; the models saw the passage with one or all of these places hidden.")), this.controls, this.list));
      this.load(items);
    }
    return h("div", {}, parts);
  }

  table(table) {
    const cells = table.rows.flatMap((row) => row.cells).filter((cell) => cell.n);
    return h("section", {}, h("h2", {}, foreign(table.title)), table.note && h("p", { className: "quiet" }, foreign(table.note)),
      h("div", { className: "scroll" }, h("table", { className: "results" },
        h("thead", {}, h("tr", {}, h("th", {}, ""), table.names.map((name, index) => h("th", { scope: "col" }, h("i", { className: "dot", style: { background: css(`--run-${index % 8}`) } }), foreign(name))), h("th", {}, "95 % intervals ", hint(this.report.wording.glossary.interval)))),
        h("tbody", {}, table.rows.map((row) => h("tr", {}, h("th", { scope: "row" }, foreign(row.label)), row.cells.map((cell) => this.cell(cell)), h("td", { className: "forest" }, this.forest(row.cells))))))),
      cells.some((cell) => cell.mark) && h("p", { className: "quiet" }, table.marks || "▲ ▼ higher or lower than in the column to the left: the 95 % interval of the paired difference excludes 0."));
  }

  cell(cell) {
    if (!cell.n) return h("td", { className: "none" }, "–");
    const half = (cell.high - cell.low) / 2, even = Math.abs(cell.high + cell.low - 2 * cell.mean) < 0.002;
    const ends = half > 0 && (even ? ` ± ${half.toFixed(3)}` : ` ${cell.low.toFixed(3)}–${cell.high.toFixed(3)}`);
    return h("td", {}, cell.mean.toFixed(3), ends && h("small", {}, ends), cell.mark && h("b", { className: "change" }, ` ${cell.mark}`));
  }

  // A dot with its interval for every model, on one scale a row.
  forest(cells) {
    const known = cells.map((cell, index) => ({ ...cell, index })).filter((cell) => cell.n);
    if (!known.length) return "";
    const ends = known.flatMap((cell) => [cell.low, cell.high]);
    const shares = known.every((cell) => cell.mean >= 0 && cell.mean <= 1);
    const low = shares ? 0 : Math.min(0, ...ends), top = shares ? 1 : Math.max(low + 1e-9, ...ends);
    const at = (value) => 4 + (192 * (Math.min(top, Math.max(low, value)) - low)) / (top - low);
    const svg = (name, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", name);
      Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
      return element;
    };
    const picture = svg("svg", { viewBox: `0 0 200 ${8 * cells.length + 4}`, width: 200, height: 8 * cells.length + 4, "aria-hidden": "true" });
    picture.append(svg("line", { x1: at(low), x2: at(top), y1: 8 * cells.length + 2, y2: 8 * cells.length + 2, stroke: css("--grid") }));
    for (const cell of known) {
      const y = 8 * cell.index + 6, colour = css(`--run-${cell.index % 8}`);
      if (cell.high > cell.low) picture.append(svg("line", { x1: at(cell.low), x2: at(cell.high), y1: y, y2: y, stroke: colour, "stroke-width": 2 }));
      picture.append(svg("circle", { cx: at(cell.mean), cy: y, r: 3, fill: colour }));
    }
    return picture;
  }

  async load(packed) {
    this.items = await unpack(packed);
    const sets = [...new Set(this.items.map((item) => item.set))];
    const set = (name) => (value) => { this.filter[name] = value; this.room = 40; this.fill(); };
    const search = h("input", { type: "search", placeholder: "any", "aria-label": "Words", oninput: () => set("words")(search.value) });
    this.controls.replaceChildren(select("Set", [["", "all"], ...sets.map((name) => [name, name])], "", set("set")),
      select("Verdict", [["", "any"], ["wrong", "all wrong"], ["differ", "models differ"], ["right", "all right"]], "", set("verdict")),
      h("label", { className: "field" }, h("span", {}, "Words"), search));
    this.fill();
  }

  fill() {
    const { set, verdict, words } = this.filter, wanted = words.trim().toLocaleLowerCase();
    const found = this.items.filter((item) => {
      const scores = item.results.map((result) => result.score);
      if (set && item.set !== set) return false;
      if (verdict === "wrong" && scores.some((score) => score > 0)) return false;
      if (verdict === "right" && scores.some((score) => score < 1)) return false;
      if (verdict === "differ" && new Set(scores).size < 2) return false;
      return !wanted || `${item.text} ${item.expected}`.toLocaleLowerCase().includes(wanted);
    });
    const more = found.length > this.room && h("button", { type: "button", className: "plain", onclick: () => { this.room += 100; this.fill(); } }, `Show more of the ${found.length.toLocaleString("en")}`);
    const all = this.report.evaluations.all_items;
    const kept = this.items.length < all ? ` The page has room for every ${Math.round(all / this.items.length)}th of the ${all.toLocaleString("en")}.` : "";
    this.list.replaceChildren(...[h("p", { className: "quiet", role: "status" }, `${plural(found.length, "item")}${kept}`), ...found.slice(0, this.room).map((item) => this.item(item)), more].filter(Boolean));
  }

  item(item) {
    const pieces = item.mark ? item.text.split(item.mark).flatMap((piece, index) => (index ? [h("mark", { className: "selected" }, item.mark), piece] : [piece])) : [item.text];
    return h("article", { className: "item-card" }, h("p", { className: "quiet" }, foreign(item.set)), h("div", { className: "passage", dir: "auto" }, pieces),
      h("p", {}, "Expected: ", foreign(item.expected, "b")),
      h("ul", { className: "verdicts" }, item.results.map((result) => h("li", {}, h("i", { className: "dot", style: { background: accuracyColour(result.score) } }), foreign(result.name), ` ${percent(result.score)}`,
        result.answer !== undefined && result.answer !== null && [" read as ", foreign(result.answer, "b")],
        result.text && h("details", { className: "response" }, h("summary", {}, "response"), h("pre", { dir: "auto" }, result.text))))));
  }
}
