// What a model can render, and the nearest to what was asked that it can. The server has the last word.

import { say } from "./words.js";

export const MOST = 16; // jobs of one press
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export const framesOf = (seconds, model) => 4 * Math.round((seconds * model.fps) / 4) + 1;
export const secondsOf = (frames, model) => Number(((frames - 1) / model.fps).toFixed(2));

const inFrames = ({ min_frames: low, max_frames: high }) =>
  low === high ? say("n_frames", { n: low }) : say("why_frames", { low, high });

const CHECKS = {
  frames(given, model) {
    const frames = clamp(4 * Math.round((Number(given) - 1) / 4) + 1, model.min_frames, model.max_frames);
    return [frames, inFrames(model)];
  },
  seconds(given, model) {
    const frames = clamp(framesOf(Number(given), model), model.min_frames, model.max_frames);
    const possible = Math.abs(Number(given) - secondsOf(frames, model)) <= 2 / model.fps;
    return [possible ? Number(given) : secondsOf(frames, model), say("why_seconds", { high: secondsOf(model.max_frames, model) })];
  },
  steps: (given, model) => [clamp(Math.round(Number(given)), 1, model.max_steps), say("why_steps", { high: model.max_steps })],
  count: (given) => [clamp(Math.round(Number(given)), 1, MOST), say("why_count", { high: MOST })],
  size(given, model) {
    const [width, height] = given.toLowerCase().split(/[x×*]/).map(Number);
    return [height ? nearestSize(width, height, model) : model.size, say("why_size", { grid: model.grid })];
  },
};

/** {value, why} where `given` is not possible; null where it is. */
export function nearest(field, given, model) {
  const [value, why] = CHECKS[field](given, model);
  const same = field === "size" ? given.toLowerCase().replace(/[×*]/, "x") === value : Number(given) === value;
  return same ? null : { value: Number.isNaN(value) ? "" : value, why };
}

function nearestSize(width, height, model) {
  const { grid, min_side, max_side, max_pixels } = model;
  const fit = (side) => clamp(grid * Math.round(clamp(side, min_side, max_side) / grid), min_side, max_side);
  let [w, h] = [fit(width), fit(height)];
  if (w * h > max_pixels) {
    const shrink = Math.sqrt(max_pixels / (w * h));
    [w, h] = [fit(w * shrink), fit(h * shrink)];
  }
  while (w * h > max_pixels) [w, h] = w >= h ? [w - grid, h] : [w, h - grid];
  return `${w}x${h}`;
}

/** In one line, for below the fields. */
export function limits(model) {
  const one = model.min_side === model.max_side;
  const size = one
    ? say("limits_one_size", { size: model.size })
    : say("limits_size", { low: model.min_side, high: model.max_side });
  const { fps, max_steps: steps } = model;
  return say("limits", { size, frames: inFrames(model), fps, steps });
}

/** The words of a prompt that a model with a vocabulary has never seen. */
export function unknownWords(prompt, model) {
  if (!model.vocabulary) return [];
  const known = new Set([...model.vocabulary.words, ...model.vocabulary.characters]);
  const words = prompt.toLowerCase().match(/[a-z]+|[0-9]|[\u3400-\u9fff]|\p{L}/gu) ?? [];
  return [...new Set(words)].filter((word) => !known.has(word));
}
