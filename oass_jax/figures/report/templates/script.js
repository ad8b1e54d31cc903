"use strict";
// Without this the page is complete but for sorting and sliders.
(() => {
  const numberOf = (row, column) => Number(row.cells[column].dataset.value);
  const compare = (column) => (a, b) => {
    if (column === 0) return a.cells[0].textContent.localeCompare(b.cells[0].textContent);
    return numberOf(a, column) - numberOf(b, column);
  };

  const sort = (table, header) => {
    const column = header.cellIndex;
    const first = column === 0 ? "ascending" : "descending";
    const second = column === 0 ? "descending" : "ascending";
    const direction = header.getAttribute("aria-sort") === first ? second : first;
    for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows];
    const isEmpty = (row) => column > 0 && Number.isNaN(numberOf(row, column));
    const full = rows.filter((row) => !isEmpty(row));
    full.sort((a, b) => sign * compare(column)(a, b));
    table.tBodies[0].append(...full, ...rows.filter(isEmpty));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const header of table.querySelectorAll("thead th")) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sort(table, header));
      header.append(button);
    }
  }

  const steps = JSON.parse(document.getElementById("steps").textContent);
  const percent = (part, whole) => (whole ? (100 * part) / whole : 0);
  const text = (value) => `${value > 0 && value < 0.1 ? value.toPrecision(2) : value.toFixed(1)}\u00a0%`;
  for (const box of document.querySelectorAll(".slider")) {
    const { thresholds, start, hits, num_predicted, positives } = steps[box.dataset.class];
    const input = box.querySelector("input");
    const output = box.querySelector("output");
    const dot = box.parentElement.querySelector(".at");
    const update = () => {
      const n = Number(input.value);
      const precision = percent(hits[n], num_predicted[n]);
      const recall = percent(hits[n], positives);
      const f1 = percent(2 * hits[n], num_predicted[n] + positives);
      const threshold = document.createElement("b");
      const own = n === start ? " (the run's)" : "";
      threshold.textContent = `Threshold ${text(100 * thresholds[n])}${own}`;
      output.replaceChildren(
        threshold,
        `: precision ${text(precision)}, recall ${text(recall)}, F1 ${text(f1)}; ` +
          `predicted for ${num_predicted[n]} images, for ${hits[n]} of them rightly.`,
      );
      input.setAttribute("aria-valuetext", text(100 * thresholds[n]));
      dot.setAttribute("cx", recall);
      dot.setAttribute("cy", 100 - precision);
    };
    input.addEventListener("input", update);
    input.value = start; // a browser may remember another
    update();
    box.querySelector(".control").hidden = false;
  }

  const openTarget = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const details = target && target.closest("details");
    if (!details) return;
    details.open = true;
    details.scrollIntoView();
    details.querySelector("summary").focus({ preventScroll: true });
  };
  addEventListener("hashchange", openTarget);
  openTarget();

  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
