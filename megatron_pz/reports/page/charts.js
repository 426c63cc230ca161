// Curves of all runs on the same axes.

const DASHES = [[], [6, 4], [2, 3], [8, 3, 2, 3]];
const AXES = {
  step: { label: "step", of: (run) => run.steps },
  compute: { label: "floating point operations", of: (run) => run.metrics["compute/flops"] },
  tokens: { label: "tokens trained", of: (run) => run.metrics["compute/trained_tokens"] },
  hours: { label: "hours", of: (run) => cumulated(run.metrics["time/iteration"], 3600) },
};

const cumulated = (values, unit) => {
  let sum = 0;
  return values && values.map((value) => (sum += (value || 0) / unit));
};

// Centred moving mean, missing values left out; windows shrink at the ends.
function smooth(values, half) {
  if (!half) return values;
  const sums = [0], counts = [0];
  values.forEach((value, index) => {
    sums.push(sums[index] + (value ?? 0));
    counts.push(counts[index] + (value === null || value === undefined ? 0 : 1));
  });
  return values.map((_, index) => {
    const low = Math.max(0, index - half), high = Math.min(values.length, index + half + 1);
    const count = counts[high] - counts[low];
    return count ? (sums[high] - sums[low]) / count : null;
  });
}

class Chart {
  // lines: [{label, colour, dash, x, y, pale}], all with one y axis.
  constructor(host, panel, lines, options) {
    this.height = options.height;
    const shown = lines.filter((line) => line.y && line.y.some((value) => value !== null));
    this.readouts = [];
    const title = panel.title + (options.suffix ? ` · ${options.suffix}` : "");
    const head = h("div", { className: "panel-head" }, h("h4", {}, title, " ", hint(panel.hint || title)),
      h("span", { className: "unit" }, panel.unit || ""));
    this.legend = h("div", { className: "legend" });
    this.canvas = h("div", { className: "plot", role: "img", style: { "min-height": `${this.height}px` } });
    host.replaceChildren(head, this.canvas, this.legend);
    if (!shown.length) {
      this.canvas.classList.add("nothing");
      this.canvas.append("not measured");
      this.canvas.setAttribute("aria-label", `${title}: not measured`);
      return;
    }
    const named = shown.filter((line) => !line.pale);
    const last = (line) => line.last ?? [...line.y].reverse().find((value) => value !== null);
    this.canvas.setAttribute("aria-label",
      `${title}. ${named.map((line) => `${line.label}, last ${short(last(line))}`).join("; ")}`);
    this.draw(panel, shown, options);
    for (const line of named) {
      const value = h("b", {}, short(last(line)));
      this.readouts.push({ index: shown.indexOf(line) + 1, value, last: last(line), stacked: panel.kind === "stack" });
      this.legend.append(h("span", { className: "key" },
        h("i", { style: { "border-top": `3px ${line.dash && line.dash.length ? "dashed" : "solid"} ${line.colour}` } }),
        foreign(line.label), " ", value));
    }
  }

  draw(panel, lines, options) {
    const data = uPlot.join(lines.map((line) => [line.x, line.y]));
    const ink = css("--quiet"), grid = css("--grid");
    const values = lines.flatMap((line) => line.y).filter((value) => value !== null);
    const log = panel.log && values.some((value) => value > 0);
    if (log) lines.forEach((_, index) => { data[index + 1] = data[index + 1].map((v) => (v > 0 ? v : v === undefined ? v : null)); });
    const axis = { stroke: ink, font: "11px system-ui, sans-serif", grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, size: 4 } };
    const whole = [data[0][0], data[0].at(-1)];
    const across = (low, high) => {
      if (low === whole[0] && high === whole[1]) [low, high] = options.ends;
      return low === high ? [low - 0.5, high + 0.5] : [low, high];
    };
    this.plot = new uPlot({
      width: Math.max(200, this.canvas.clientWidth), height: this.height, legend: { show: false }, padding: [10, 12, 0, 0],
      cursor: { sync: { key: `x-${options.axis}`, scales: ["x", null] }, drag: { x: true, y: false, setScale: true }, points: { size: 6 } },
      scales: {
        x: { time: false, range: (_, low, high) => across(low, high) },
        y: { distr: log ? 3 : 1, ...(log ? {} : { range: this.range(panel) }) },
      },
      axes: [
        { ...axis, size: 34, incrs: options.axis === "step" ? [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000] : undefined,
          values: (_, ticks) => ticks.map((tick) => short(tick)) },
        { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick))) },
      ],
      series: [{}, ...lines.map((line) => ({
        stroke: line.colour, width: line.fill ? 0 : line.pale ? 1 : 2, alpha: line.pale ? 0.45 : 1, dash: line.dash, fill: line.fill,
        spanGaps: true, points: { show: line.y.filter((value) => value !== null).length === 1, size: 7, fill: line.colour },
      }))],
      hooks: { setCursor: [(plot) => this.read(plot)] },
    }, data, this.canvas);
  }

  range(panel) {
    return (_, low, high) => {
      if (low === null || high === null) return [0, 1];
      if (panel.kind === "stack" && panel.whole) return [0, 1];
      const floor = panel.free ? low : Math.min(0, low);
      const room = (high - floor || Math.abs(high) || 1) * 0.06;
      return [panel.free ? low - room : floor < 0 ? floor - room : 0, high + room];
    };
  }

  read(plot) {
    const at = plot.cursor.idx;
    for (const { index, value, last, stacked } of this.readouts) {
      const idle = at === null || at === undefined;
      const here = idle ? last : plot.data[index][at];
      const beneath = !idle && stacked ? plot.data[index + 1]?.[at] ?? 0 : 0;
      value.textContent = short(here === null || here === undefined ? null : here - beneath);
    }
  }

  resize() {
    if (this.plot) this.plot.setSize({ width: Math.max(200, this.canvas.clientWidth), height: this.height });
  }

  destroy() {
    if (this.plot) this.plot.destroy();
  }
}

class Curves {
  constructor(report) {
    this.report = report;
    this.hidden = new Set();
    this.axis = "step";
    this.smoothing = 5;
    this.charts = new Map();
    this.observer = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) this.fill(entry.target);
    }, { rootMargin: "300px" });
    window.addEventListener("resize", () => this.charts.forEach((chart) => chart.resize()));
  }

  view() {
    const { runs } = this.report;
    this.root = h("div", { className: "curves" });
    if (!runs.some((run) => run.steps.length)) {
      return h("p", { className: "empty" }, "No step has been finished yet. Make the page again once the run has done one.");
    }
    const axes = Object.entries(AXES).filter(([, axis]) => runs.some((run) => axis.of(run)?.some((value) => value !== null)));
    const slider = h("input", { type: "range", min: 0, max: 20, value: this.smoothing, "aria-label": "Smoothing",
      oninput: () => { this.smoothing = Number(slider.value); this.redraw(); } });
    const bar = h("div", { className: "bar" },
      runs.length > 1 && h("div", { className: "runs", role: "group", "aria-label": "Runs" }, runs.map((run, index) => this.chip(run, index))),
      select("Horizontal axis", axes.map(([key, axis]) => [key, axis.label]), this.axis, (key) => { this.axis = key; this.redraw(); }),
      h("label", { className: "field" }, h("span", {}, "Smoothing ", hint("Bold: moving mean over this share of the run. Pale: the values themselves. Drag over a chart to zoom into it, double-click to see everything again.")), slider));
    this.redraw();
    return h("div", {}, this.summary(), bar, this.root);
  }

  chip(run, index) {
    const box = h("input", { type: "checkbox", checked: !this.hidden.has(index),
      onchange: () => { if (box.checked) this.hidden.delete(index); else this.hidden.add(index); this.redraw(); } });
    return h("label", { className: "chip" }, box, h("i", { style: { background: css(`--run-${index % 8}`) } }), foreign(run.name));
  }

  // The last tenth of every run in figures.
  summary() {
    const columns = [["predictor/accuracy", "accuracy"], ["generator/reward", "generator's reward"], ["generator/valid_masks", "valid masks"],
      ["predictor/groups_mixed", "groups with a gradient"], ["health/log_prob_difference_mean", "log-probability difference"], ["time/iteration", "seconds a step"]];
    const mean = (values) => {
      const found = (values || []).slice(-Math.ceil((values || []).length / 10)).filter((value) => value !== null);
      return found.length ? found.reduce((sum, value) => sum + value, 0) / found.length : null;
    };
    const rows = this.report.runs.map((run, index) => h("tr", {},
      h("th", { scope: "row" }, h("i", { className: "dot", style: { background: css(`--run-${index % 8}`) } }), foreign(run.name)),
      h("td", {}, run.steps.length ? `${run.steps.at(-1).toLocaleString("en")}${run.planned ? ` of ${run.planned.toLocaleString("en")}` : ""}` : "none"),
      columns.map(([metric]) => h("td", {}, short(mean(run.metrics[metric]))))));
    return h("div", { className: "scroll" }, h("table", { className: "summary" },
      h("caption", {}, "Means over the last tenth of the steps"),
      h("thead", {}, h("tr", {}, h("th", {}, "run"), h("th", {}, "steps"), columns.map(([, label]) => h("th", { scope: "col" }, label)))),
      h("tbody", {}, rows)));
  }

  redraw() {
    this.charts.forEach((chart) => chart.destroy());
    this.charts.clear();
    this.observer.disconnect();
    const sections = this.report.sections.map((section) => this.section(section)).filter(Boolean);
    this.root.replaceChildren(...sections);
  }

  section(section) {
    const named = section.rows.flat().flatMap((panel) => this.lines(panel)).map((line) => line.metric);
    if (!named.some((name) => this.report.runs.some((run) => run.metrics[name]))) return null;
    const rows = section.roles ? section.rows.map((row) => this.columns(row)).filter((cells) => cells.length) : this.pairs(section.rows.flat());
    if (!rows.length) return null;
    const heads = section.roles && [["generator", "Mask generator", "Names words of a passage to hide. Its reward is high for words that are hard but possible."],
      ["predictor", "Mask predictor", "Sees the passage with the words hidden and predicts them."]]
      .map(([role, name, words]) => h("h3", { className: `role ${role}` }, name, " ", hint(words)));
    return h("section", {}, h("h2", {}, section.title), heads && h("div", { className: "row heads" }, heads),
      rows.map((cells) => h("div", { className: "row" }, cells)));
  }

  // A row of both roles: stacked panels of several runs stay in their role's column.
  columns(row) {
    return row.flatMap((panel) => {
      const hosts = this.hosts(panel);
      return hosts.length > 1 ? h("div", { className: "cell" }, hosts) : hosts;
    });
  }

  // Rows of two panels each; stacked panels of several runs get rows of their own.
  pairs(panels) {
    const rows = [];
    let open = null;
    for (const hosts of panels.map((panel) => this.hosts(panel))) {
      if (hosts.length > 1) rows.push(hosts);
      for (const host of hosts.length > 1 ? [] : hosts) {
        if (open) open.push(host);
        else rows.push((open = [host]));
        if (open.length === 2) open = null;
      }
    }
    return rows;
  }

  // Ends of the horizontal axis, the same in all charts.
  ends() {
    const all = this.report.runs.filter((_, index) => !this.hidden.has(index)).flatMap((run) => {
      const x = (AXES[this.axis].of(run) || []).filter((value) => value !== null);
      return x.length ? [x[0], x.at(-1)] : [];
    });
    return [Math.min(...all), Math.max(...all)];
  }

  // Where a chart of the panel goes: one for all runs, or one for each run where parts are stacked.
  hosts(panel) {
    const visible = this.report.runs.map((run, index) => [run, index]).filter(([, index]) => !this.hidden.has(index));
    const lines = this.lines(panel);
    const measured = visible.filter(([run]) => lines.some((line) => run.metrics[line.metric]?.some((value) => value !== null)));
    if (!measured.length && !panel.role) return [];
    const groups = panel.kind === "stack" && measured.length > 1 ? measured.map((one) => [one]) : [measured];
    const height = panel.role && groups.length > 1 ? Math.max(90, Math.round(190 / groups.length)) : 190;
    return groups.map((group) => {
      const host = h("div", { className: `panel ${panel.role || ""}`, "data-role": panel.role && `mask ${panel.role}` });
      host.fill = () => new Chart(host, panel, panel.kind === "stack" ? this.stacked(panel, lines, group) : this.curves(panel, lines, group),
        { axis: this.axis, height, ends: this.ends(), suffix: groups.length > 1 ? group[0][0].name : "" });
      this.observer.observe(host);
      return host;
    });
  }

  fill(host) {
    if (this.charts.has(host)) return;
    this.charts.set(host, host.fill());
    this.observer.unobserve(host);
  }

  lines(panel) {
    const known = new Set([...panel.lines.map((line) => line.metric), ...(panel.exclude || [])]);
    const names = new Set(this.report.runs.flatMap((run) => Object.keys(run.metrics)));
    const found = panel.prefix ? [...names].filter((name) => name.startsWith(panel.prefix) && !known.has(name)).sort() : [];
    return [...panel.lines, ...found.map((metric) => ({ metric, label: metric.slice(panel.prefix.length).replaceAll("_", " ") }))];
  }

  curves(panel, lines, group) {
    const several = group.length > 1 || this.report.runs.length > 1;
    const used = lines.filter((line) => group.some(([run]) => run.metrics[line.metric]));
    return group.flatMap(([run, number]) => used.flatMap((line, index) => {
      const x = AXES[this.axis].of(run), y = run.metrics[line.metric];
      if (!x || !y) return [];
      const colour = several ? css(`--run-${number % 8}`) : panel.role ? css(`--${panel.role}`) : css(`--line-${index % 8}`);
      const half = this.smoothing ? Math.max(1, Math.round(y.length * this.smoothing / 200)) : 0;
      const label = several ? run.name + (used.length > 1 ? `, ${line.label}` : "") : line.label;
      const bold = { label, colour, dash: several ? DASHES[index % 4] : [], x, y: smooth(y, half) };
      return half && y.length > 2 ? [{ ...bold, y, pale: true }, bold] : [bold];
    }));
  }

  // Parts of a whole, each drawn over the sum of those below it; the topmost first.
  stacked(panel, lines, group) {
    if (!group.length) return [];
    const [[run]] = group, x = AXES[this.axis].of(run);
    const parts = lines.filter((line) => run.metrics[line.metric]?.some((value) => value > 0));
    if (!x) return [];
    const total = (line) => run.metrics[line.metric].reduce((sum, value) => sum + (value || 0), 0);
    const named = parts.filter((line) => line.tone), rest = parts.filter((line) => !line.tone).sort((a, b) => total(b) - total(a));
    panel.whole = panel.lines.length > 0;
    const half = this.smoothing ? Math.max(1, Math.round(x.length * this.smoothing / 200)) : 0;
    let sum = x.map(() => 0);
    // Beside named tones, whose colours are fixed, only colours that differ from them.
    const palette = named.length ? [1, 3, 4, 5, 6, 0, 7] : [0, 1, 2, 3, 4, 5, 6, 7];
    const drawn = [...named, ...rest].map((line, index) => {
      const own = smooth(run.metrics[line.metric].map((value) => value ?? 0), half);
      sum = sum.map((value, at) => value + own[at]);
      const colour = line.tone ? css(`--tone-${line.tone}`) : css(`--line-${palette[(index - named.length) % palette.length]}`);
      return { label: line.label, colour, fill: colour, x, y: sum, last: own.at(-1) };
    });
    return drawn.reverse();
  }
}
