"use strict";
// Makes the figures of a report answer to a reader. Without it, all of the report is there to read.
(() => {
  const { Drawing, make, numbers, shortened, told, whole } = globalThis.gradscopeDrawings;

  // --- A figure ---------------------------------------------------------------------------------

  class Figure {
    constructor(element, data) {
      Object.assign(this, { element, data, chosen: null, names: new Map(), window: {} });
      const [first] = data.charts;
      const rows = data.charts.flatMap((each) => each.names ?? []);
      this.longest = rows.reduce((most, name) => Math.max(most, name.length), 0);
      if (data.linked && first) {
        for (const { name, value } of first.spec.params) {
          if (name === "low" || name === "high") this.window[name] = value;
        }
        this.all = { ...this.window };
        this.addTools();
      }
      data.histories?.names.forEach((name, at) => this.names.has(name) || this.names.set(name, at));
      const places = element.querySelectorAll(":scope > .charts .drawing");
      this.drawings = data.charts.map((each, at) => new Drawing(places[at], each, this));
      this.histories = [];
      if (this.names.size) this.addHistories();
    }

    every() {
      return [...this.drawings, ...this.histories];
    }

    addTools() {
      const button = (text, label, action) => {
        const made = make("button", { type: "button", "aria-label": label }, text);
        made.addEventListener("click", action);
        return made;
      };
      const { low, high } = this.all;
      const move = (by, times) => {
        const middle = (this.window.low + this.window.high) / 2;
        const half = (this.window.high - this.window.low) / 2;
        this.show(middle + by * half - half * times, middle + by * half + half * times);
      };
      this.reset = button("Whole run", "Show the whole run", () => this.show());
      this.status = make("span", { role: "status" });
      this.element.prepend(
        make(
          "div",
          { class: "tools", role: "group", "aria-label": "Part of the run that is shown" },
          button("+", "Zoom in", () => move(0, 0.5)),
          button("−", "Zoom out", () => move(0, 2)),
          button("←", "Earlier steps", () => move(-1, 1)),
          button("→", "Later steps", () => move(1, 1)),
          this.reset,
          this.status,
        ),
      );
      this.least = (high - low) / 1000;
      this.say();
    }

    say() {
      const { low, high } = this.window;
      const complete = low <= this.all.low && high >= this.all.high;
      this.reset.disabled = complete;
      this.status.textContent = complete
        ? "Drag over a chart to zoom all of them."
        : `Steps ${whole(Math.max(0, low))} to ${whole(high)}.`;
    }

    /** Shows the steps between two in all charts; without any, the whole run. */
    show(one = this.all.low, other = this.all.high) {
      const { low, high } = this.all;
      const span = Math.min(high - low, Math.max(this.least, Math.abs(other - one)));
      const begin = Math.max(low, Math.min(high - span, Math.min(one, other)));
      this.window = { low: begin, high: begin + span };
      this.say();
      this.every().forEach((each) => each.narrow());
    }

    addHistories() {
      const { histories } = this.data;
      const identity = `layer-${document.querySelectorAll(".layer").length + 1}`;
      this.select = make("select", { id: identity }, make("option", { value: "" }, "none"));
      histories.names.forEach((name, at) => {
        this.select.append(make("option", { value: at }, shortened(name, 120)));
      });
      this.select.addEventListener("change", () => {
        this.choose(this.select.value === "" ? null : histories.names[this.select.value]);
      });
      this.words = make("div", { "aria-live": "polite" });
      this.places = make("div", { class: "charts" });
      const label = make("label", { for: identity }, "History of a layer");
      this.panel = make("div", { class: "layer" }, label, this.select, this.words, this.places);
      this.element.querySelector(":scope > .charts").after(this.panel);
    }

    choose(name) {
      const { histories } = this.data;
      this.chosen = name;
      const at = name === null ? -1 : this.names.get(name);
      if (this.select.value !== String(at)) this.select.value = at < 0 ? "" : at;
      this.drawings.forEach((each) => each.mark());
      this.histories.forEach((each) => each.view?.finalize());
      this.histories = [];
      this.words.replaceChildren();
      this.places.replaceChildren();
      if (at < 0) return;
      const list = make("ul");
      this.words.append(list);
      histories.quantities.forEach((quantity, which) => {
        const values = numbers(histories.series[at][which] ?? "");
        list.append(make("li", {}, told(quantity, histories.times, values, histories.x)));
        const known = values.some((value) => Number.isFinite(value));
        if (known) this.addHistory(quantity, values, name);
      });
      // Who pointed at a layer may have to be led to its history; who chose it below is there.
      if (document.activeElement !== this.select) {
        const fits = this.panel.offsetHeight < window.innerHeight;
        this.panel.scrollIntoView({ block: fits ? "nearest" : "start" });
      }
    }

    addHistory(quantity, values, name) {
      const { times, x } = this.data.histories;
      const place = make("div", { class: "drawing" });
      const title = `${shortened(name, 60)}: ${quantity.name}`;
      const label = told(quantity, times, values, x);
      const still = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      still.setAttribute("aria-label", label);
      place.append(still);
      this.places.append(make("figure", {}, make("figcaption", {}, title), place));
      const spec = structuredClone(quantity.spec);
      const fits = (y) => Number.isFinite(y) && (y > 0 || !quantity.logarithmic);
      const points = [];
      const missing = [];
      values.forEach((y, at) => {
        if (fits(y)) points.push({ x: times[at], y, series: quantity.name });
        else if (!Number.isNaN(y)) missing.push({ x: times[at] });
      });
      spec.datasets = { points, missing };
      const axis = scaled(points, quantity);
      for (const each of spec.params) each.value = axis[each.name] ?? each.value;
      const data = { kind: "history", spec, percent: quantity.percent };
      this.histories.push(new Drawing(place, data, this));
    }
  }

  /** Ends and ticks of a y axis that fits these points. */
  function scaled(points, { logarithmic, percent }) {
    let low = Infinity;
    let high = -Infinity;
    for (const { y } of points) [low, high] = [Math.min(low, y), Math.max(high, y)];
    if (percent) return { bottom: 0, top: 1, ticks: [0, 0.25, 0.5, 0.75, 1] };
    if (!logarithmic) {
      const [bottom, top] = [Math.min(0, low), Math.max(high, 0) || 1];
      return { bottom, top, ticks: [0, 1, 2, 3, 4].map((at) => bottom + ((top - bottom) * at) / 4) };
    }
    if (!points.length) return {};
    const first = Math.floor(Math.log10(low));
    const last = Math.max(first + 1, Math.ceil(Math.log10(high)));
    const step = Math.ceil((last - first) / 5);
    const ticks = [];
    for (let power = first; power <= last; power += step) ticks.push(Number(`1e${power}`));
    return { bottom: Number(`1e${first}`), top: Number(`1e${last}`), ticks };
  }

  // --- The page ---------------------------------------------------------------------------------

  const figures = [];
  for (const script of document.querySelectorAll('.figure > script[type="application/json"]')) {
    figures.push(new Figure(script.parentElement, JSON.parse(script.textContent)));
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const figure of figures) {
      for (const each of figure.every()) if (each.view && each.data.kind === "heat") each.draw();
    }
  });

  for (const block of document.querySelectorAll(".code-block")) {
    const button = make("button", { type: "button" }, "Copy");
    button.addEventListener("click", async () => {
      const code = block.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        // What is selected can be copied by hand.
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
    block.append(button);
  }

  /** Not every browser unfolds what a link leads to. */
  function unfold() {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    const folded = target && target.closest("details:not([open])");
    if (!folded) return;
    folded.open = true;
    target.scrollIntoView();
  }
  addEventListener("hashchange", unfold);
  unfold();
})();
