// The page: tabs, theme, keyboard, settings.

const TABS = [["curves", "Curves"], ["masks", "Masks"], ["difficulty", "Difficulty"], ["evaluations", "Evaluations"], ["about", "About"]];
const KEYS = [["1 – 5", "open a tab"], ["j, k or ↓, ↑", "next or previous passage"], ["l, h or →, ←", "next or previous mask of the passage"],
  ["o", "unfold or fold all predictions"], ["/", "search for an article"], ["t", "light or dark"], ["?", "this list"], ["Esc", "close"]];

class About {
  constructor(report) {
    this.report = report;
  }

  view() {
    const { runs, made, version, wording } = this.report;
    const names = [...new Set(runs.flatMap((run) => Object.keys(run.settings)))];
    const differs = (name) => new Set(runs.map((run) => JSON.stringify(run.settings[name]))).size > 1;
    const rows = [...names.filter(differs), ...names.filter((name) => !differs(name))];
    const value = (run, name) => (run.settings[name] === undefined ? "" : typeof run.settings[name] === "string" ? run.settings[name] : JSON.stringify(run.settings[name]));
    return h("div", { className: "about" },
      h("p", {}, `Made on ${made} by megatron_pz ${version}. The page holds everything that it shows and loads nothing from the network.`),
      h("h2", {}, "Words"), h("dl", {}, Object.entries(wording.glossary).flatMap(([word, meaning]) => [h("dt", {}, word), h("dd", {}, meaning)])),
      h("h2", {}, "Keyboard"), keyTable(),
      h("h2", {}, "Settings"), rows.length ? h("div", { className: "scroll" }, h("table", { className: "settings" },
        h("thead", {}, h("tr", {}, h("th", {}, "setting"), runs.map((run) => h("th", { scope: "col" }, foreign(run.name))))),
        h("tbody", {}, rows.map((name) => h("tr", { className: runs.length > 1 && differs(name) ? "differs" : "" }, h("th", { scope: "row" }, name), runs.map((run) => h("td", {}, foreign(value(run, name))))))))) : h("p", { className: "quiet" }, "The run has no config.yaml."),
      h("h2", {}, "Source of the passages"), h("p", {}, "Passages are from Wikipedia, by its contributors, under the Creative Commons Attribution-ShareAlike licence 4.0; changed: markup removed, cut into passages."),
      h("h2", {}, "Licence of the plotting library"), h("pre", { className: "licence" }, this.report.licence));
  }
}

const keyTable = () => h("table", { className: "keys" }, h("tbody", {}, KEYS.map(([keys, what]) => h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, keys)), h("td", {}, what)))));

class Page {
  constructor(report) {
    this.report = report;
    this.views = { curves: new Curves(report), masks: new Masks(report), difficulty: new Difficulty(report), evaluations: new Evaluations(report), about: new About(report) };
    this.head();
    this.dialog();
    document.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("hashchange", () => this.route());
    this.route();
  }

  head() {
    const { title, runs } = this.report;
    this.tabs = Object.fromEntries(TABS.map(([key, label]) => [key, h("button", { type: "button", role: "tab", id: `tab-${key}`, "aria-controls": "main", onclick: () => this.open(key) }, label)]));
    const last = runs[0].steps.at(-1) ?? 0, { planned } = runs[0];
    const shown = runs.length > 1 ? plural(runs.length, "run") : planned ? `${last.toLocaleString("en")} of ${plural(planned, "step")}` : plural(last, "step");
    document.getElementById("head").replaceChildren(
      h("div", { className: "title" }, foreign(title, "h1"), h("p", { className: "quiet" }, `PretrainZero · ${shown} · ${this.report.made}`)),
      h("nav", { role: "tablist", "aria-label": "Parts of the report" }, Object.values(this.tabs)),
      h("div", { className: "tools" }, h("button", { type: "button", className: "plain", title: "Light or dark (t)", "aria-label": "Light or dark", onclick: () => this.turn() }, "◐"),
        h("button", { type: "button", className: "plain", title: "Keyboard (?)", "aria-label": "Keyboard shortcuts", onclick: () => this.keys.showModal() }, "⌨")));
  }

  dialog() {
    this.keys = document.getElementById("keys");
    this.keys.replaceChildren(h("h2", {}, "Keyboard"), keyTable(), h("button", { type: "button", className: "plain", onclick: () => this.keys.close() }, "Close"));
  }

  route() {
    const [tab, run, index] = location.hash.slice(1).split("/");
    const known = this.views[tab] ? tab : "curves";
    if (known !== this.current) this.open(known, false);
    if (known === "masks" && index !== undefined && this.views.masks.found[this.views.masks.at] !== Number(index)) {
      requestAnimationFrame(() => this.views.masks.open(Number(run), Number(index)));
    }
  }

  open(tab, rename = true) {
    this.current = tab;
    for (const [key, button] of Object.entries(this.tabs)) button.setAttribute("aria-selected", String(key === tab));
    if (rename) history.replaceState(null, "", `#${tab}`);
    const main = document.getElementById("main");
    main.className = tab;
    main.setAttribute("aria-labelledby", `tab-${tab}`);
    main.replaceChildren(this.views[tab].view());
    window.scrollTo(0, 0);
  }

  turn() {
    theme(isDark() ? "light" : "dark");
    this.open(this.current, false);
  }

  key(event) {
    const typing = event.target.matches("input:not([type=range]):not([type=checkbox]), select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey || this.keys.open) return;
    if (typing) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const number = Number(event.key);
    if (number >= 1 && number <= TABS.length) this.open(TABS[number - 1][0]);
    else if (event.key === "t") this.turn();
    else if (event.key === "?") this.keys.showModal();
    else if (event.target.matches("input[type=range]") || !this.views[this.current].key?.(event)) return;
    event.preventDefault();
  }
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  remember("megatron-pz-theme", name);
}

async function start() {
  document.documentElement.dataset.theme = remember("megatron-pz-theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const report = await unpack(blob("data"));
  window.report = new Page(report);
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => {
  document.getElementById("main").replaceChildren(h("p", { className: "empty" }, `This browser cannot show the page: ${error.message}. It needs Chrome 80, Firefox 113 or Safari 16.4, or later.`));
  throw error;
});
