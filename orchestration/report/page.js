"use strict";
(() => {
  const root = document.documentElement;

  // -- theme: automatic (as the system has it), light, dark ------------------------------------------------------
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const order = ["automatic", "light", "dark"];
  let wanted = order.includes(location.hash.slice(7)) && location.hash.startsWith("#theme-") ? location.hash.slice(7) : "automatic";
  const show = () => {
    root.dataset.theme = wanted === "automatic" ? (system.matches ? "dark" : "light") : wanted;
    button.textContent = `Theme: ${wanted}`;
  };
  button.addEventListener("click", () => {
    wanted = order[(order.indexOf(wanted) + 1) % order.length];
    show();
  });
  system.addEventListener("change", show);
  show();

  // -- tables: a header sorts; numbers by their value, text as people sort it; what is empty stays last -----------
  const key = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? (cell.classList.contains("number") ? "" : cell.textContent.trim());
    const value = Number(text);
    return text === "" || text === "None" ? null : Number.isNaN(value) ? text : value;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending" ||
          (head.getAttribute("aria-sort") === "none" && head.classList.contains("number"));
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row, index) => ({ row, index, value: key(row, column) }));
        rows.sort((a, b) => {
          if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.index - b.index;
          return (down ? -1 : 1) * compare(a.value, b.value) || a.index - b.index;
        });
        body.append(...rows.map((each) => each.row));
        heads.forEach((each) => each.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
      });
    });
  }

  // -- charts: drawn one after the other, so that the first screen can be read at once ----------------------------
  const config = JSON.parse(document.getElementById("chart-config").textContent);
  const options = { config, renderer: "svg", actions: false, hover: false };
  const draw = async () => {
    for (const plot of document.querySelectorAll(".plot")) {
      const spec = JSON.parse(plot.querySelector("script").textContent);
      try {
        await window.vegaEmbed(plot, spec, options);
      } catch (error) {
        plot.textContent = `This chart could not be drawn: ${error.message}`;
        console.error(error);
      }
      await new Promise((done) => setTimeout(done));
    }
    root.dataset.drawn = "yes";
  };
  draw();
})();
