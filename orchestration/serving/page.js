"use strict";
(() => {
  // Improves the form: shows what was chosen, waits its turn where the server is busy, keeps the choice after an error.
  const start = () => {
    const form = document.getElementById("ask");
    if (form === null) return;
    const chosen = document.getElementById("chosen"), busy = document.getElementById("busy");
    const button = form.querySelector(".go");
    const inputs = [...form.querySelectorAll("input[type=file]")];
    const most = Number(form.dataset.most), bytes = Number(form.dataset.bytes);
    const files = () => inputs.flatMap((input) => [...input.files]);

    const show = () => {
      chosen.querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
      chosen.replaceChildren(...files().map((file) => {
        const item = document.createElement("li");
        if (file.type.startsWith("image/")) {
          const image = document.createElement("img");
          image.alt = "";
          image.src = URL.createObjectURL(file);
          image.addEventListener("error", () => image.remove());
          item.append(image);
        }
        item.append(file.name);
        item.title = file.name;
        if (file.size > bytes) {
          item.className = "bad";
          item.append(`: above ${Math.round(bytes / 2 ** 20)} MB`);
        }
        return item;
      }));
      busy.textContent = files().length > most ? `At most ${most} photographs at once: ${files().length} are chosen.` : "";
    };
    inputs.forEach((input) => input.addEventListener("change", show));
    show();

    const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
    const send = async () => {
      for (let tries = 0; ; tries += 1) {
        const response = await fetch(form.action, { method: "POST", body: new FormData(form) });
        if (response.status !== 429 || tries === 20) return response;
        busy.textContent = "Others are waiting as well; yours is sent again by itself.";
        await wait(Number(response.headers.get("Retry-After")) || 2);
      }
    };
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (files().length === 0) {
        busy.textContent = "Choose or take a photograph first.";
        return;
      }
      if (files().length > most) return;
      button.disabled = true;
      busy.textContent = `Looking at ${files().length === 1 ? "the photograph" : `${files().length} photographs`} …`;
      try {
        const response = await send();
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        if (!response.ok) {
          busy.textContent = page.querySelector("[role=alert]")?.textContent ?? `The server answers ${response.status}.`;
          return;
        }
        document.title = page.title;
        document.querySelector("main").replaceWith(page.querySelector("main"));
        window.scrollTo(0, 0);
        start();
      } catch {
        busy.textContent = "The server does not answer. Check the connection and send it again.";
      } finally {
        button.disabled = false;
      }
    });
  };
  start();
})();
