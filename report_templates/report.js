// Sorting, filtering, light-box and navigation mark. The report is complete without this script.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Tables: a click on a head sorts by data-sort, else by the text of the cells.
  const key = (row, column) => {
    const cell = row.cells[column];
    if (!cell) return "";
    return "sort" in cell.dataset ? cell.dataset.sort : cell.textContent.trim();
  };
  const compare = (a, b, factor) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const numeric = Number(a) - Number(b);
    return factor * (Number.isNaN(numeric) ? a.localeCompare(b) : numeric);
  };
  const sort = (table, column) => {
    const heads = [...table.tHead.rows[0].cells];
    const down = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => compare(key(a, column), key(b, column), down ? -1 : 1));
    body.append(...rows);
  };
  for (const table of all("table.sortable")) {
    if (table.tBodies[0].rows.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, column));
      head.append(button);
    });
  }

  // A check box above the navigation leaves only the failed probes.
  const nav = document.querySelector("nav");
  if (nav && document.querySelector(".probe.failed")) {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.addEventListener("change", () => document.body.classList.toggle("failed-only", box.checked));
    const label = document.createElement("label");
    label.className = "only";
    label.append(box, " Failed only");
    nav.insertBefore(label, nav.querySelector("ul"));
  }

  // The table of probes can be filtered by status and word, every other long table by word.
  const LONG = 12;
  for (const table of all("table.sortable")) {
    const rows = [...table.tBodies[0].rows];
    const probes = table.classList.contains("filterable");
    if (!probes && rows.length <= LONG) continue;
    const bar = document.createElement("div");
    bar.className = "filter";
    const word = document.createElement("input");
    word.type = "search";
    const status = document.createElement("select");
    for (const name of ["every status", ...new Set(rows.map((row) => row.dataset.status))]) {
      status.add(new Option((name || "").replace("-", " "), name));
    }
    const shown = document.createElement("span");
    shown.className = "soft";
    shown.setAttribute("role", "status");
    const label = (text, control) => {
      const element = document.createElement("label");
      element.append(text + " ", control);
      return element;
    };
    const narrow = () => {
      const wanted = word.value.trim().toLowerCase();
      let count = 0;
      for (const row of rows) {
        const fits = status.selectedIndex === 0 || row.dataset.status === status.value;
        row.hidden = !(fits && row.textContent.toLowerCase().includes(wanted));
        count += !row.hidden;
      }
      shown.textContent = `${count} of ${rows.length} ${probes ? "probes" : "rows"}`;
    };
    word.addEventListener("input", narrow);
    status.addEventListener("change", narrow);
    bar.append(label("Find", word));
    if (probes) bar.append(label("Status", status));
    bar.append(shown);
    table.closest(".scroll").before(bar);
    narrow();
  }

  // Figures show the values of the point under the pointer, or of the one selected by the arrow keys.
  for (const plot of all(".plot")) {
    const spots = all("[data-line]", plot).map((group) => {
      const title = group.querySelector("title");
      const text = title.textContent;
      title.remove(); // otherwise the browser shows it a second time
      return { line: group.dataset.line, text, shape: group.querySelector("rect, circle, .mark") };
    });
    if (!spots.length) continue;
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.setAttribute("role", "status");
    plot.append(tip);
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-label", plot.dataset.title + ". The arrow keys step through its values.");
    // position of a point within the plot, in screen pixels
    const middle = (spot) => {
      const at = spot.shape.getBoundingClientRect();
      const frame = plot.getBoundingClientRect();
      return { x: at.x + at.width / 2 - frame.x, y: at.y + at.height / 2 - frame.y };
    };
    let now = -1;
    const hide = () => {
      if (now >= 0) spots[now].shape.classList.remove("spot-on");
      now = -1;
      tip.textContent = "";
    };
    const show = (index, texts = [spots[index].text]) => {
      if (index === now) return;
      hide();
      now = index;
      const place = middle(spots[now]);
      spots[now].shape.classList.add("spot-on");
      tip.textContent = texts.join("\n");
      tip.classList.toggle("below", place.y < 60);
      const half = tip.offsetWidth / 2;
      tip.style.left = Math.max(half, Math.min(plot.clientWidth - half, place.x)) + "px";
      tip.style.top = place.y + "px";
    };
    const nearest = (x, y, among) => {
      let best = -1;
      let least = Infinity;
      for (const index of among) {
        const place = middle(spots[index]);
        const distance = Math.hypot(place.x - x, place.y - y);
        if (distance < least) [best, least] = [index, distance];
      }
      return [best, least];
    };
    const everywhere = spots.map((_, index) => index);
    plot.addEventListener("pointermove", (event) => {
      const frame = plot.getBoundingClientRect();
      const [index, distance] = nearest(event.clientX - frame.x, event.clientY - frame.y, everywhere);
      if (distance >= 40) return hide();
      // lines that start at the same value cover each other: name them all
      const place = middle(spots[index]);
      const covered = spots.filter((spot) => Math.hypot(middle(spot).x - place.x, middle(spot).y - place.y) < 3);
      show(index, covered.map((spot) => spot.text));
    });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("focus", () => { if (now < 0 && plot.matches(":focus-visible")) show(0); });
    const lines = [...new Set(spots.map((spot) => spot.line))];
    const neighbour = (step) => {
      const place = middle(spots[now]);
      const line = lines[lines.indexOf(spots[now].line) + step];
      return nearest(place.x, place.y, everywhere.filter((index) => spots[index].line === line))[0];
    };
    plot.addEventListener("keydown", (event) => {
      const start = Math.max(now, 0);
      const wanted = {
        ArrowRight: () => Math.min(start + (now >= 0), spots.length - 1), ArrowLeft: () => Math.max(start - 1, 0),
        ArrowDown: () => neighbour(1), ArrowUp: () => neighbour(-1), Home: () => 0, End: () => spots.length - 1,
      }[event.key];
      if (event.key === "Escape") hide();
      if (!wanted) return;
      event.preventDefault();
      if (now < 0) return show(0);
      const index = wanted();
      if (index >= 0) show(index);
    });
  }

  // Images open in a dialog. Escape, the button or a click outside closes it; the arrow keys show other images.
  const box = document.getElementById("lightbox");
  let gallery = [];
  let current = null;
  const open = (shot) => {
    current = shot;
    gallery = all(".shot", shot.closest(".evidence"));
    box.querySelector(".place").textContent = `${gallery.indexOf(shot) + 1} of ${gallery.length}`;
    const copy = shot.cloneNode(true);
    ["role", "tabindex", "aria-label"].forEach((name) => copy.removeAttribute(name));
    box.querySelector(".stage").replaceChildren(copy);
    const under = shot.parentElement.querySelector(".under");
    const alt = shot.querySelector("img").alt;
    box.querySelector(".under").textContent = [alt, under && under.textContent !== alt && under.textContent].filter(Boolean).join(" – ");
    if (!box.open) box.showModal();
  };
  box.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = step && gallery[gallery.indexOf(current) + step];
    if (next) open(next);
  });
  box.addEventListener("close", () => current.focus());
  for (const shot of all("main .shot")) {
    shot.tabIndex = 0;
    shot.setAttribute("role", "button");
    shot.setAttribute("aria-label", "Enlarge: " + shot.querySelector("img").alt);
    shot.addEventListener("click", () => open(shot));
    shot.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open(shot);
    });
  }
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });

  // Mark the visible section in the navigation.
  const links = new Map(all("nav > ul > li > a").map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    const entry = entries.find((each) => each.isIntersecting);
    if (!entry) return;
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(entry.target.id).setAttribute("aria-current", "true");
  }, { rootMargin: "-10% 0px -80% 0px" });
  links.forEach((_, id) => watcher.observe(document.getElementById(id)));
})();
