/** The view of all GPUs and their holders. */

/** @import { GpuDevice, GpuReport, GpuWait } from "./types.js" */

import { json } from "./api.js";
import { facts, h } from "./dom.js";
import { bytes, seconds } from "./format.js";
import { poll } from "./polling.js";
import { bar } from "./widgets.js";

export function gpusView() {
  const heading = h("h1", { tabindex: -1 }, "GPUs");
  const body = h("div", {}, h("p", { class: "empty" }, "Loading…"));
  const element = h("div", {}, h("div", { class: "view-head" }, heading), body);
  let shown = "";

  const close = poll(3000, async (signal) => {
    try {
      /** @type {GpuReport} */
      const report = await json("/v1/gpus", { signal });
      const now = JSON.stringify({ ...report, observed_at: null });
      if (now === shown) return;
      shown = now;
      const focused = body.contains(document.activeElement) ? document.activeElement?.getAttribute("href") : null;
      body.replaceChildren(...content(report));
      if (focused) [...body.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
    } catch (error) {
      if (signal.aborted) return;
      shown = "";
      body.replaceChildren(h("p", { class: "empty" }, error instanceof Error ? error.message : String(error)));
    }
  });
  return { element, heading, title: "GPUs", close };
}

/** @param {GpuReport} report */
function content(report) {
  const driver = [
    report.driver_version && `driver ${report.driver_version}`,
    report.cuda_version && `CUDA ${report.cuda_version}`,
  ];
  return [
    report.reason &&
      h(
        "p",
        { class: "reason", "data-state": "UNAVAILABLE" },
        h("strong", { class: "code" }, report.reason_code),
        " ",
        report.reason,
      ),
    report.devices.length > 0 && h("p", { class: "sub" }, driver.filter(Boolean).join(", ")),
    report.devices.length === 0 &&
      !report.reason &&
      h("p", { class: "empty" }, "GPUs have not been queried yet: no plugin needs one."),
    h("ul", { class: "gpus" }, ...report.devices.map(device)),
    waitingFor(report.waiting ?? []),
    ...report.quarantines.map((sentence) =>
      h(
        "p",
        { class: "reason", "data-state": "UNAVAILABLE" },
        typeof sentence === "string" ? sentence : JSON.stringify(sentence),
      ),
    ),
  ].filter((child) => child instanceof Node);
}

/** The instances that wait for GPUs. @param {GpuWait[]} waiting */
function waitingFor(waiting) {
  if (waiting.length === 0) return null;
  return h(
    "section",
    { class: "waiting", "aria-label": "Waiting for a GPU" },
    h("h2", {}, "Waiting"),
    h(
      "ul",
      { class: "holders" },
      ...waiting.map((wait) =>
        h(
          "li",
          {},
          h("a", { href: `#/plugins/${encodeURIComponent(wait.plugin)}` }, wait.plugin),
          ` ${wait.gpus === 1 ? "for a GPU" : `for ${wait.gpus} GPUs`}, instance ${wait.generation}, since ${seconds(wait.seconds)}`,
          wait.reason && `: ${wait.reason}`,
        ),
      ),
    ),
  );
}

/** @param {GpuDevice} gpu */
function device(gpu) {
  const memory = bar(`Memory of GPU ${gpu.index ?? gpu.uuid ?? ""}`);
  memory.show(gpu.memory_used_bytes ?? null, gpu.memory_total_bytes ?? null);
  const holders = gpu.holders ?? [];
  return h(
    "li",
    { class: "card" },
    h(
      "h2",
      {},
      gpu.index === null || gpu.index === undefined ? "" : `${gpu.index}: `,
      gpu.name ?? "GPU",
      " ",
      h("span", { class: "badge", "data-gpu": gpu.state ?? "unknown" }, gpu.state ?? "unknown"),
    ),
    gpu.fault && h("p", { class: "reason", "data-state": "FAILED" }, gpu.fault),
    facts([
      ["Memory", memory.element],
      [
        "Load",
        gpu.utilization_percent === null || gpu.utilization_percent === undefined
          ? "—"
          : `${gpu.utilization_percent} %`,
      ],
      [
        "Temperature",
        gpu.temperature_celsius === null || gpu.temperature_celsius === undefined
          ? "—"
          : `${gpu.temperature_celsius} °C`,
      ],
      ["UUID", h("code", {}, gpu.uuid ?? "unknown")],
    ]),
    h("h3", {}, "Held by"),
    holders.length === 0
      ? h("p", { class: "sub" }, "No plugin.")
      : h(
          "ul",
          { class: "holders" },
          ...holders.map((holder) =>
            h(
              "li",
              {},
              h("a", { href: `#/plugins/${encodeURIComponent(holder.plugin)}` }, holder.plugin),
              ` ${[holder.sharing, holder.memory_bytes === null ? null : bytes(holder.memory_bytes), holder.phase].filter(Boolean).join(", ")}`,
            ),
          ),
        ),
  );
}
