// Sort a table by the column whose heading is pressed; missing values stay at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = heading.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value;
      const missing = (text) => text === "" || text === "nan";
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a), y = value(b);
        if (missing(x) || missing(y)) return missing(x) - missing(y);
        const numbers = !Number.isNaN(Number(x)) && !Number.isNaN(Number(y));
        return sign * (numbers ? Number(x) - Number(y) : x.localeCompare(y));
      });
      body.append(...rows);
    });
  });
}
