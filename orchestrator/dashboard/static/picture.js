/** A picture or video that the user chose or a tool returned, with boxes over it. */

/** @import { Box } from "./types.js" */

import { h, setAttribute, svg } from "./dom.js";

const MAX_LABELS = 40; // with more boxes, labels show on hover only

/**
 * A file with boxes over it; null if browsers do not display this type of file.
 * @param {Blob} file
 * @param {string} name
 */
export function picture(file, name) {
  const video = file.type.startsWith("video/");
  if (!video && !file.type.startsWith("image/")) return null;
  const address = URL.createObjectURL(file);
  const medium = video
    ? h("video", { src: address, controls: true, muted: true, playsinline: true, "aria-label": name })
    : h("img", { src: address, alt: name });
  const overlay = svg("svg", { class: "boxes", "aria-hidden": "true", preserveAspectRatio: "none" });
  const caption = h("figcaption", { class: "sub" });
  const element = h("figure", { class: "picture" }, h("div", { class: "frame" }, medium, overlay), caption);
  /** @type {{ width: number, height: number } | null} */
  let reported = null; // the size that the boxes refer to
  /** @type {{ time: number, boxes: Box[] }[]} */
  const frames = [];

  const size = () => {
    if (reported) return reported;
    if (medium instanceof HTMLVideoElement) return { width: medium.videoWidth, height: medium.videoHeight };
    return { width: medium.naturalWidth, height: medium.naturalHeight };
  };
  const fit = () => {
    const { width, height } = size();
    if (width && height) setAttribute(overlay, "viewBox", `0 0 ${width} ${height}`);
  };

  /** @param {Box[]} boxes */
  function draw(boxes) {
    fit();
    const scale = size().width / (medium.clientWidth || 1) || 1; // pixels of the picture per pixel of the screen
    overlay.replaceChildren(
      ...boxes.map((box, index) =>
        drawn(box, boxes.length > MAX_LABELS ? 1 : index, scale, boxes.length <= MAX_LABELS),
      ),
    );
  }

  if (medium instanceof HTMLVideoElement) {
    const drawNow = () => {
      const frame = frames.findLast(({ time }) => time <= medium.currentTime + 0.001);
      draw(frame?.boxes ?? []);
    };
    const eachFrame = () => {
      if (!element.isConnected && frames.length) return;
      drawNow();
      medium.requestVideoFrameCallback(eachFrame);
    };
    if ("requestVideoFrameCallback" in medium) medium.requestVideoFrameCallback(eachFrame);
    medium.addEventListener("seeked", drawNow);
    medium.addEventListener("error", () => (caption.textContent = "This browser cannot play this video."));
  } else {
    medium.addEventListener("error", () => {
      element.hidden = true;
    });
  }
  medium.addEventListener(video ? "loadedmetadata" : "load", fit);

  return {
    element,
    /** @param {Box[]} boxes @param {{ width: number, height: number } | null} pixels the size that the boxes refer to, if known */
    show(boxes, pixels) {
      reported = pixels;
      if (!(medium instanceof HTMLVideoElement)) draw(boxes);
      caption.textContent = boxes.length ? `${boxes.length} ${boxes.length === 1 ? "box" : "boxes"}` : "";
    },
    /** Adds the boxes of a video from `time` on. @param {number} time seconds @param {Box[]} boxes */
    add(time, boxes) {
      frames.push({ time, boxes });
      if (medium instanceof HTMLVideoElement && medium.paused) {
        if (boxes.length) medium.currentTime = time;
        draw(boxes);
      }
      caption.textContent = "Play the video to see its boxes.";
    },
    reset() {
      frames.length = 0;
      reported = null;
      overlay.replaceChildren();
      caption.textContent = "";
    },
    close() {
      URL.revokeObjectURL(address);
    },
  };
}

/** @param {Box} box @param {number} index @param {number} scale @param {boolean} labelled */
function drawn(box, index, scale, labelled) {
  const { x, y, width, height, label } = box;
  const font = 11 * scale;
  const shape = svg("rect", { x, y, width, height, "vector-effect": "non-scaling-stroke" });
  const group = svg("g", { class: `box hue-${index % 6}` }, label && svg("title", {}, label), shape);
  if (labelled && label) {
    const short = label.length > 28 ? `${label.slice(0, 27)}…` : label;
    const above = y > font * 1.4;
    group.append(
      svg("rect", {
        class: "plate",
        x,
        y: above ? y - font * 1.3 : y,
        width: font * 0.62 * short.length + font * 0.6,
        height: font * 1.3,
      }),
      svg("text", { x: x + font * 0.3, y: above ? y - font * 0.3 : y + font, "font-size": font }, short),
    );
  }
  return group;
}
