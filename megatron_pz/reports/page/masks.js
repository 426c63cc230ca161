// The mask browser: kept passages with their masks in place, proposals with reasons, predictions with reasoning.

const ROW = 62;
const OUTCOMES = {
  predictor: [["right", "all right"], ["mixed", "right and wrong"], ["wrong", "all wrong"]],
  generator: (wording) => [["valid", "valid mask"], ["invalid", "no valid mask"], ...Object.entries(wording.faults).map(([key, text]) => [key, text])],
};

// Whether one outcome of a mask (its accuracy, or its fault) is of the kind that a filter asks for.
function matches(outcome, wanted) {
  const isFault = typeof outcome === "string";
  if (wanted === "valid") return !isFault;
  if (wanted === "invalid") return isFault;
  if (isFault) return outcome === wanted;
  return { right: outcome === 1, wrong: outcome === 0, mixed: outcome > 0 && outcome < 1 }[wanted] || false;
}

class Masks {
  constructor(report) {
    this.report = report;
    this.filter = { run: "0", article: "", role: "both", outcome: "", topic: "", from: "", to: "" };
    this.texts = null;
    this.found = [];
    this.at = -1;
    this.chosen = null;
    this.turn = 0;
  }

  get kept() {
    return this.report.runs[Number(this.filter.run)].kept;
  }

  view() {
    const { runs } = this.report;
    const first = runs.findIndex((run) => run.kept.step.length);
    if (first < 0) {
      return h("p", { className: "empty" }, "No samples are kept in this run’s folder: samples.jsonl is missing or empty.");
    }
    if (!this.kept.step.length) this.filter.run = String(first);
    this.bar = h("div", { className: "bar filters" });
    this.strip = h("canvas", { className: "strip", height: 26, onclick: (event) => this.jump(event) });
    this.slider = h("input", { type: "range", min: 0, className: "steps", "aria-label": "Passage by step", oninput: () => this.show(Number(this.slider.value)) });
    this.status = h("p", { className: "quiet", role: "status" });
    this.inner = h("div", { className: "inner" });
    this.listing = h("div", { className: "listing", role: "listbox", tabIndex: 0, "aria-label": "Passages", onscroll: () => this.paint() }, this.inner);
    this.reader = h("article", { className: "reader", "aria-live": "polite" });
    this.detail = h("aside", { className: "detail", "aria-label": "Responses" });
    this.fillBar();
    const root = h("div", { className: "masks" }, this.bar, h("div", { className: "timeline" }, this.strip, this.slider), this.status,
      h("div", { className: "browser" }, this.listing, this.reader, this.detail));
    requestAnimationFrame(() => this.refresh());
    return root;
  }

  fillBar() {
    const { runs, wording, topics } = this.report;
    const set = (name) => (value) => { this.filter[name] = value; if (name === "role") { this.filter.outcome = ""; this.fillBar(); } this.refresh(name === "run"); };
    const outcomes = this.filter.role === "generator" ? OUTCOMES.generator(wording) : this.filter.role === "predictor" ? OUTCOMES.predictor
      : [...OUTCOMES.predictor, ...OUTCOMES.generator(wording).slice(1)];
    const number = (name, label) => {
      const field = h("input", { type: "number", min: 1, value: this.filter[name], placeholder: label, "aria-label": `${label} step`, onchange: () => set(name)(field.value) });
      return field;
    };
    const search = h("input", { type: "search", value: this.filter.article, placeholder: "any", "aria-label": "Article", id: "search", oninput: () => set("article")(search.value) });
    this.bar.replaceChildren(...[
      runs.length > 1 && select("Run", runs.map((run, index) => [String(index), run.name]).filter(([index]) => runs[index].kept.step.length), this.filter.run, set("run")),
      h("label", { className: "field" }, h("span", {}, "Article"), search),
      h("label", { className: "field" }, h("span", {}, "Steps"), h("span", { className: "pair" }, number("from", "first"), "–", number("to", "last"))),
      select("Role", [["both", "both"], ["generator", "mask generator"], ["predictor", "mask predictor"]], this.filter.role, set("role")),
      select("Outcome", [["", "any"], ...outcomes], this.filter.outcome, set("outcome")),
      topics.length && select("Topic", [["", "any"], ...topics.map((topic, index) => [String(index), topic])], this.filter.topic, set("topic")),
      h("button", { type: "button", className: "plain", onclick: () => this.clear() }, "Clear"),
    ].filter(Boolean));
  }

  clear() {
    this.filter = { ...this.filter, article: "", role: "both", outcome: "", topic: "", from: "", to: "" };
    this.fillBar();
    this.refresh();
  }

  refresh(anew = false) {
    const { kept, filter } = this;
    const before = anew ? -1 : this.found[this.at];
    const article = filter.article.trim().toLocaleLowerCase();
    const named = kept.titles.map((title) => title.toLocaleLowerCase().includes(article));
    this.found = [];
    for (let index = 0; index < kept.step.length; index += 1) {
      const step = kept.step[index];
      if (filter.from && step < Number(filter.from)) continue;
      if (filter.to && step > Number(filter.to)) continue;
      if (!named[kept.title[index]]) continue;
      if (filter.topic && kept.topic[index] !== Number(filter.topic)) continue;
      if (filter.outcome && !kept.outcomes[index].some((outcome) => matches(outcome, filter.outcome))) continue;
      this.found.push(index);
    }
    this.status.replaceChildren(this.words());
    this.inner.style.height = `${this.found.length * ROW}px`;
    this.slider.max = Math.max(0, this.found.length - 1);
    this.slider.disabled = !this.found.length;
    this.drawStrip();
    const again = this.found.indexOf(before);
    this.show(again >= 0 ? again : this.found.length ? 0 : -1);
  }

  words() {
    const { kept } = this;
    const shown = kept.step.length;
    const sampled = shown < kept.all ? ` The page has room for ${plural(shown, "passage")} of the ${kept.all.toLocaleString("en")} kept ones, spread evenly over the steps.` : "";
    return `${plural(this.found.length, "passage")}${this.found.length < shown ? ` of ${shown.toLocaleString("en")}` : ""}.${sampled}`;
  }

  // A column for every passage that was found, in the order of steps, coloured by the mean accuracy of its masks.
  drawStrip() {
    const canvas = this.strip, width = canvas.clientWidth || 800;
    canvas.width = width;
    const pen = canvas.getContext("2d"), count = this.found.length;
    pen.fillStyle = css("--sunk");
    pen.fillRect(0, 0, width, 26);
    for (let x = 0; x < width && count; x += 1) {
      const low = Math.floor((x * count) / width), high = Math.max(low + 1, Math.floor(((x + 1) * count) / width));
      const valid = this.found.slice(low, high).flatMap((index) => this.kept.outcomes[index]).filter((outcome) => typeof outcome !== "string");
      if (!valid.length) continue;
      pen.fillStyle = accuracyColour(valid.reduce((sum, value) => sum + value, 0) / valid.length);
      pen.fillRect(x, 0, 1, 26);
    }
  }

  jump(event) {
    const box = this.strip.getBoundingClientRect();
    this.show(Math.min(this.found.length - 1, Math.floor(((event.clientX - box.left) / box.width) * this.found.length)));
  }

  paint() {
    const top = Math.max(0, Math.floor(this.listing.scrollTop / ROW) - 3);
    const end = Math.min(this.found.length, top + Math.ceil((this.listing.clientHeight || 600) / ROW) + 6);
    const rows = [];
    for (let place = top; place < end; place += 1) {
      const index = this.found[place], { kept } = this;
      const bars = kept.outcomes[index].map((outcome) => h("i", typeof outcome === "string" ? { className: "bad" } : { style: { background: accuracyColour(outcome) } }));
      rows.push(h("div", { className: "item", role: "option", id: `item-${place}`, "aria-selected": String(place === this.at), style: { top: `${place * ROW}px` }, onclick: () => this.show(place) },
        h("div", { className: "line" }, foreign(kept.titles[kept.title[index]] || "untitled", "b"), h("span", { className: "quiet" }, `step ${kept.step[index].toLocaleString("en")}`)),
        h("div", { className: "bars", "aria-hidden": true }, bars)));
    }
    this.inner.replaceChildren(...rows);
    this.listing.setAttribute("aria-activedescendant", this.at >= 0 ? `item-${this.at}` : "");
  }

  async show(place) {
    this.at = place;
    this.slider.value = Math.max(0, place);
    if (place < 0) {
      this.paint();
      this.reader.replaceChildren(h("p", { className: "empty" }, "No passage passes these filters."));
      this.detail.replaceChildren();
      return;
    }
    const top = place * ROW, height = this.listing.clientHeight;
    if (top < this.listing.scrollTop) this.listing.scrollTop = top;
    else if (height && top + ROW > this.listing.scrollTop + height) this.listing.scrollTop = top + ROW - height;
    this.paint();
    const index = this.found[place], turn = (this.turn += 1);
    if (this.texts === null) this.texts = blob("texts");
    const [start, end] = [this.kept.start[index], this.kept.start[index + 1]];
    const passage = await unpack(this.texts.slice(start, end));
    if (turn !== this.turn) return; // another passage was chosen meanwhile
    this.passage = passage;
    location.replace(`#masks/${this.filter.run}/${index}`);
    this.reader.replaceChildren(...this.page(index));
    this.choose(this.firstOf(passage));
  }

  firstOf(passage) {
    const { outcome } = this.filter;
    const fits = passage.masks.findIndex((mask) => outcome && matches(outcomeOf(mask), outcome));
    if (fits >= 0) return fits;
    return Math.max(0, passage.masks.findIndex((mask) => mask.starts.length));
  }

  page(index) {
    const { kept, passage, report } = this;
    const links = [passage.url && ["article", passage.url], passage.revision && ["this revision", passage.revision]].filter(Boolean)
      .map(([label, href]) => h("a", { href, target: "_blank", rel: "noopener noreferrer" }, `${label} ↗`));
    const topic = kept.topic[index] >= 0 && h("span", { className: "tag" }, "topic: ", foreign(report.topics[kept.topic[index]]));
    this.body = h("div", { className: "passage", dir: "auto" });
    this.table = h("ol", { className: "proposals", "aria-label": "Masks" });
    return [h("header", {}, foreign(kept.titles[kept.title[index]] || "untitled", "h3"),
      h("p", { className: "quiet" }, `step ${kept.step[index].toLocaleString("en")}`, topic, links)),
    scaleLegend(), this.body, h("h4", {}, "Masks of this passage"), this.table];
  }

  choose(number) {
    this.chosen = number;
    this.body.replaceChildren(...this.marked());
    this.table.replaceChildren(...this.passage.masks.map((mask, index) => this.proposal(mask, index)));
    this.detail.replaceChildren(...this.responses(this.passage.masks[number]));
  }

  // The passage cut where a mask begins or ends. Where masks overlap, the shortest gives the colour.
  marked() {
    const { masks } = this.passage, text = Array.from(this.passage.text);
    const places = masks.flatMap((mask, number) => mask.starts.map((start) => ({ number, start, end: start + Array.from(mask.words).length })));
    const shown = masks[this.chosen].shown ?? text.length;
    const cuts = [...new Set([0, text.length, shown, ...places.flatMap((place) => [place.start, place.end])])].sort((a, b) => a - b);
    return cuts.slice(0, -1).map((start, index) => {
      const piece = text.slice(start, cuts[index + 1]).join("");
      const over = places.filter((place) => place.start <= start && place.end > start).sort((a, b) => a.end - a.start - (b.end - b.start));
      const unseen = start >= shown ? " unseen" : "";
      if (!over.length) return unseen ? h("span", { className: unseen.trim(), title: "not shown to the predictor" }, piece) : piece;
      const selected = over.some((place) => place.number === this.chosen);
      const next = over[(over.findIndex((place) => place.number === this.chosen) + 1) % over.length].number;
      const accuracy = outcomeOf(masks[over[0].number]);
      return h("mark", { className: (selected ? "selected" : "") + unseen, tabIndex: 0, role: "button", "aria-pressed": String(selected),
        title: `${percent(accuracy)} right${over.length > 1 ? `; ${over.length} masks overlap here, click again for the next` : ""}`,
        style: { "background-color": accuracyColour(accuracy) }, onclick: () => this.choose(next),
        onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.choose(next); } } }, piece);
    });
  }

  proposal(mask, index) {
    const outcome = outcomeOf(mask), faulty = typeof outcome === "string";
    const count = mask.responses.length > 1 && h("span", { className: "quiet" }, ` × ${mask.responses.length}`);
    const right = mask.predictions.filter((prediction) => prediction.right).length;
    return h("li", {}, h("button", { type: "button", className: `proposal${index === this.chosen ? " selected" : ""}`, "aria-pressed": String(index === this.chosen), onclick: () => this.choose(index) },
      h("i", faulty ? { className: "dot bad" } : { className: "dot", style: { background: accuracyColour(outcome) } }),
      h("span", { className: "what" }, mask.words ? foreign(mask.words) : h("em", {}, "nothing"), count),
      h("span", { className: "how" }, faulty ? this.report.wording.faults[outcome] || outcome : `${right} of ${mask.predictions.length} right`),
      h("span", { className: "reward" }, `reward ${mask.reward.toFixed(3)}`)));
  }

  responses(mask) {
    const { wording } = this.report, role = this.filter.role, outcome = outcomeOf(mask);
    const parts = [h("h4", {}, mask.words ? foreign(mask.words) : "no words named", mask.kind && h("span", { className: "tag" }, mask.kind))];
    if (typeof outcome === "string") parts.push(h("p", { className: "fault" }, `Not valid: ${wording.faults[outcome] || outcome}.`));
    const question = mask.strategy === "question";
    if (role !== "predictor" && !question) {
      parts.push(h("h5", { className: "generator" }, "Mask generator", h("span", { className: "quiet" }, ` reward ${mask.reward.toFixed(3)}`)));
      parts.push(...(mask.responses.length ? mask.responses.map((response) => this.response(response, "", mask)) : [h("p", { className: "quiet" }, `${wording.strategies[mask.strategy] || mask.strategy}: no model chose this mask`)]));
    }
    if (role !== "generator" && mask.predictions.length) {
      const right = mask.predictions.filter((prediction) => prediction.right).length;
      parts.push(h("h5", { className: "predictor" }, question ? "Answers" : "Mask predictor", h("span", { className: "quiet" }, ` ${right} of ${mask.predictions.length} right`)));
      parts.push(...mask.predictions.map((prediction) => this.response(prediction, prediction.right ? "right" : "wrong", mask)));
    }
    return parts;
  }

  response(response, verdict, mask) {
    const figures = [response.tokens ? plural(response.tokens, "token") : null,
      h("span", {}, `Δ log p ${response.difference === null ? "–" : short(response.difference)} `, hint(response.difference === null
        ? "No log-probability difference: the step did not learn from this response, or an earlier version kept the sample."
        : this.report.wording.glossary["log-probability difference"]))].filter(Boolean);
    const text = h("pre", { dir: "auto" }, response.text || "(empty)");
    if (!verdict) return h("div", { className: "response" }, text, h("p", { className: "figures" }, figures));
    const answer = response.answer === null ? h("em", {}, "no readable answer") : foreign(response.answer || "(empty)");
    return h("details", { className: `response ${verdict}` }, h("summary", {}, h("span", { className: "verdict" }, verdict === "right" ? "✓ right" : "✗ wrong"), answer,
      h("span", { className: "reward", title: "reward of this prediction" }, verdict === "right" ? "1" : "0")), text, h("p", { className: "figures" }, figures));
  }

  key(event) {
    if (!this.listing) return false;
    const move = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 }[event.key];
    if (move !== undefined && this.found.length) {
      this.show(Math.min(this.found.length - 1, Math.max(0, this.at + move)));
      return true;
    }
    const turn = { l: 1, ArrowRight: 1, h: -1, ArrowLeft: -1 }[event.key];
    if (turn !== undefined && this.passage) {
      const count = this.passage.masks.length;
      this.choose((this.chosen + turn + count) % count);
      return true;
    }
    if (event.key === "o") {
      const all = [...this.detail.querySelectorAll("details")], open = all.some((each) => !each.open);
      all.forEach((each) => { each.open = open; });
      return true;
    }
    if (event.key === "/") {
      document.getElementById("search").focus();
      return true;
    }
    return false;
  }

  // Show passage `index` of run `run`, whatever the filters say: the address of the page names it.
  open(run, index) {
    if (!this.report.runs[run]?.kept.step.length) return;
    this.filter = { ...this.filter, run: String(run), article: "", outcome: "", topic: "", from: "", to: "" };
    this.fillBar();
    this.refresh(true);
    this.show(Math.max(0, this.found.indexOf(index)));
  }
}

function outcomeOf(mask) {
  if (!mask.predictions.length) return mask.fault || "no_command";
  return mask.predictions.filter((prediction) => prediction.right).length / mask.predictions.length;
}
