/** A place to drop a file, or to choose one. */

import { h, setText, uniqueId } from "./dom.js";
import { bytes } from "./format.js";

/**
 * @param {string} name of the parameter
 * @param {boolean} required
 * @param {(file: File | null) => void} picked
 */
export function dropZone(name, required, picked) {
  const id = uniqueId("upload");
  /** @type {File | null} */
  let chosen = null;
  const what = h("span", { class: "file-name" });
  const input = h("input", {
    type: "file",
    id,
    "aria-describedby": `${id}-what`,
    onchange: () => take(input.files?.[0] ?? null),
  });
  what.id = `${id}-what`;
  const element = h(
    "div",
    { class: "drop-zone" },
    h("label", { for: id }, h("strong", {}, name), required && h("span", { class: "hint" }, " (needed)")),
    input,
    what,
  );
  let inside = 0; // its children enter and leave as well

  const say = () =>
    setText(
      what,
      chosen
        ? [chosen.type, bytes(chosen.size)].filter(Boolean).join(", ")
        : "Drop a picture, a video or any other file here.",
    );

  /** @param {File | null} file */
  function take(file) {
    chosen = file;
    say();
    picked(file);
  }

  element.addEventListener("dragenter", (event) => {
    event.preventDefault();
    inside += 1;
    element.classList.add("over");
  });
  element.addEventListener("dragover", (event) => event.preventDefault());
  element.addEventListener("dragleave", () => {
    inside -= 1;
    if (inside <= 0) element.classList.remove("over");
  });
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    element.classList.remove("over");
    const files = event.dataTransfer?.files;
    if (!files?.[0]) return;
    input.files = files;
    take(files[0]);
  });
  say();
  return { element, file: () => chosen };
}
