// The first frame of an image-to-video job: given, pasted or picked, uploaded at once, and shown.

import { $ } from "./dom.js";
import { send } from "./farm.js";
import { say, t } from "./words.js";

/** The field in `form`. `complain` shows what is wrong with an image. */
export function firstFrame(form, complain) {
  const [box, picker, digest] = [$("#first-frame", form), $("#image-file", form), $("#image", form)];
  const [preview, words, removeButton] = [$("#image-preview", form), $("#image-said", form), $("#image-remove", form)];
  const invitation = words.textContent;
  let uploading = Promise.resolve();
  let latest = 0;

  const clear = () => {
    latest += 1;
    digest.value = picker.value = "";
    preview.hidden = removeButton.hidden = true;
    words.textContent = invitation;
  };

  const take = (file) => {
    clear();
    const mine = latest;
    words.textContent = say("image_sending", { name: file.name });
    uploading = send("/api/images", file).then(
      (image) => {
        if (mine !== latest) return; // another was chosen meanwhile
        digest.value = image.digest;
        preview.src = image.thumbnail_url;
        preview.hidden = removeButton.hidden = false;
        words.textContent = `${file.name}, ${image.width} × ${image.height}`;
        form.dispatchEvent(new Event("input"));
      },
      (error) => {
        if (mine !== latest) return;
        clear();
        const away = error.code === "farm_unreachable";
        const trouble = away ? { message: t.image_not_sent, next: t.image_not_sent_help } : error;
        complain(trouble);
        return trouble;
      },
    );
  };

  picker.addEventListener("change", () => picker.files[0] && take(picker.files[0]));
  removeButton.addEventListener("click", () => (clear(), form.dispatchEvent(new Event("input")), picker.focus()));
  addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (!file || box.hidden) return;
    event.preventDefault();
    take(file);
  });

  return {
    take,
    /** One that the farm has already, by its digest. */
    restore(known) {
      clear();
      if (!known) return;
      digest.value = known;
      preview.src = `/api/images/${known}/thumbnail`;
      preview.hidden = removeButton.hidden = false;
    },
    show: (needed) => (box.hidden = !needed),
    /** Once the upload under way has ended; throws what went wrong with it. */
    async ready() {
      const error = await uploading;
      uploading = Promise.resolve();
      if (error) throw error;
    },
  };
}
