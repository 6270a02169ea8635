// The form as it was left: it survives a reload, and takes over the settings of a job or of a finished video.

const NAME = "wish";

export function kept() {
  try {
    return JSON.parse(localStorage.getItem(NAME)) ?? {};
  } catch {
    return {};
  }
}

export const keep = (wish) => localStorage.setItem(NAME, JSON.stringify(wish));
