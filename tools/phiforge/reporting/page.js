(() => {
  "use strict";
  const root = document.documentElement;
  const pages = [...document.querySelectorAll(".page")];
  const byId = (id) => document.getElementById(id);

  // The colour scheme: the system's, until the reader chooses. A page from a file may have no storage.
  const stored = (value) => {
    try {
      if (value) localStorage.setItem("phiforge-theme", value);
      return localStorage.getItem("phiforge-theme");
    } catch (error) {
      return null;
    }
  };
  const toggle = byId("theme");
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { toggle.textContent = isDark() ? "Light colours" : "Dark colours"; };
  const kept = stored();
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    stored(root.dataset.theme);
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();

  // Charts: the library runs when the first page with charts opens; each page is drawn once.
  let drawings = null;
  const library = () => {
    if (window.vegaEmbed) return true;
    const source = byId("vega");
    if (!source) return false;
    const script = document.createElement("script");
    script.textContent = source.textContent;
    document.head.append(script);
    return Boolean(window.vegaEmbed);
  };
  const soft = "var(--soft)";
  const config = {
    aria: false, background: "transparent", padding: 4, view: { stroke: null },
    autosize: { type: "fit-x", contains: "padding" },
    axis: {
      labelColor: soft, titleColor: soft, labelFontSize: 11, titleFontSize: 11, titleFontWeight: "normal",
      titlePadding: 8, gridColor: "var(--line)", domainColor: "var(--line-strong)", tickColor: "var(--line-strong)",
      labelOverlap: true,
    },
    text: { fontSize: 11, color: "var(--ink)" },
    legend: { labelFontSize: 11, labelColor: soft },
  };
  const draw = (place) => {
    const [number, columns, rows] = drawings.charts[Number(place.dataset.chart)];
    const values = rows.map((row) => Object.fromEntries(columns.map((name, index) => [name, row[index]])));
    // The library names the chart by its description.
    const description = place.getAttribute("aria-label");
    const spec = { description, width: "container", ...drawings.specs[number], data: { values } };
    const options = { renderer: "svg", actions: false, ast: true, config, defaultStyle: false, tooltip: false };
    return window.vegaEmbed(place, spec, options).then(
      () => { place.dataset.drawn = "yes"; },
      () => { place.textContent = "This chart could not be drawn; the tables are complete."; },
    );
  };
  const drawPage = async (page) => {
    const places = [...page.querySelectorAll(".chart:not([data-asked])")];
    if (!places.length || !library()) return;
    drawings ??= JSON.parse(byId("drawings").textContent);
    for (const place of places) place.dataset.asked = "yes";
    // One after the other, so that the page answers meanwhile.
    for (const place of places) {
      await draw(place);
      await new Promise((next) => setTimeout(next));
    }
  };

  // Pages by address: #/model/device, and #/model/device/part for a place in one.
  const address = () => {
    try {
      return decodeURIComponent(location.hash.slice(1));
    } catch (error) {
      return ""; // a lone % in it
    }
  };
  const show = () => {
    const wanted = address() || root.dataset.first;
    const page =
      pages.find((item) => item.id === wanted) ?? pages.find((item) => item.id !== "/" && wanted.startsWith(item.id + "/")) ??
      byId("/");
    for (const item of pages) item.classList.toggle("open", item === page);
    document.title = page.dataset.title;
    drawPage(page);
    for (const box of page.querySelectorAll(".scroll")) {
      if (box.scrollWidth > box.clientWidth) {
        box.tabIndex = 0;
        box.setAttribute("role", "region");
        box.setAttribute("aria-label", box.dataset.label || "Table");
      }
    }
    const place = wanted !== page.id && byId(wanted);
    if (place) place.scrollIntoView();
    else scrollTo(0, 0);
  };
  addEventListener("hashchange", show);

  // The matrix: sorted by any column, absent numbers last either way; filtered by words and by choice.
  const table = byId("matrix");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const order = (row, column) => {
    const cell = row.cells[column];
    const key = cell.dataset.order;
    if (key === undefined) return cell.textContent.trim();
    return key === "" ? null : Number(key);
  };
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  };
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const keyed = rows.map((row) => [order(row, column), row]);
      keyed.sort((a, b) => compare(a[0], b[0], sign));
      body.append(...keyed.map((pair) => pair[1]));
    });
  });
  const filters = byId("filters");
  const count = byId("count");
  const filter = () => {
    const words = filters.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = ["verdict", "kind", "model", "device"].map((name) => [name, filters.elements[name].value]);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits =
        words.every((word) => text.includes(word)) &&
        chosen.every(([name, value]) => !value || (name === "kind" ? row.dataset.kind.split(" ").includes(value) : row.dataset[name] === value));
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length} shown`;
  };
  filters.addEventListener("input", filter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(filter));
  filter();
  show();
  root.dataset.ready = "yes";
  performance.mark("ready");
})();
