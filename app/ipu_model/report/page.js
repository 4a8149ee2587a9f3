"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const text = (index) => data.strings[index];
  const kib = (bytes) => (bytes / 1024).toFixed(bytes < 10240 ? 1 : 0) + " KiB";
  const whole = (value) => Math.round(value).toLocaleString("en-GB");
  const ROWS = 300;

  // ---- the table of operations: one object per row, so that sorting and filtering are plain
  const stepCycles = data.ops.reduce((sum, op) => sum + op[6] * (op[7] + op[8] + op[9]), 0);
  const rows = data.ops.map((op) => {
    const cycles = op[7] + op[8] + op[9];
    const cells = [
      text(op[1]), text(op[2]), text(op[3]), op[4], text(op[5]), op[6], cycles, cycles * op[6],
      stepCycles ? cycles * op[6] / stepCycles : 0, cycles ? (op[8] + op[9]) / cycles : 0,
      op[10], op[11] / 1024,
    ];
    return { cells, words: cells.slice(0, 3).join(" ").toLowerCase() };
  });
  const longest = rows.reduce((most, row) => Math.max(most, row.cells[8]), 1e-9);
  const percent = (value) => (100 * value).toFixed(value < 0.1 ? 2 : 1) + " %";
  const shows = [String, String, String, String, String, whole, whole, whole, percent,
    (value) => (100 * value).toFixed(0) + " %", (value) => value.toFixed(2),
    (value) => value.toFixed(1)];
  const table = document.getElementById("ops");
  const filter = document.getElementById("filter");
  const all = document.getElementById("all");
  let column = 7;
  let direction = -1;

  function fill() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.filter((row) => words.every((word) => row.words.includes(word)));
    found.sort((a, b) => {
      const [left, right] = [a.cells[column], b.cells[column]];
      return direction * (typeof left === "number" ? left - right
        : left.localeCompare(right, "en", { numeric: true }));
    });
    const shown = all.checked ? found : found.slice(0, ROWS);
    const body = document.createElement("tbody");
    for (const row of shown) {
      const line = body.insertRow();
      row.cells.forEach((value, index) => {
        const cell = line.insertCell();
        cell.textContent = shows[index](value);
        if (typeof value === "number") cell.className = "num";
        if (index === 1) cell.title = value;
      });
      line.cells[8].style.setProperty("--share", 100 * row.cells[8] / longest + "%");
    }
    table.replaceChild(body, table.tBodies[0]);
    const share = found.reduce((sum, row) => sum + row.cells[8], 0);
    document.getElementById("shown").textContent =
      `${whole(shown.length)} of ${whole(found.length)} found, ${percent(share)} of all cycles`;
    table.querySelectorAll("th").forEach((head, index) => head.setAttribute("aria-sort",
      index !== column ? "none" : direction < 0 ? "descending" : "ascending"));
  }
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const chosen = Number(button.dataset.column);
    const first = typeof (rows.length ? rows[0].cells[chosen] : "") === "number" ? -1 : 1;
    direction = chosen === column ? -direction : first;
    column = chosen;
    fill();
  });
  filter.addEventListener("input", fill);
  all.addEventListener("change", fill);
  filter.form.addEventListener("submit", (event) => event.preventDefault());
  fill();

  // ---- what stands under the pointer, or under the cursor that arrow keys move
  const tip = document.body.appendChild(document.createElement("div"));
  tip.className = "tip";
  tip.setAttribute("role", "status");
  const says = {
    tiles: (ipu, at) => {
      const { width, always, peak } = data.tiles[ipu];
      const tile = width > 1 ? `tiles ${at * width} to ${at * width + width - 1}` : `tile ${at}`;
      return [tile, `peak ${kib(peak[at])}`, `always live ${kib(always[at])}`];
    },
    moments: (ipu, at) => {
      const [label, scope, phase, live, temporary] = data.moments[ipu][at];
      return [`${text(label)} · ${text(phase)}`, text(scope),
        `${kib(data.always[ipu] + live)} = ${kib(data.always[ipu])} always live`,
        `+ ${kib(live - temporary)} tensors + ${kib(temporary)} temporaries`];
    },
  };
  const length = { tiles: (ipu) => data.tiles[ipu].peak.length,
    moments: (ipu) => data.moments[ipu].length };
  for (const area of document.querySelectorAll("[data-hover]")) {
    const [kind, ipu] = area.dataset.hover.split(":");
    const count = length[kind](Number(ipu));
    const cursor = area.appendChild(document.createElement("div"));
    cursor.className = "cursor";
    let at = 0;
    const show = (index) => {
      if (!count) return;
      at = Math.max(0, Math.min(count - 1, index));
      const box = area.getBoundingClientRect();
      const left = (at + 0.5) / count * box.width;
      cursor.style.left = left + "px";
      cursor.style.display = tip.style.display = "block";
      tip.replaceChildren(...says[kind](Number(ipu), at).map((line) => {
        const row = document.createElement("div");
        row.textContent = line;
        return row;
      }));
      const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
      tip.style.left = Math.max(8, Math.min(room, box.left + left + 12)) + "px";
      tip.style.top = Math.max(8, box.top - tip.offsetHeight - 6) + "px";
    };
    const hide = () => { cursor.style.display = tip.style.display = "none"; };
    area.addEventListener("pointermove", (event) => {
      const box = area.getBoundingClientRect();
      show(Math.floor((event.clientX - box.left) / box.width * count));
    });
    area.addEventListener("pointerleave", hide);
    area.addEventListener("blur", hide);
    area.addEventListener("focus", () => show(at));
    area.addEventListener("keydown", (event) => {
      const far = Math.max(1, Math.round(count / 20));
      const target = { ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - far,
        PageDown: at + far, Home: 0, End: count - 1, Escape: -1 }[event.key];
      if (target === undefined) return;
      event.preventDefault();
      if (event.key === "Escape") hide();
      else show(target);
    });
  }
})();
