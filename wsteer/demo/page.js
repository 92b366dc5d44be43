"use strict";
// The paper's pictures are shown where the reader asks for them, and only then asked of arxiv.org.
// A picture of ours that several findings share is in the file once.
for (const place of document.querySelectorAll("[data-same]")) {
  const image = document.querySelector(`#${place.dataset.same} .box > img`).cloneNode();
  image.alt = place.closest(".side").querySelector(".axes").textContent;
  place.replaceWith(image);
}
for (const box of document.querySelectorAll(".paper")) {
  const button = box.querySelector("button");
  if (!button) continue;
  button.hidden = false;
  button.addEventListener("click", () => {
    const ask = box.querySelector(".ask");
    const pictures = document.createElement("div");
    pictures.className = "pictures";
    for (const address of JSON.parse(box.dataset.images)) {
      const link = document.createElement("a");
      const image = document.createElement("img");
      link.href = address;
      link.rel = "noreferrer";
      image.alt = "The paper's picture";
      image.referrerPolicy = "no-referrer";
      image.addEventListener("error", () => {
        pictures.remove();
        box.classList.remove("shown");
        ask.hidden = false;
        button.textContent = "It could not be loaded; try again";
      }, { once: true });
      image.src = address;
      link.append(image);
      pictures.append(link);
    }
    ask.hidden = true;
    box.classList.add("shown");
    box.append(pictures);
  });
}
