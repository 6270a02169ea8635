// Signed in by cookie: every change carries the page's token, and a session that is over leads to the sign-in page.
(() => {
  const token = document.querySelector('meta[name="csrf-token"]').content;
  const plain = window.fetch;
  window.fetch = async (what, how) => {
    const request = new Request(what, how);
    const ours = new URL(request.url).origin === location.origin;
    if (ours && !["GET", "HEAD"].includes(request.method)) request.headers.set("X-CSRF-Token", token);
    const answer = await plain(request);
    if (ours && answer.status === 401)
      location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
    return answer;
  };
})();
