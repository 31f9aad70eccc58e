// Adds a button to each column heading of a table with the class "sortable". Rows with the class "fixed" stay
// below the others. Numbers are compared by the first number of a cell; cells without one come last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const rows = [...body.rows].filter((row) => !row.classList.contains("fixed"));
  const fixed = [...body.rows].filter((row) => row.classList.contains("fixed"));
  if (rows.length < 2) continue;
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const number = (row, k) => parseFloat(row.cells[k].textContent.trim().replace(/\u2212/g, "-").replace(/,/g, ""));
  const compare = {
    number: (k, sign) => (a, b) => {
      const [x, y] = [number(a, k), number(b, k)];
      return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : sign * (x - y);
    },
    text: (k, sign) => (a, b) => sign * a.cells[k].textContent.localeCompare(b.cells[k].textContent, "en", { numeric: true }),
  };
  heads.forEach((head, k) => {
    const button = document.createElement("button");
    button.type = "button";
    // Footnote marks are links, which may not be inside a button.
    const [name, ...rest] = head.childNodes;
    const marks = rest.filter((node) => node.nodeName === "SUP");
    const arrow = document.createElement("span");
    arrow.className = "arrow";
    button.append(name, arrow, ...rest.filter((node) => !marks.includes(node)));
    head.append(button, ...marks);
    const numeric = head.classList.contains("n");
    button.addEventListener("click", () => {
      const first = numeric ? "descending" : "ascending";
      const second = numeric ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sorted = [...rows].sort(compare[numeric ? "number" : "text"](k, order === "ascending" ? 1 : -1));
      body.append(...sorted, ...fixed);
    });
  });
}
