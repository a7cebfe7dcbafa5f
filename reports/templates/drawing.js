"use strict";
// One drawing of a report that answers to a reader: what is pointed at, dragged over and chosen.
// Strings of the report become text nodes or data of a drawing, never markup and never code.
globalThis.gradscopeDrawings = (() => {
  const { embed } = globalThis.gradscopeVega;
  const NARROW = 420;
  const WIDE = 1000;

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // --- Words ------------------------------------------------------------------------------------

  /** Three significant digits, as everywhere in the report. */
  function said(value, percent = false) {
    if (Number.isNaN(value)) return "not measured";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
    if (percent) return `${said(value * 100)} %`;
    const size = Math.abs(value);
    if (size && (size < 1e-3 || Number(size.toPrecision(3)) >= 1e5)) {
      const [mantissa, exponent] = value.toExponential(2).split("e");
      return `${Number(mantissa)}e${Number(exponent)}`;
    }
    return Number(value.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 6 });
  }

  const whole = (value) => Math.round(value).toLocaleString("en");
  const numbers = (text) => (text === "" ? [] : text.split(" ").map(Number));

  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

  /** What the numbers of an x axis count. */
  const unit = (title) => (/\bstep\b/.test(title) ? "step" : title.split(/[(,]/)[0].trim());

  /** The name in at most so many characters: its middle goes. */
  function shortened(name, most) {
    const letters = [...name];
    if (letters.length <= most) return name;
    const head = Math.floor((most - 1) / 2);
    return `${letters.slice(0, head).join("")}…${letters.slice(head + 1 - most).join("")}`;
  }

  /** A layer's number over time in a sentence. */
  function told(quantity, times, values, x) {
    const seen = values.map((_, at) => at).filter((at) => !Number.isNaN(values[at]));
    const finite = seen.filter((at) => Number.isFinite(values[at]));
    if (!seen.length) return `${capital(quantity.name)}: not measured.`;
    const say = (at) => `${said(values[at], quantity.percent)} at ${unit(x)} ${whole(times[at])}`;
    const strange = seen.length - finite.length;
    const wild = strange ? ` Not finite at ${whole(strange)} of ${whole(seen.length)} times.` : "";
    const ends = `first ${say(seen[0])}, last ${say(seen[seen.length - 1])}`;
    const name = capital(quantity.name);
    if (!finite.length) return `${name}: ${ends}.${wild}`;
    let least = finite[0];
    let most = finite[0];
    for (const at of finite) {
      if (values[at] < values[least]) least = at;
      if (values[at] > values[most]) most = at;
    }
    if (values[least] === values[most] && !wild) {
      return `${name}: ${said(values[least], quantity.percent)} throughout.`;
    }
    return `${name}: ${ends}; least ${say(least)}, greatest ${say(most)}.${wild}`;
  }

  // --- One drawing ------------------------------------------------------------------------------

  const tip = make("div", { class: "tip", hidden: "", "aria-hidden": "true" });
  document.body.append(tip);

  function showTip(event, title, lines) {
    tip.replaceChildren();
    if (title) tip.append(make("b", {}, shortened(title, 160)));
    for (const line of lines) tip.append(make("div", {}, line));
    tip.hidden = false;
    const right = window.innerWidth - tip.offsetWidth - 8;
    const above = event.clientY - tip.offsetHeight - 14;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, right))}px`;
    tip.style.top = `${above > 4 ? above : event.clientY + 18}px`;
  }

  const hideTip = () => (tip.hidden = true);

  /** The specification with the page's colours put in: a canvas knows no variables. */
  function painted(specification) {
    const style = getComputedStyle(document.documentElement);
    const text = JSON.stringify(specification);
    const colour = (_, name) => style.getPropertyValue(name).trim();
    return JSON.parse(text.replace(/var\((--[a-z]+)\)/g, colour));
  }

  /** The cells of a heat map: in each row, neighbours of one shade are one. */
  function cells(data) {
    const made = { cells: [], struck: [], chosen: [] };
    data.shades.forEach((letters, row) => {
      for (let begin = 0, at = 1; at <= letters.length; at += 1) {
        const letter = letters[begin];
        if (at < letters.length && letters[at] === letter) continue;
        const place = { x: data.edges[begin], x2: data.edges[at] };
        if (letter === "x") made.struck.push({ ...place, row: row + 0.5, word: "zero or not finite" });
        else if (letter !== " ") {
          made.cells.push({ ...place, row, row2: row + 1, shade: letter.charCodeAt(0) - 97 });
        }
        begin = at;
      }
    });
    return made;
  }

  /** On a large screen the page's text is larger, and a drawing's has to be, too. */
  function enlarge(specification) {
    const times = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
    for (const part of Object.values(specification.config)) {
      for (const name of ["labelFontSize", "titleFontSize", "labelLimit", "minExtent", "maxExtent"]) {
        if (part[name]) part[name] *= times;
      }
    }
    specification.height = Math.round(specification.height * times);
  }

  class Drawing {
    constructor(element, data, figure) {
      Object.assign(this, { element, data, figure, view: null, width: 0, busy: Promise.resolve() });
      this.live = make("div", { class: "live", "aria-hidden": "true" });
      if (data.kind === "heat") this.values = data.values.map(numbers);
      element.style.minHeight = `${element.offsetHeight}px`;
      const seen = new IntersectionObserver(
        (entries) => {
          if (!entries.some((entry) => entry.isIntersecting)) return;
          seen.disconnect();
          this.draw();
          let wait = 0;
          new ResizeObserver(() => {
            clearTimeout(wait);
            wait = setTimeout(() => element.clientWidth !== this.width && this.draw(), 120);
          }).observe(element);
        },
        { rootMargin: "400px" },
      );
      seen.observe(element);
      this.listen();
    }

    draw() {
      this.busy = this.busy.then(() => this.embedded());
      return this.busy;
    }

    async embedded() {
      const { element, data, figure } = this;
      this.width = element.clientWidth;
      if (!this.width) return;
      const heat = data.kind === "heat";
      const { datasets, ...rest } = data.spec;
      const specification = heat ? painted(rest) : structuredClone(rest);
      const room = this.width < NARROW ? 13 : this.width < WIDE ? 17 : 28;
      const shown = { ...figure.window };
      if (heat) shown.names = data.names.map((name) => shortened(name, room));
      for (const each of specification.params) each.value = shown[each.name] ?? each.value;
      specification.datasets = heat ? cells(data) : datasets;
      specification.width = this.width;
      specification.autosize = { type: "fit-x", contains: "padding" };
      if (figure.data.linked) {
        // The same room to the left of all charts puts equal steps below each other.
        const letters = data.kind === "history" ? 0 : Math.min(room, figure.longest);
        const left = Math.max(48, letters * 6.6 + 6);
        const { axisLeft } = specification.config;
        specification.config.axisLeft = { ...axisLeft, minExtent: left, maxExtent: left };
      }
      enlarge(specification);
      if (!this.live.isConnected) element.append(this.live);
      const { view } = await embed(this.live, specification, {
        actions: false,
        ast: true,
        defaultStyle: false,
        hover: false,
        logLevel: 1, // errors alone
        renderer: heat ? "canvas" : "svg",
        tooltip: false,
      });
      this.view?.finalize();
      this.view = view;
      element.setAttribute("role", "img");
      element.setAttribute("aria-label", element.querySelector("svg").getAttribute("aria-label"));
      element.classList.add("active");
      element.classList.toggle("selectable", figure.names.size > 0);
      await this.mark();
    }

    /** Where in the plot an event is, in pixels and on the x axis. */
    place(event) {
      const box = this.live.getBoundingClientRect();
      const [left, top] = this.view.origin();
      const padding = this.view.padding();
      const x = event.clientX - box.left - left - (padding.left ?? padding);
      const y = event.clientY - box.top - top - (padding.top ?? padding);
      return { x, y, at: this.view.scale("x").invert(x) };
    }

    inside({ x, y }, margin = 0) {
      const { view } = this;
      return x >= -margin && y >= 0 && x <= view.signal("width") + margin && y <= view.height();
    }

    /** What a reader points at: a name, and what is to be said of it. */
    found(place) {
      const { data, view } = this;
      if (!view) return null;
      if (data.kind === "heat") {
        // The names beside the rows can be chosen, too.
        const aside = place.x < 0 && place.y >= 0 && place.y <= view.height();
        if (!aside && !this.inside(place)) return null;
        const row = Math.floor(view.scale("y").invert(place.y));
        if (!(row in this.values)) return null;
        if (aside) return { name: data.names[row], lines: [] };
        const column = data.edges.findIndex((edge) => place.at < edge) - 1;
        if (column < 0) return { name: data.names[row], lines: [] };
        const value = said(this.values[row][column], data.percent);
        return { name: data.names[row], lines: [`${unit(data.x)} ${whole(data.edges[column])}: ${value}`] };
      }
      if (!this.inside(place, 8)) return null;
      const [across, up] = [view.scale("x"), view.scale("y")];
      let best = null;
      let nearest = Infinity;
      for (const point of data.spec.datasets.points) {
        const x = across(point.x) - place.x;
        const y = up(point.y) - place.y;
        const far = data.kind === "columns"
          ? Math.abs(across((point.left + point.right) / 2) - place.x)
          : Math.hypot(x, y / 2);
        if (far < nearest) [best, nearest] = [point, far];
      }
      if (!best || nearest > 40) return null;
      const where = best.label ? "" : ` at ${unit(data.x)} ${whole(best.x)}`;
      const lines = [`${best.series}${where}: ${said(best.y, data.percent)}`];
      if (best.least !== undefined) {
        const ends = [said(best.least, data.percent), said(best.most, data.percent)];
        lines.push(`between ${ends[0]} and ${ends[1]}`);
      }
      return { name: best.label ?? "", lines };
    }

    listen() {
      const { element, figure } = this;
      const brush = make("div", { class: "brush", hidden: "" });
      element.append(brush);
      let start = null;
      let choosing = 0;
      element.addEventListener("pointermove", (event) => {
        if (!this.view) return;
        const place = this.place(event);
        const found = this.found(place);
        if (start && figure.data.linked && Math.abs(place.x - start.x) > 5) {
          const most = this.view.signal("width");
          const ends = [start.x, place.x].map((x) => Math.max(0, Math.min(most, x)));
          const origin = this.view.origin()[0] + this.view.padding().left;
          brush.style.left = `${origin + Math.min(...ends)}px`;
          brush.style.width = `${Math.abs(ends[1] - ends[0])}px`;
          brush.style.top = `${this.view.origin()[1] + this.view.padding().top}px`;
          brush.style.height = `${this.view.height()}px`;
          brush.hidden = false;
        }
        if (found && brush.hidden) showTip(event, found.name, found.lines);
        else hideTip();
      });
      element.addEventListener("pointerleave", hideTip);
      element.addEventListener("pointerdown", (event) => {
        if (!this.view || event.button) return;
        const place = this.place(event);
        start = { ...place, within: this.inside(place, 8) };
        // A finger scrolls the page until the browser leaves the movement to us.
        if (figure.data.linked) element.setPointerCapture(event.pointerId);
      });
      element.addEventListener("pointerup", (event) => {
        if (!start) return;
        const begun = start;
        start = null;
        const place = this.place(event);
        const dragged = !brush.hidden;
        brush.hidden = true;
        if (dragged && begun.within) figure.show(begun.at, place.at);
        else if (!dragged) {
          const found = this.found(place);
          // A second click, which shows the whole run, would come too late.
          const wait = figure.data.linked ? 250 : 0;
          if (!found || !figure.names.has(found.name)) return;
          clearTimeout(choosing);
          choosing = setTimeout(() => figure.choose(found.name), wait);
        }
      });
      element.addEventListener("pointercancel", () => {
        start = null;
        brush.hidden = true;
      });
      element.addEventListener("dblclick", () => {
        if (!figure.data.linked) return;
        clearTimeout(choosing);
        figure.show();
      });
    }

    /** Shows the figure's part of the x axis. */
    narrow() {
      if (!this.view) return undefined;
      const { low, high } = this.figure.window;
      return this.view.signal("low", low).signal("high", high).runAsync();
    }

    /** Puts a frame or a ring around the layer that is chosen. */
    mark() {
      if (!this.view || this.data.kind === "history") return undefined;
      const { chosen } = this.figure;
      let rows = [];
      if (chosen !== null && this.data.kind === "heat") {
        const row = this.data.names.indexOf(chosen);
        if (row >= 0) rows = [{ row, row2: row + 1 }];
      } else if (chosen !== null) {
        rows = this.data.spec.datasets.points.filter((point) => point.label === chosen);
        rows = rows.map(({ x, y }) => ({ x, y }));
      }
      return this.view.data("chosen", rows).runAsync();
    }
  }

  return { Drawing, make, numbers, shortened, told, whole };
})();
