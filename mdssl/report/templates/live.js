(() => {
  let current = explore();
  window.addEventListener("hashchange", () => current.recall());

  // Never under somebody's hands.
  const isTyping = () => document.activeElement?.matches("input, select") || document.querySelector(".chart:active");

  const seconds = Number(document.body.dataset.renew);
  if (seconds) {
    document.getElementById("renewal").hidden = false;
    const renew = document.getElementById("renew");
    setInterval(() => {
      if (renew.checked && !isTyping() && !document.hidden) location.reload();
    }, 1000 * seconds);
  }

  // Of a dashboard: asks for its version, and puts the new page in the place of the old one.
  if (!("live" in document.body.dataset)) return;
  const POLL_SECONDS = 5;
  let version = document.body.dataset.live;
  const replace = async () => {
    const page = new DOMParser().parseFromString(await (await fetch("index.html")).text(), "text/html");
    const places = [".tall", "#coordinates"].map((box) => [box, document.querySelector(box)?.scrollTop, document.querySelector(box)?.scrollLeft]);
    const open = [...document.querySelectorAll("details")].filter((each) => each.open).map((each) => each.firstElementChild.textContent);
    const [scroll, focused] = [window.scrollY, document.activeElement?.id];
    version = page.body.dataset.live;
    document.title = page.title;
    for (const part of ["header", "main"]) document.querySelector(part).replaceWith(page.querySelector(part));
    for (const each of document.querySelectorAll("details")) each.open ||= open.includes(each.firstElementChild.textContent);
    current = explore();
    for (const [box, top, left] of places) document.querySelector(box)?.scrollTo(left ?? 0, top ?? 0);
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    window.scrollTo({ top: scroll, behavior: "instant" });
  };
  setInterval(async () => {
    if (document.hidden || isTyping()) return;
    const said = document.getElementById("connection");
    try {
      const answer = await fetch("version");
      if (!answer.ok) throw new Error(String(answer.status));
      const now = await answer.text();
      if (now !== version) await replace();
      document.getElementById("connection").textContent = "this page follows the storage";
    } catch {
      said.textContent = "the dashboard does not answer; this is its last state";
    }
  }, 1000 * POLL_SECONDS);
})();
