/** A field for a file that is dropped or chosen. */

import { h, setText, uniqueId } from "./dom.js";
import { bytes } from "./format.js";

/**
 * @param {string} name of the parameter
 * @param {boolean} required
 * @param {(file: File | null) => void} onChange
 */
export function dropZone(name, required, onChange) {
  const id = uniqueId("upload");
  /** @type {File | null} */
  let chosen = null;
  const description = h("span", { class: "file-name" });
  const input = h("input", {
    type: "file",
    id,
    "aria-describedby": `${id}-description`,
    onchange: () => choose(input.files?.[0] ?? null),
  });
  description.id = `${id}-description`;
  const element = h(
    "div",
    { class: "drop-zone" },
    h("label", { for: id }, h("strong", {}, name), required && h("span", { class: "hint" }, " (needed)")),
    input,
    description,
  );
  let inside = 0; // a count, since children of the element send these events too

  const describe = () =>
    setText(
      description,
      chosen
        ? [chosen.type, bytes(chosen.size)].filter(Boolean).join(", ")
        : "Drop a picture, a video or any other file here.",
    );

  /** @param {File | null} file */
  function choose(file) {
    chosen = file;
    describe();
    onChange(file);
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
    choose(files[0]);
  });
  describe();
  return { element, file: () => chosen };
}
