// Sorting, filtering, the light-box and the mark of where one is. The report reads the same without it.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Tables: a click on a head sorts by what data-sort holds, else by what stands in the cell.
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

  // The table of probes can be narrowed to a status or a word.
  for (const table of all("table.filterable")) {
    const rows = [...table.tBodies[0].rows];
    const bar = document.createElement("div");
    bar.className = "filter";
    const word = document.createElement("input");
    word.type = "search";
    word.placeholder = "attack, bias, …";
    const status = document.createElement("select");
    for (const name of ["every status", ...new Set(rows.map((row) => row.dataset.status))]) {
      status.add(new Option(name.replace("-", " "), name));
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
      shown.textContent = `${count} of ${rows.length} probes`;
    };
    word.addEventListener("input", narrow);
    status.addEventListener("change", narrow);
    bar.append(label("Find", word), label("Status", status), shown);
    table.closest(".scroll").before(bar);
    narrow();
  }

  // Pictures open in a dialog; Escape, the button or a click beside it closes it.
  const box = document.getElementById("lightbox");
  const open = (shot) => {
    const copy = shot.cloneNode(true);
    ["role", "tabindex", "aria-label"].forEach((name) => copy.removeAttribute(name));
    box.querySelector(".stage").replaceChildren(copy);
    const under = shot.parentElement.querySelector(".under");
    box.querySelector(".under").textContent = under ? under.textContent : "";
    box.showModal();
  };
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

  // The section in view is marked in the navigation.
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    const entry = entries.find((each) => each.isIntersecting);
    if (!entry) return;
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(entry.target.id).setAttribute("aria-current", "true");
  }, { rootMargin: "-10% 0px -80% 0px" });
  links.forEach((_, id) => watcher.observe(document.getElementById(id)));
})();
