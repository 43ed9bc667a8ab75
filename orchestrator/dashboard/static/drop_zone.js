/** A field for files that are dropped or chosen. */

import { h, setText, uniqueId } from "./dom.js";
import { bytes } from "./format.js";

const MAX_NAMES = 5; // of several files, shown by name

/**
 * @param {string} name of the parameter
 * @param {{ several: boolean, count: string, required: boolean, hint: string }} about the parameter; `count`: how many files fit
 * @param {(files: File[]) => void} onChange
 */
export function dropZone(name, about, onChange) {
  const id = uniqueId("upload");
  /** @type {File[]} */
  let chosen = [];
  const description = h("span", { class: "file-name" });
  const input = h("input", {
    type: "file",
    id,
    multiple: about.several,
    "aria-describedby": `${id}-description`,
    onchange: () => choose([...(input.files ?? [])]),
  });
  description.id = `${id}-description`;
  const kind = (about.several ? "files" : "file") + about.count;
  const hint = [about.hint, kind + (about.required ? "" : " (optional)")].filter(Boolean).join(" · ");
  const element = h(
    "div",
    { class: "drop-zone" },
    h("label", { for: id }, h("strong", {}, name), about.required && h("span", { class: "hint" }, " (needed)")),
    input,
    description,
    h("span", { class: "hint" }, hint),
  );
  let inside = 0; // a count, since children of the element send these events too

  function describe() {
    const size = bytes(chosen.reduce((sum, file) => sum + file.size, 0));
    const [first, ...others] = chosen;
    if (!first) {
      const what = about.several ? "pictures, videos or any other files" : "a picture, a video or any other file";
      setText(description, `Drop ${what} here.`);
    } else if (others.length === 0) setText(description, [first.type, size].filter(Boolean).join(", "));
    else {
      const names = chosen.slice(0, MAX_NAMES).map((file) => file.name);
      if (chosen.length > MAX_NAMES) names.push("…");
      setText(description, `${chosen.length} files, ${size}: ${names.join(", ")}`);
    }
  }

  /** @param {File[]} files */
  function choose(files) {
    chosen = files;
    describe();
    onChange(files);
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
    const dropped = [...(event.dataTransfer?.files ?? [])];
    if (dropped.length === 0) return;
    const transfer = new DataTransfer(); // the field shows what is sent: one file unless it takes several
    for (const file of about.several ? dropped : dropped.slice(0, 1)) transfer.items.add(file);
    input.files = transfer.files;
    choose([...transfer.files]);
  });
  describe();
  return { element, files: () => chosen };
}
