// Hover, zoom and refresh. The curves are drawn already: their paths are the data, in seconds from
// the chart's begin and KB, from the first point on relative.
"use strict";
(() => {
  const NEAR = 1260; // seconds: further from the cursor a sample says nothing about it
  const STEPS = [60, 120, 300, 600, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];
  const SVG = "http://www.w3.org/2000/svg";
  const zone = Number(document.body.dataset.zone);
  const kept = new Map(); // what the reader has set, by program: it outlives a refresh

  // As units.size has it; a half goes to the even neighbour there, and toFixed would raise it.
  const fixed = (value, digits) => {
    const shifted = value * 10 ** digits, down = Math.floor(shifted);
    const half = shifted - down === 0.5;
    return half ? ((down + (down % 2)) / 10 ** digits).toFixed(digits) : value.toFixed(digits);
  };
  const size = (kb) => {
    if (kb >= 10 * 2 ** 20) return fixed(kb / 2 ** 20, 1) + "GB";
    if (kb >= 2 ** 20) return fixed(kb / 2 ** 20, 2) + "GB";
    if (kb >= 2 ** 10) return fixed(kb / 2 ** 10, 1) + "MB";
    return kb >= 1 ? kb + "KB" : "0B";
  };
  const wall = (at) => new Date((at + zone) * 1000).toISOString(); // shifted, so its UTC is ours
  const draw = (parent, name, attributes, words) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (words !== undefined) node.textContent = words;
    parent.append(node);
  };
  const percent = (share) => (100 * share).toFixed(2) + "%";

  // [seconds, KB, whether a line leads to it] of every point of a path.
  const points = (path) => {
    const found = [];
    let x = 0, y = 0;
    for (const [, pen, numbers] of path.getAttribute("d").matchAll(/([ml])([^ml]+)/g)) {
      const each = numbers.trim().split(" ").map(Number);
      for (let i = 0; i < each.length; i += 2) {
        found.push([x += each[i], y += each[i + 1], pen === "l"]);
      }
    }
    return found;
  };
  // The point next to a moment, and how far away it is: 0 where the curve goes on past both.
  const nearest = (curve, x) => {
    let low = 0, high = curve.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (curve[middle][0] < x) low = middle + 1; else high = middle;
    }
    const drawn = low > 0 && curve[low][2] && curve[low][0] >= x;
    if (low > 0 && x - curve[low - 1][0] < curve[low][0] - x) low -= 1;
    return [...curve[low], drawn ? 0 : Math.abs(curve[low][0] - x)];
  };

  class Chart {
    constructor(section) {
      this.section = section;
      this.box = section.querySelector(".chart");
      this.frame = section.querySelector(".frame");
      this.plot = section.querySelector(".plot");
      this.begin = Number(this.box.dataset.begin);
      this.span = Number(this.box.dataset.span);
      this.top = Number(this.box.dataset.top);
      this.cursor = null; // seconds
      this.drag = null;
      this.cache = new Map();
      this.select = section.querySelector("select");
      const before = kept.get(section.dataset.name) || {};
      this.hidden = before.hidden || new Set();
      this.view = before.view ? [before.view[0] - this.begin, before.view[1] - this.begin] : null;
      if (before.measure && this.groups().some((g) => g.dataset.measure === before.measure)) {
        this.select.value = before.measure;
      }
      this.listen();
      this.show();
      if (before.cursor) this.point(before.cursor - this.begin, false);
    }

    groups() { return [...this.plot.querySelectorAll(".curves")]; }

    keep() {
      kept.set(this.section.dataset.name, {
        hidden: this.hidden,
        measure: this.select.value,
        view: this.view && this.view.map((x) => x + this.begin),
        cursor: this.cursor === null ? null : this.cursor + this.begin,
      });
    }

    // The curves that are drawn: {pid, place, role, points}.
    curves(hidden) {
      const measure = this.select.value;
      if (!this.cache.has(measure)) {
        const group = this.groups().find((each) => each.dataset.measure === measure);
        this.cache.set(measure, [...group.children].map((path) => ({
          pid: path.dataset.pid, place: path.dataset.place, points: points(path),
        })));
      }
      const all = this.cache.get(measure);
      return hidden ? all : all.filter((curve) => !this.hidden.has(curve.place));
    }

    show() {
      for (const group of this.groups()) {
        if (group.dataset.measure === this.select.value) group.removeAttribute("display");
        else group.setAttribute("display", "none");
        for (const path of group.children) {
          if (this.hidden.has(path.dataset.place)) path.setAttribute("display", "none");
          else path.removeAttribute("display");
        }
      }
      for (const button of this.section.querySelectorAll(".legend button")) {
        button.setAttribute("aria-pressed", String(!this.hidden.has(button.dataset.place)));
      }
      const [from, to] = this.view || [0, this.span];
      const [bottom, top] = this.heights(from, to);
      this.plot.setAttribute("viewBox", `${from} ${-top} ${to - from} ${top - bottom}`);
      this.axes(from, to, bottom, top);
      this.point(this.cursor, false);
      this.keep();
    }

    // All of it from zero up; a part as large as it will go.
    heights(from, to) {
      let low = Infinity, high = 0;
      for (const curve of this.curves()) {
        for (const [x, y] of curve.points) {
          if (x >= from && x <= to) { low = Math.min(low, y); high = Math.max(high, y); }
        }
      }
      if (!this.view) return [0, Math.max(this.top, high * 1.08)];
      if (low > high) return [0, this.top];
      const room = Math.max((high - low) * 0.12, 64);
      return [Math.max(0, Math.floor(low - room)), Math.ceil(high + room)];
    }

    axes(from, to, bottom, top) {
      const down = this.frame.querySelector(".ylabels"), along = this.frame.querySelector(".xlabels");
      down.replaceChildren();
      along.replaceChildren();
      let step = 1;
      const near = 0.05 * (top - bottom), taken = [top];
      for (const label of this.frame.querySelectorAll(".linelabel")) {
        const kb = Number(label.dataset.kb);
        const y = 1 - (kb - bottom) / (top - bottom);
        label.setAttribute("y", percent(y));
        label.setAttribute("dy", y < 0.12 ? 14 : -4); // the flags are up there
        label.setAttribute("display", kb < bottom || kb > top ? "none" : "inline");
        taken.push(kb);
      }
      while ((top - bottom) / step > 6) step *= 2;
      for (let kb = Math.ceil((bottom || 1) / step) * step; kb <= top; kb += step) {
        const y = percent(1 - (kb - bottom) / (top - bottom));
        draw(down, "line", { x1: 0, x2: "100%", y1: y, y2: y });
        if (taken.every((other) => Math.abs(other - kb) > near)) {
          draw(down, "text", { x: 4, y, dy: -3 }, size(kb));
        }
      }
      step = STEPS.find((each) => (to - from) / each <= 8) || STEPS[STEPS.length - 1];
      const local = this.begin + zone;
      for (let at = Math.ceil((local + from) / step) * step; at <= local + to; at += step) {
        const x = percent((at - local - from) / (to - from)), when = wall(at - zone);
        draw(along, "line", { x1: x, x2: x, y1: 0, y2: "100%" });
        const words = at % 86400 === 0 ? when.slice(5, 10) : when.slice(11, 16);
        const room = (1 - parseFloat(x) / 100) * this.frame.getBoundingClientRect().width;
        if (room > 40) draw(along, "text", { x, y: "100%", dx: 3, dy: -4 }, words);
      }
      for (const flag of this.frame.querySelectorAll(".flag")) {
        flag.setAttribute("x", percent((Number(flag.dataset.x) - from) / (to - from)));
      }
    }

    // The cursor to a moment (seconds; null: nowhere): what everyone held then.
    point(x, aloud) {
      const line = this.frame.querySelector(".cursor");
      const [from, to] = this.view || [0, this.span];
      const readout = this.section.querySelector(".readout");
      this.cursor = x === null ? null : Math.min(Math.max(x, from), to);
      this.keep();
      const there = new Map();
      if (this.cursor !== null) {
        for (const curve of this.curves()) {
          const [at, kb, , far] = nearest(curve.points, this.cursor);
          const best = there.get(curve.place);
          if (far <= Math.max(NEAR / 2, (to - from) / 100) && !(best && best.far <= far)) {
            there.set(curve.place, { far, pid: curve.pid, kb, at });
          }
        }
      }
      for (const button of this.section.querySelectorAll(".legend button")) {
        this.legend(button, there.get(button.dataset.place));
      }
      if (this.cursor === null) {
        line.setAttribute("display", "none");
        readout.textContent = "";
        return;
      }
      const share = percent((this.cursor - from) / (to - from));
      line.setAttribute("x1", share);
      line.setAttribute("x2", share);
      line.removeAttribute("display");
      const when = wall(this.begin + this.cursor).slice(0, 16).replace("T", " ");
      const sizes = [...there.entries()].sort((a, b) => a[0] - b[0])
        .map(([place, one]) => `${place === "0" ? "master " : ""}${one.pid}: ${size(one.kb)}`);
      readout.setAttribute("aria-live", aloud ? "polite" : "off");
      readout.textContent = `${when}: ${sizes.join(", ") || "nobody was seen"}`;
    }

    // A legend's entry: whom the place belongs to, at the cursor or at the end.
    legend(button, there) {
      const whom = button.querySelector(".whom"), now = button.querySelector(".now");
      const gone = button.querySelector(".gone"); // said of the end, not of the cursor's moment
      if (gone) gone.hidden = this.cursor !== null;
      if (this.cursor === null) {
        const own = this.curves(true).filter((curve) => curve.place === button.dataset.place);
        there = own.map((curve) => [...curve.points].pop().concat(curve.pid))
          .reduce((best, [at, kb, , pid]) => (best && best.at > at ? best : { at, kb, pid }), null);
      }
      if (there) whom.textContent = `${whom.textContent.split(" ")[0]} ${there.pid}`;
      now.textContent = there ? size(there.kb) : "–";
    }

    zoom(from, to) {
      const least = Math.min(120, this.span);
      if (to - from < least) {
        const middle = (from + to) / 2;
        from = middle - least / 2;
        to = middle + least / 2;
      }
      const width = Math.min(to - from, this.span);
      from = Math.min(Math.max(0, from), this.span - width);
      this.view = width >= this.span ? null : [Math.round(from), Math.round(from + width)];
      this.show();
    }

    scale(factor, about) {
      const [from, to] = this.view || [0, this.span];
      const x = about === null ? (from + to) / 2 : about;
      this.zoom(x - (x - from) * factor, x + (to - x) * factor);
    }

    shift(share) {
      const [from, to] = this.view || [0, this.span];
      const by = (to - from) * share;
      const [first, last] = from + by < 0 ? [0, to - from]
        : to + by > this.span ? [this.span - (to - from), this.span] : [from + by, to + by];
      this.zoom(first, last);
    }

    x(event) {
      const box = this.frame.getBoundingClientRect();
      const [from, to] = this.view || [0, this.span];
      return from + Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * (to - from);
    }

    listen() {
      const { box, section } = this;
      section.querySelector("figure").addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (!button) return;
        const does = {
          in: () => this.scale(0.5, this.cursor),
          out: () => this.scale(2, this.cursor),
          earlier: () => this.shift(-0.5),
          later: () => this.shift(0.5),
          all: () => this.zoom(0, this.span),
          place: () => this.toggle(button.dataset.place),
        }[button.dataset.do];
        if (does) does();
      });
      this.select.addEventListener("change", () => this.show());
      box.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        this.drag = this.x(event);
        box.setPointerCapture(event.pointerId); // it may be dragged past the edge
      });
      box.addEventListener("pointermove", (event) => this.move(event));
      box.addEventListener("pointerup", (event) => this.drop(event));
      box.addEventListener("pointerleave", () => {
        this.brush(null);
        this.drag = null;
        if (document.activeElement !== box) this.point(null, false);
      });
      box.addEventListener("dblclick", () => this.zoom(0, this.span));
      box.addEventListener("keydown", (event) => this.key(event));
    }

    toggle(place) {
      if (!this.hidden.delete(place)) this.hidden.add(place);
      this.show();
    }

    move(event) {
      const x = this.x(event);
      this.point(x, false);
      if (this.drag !== null) this.brush([Math.min(x, this.drag), Math.max(x, this.drag)]);
    }

    drop(event) {
      const from = this.drag, to = this.x(event);
      this.drag = null;
      this.brush(null);
      const [left, right] = this.view || [0, this.span];
      if (from !== null && Math.abs(to - from) > (right - left) / 100) {
        this.zoom(Math.min(from, to), Math.max(from, to));
      }
    }

    brush(span) {
      const rect = this.frame.querySelector(".brush");
      if (!span) { rect.setAttribute("display", "none"); return; }
      const [from, to] = this.view || [0, this.span];
      rect.setAttribute("x", percent((span[0] - from) / (to - from)));
      rect.setAttribute("width", percent((span[1] - span[0]) / (to - from)));
      rect.removeAttribute("display");
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const [from, to] = this.view || [0, this.span];
      const at = this.cursor === null ? to : this.cursor, step = (to - from) / 100;
      const does = {
        ArrowLeft: () => (event.shiftKey ? this.shift(-0.25) : this.point(at - step, true)),
        ArrowRight: () => (event.shiftKey ? this.shift(0.25) : this.point(at + step, true)),
        Home: () => this.point(from, true),
        End: () => this.point(to, true),
        "+": () => this.scale(0.5, this.cursor),
        "=": () => this.scale(0.5, this.cursor),
        "-": () => this.scale(2, this.cursor),
        0: () => this.zoom(0, this.span),
        Escape: () => { this.point(null, false); this.zoom(0, this.span); },
      }[event.key];
      if (does) { event.preventDefault(); does(); }
    }
  }

  const begin = () => {
    for (const section of document.querySelectorAll(".program")) {
      if (section.querySelector(".chart")) new Chart(section);
    }
  };

  // A live page asks its own server for itself, and takes what has changed.
  const refresh = async () => {
    if (document.hidden || !getSelection().isCollapsed) return; // nobody looks, or somebody copies
    const fresh = document.getElementById("fresh");
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const open = new Set([...document.querySelectorAll("details[open]")].map((each) => each.id));
      const focus = document.activeElement && document.activeElement.id;
      if (document.querySelector(".brush:not([display])")) return; // the reader is at it
      for (const name of ["header", "main", "footer"]) {
        document.querySelector(name).replaceWith(page.querySelector(name));
      }
      for (const each of document.querySelectorAll("details")) each.open = open.has(each.id);
      begin();
      if (focus && document.getElementById(focus)) {
        document.getElementById(focus).focus({ preventScroll: true });
      }
    } catch (error) {
      fresh.textContent = "; cannot be refreshed: is memwatch serve still running?";
    }
  };

  document.body.classList.add("scripted");
  begin();
  const every = Number(document.body.dataset.refresh);
  if (every) setInterval(refresh, every * 1000);
})();
